"""The fixture for those who test their own code, as they use it: in a pytest of their own."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from support.pages import block
from support.waiting import soon

EXAMPLE = Path(__file__).parents[2] / "examples" / "testing-a-pipeline"
TIMEOUT_S = 200.0

# A pytest within pytest, with workers and a server of its own, takes its time on a machine that has others to serve.
pytestmark = pytest.mark.timeout(300)


def run_pytest(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTEST_", "BATCHYARD_"))
    }
    return subprocess.run(
        # Of the plug-ins that others have installed here only what is wanted.
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", *arguments],
        cwd=folder,
        env=clean | variables,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def keepers(folder: Path) -> list[str]:
    """Return the processes that name a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command and "pytest" not in command.partition(str(folder))[0]:
            found.append(command)
    return found


def test_the_example_passes_with_several_workers_on_one_server_and_leaves_nothing_behind(tmp_path: Path) -> None:
    base = tmp_path / "base"
    # The log of the server is there for who looks at the folder afterwards; here it tells how many there were.
    result = run_pytest(EXAMPLE, "-n", "2", "--basetemp", str(base))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 passed" in result.stdout
    soon(lambda: not keepers(base / "batchyard"), "the end of the server")
    assert [path.name for path in base.glob("**/server.log")] == ["server.log"]


def test_workers_do_not_see_each_others_jobs_tests_with_a_fresh_account_see_none_and_the_page_is_right(
    tmp_path: Path,
) -> None:
    (tmp_path / "test_accounts.py").write_text(
        """
import json, os
from pathlib import Path
import boto3, pytest

def submit():
    batch = boto3.client("batch")
    properties = {"image": "none", "command": ["true"], "vcpus": 32, "memory": 100000}
    batch.register_job_definition(jobDefinitionName="d", type="container", containerProperties=properties)
    return batch.submit_job(jobName="j", jobQueue="default", jobDefinition="d")["jobId"]

@pytest.mark.parametrize("number", range(6))
def test_shared(batchyard, number):
    job = batchyard.wait(submit())
    assert job["status"] == "SUCCEEDED"
    assert os.environ["AWS_ACCESS_KEY_ID"] == batchyard.account
    assert boto3.client("sts").get_caller_identity()["Account"] == batchyard.account
    seen = {"account": batchyard.account, "url": batchyard.http_url, "jobs": len(
        boto3.client("batch").list_jobs(jobQueue="default", jobStatus="SUCCEEDED")["jobSummaryList"])}
    Path(os.environ["SEEN"], f"{os.environ['PYTEST_XDIST_WORKER']}.{number}").write_text(json.dumps(seen))

def test_fresh(batchyard, fresh_batchyard):
    assert fresh_batchyard.account != batchyard.account
    submit()
    assert len(fresh_batchyard.client().describe_job_definitions()["jobDefinitions"]) == 1

def test_the_environment_is_the_shared_one_again(batchyard):
    assert os.environ["AWS_ACCESS_KEY_ID"] == batchyard.account

def test_wait_says_what_a_job_waits_for(batchyard):
    batch = batchyard.client()
    submit()
    job_id = batch.submit_job(jobName="large", jobQueue="default", jobDefinition="d",
                              containerOverrides={"vcpus": 1000})["jobId"]
    with pytest.raises(TimeoutError, match="large .* is RUNNABLE"):
        batchyard.wait(job_id, timeout=0.2)
    with pytest.raises(LookupError, match="no job nobody"):
        batchyard.wait("nobody")
    batch.cancel_job(jobId=job_id, reason="enough")
    assert batchyard.wait(job_id)["statusReason"] == "enough"
    assert batchyard.logs(job_id) == []
"""
    )
    (tmp_path / "test_page.py").write_text(block("docs/testing-your-pipeline.md", "python", "def test_a_job_runs"))
    seen = tmp_path / "seen"
    seen.mkdir()
    result = run_pytest(tmp_path, "-n", "2", "--basetemp", str(tmp_path / "base"), SEEN=str(seen))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "10 passed" in result.stdout
    found = [(path.name.partition(".")[0], json.loads(path.read_text())) for path in seen.iterdir()]
    assert len({entry["url"] for _, entry in found}) == 1
    by_worker = {worker: {entry["account"] for name, entry in found if name == worker} for worker, _ in found}
    assert all(len(accounts) == 1 for accounts in by_worker.values())
    assert len(set.union(*by_worker.values())) == len(by_worker)
    for worker, _ in found:
        counts = [entry["jobs"] for name, entry in found if name == worker]
        assert max(counts) <= len(counts) + 1


def test_the_server_ends_when_its_tests_are_killed(tmp_path: Path) -> None:
    (tmp_path / "test_killed.py").write_text(
        "import os, signal\ndef test_killed(batchyard):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    base = tmp_path / "base"
    assert run_pytest(tmp_path, "--basetemp", str(base)).returncode == -9
    soon(lambda: not keepers(base / "batchyard"), "the end of the server")


def test_a_server_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nbatchyard_arguments = --no-such-flag\n")
    (tmp_path / "test_it.py").write_text("def test_it(batchyard): pass\n")
    result = run_pytest(tmp_path)
    assert result.returncode == 1
    assert "No such option" in result.stdout


def test_it_costs_nothing_where_no_test_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import os, sys\n"
        "def test_other():\n"
        "    assert 'batchyard.testing.plugin' in sys.modules\n"
        "    heavy = ('grpc', 'google.protobuf', 'boto3', 'click', 'anyio', 'batchyard.testing.account')\n"
        "    assert [name for name in heavy if name in sys.modules] == []\n"
        "    assert not [name for name in os.environ if name.startswith('AWS_')]\n"
    )
    result = run_pytest(tmp_path, "-p", "no:hypothesispytest", "-p", "no:anyio", "-p", "no:xdist")
    assert result.returncode == 0, result.stdout + result.stderr


def test_pytest_finds_it_by_itself() -> None:
    (found,) = entry_points(group="pytest11", name="batchyard")
    assert found.value == "batchyard.testing.plugin"
