"""`batchyard run -- CMD`: a job as if it were a local command."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from batchyard.cli import job_client
from batchyard.cli.main import main
from support.installation import Installation, batchyard, free_ports


def run(up: Installation, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "batchyard.cli", "run", "--data-dir", str(up.folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_prints_what_the_job_prints_and_exits_with_its_code(up: Installation) -> None:
    done = run(up, "--", "sh", "-c", "echo hi; exit 3")
    assert (done.stdout, done.returncode) == ("hi\n", 3)
    assert done.stderr.endswith("failed: Essential container in task exited, exit code 3\n")


def test_exits_with_0_when_the_job_succeeds(up: Installation) -> None:
    done = run(up, "--env", "GREETING=good day", "--", "sh", "-c", 'echo "$GREETING"')
    assert (done.stdout, done.returncode) == ("good day\n", 0)


def test_programs_read_the_ended_job_on_stdout_and_people_what_it_prints_on_stderr(up: Installation) -> None:
    done = run(up, "--output", "json", "--log-level", "error", "--", "sh", "-c", "echo hi; exit 3")
    (job,) = json.loads(done.stdout)["jobs"]
    assert (job["status"], job["container"]["exitCode"], done.returncode) == ("FAILED", 3, 3)
    assert done.stderr.startswith("hi\nbatchyard: job ")


def test_programs_read_the_array_and_how_its_children_ended(up: Installation) -> None:
    script = 'echo hi; exit "$AWS_BATCH_JOB_ARRAY_INDEX"'
    done = run(up, "--output", "json", "--log-level", "error", "--array", "3", "--", "sh", "-c", script)
    (job,) = json.loads(done.stdout)["jobs"]
    summary = job["arrayProperties"]["statusSummary"]
    assert (job["status"], summary["SUCCEEDED"], summary["FAILED"]) == ("FAILED", 1, 2)
    assert (done.stderr, done.returncode) == ("", 1)


def test_says_why_a_job_waits(up: Installation) -> None:
    command = [sys.executable, "-m", "batchyard.cli", "run", "--data-dir", str(up.folder), "--vcpus", "1000", "true"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        submitted, waits = process.stderr.readline().split(), process.stderr.readline()
        assert submitted == ["batchyard:", "job", submitted[2], "is", "submitted"]
        assert waits.startswith(f"batchyard: job {submitted[2]} waits: MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT")
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert "Interrupted by the user" in rest
    assert process.returncode == 1


def test_prints_all_attempts_lines_of_a_long_output_in_order(up: Installation) -> None:
    done = run(up, "seq", "20000")
    assert done.stdout.split() == [str(number) for number in range(1, 20001)]


def test_ends_quietly_when_its_output_is_read_no_more(up: Installation) -> None:
    command = [sys.executable, "-m", "batchyard.cli", "run", "--data-dir", str(up.folder), "seq", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "1\n"
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 128 + signal.SIGPIPE
    assert said.endswith("nobody reads the output any more; the job goes on\n")
    assert "Traceback" not in said


def test_prints_what_the_terminal_has_no_characters_for(up: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert run(up, "echo", "h\N{CHECK MARK}").stdout == "h\\u2713\n"


def test_an_endpoint_can_be_named(up: Installation, tmp_path: Path) -> None:
    endpoint = ("--data-dir", str(tmp_path), "--endpoint", f"grpc://{up.grpc_target}")
    assert run(up, *endpoint, "true").returncode == 0


def test_a_job_that_cannot_start_is_told_with_its_reason(up: Installation) -> None:
    done = run(up, "--", "/no/such/program")
    assert done.returncode == 1
    assert "CannotStartContainerError" in done.stderr


def test_without_a_running_installation_it_says_what_to_do(up: Installation, tmp_path: Path) -> None:
    done = run(up, "--data-dir", str(tmp_path), "true")
    assert done.returncode == 2
    assert "--endpoint" in done.stderr


@pytest.mark.parametrize("endpoint", ["server", "http://127.0.0.1:8080", "grpc://127.0.0.1"])
def test_an_endpoint_of_another_form_is_refused(endpoint: str) -> None:
    told = CliRunner().invoke(main, ["run", "--endpoint", endpoint, "true"])
    assert told.exit_code == 2
    assert f"{endpoint!r} is not grpc://HOST:PORT" in told.output


def test_a_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_client, "CONNECT_TIMEOUT_S", 0.05)
    told = CliRunner().invoke(main, ["run", "--endpoint", "127.0.0.1:1", "true"])
    assert told.exit_code == 1
    assert told.output.startswith("Error: the server at grpc://127.0.0.1:1 does not answer: ")


def test_a_refusal_of_the_server_is_told_in_one_line(up: Installation) -> None:
    done = run(up, "--queue", "nothing", "--log-level", "error", "true")
    assert (done.returncode, done.stderr) == (1, "Error: JobQueue nothing not found.\n")


@contextmanager
def running(up: Installation, script: str, *options: str) -> "Iterator[subprocess.Popen[str]]":
    """Run a script that says first that it has started, until then."""
    command = [sys.executable, "-m", "batchyard.cli", "run", "--data-dir", str(up.folder), *options]
    with subprocess.Popen(
        [*command, "--", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield process


def test_an_interrupt_terminates_the_job(up: Installation) -> None:
    with running(up, "echo started; exec sleep 600") as process:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Interrupted by the user" in stderr


def test_a_second_interrupt_leaves_the_job_to_its_end(up: Installation) -> None:
    script = "trap '' TERM; echo started; while :; do sleep 0.1; done"
    with running(up, script, "--log-level", "error") as process:
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert "interrupt again" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


def test_a_restart_of_the_control_plane_in_between_does_not_show(tmp_path: Path) -> None:
    http_port, grpc_port = free_ports(2)
    gate = tmp_path / "gate"
    arguments = [
        *("up", "--data-dir", str(tmp_path / "data"), "--port", str(http_port), "--grpc-port", str(grpc_port)),
        *("--runtime", "process", "--capacity", "vcpus=8,memory=16GiB"),
    ]
    script = f"echo before; until test -e {gate}; do sleep 0.02; done; echo after; exit 4"
    with batchyard(arguments, log=tmp_path / "first.log") as first:
        first.ready_line()
        command = [sys.executable, "-m", "batchyard.cli", "run", "--data-dir", str(tmp_path / "data")]
        process = subprocess.Popen([*command, "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "before\n"
            assert first.interrupt() == 0, first.log.read_text()
            with batchyard(arguments, log=tmp_path / "second.log") as second:
                second.ready_line()
                gate.touch()
                stdout, _ = process.communicate(timeout=60)
    assert (stdout, process.returncode) == ("after\n", 4)
