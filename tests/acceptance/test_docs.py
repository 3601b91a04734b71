"""The documentation: it can be built, its commands exist, and each of them does what the page says."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import pytest

from batchyard.cli.main import main
from batchyard.cli.services import logs as serve_logs
from support.installation import READY_UP, BatchyardProcess, free_ports
from support.pages import PAGES, ROOT, RUN, SHOWN, block, blocks_of, run_by_tests

# A page is up to some twenty commands, each a process of its own, on a machine that may have others to serve.
pytestmark = pytest.mark.timeout(300)

BIN: Final = Path(sys.executable).parent
INLINE: Final = re.compile(r"`((?:batchyard|make) [^`]+)`")

ELSEWHERE: Final[Mapping[str, tuple[str, str]]] = {
    "pip install .": ("tests/unit/test_layout.py", '"pip", "wheel"'),
    "make test": (".ci/run", "make --silent --no-print-directory test"),
    "SIMULATION_SEEDS=200 make test ARGS=tests/simulation": (
        "tests/simulation/test_simulation.py",
        'os.environ.get("SIMULATION_SEEDS"',
    ),
}
"""Commands that would run this very run of the tests, or install into it: what runs the same, and by which words."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who types what the pages say, with a server of the usual kind at hand."""

    folder: Path
    http_url: str
    grpc_target: str
    environment: Mapping[str, str]

    def runs(self, script: str, *, code: int = 0) -> str:
        """Type commands, which are to end with this code, and return what they print."""
        return run(["bash", "-euo", "pipefail", "-c", self.here(script)], self.folder, self.environment, code)

    def here(self, text: str) -> str:
        """Return a text with the addresses of this server in place of the usual ones."""
        return text.replace("http://127.0.0.1:8080", self.http_url).replace("127.0.0.1:8081", self.grpc_target)


def run(command: list[str], folder: Path, environment: Mapping[str, str], code: int = 0) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def a_readers_environment(folder: Path) -> dict[str, str]:
    """Return what a reader's shell has; flags that all pages leave to their readers come by it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "BATCHYARD_"))}
    return {
        **clean,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_PAGER": "",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
        "BATCHYARD_DATA_DIR": str(folder / "state"),
        "BATCHYARD_RUNTIME": "process",
        "BATCHYARD_CAPACITY": "vcpus=8,memory=16GiB",
        "BATCHYARD_STOP_JOBS": "1",
        "BATCHYARD_FAULTS": "1",
    }


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader beside the server of the page on logs."""
    folder = tmp_path_factory.mktemp("reader")
    environment = a_readers_environment(folder)
    port, grpc_port = free_ports(2)
    http_url, grpc_target = f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc_port}"
    new = Reader(folder, http_url, grpc_target, environment)
    (_, *words) = shlex.split(new.here(block("docs/logs.md", "sh", "--job-endpoint")), comments=True)
    ports = {"BATCHYARD_PORT": str(port), "BATCHYARD_GRPC_PORT": str(grpc_port)}
    up = BatchyardProcess(words, log=folder / "up.log", environment={**environment, **ports})
    try:
        assert READY_UP.fullmatch(up.ready_line())
        yield new
    finally:
        up.close()


# Of all pages


def test_every_block_of_the_documentation_is_run_by_a_test() -> None:
    known = {each for page in PAGES for each in blocks_of(page)}
    assert {each.language for each in known} <= {*RUN, *SHOWN}, "a block without a language is run by nobody"
    # A test that runs one takes it from the page, by `block` or `section`.
    assert {each for each in known if each.language in RUN} - set(run_by_tests()) == set()


def test_what_runs_elsewhere_is_on_a_page_and_does_run() -> None:
    text = "\n".join(each.text for page in PAGES for each in blocks_of(page))
    for command, (path, words) in ELSEWHERE.items():
        assert command in text
        assert words in (ROOT / path).read_text(), command


def calls_in(page: str) -> Iterator[list[str]]:
    """Return the calls of `batchyard` and `make` on a page, in blocks and in sentences, as words."""
    script = "\n".join(each.text for each in blocks_of(page) if each.language == "sh")
    for line in script.replace("\\\n", " ").splitlines():
        for call in re.split(r"[;|&]+", re.sub(r"\s#.*", "", line)):
            whole = call.replace("$(", " ").replace(")", " ")
            words = shlex.split(whole) if whole.count("'") % 2 == whole.count('"') % 2 == 0 else whole.split()
            for name in ("batchyard", "make"):
                if name in words:
                    yield words[words.index(name) :]
    for sentence in INLINE.findall((ROOT / page).read_text()):
        yield sentence.replace("…", "").replace("\n", " ").split()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_flag_in_the_documentation_exists(page: str) -> None:
    context = click.Context(main)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, *words in calls_in(page):
        if name == "make":
            assert not words or words[0] in targets, f"{page}: make {words[0]}"
            continue
        if not words or not re.fullmatch("[a-z]+", words[0]) or words[0] == "ready":
            continue  # as in `batchyard ready http://…`, which is what it prints
        command = main.get_command(context, words[0])
        assert command is not None, f"{page}: batchyard {words[0]}"
        own = words[1 : words.index("--")] if "--" in words else words[1:]
        if isinstance(command, click.Group) and own:
            found = command.get_command(context, own[0])
            assert found is not None, f"{page}: batchyard {words[0]} {own[0]}"
            command = found
        flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        if command.name == "logs":
            # Without a job it is the service of that name.
            flags |= {flag for parameter in serve_logs.params for flag in parameter.opts}
        used = {re.split(r"[=\],.]", word.strip("[]"))[0] for word in own if word.strip("[]").startswith("--")}
        # `--allow-…` stands for all that begin so.
        missing = {
            flag for flag in used - flags - {"--help", "--help-all"} if not any(it.startswith(flag) for it in flags)
        }
        assert not missing, f"{page}: batchyard {' '.join(words)}"


def test_the_pages_are_a_site_without_broken_links(tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "site" / "commands.html").read_text()
    assert "BATCHYARD_DATA_DIR" in commands


# Page by page


def test_the_first_page_does_what_it_says(tmp_path: Path) -> None:
    port, grpc_port = free_ports(2)
    script = (
        block("docs/index.md", "sh", "pip install")
        + block("docs/index.md", "sh", "batchyard run")
        + block("docs/index.md", "sh", "aws batch submit-job")
    )
    up = (
        f"batchyard up --data-dir state --port {port} --grpc-port {grpc_port} &\n"
        "up=$!\ntrap 'kill $up; wait $up' EXIT\n"
        "for _ in $(seq 600); do [ -e state/endpoint.json ] && break; sleep 0.1; done\n"
    )
    for words, instead in (
        ("pip install . ", "true "),
        ("batchyard up --data-dir state &", up),
        ("http://127.0.0.1:8080", f"http://127.0.0.1:{port}"),
    ):
        assert words in script
        script = script.replace(words, instead)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=a_readers_environment(tmp_path),
        check=False,
    )
    assert done.returncode in (0, 128 + signal.SIGTERM), done.stderr
    assert re.search(r"hello from [0-9a-f-]{36}", done.stdout)
    assert '"jobName": "first"' in done.stdout
    assert "batchyard ready" in done.stdout


def test_the_commands_that_the_readme_begins_with(reader: Reader) -> None:
    install, submit = block("README.md", "sh", "batchyard run").splitlines()
    assert install.startswith("pip install . && batchyard up ")
    assert reader.runs(submit, code=3) == "hello\n"


def make(command: str) -> str:
    """Run a `make` of the pages in this checkout, with the environment of this test for its own."""
    (name, *words) = shlex.split(command, comments=True)
    assert name == "make"
    # Where it is up to date, whatever the times of its files say: tests do not install into it.
    own = [f"VENV={BIN.parent}", "--old-file", str(BIN.parent / ".installed")]
    return run(["make", "--no-print-directory", *own, *words], ROOT, a_readers_environment(ROOT / "nowhere"))


def test_the_demonstration_of_the_readme(tmp_path: Path) -> None:
    demo, test = block("README.md", "sh", "make demo").splitlines()
    assert test.startswith("make test")
    assert "as expected" in make(demo)


def test_the_page_on_commands(reader: Reader) -> None:
    for name in ("work.sh", "report.sh"):
        (reader.folder / name).write_text(f"#!/bin/sh\necho {name} $AWS_BATCH_JOB_ID\n")
        (reader.folder / name).chmod(0o755)
    (reader.folder / "jobs.yaml").write_text(
        "- jobName: a\n  jobQueue: default\n  jobDefinition: hello\n"
        "- jobName: b\n  jobQueue: default\n  jobDefinition: hello\n"
    )
    define_hello(reader)
    id_of_one = 'id=$(echo "{jobName: one, jobQueue: default, jobDefinition: hello}" | batchyard submit -)\n'
    told = reader.runs(id_of_one + block("docs/commands.md", "sh", "batchyard top"))
    assert "report.sh " in told
    assert re.search(r"\bSUCCEEDED\b", told)


def define_hello(reader: Reader) -> None:
    """Register the definition that the pages go on using, as the first of them does."""
    export, define = (
        block("docs/index.md", "sh", "aws batch submit-job").split("aws batch submit-job")[0].split("aws batch ")
    )
    reader.runs(f"{export}\naws batch {define}")


def test_the_page_on_events(reader: Reader) -> None:
    """A follower follows until it is ended: here, once it has told of a job that ran meanwhile."""
    define_hello(reader)
    prelude = r"""
        id=$(echo "{jobName: one, jobQueue: default, jobDefinition: hello}" | batchyard submit -)
        batchyard wait "$id"
        batchyard() {
            case " $* " in *" --follow "*)
                command batchyard "$@" >followed &
                follower=$!
                until [ -s followed ]; do command batchyard run -- true; done
                kill $follower
                wait $follower || code=$?
                echo "the follower ended with ${code:-0}";;
            *) command batchyard "$@";;
            esac
        }
    """
    told = reader.runs(prelude + block("docs/events.md", "sh", "batchyard events"))
    assert '"status":"SUCCEEDED"' in told.replace(" ", "")
    assert "Batch Job State Change" in (reader.folder / "followed").read_text()


def test_the_page_on_logs(reader: Reader) -> None:
    reader.runs("batchyard run -- sh -c 'echo ERROR: it broke'")
    # That some of its words are not of every version is told on the page; the server is the reader's.
    assert block("docs/logs.md", "sh", "--job-endpoint").startswith("batchyard up --job-endpoint ")
    found = reader.runs(block("docs/logs.md", "sh", "aws logs"))
    assert "ERROR: it broke" in found
    prelude = """
import boto3
where = {"region_name": "us-east-1", "aws_access_key_id": "any", "aws_secret_access_key": "any"}
batch = boto3.client("batch", endpoint_url="http://127.0.0.1:8080", **where)
job_id = batch.list_jobs(jobQueue="default", jobStatus="SUCCEEDED")["jobSummaryList"][0]["jobId"]
found = batch.describe_jobs(jobs=[job_id])["jobs"][0]
"""
    assert "['ERROR: it broke']" in python(reader, prelude + block("docs/logs.md", "python", "get_log_events"))


def python(reader: Reader, script: str) -> str:
    return run([sys.executable, "-c", reader.here(script)], reader.folder, reader.environment)


def test_the_page_on_retry_rules(reader: Reader) -> None:
    define_hello(reader)
    prelude = """
import boto3
batch = boto3.client("batch", endpoint_url="http://127.0.0.1:8080")
"""
    afterwards = "\nprint(job['jobId'])"
    job_id = python(
        reader, prelude + block("docs/testing-retries.md", "python", "batchyard:fault") + afterwards
    ).strip()
    described = reader.runs(f"batchyard wait {job_id} && batchyard describe {job_id} --output json")
    reasons = re.findall(r'"statusReason": "([^"]+)"', described)
    assert any(reason.startswith("Host EC2") for reason in reasons)
    assert described.count('"exitCode": 143') == 1


def test_the_page_on_clusters_makes_a_backup_and_restores_it(reader: Reader) -> None:
    reader.runs(block("docs/your-cluster.md", "sh", "batchyard backup"))
    assert (reader.folder / "new-state" / "jobs.db").exists()


def test_the_page_on_other_languages_makes_stubs(tmp_path: Path) -> None:
    if shutil.which("grpc_cpp_plugin") is None:
        pytest.skip("needs grpc_cpp_plugin on the PATH: `apt install protobuf-compiler-grpc` brings it")
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    script = block("docs/other-languages.md", "sh", "protoc").replace("find protos", "find -L protos")
    run(["bash", "-euo", "pipefail", "-c", script], tmp_path, os.environ)
    assert (tmp_path / "out" / "batchyard" / "api" / "jobs" / "v1" / "jobs_service.grpc.pb.cc").exists()


def test_the_page_on_what_is_promised_replays_seeds() -> None:
    soak, test, one_kind = block("docs/reliability.md", "sh", "make soak").splitlines()
    assert test in ELSEWHERE
    assert "SEEDS=5000" in soak
    make(soak.replace("SEEDS=5000", "SEEDS=1"))
    assert "--seeds 100" in one_kind
    run(["bash", "-euc", one_kind.replace("--seeds 100", "--seeds 1")], ROOT, a_readers_environment(ROOT / "nowhere"))
