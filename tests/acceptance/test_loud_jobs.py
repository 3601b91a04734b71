"""Jobs that print more than anybody reads: they cost their own log its middle, and nobody else anything."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.aws import Account
from support.installation import BatchyardProcess, Installation, start_six, start_up
from support.waiting import soon

LIMIT = ("--log-limit", "16MiB")
LOUD_BYTES = 200_000_000
DISK_BYTES_MAX = 17 * 1024 * 1024
MEMORY_BYTES_MAX = 64 * 1024 * 1024
"""How much more memory a process may take than before, at any time."""


@pytest.fixture(params=["one process", "six processes"])
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    folder = tmp_path / "data"
    running = start_up(folder, *LIMIT) if request.param == "one process" else start_six(folder, agent=LIMIT)
    yield running
    running.close()


def peak_bytes(process: BatchyardProcess) -> int:
    """Return the most memory that a process has had."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def log_sizes(folder: Path, definition: str) -> tuple[int, int]:
    """Return how many bytes the jobs of a definition have printed so far, and how many the disk holds of them."""
    printed = on_disk = 0
    for path in folder.glob(f"**/{definition}/**/*.log"):
        # One that was shipped goes.
        with suppress(FileNotFoundError):
            status = path.stat()
            printed, on_disk = printed + status.st_size, on_disk + status.st_blocks * 512
    return printed, on_disk


def test_a_loud_job_holds_up_neither_its_agent_nor_its_neighbours(installation: Installation, tmp_path: Path) -> None:
    account = Account(installation.http_url, "210987654321")
    account.make_queue()
    account.define("loud")
    account.define("quiet")
    gate = tmp_path / "gate"
    account.wait(account.submit(["echo", "warm"], jobDefinition="quiet"))
    before = {name: peak_bytes(process) for name, process in installation.processes.items()}
    line = "x" * 99
    burst = f"yes {line} | head -c 20000000"
    job_id = account.submit(
        ["sh", "-c", f"echo the beginning; until [ -e {gate} ]; do {burst}; sleep 0.1; done; echo the end"],
        jobDefinition="loud",
    )
    stream = account.wait(job_id, "RUNNING")["container"]["logStreamName"]
    for number in range(3):
        quiet = account.wait(account.submit(["echo", f"quiet {number}"], jobDefinition="quiet"))
        assert account.log_lines(quiet) == [f"quiet {number}"]
    soon(lambda: log_sizes(installation.folder, "loud")[0] > LOUD_BYTES, "the loud job's output")
    gate.touch()
    job = account.wait(job_id)
    assert (job["status"], len(job["attempts"])) == ("SUCCEEDED", 1)

    def end() -> bool:
        events = account.logs.get_log_events(logGroupName="/aws/batch/job", logStreamName=stream, limit=2)["events"]
        return [event["message"] for event in events] == [line, "the end"]

    soon(end, "the end of the log")
    after = {name: peak_bytes(process) for name, process in installation.processes.items()}
    assert {name: peak for name, peak in after.items() if peak - before[name] > MEMORY_BYTES_MAX} == {}
    head = account.logs.get_log_events(
        logGroupName="/aws/batch/job", logStreamName=stream, limit=2, startFromHead=True
    )["events"]
    assert [event["message"] for event in head] == ["the beginning", line]
    found = account.logs.filter_log_events(
        logGroupName="/aws/batch/job", logStreamNames=[stream], filterPattern='"cut out here"'
    )
    while not found["events"]:
        found = account.logs.filter_log_events(
            logGroupName="/aws/batch/job",
            logStreamNames=[stream],
            filterPattern='"cut out here"',
            nextToken=found["nextToken"],
        )
    (note,) = found["events"]
    assert note["message"].startswith("[batchyard] ")
    soon(lambda: log_sizes(installation.folder, "loud")[1] <= DISK_BYTES_MAX, "the disk is free again")
    account.close()
