"""Arrays of thousands of children, and of hundreds while everything is killed in the middle."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from batchyard.domain.names import DEFAULT_NAMESPACE
from support.aws import STATUSES, Account
from support.installation import Installation, start_up
from support.waiting import soon

LARGEST: Final = 10_000
PAIRS: Final = 1000
KILLED: Final = 200
_account_numbers: Final = count(300_000_000_001)
PATIENCE_S: Final = 400.0
"""Of tests that start thousands of processes; a bound, not an expectation."""


pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    running = start_up(tmp_path_factory.mktemp("arrays") / "data")
    yield running
    running.close()


@pytest.fixture
def account(installation: Installation) -> Iterator[Account]:
    fresh = Account(installation.http_url, str(next(_account_numbers)))
    fresh.make_queue()
    fresh.define()
    yield fresh
    fresh.close()


def watch_to_the_end(account: Account, job_id: str, size: int) -> list[dict[str, int]]:
    """Return the summaries that were seen until the array ended, each of which is checked."""
    seen: list[dict[str, int]] = []
    deadline = time.monotonic() + PATIENCE_S
    while True:
        job = account.describe(job_id)
        summary = job["arrayProperties"]["statusSummary"]
        assert set(summary) == set(STATUSES)
        assert sum(summary.values()) == size, summary
        over = summary["SUCCEEDED"] + summary["FAILED"]
        assert (job["status"] in ("SUCCEEDED", "FAILED")) == (over == size), job
        seen.append(summary)
        if over == size:
            return seen
        assert time.monotonic() < deadline, f"not over: {summary}"
        time.sleep(0.2)


def all_children(account: Account, job_id: str, size: int) -> Iterator[Any]:
    for start in range(0, size, 100):
        ids = [f"{job_id}:{index}" for index in range(start, min(start + 100, size))]
        yield from account.batch.describe_jobs(jobs=ids)["jobs"]


def test_ten_thousand_children_run_to_their_end_and_the_summary_is_right_at_every_poll(account: Account) -> None:
    job_id = account.submit(["true"], arrayProperties={"size": LARGEST})
    seen = watch_to_the_end(account, job_id, LARGEST)
    for before, after in pairwise(seen):
        # One attempt each: nothing goes back.
        assert after["SUCCEEDED"] >= before["SUCCEEDED"]
        assert after["RUNNABLE"] <= before["RUNNABLE"]
    assert seen[-1]["SUCCEEDED"] == LARGEST
    assert account.describe(job_id)["status"] == "SUCCEEDED"
    ids = [f"{job_id}:{index}" for index in range(0, LARGEST, LARGEST // 100)]
    ended = Counter((job["status"], len(job["attempts"])) for job in account.batch.describe_jobs(jobs=ids)["jobs"])
    assert ended == {("SUCCEEDED", 1): 100}


def test_of_a_thousand_pairs_no_child_starts_before_the_one_that_it_waits_for_has_ended(account: Account) -> None:
    first = account.submit(["true"], arrayProperties={"size": PAIRS})
    second = account.submit(["true"], arrayProperties={"size": PAIRS}, dependsOn=[{"jobId": first, "type": "N_TO_N"}])
    assert watch_to_the_end(account, second, PAIRS)[-1]["SUCCEEDED"] == PAIRS
    pairs = zip(all_children(account, first, PAIRS), all_children(account, second, PAIRS), strict=True)
    early = [after["jobId"] for before, after in pairs if after["startedAt"] < before["stoppedAt"]]
    assert early == []


def test_killing_everything_in_the_middle_of_an_array_loses_no_child_and_runs_none_twice(tmp_path: Path) -> None:
    folder, traces = tmp_path / "data", tmp_path / "traces"
    index = "$AWS_BATCH_JOB_ARRAY_INDEX"
    script = f'echo "{index} start" >> {traces}; sleep 0.05; echo "{index} end" >> {traces}'

    def lines() -> list[list[str]]:
        return [line.split() for line in traces.read_text().splitlines()] if traces.exists() else []

    first = start_up(folder)
    account = Account(first.http_url, DEFAULT_NAMESPACE)
    try:
        account.make_queue()
        account.define()
        array = account.submit(["sh", "-c", script], arrayProperties={"size": KILLED})
        paired = account.submit(
            ["true"], arrayProperties={"size": KILLED}, dependsOn=[{"jobId": array, "type": "N_TO_N"}]
        )
        soon(lambda: sum(word == "end" for _, word in lines()) >= 20, "some children have ended")
    finally:
        account.close()
        first.processes["up"].kill_group()
        first.close()
    assert sum(word == "end" for _, word in lines()) < KILLED, "all had ended before the kill: nothing was tested"

    with closing(start_up(folder)) as second, closing(Account(second.http_url, DEFAULT_NAMESPACE)) as account:
        summary = watch_to_the_end(account, array, KILLED)[-1]
        watch_to_the_end(account, paired, KILLED)
        starts = Counter(int(number) for number, word in lines() if word == "start")
        children = list(all_children(account, array, KILLED))
        assert Counter(child["status"] for child in children) == {k: v for k, v in summary.items() if v}
        followers = [child["status"] for child in all_children(account, paired, KILLED)]
    assert [child["status"] for child in children] == followers
    for number, child in enumerate(children):
        # A run whose end nobody could learn of has failed, and says so; every other one ran once and succeeded.
        if child["status"] == "FAILED":
            assert child["statusReason"].startswith("Host EC2"), child
        else:
            assert starts[number] == 1, child
