"""The job store dies, or its disk fails, at every single sync and write of a scenario: nothing acknowledged is lost."""

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final

import pytest

from batchyard.api.jobs.v1.jobs_pb2 import JobStatus
from batchyard.domain.lifecycle import JobState
from support.control_plane import ControlPlane, control_plane
from support.crash_scenario import child, driving, run_to_end, take_up
from support.crashes import CHILD_DEADLINE_S, NEEDS_STRACE, SYNCS, forked, stop, sweep, traced, was_killed

WRITES: Final = "pwrite64"
ORDER: Final = [state.name for state in JobState]
PARENTS: Final = {"child": "parent", "orphan": "cancelled"}
"""Jobs that fail with another one."""


pytestmark = [pytest.mark.timeout(600), NEEDS_STRACE]


@dataclass
class Acknowledged:
    """What the child was told."""

    submitted: dict[str, str] = field(default_factory=dict)
    """Job ids by name."""
    states: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By job id: attempts that had ended, and the state."""
    fences: set[tuple[int, int]] = field(default_factory=set)

    def note(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("submitted", name, job_id):
                self.submitted[name] = job_id
            case ("state", job_id, status, attempts):
                self.states[job_id] = (attempts, status)
            case ("fence", epoch, number):
                self.fences.add((epoch, number))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a registry that has a queue and a definition, and no job store yet."""
    folder = tmp_path_factory.mktemp("fresh")

    async def prepare() -> None:
        async with control_plane(folder) as plane:
            await plane.make_queue()
            await plane.register()

    asyncio.run(prepare())
    for path in folder.glob("jobs.db*"):
        path.unlink()
    return folder


@pytest.fixture
def copies(fresh: Path) -> Iterator[Path]:
    """Where copies of the folder go, on a real disk."""
    with tempfile.TemporaryDirectory(dir=fresh.parent) as folder:
        yield Path(folder)


def play(folder: Path, calls: str, fault: str) -> tuple[Acknowledged, list[tuple[str, str]], bool]:
    """Run the scenario under a fault; return what was acknowledged, how calls failed, and whether it came to its end.

    At the first failure the disk becomes well again.
    """
    acknowledged, failures = Acknowledged(), []
    process, pipe = forked(child, folder)
    with pipe:
        assert process.pid is not None
        with traced(process.pid, calls, fault) as tracer:
            pipe.send("go")
            is_over = False
            for message in messages(pipe):
                acknowledged.note(message)
                if message[0] == "failed":
                    failures.append((message[1], message[2]))
                    stop(tracer)
                    pipe.send("healed")
                is_over = message == ("over",)
    # It may be killed after the last step too, while it closes.
    return acknowledged, failures, not was_killed(process) and is_over


def messages(pipe: Connection) -> Iterator[tuple[Any, ...]]:
    """Yield what the child says until it ends."""
    while wait([pipe], CHILD_DEADLINE_S):
        try:
            yield pipe.recv()
        except EOFError:
            return
    raise AssertionError(f"nothing was heard for {CHILD_DEADLINE_S} s")


def check_tables(path: Path) -> int:
    """Check that a store which nobody has open is of one piece; return its epoch, 0 if it was never begun."""
    if not path.exists():
        return 0
    database = sqlite3.connect(path)
    try:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not database.execute("PRAGMA user_version").fetchone()[0]:
            return 0
        sequences = rows(database, "SELECT sequence FROM jobs ORDER BY sequence")
        assert sequences == rows(database, "SELECT sequence FROM specs ORDER BY sequence")
        assert rows(database, "SELECT * FROM dependencies WHERE dependent NOT IN (SELECT sequence FROM jobs)") == []
        assert rows(database, "SELECT * FROM dependencies WHERE depends_on NOT IN (SELECT sequence FROM jobs)") == []
        waiting = rows(
            database,
            "SELECT dependent, count(*) FROM dependencies JOIN jobs ON sequence = depends_on"
            f" WHERE state < {int(JobState.SUCCEEDED)} GROUP BY dependent ORDER BY dependent",
        )
        assert waiting == rows(
            database, "SELECT sequence, dependencies_left FROM jobs WHERE state = 2 ORDER BY sequence"
        )
        counted = "SELECT sequence, attempts_made FROM jobs WHERE attempts_made > 0 ORDER BY sequence"
        assert rows(database, counted) == rows(
            database, "SELECT sequence, count(*) FROM attempts GROUP BY sequence ORDER BY sequence"
        )
        ((epoch,),) = rows(database, "SELECT epoch FROM store")
        return int(epoch)
    finally:
        database.close()


def rows(database: sqlite3.Connection, query: str) -> list[tuple[Any, ...]]:
    return database.execute(query).fetchall()


async def check_and_finish(folder: Path, acknowledged: Acknowledged, epoch: int) -> None:
    """Open the store again: everything acknowledged is there, nothing else, and all of it can be brought to its end."""
    async with control_plane(folder) as plane:
        await check_jobs(plane, acknowledged)
        async with driving(plane, incarnation=2) as driver:
            assert driver.seen.welcome.store_epoch > epoch
            fences = await finish(plane, driver, set(acknowledged.submitted.values()))
        assert min(fences, default=(1 << 40, 0)) > max(acknowledged.fences, default=(0, 0))
        ended = {name: await plane.job(job_id) for name, job_id in acknowledged.submitted.items()}
        for name, job in ended.items():
            if job.status != JobStatus.JOB_STATUS_SUCCEEDED:
                # A run that was claimed when the agent's first life ended is lost.
                is_excused = name == "cancelled" or job.status_reason.startswith("Host EC2")
                assert is_excused or ended[PARENTS[name]].status == JobStatus.JOB_STATUS_FAILED, (name, job)
    check_tables(folder / "jobs.db")


async def check_jobs(plane: ControlPlane, acknowledged: Acknowledged) -> None:
    for name, job_id in acknowledged.submitted.items():
        job = await plane.job(job_id)
        assert job.job_name == name
        status = JobStatus.Name(job.status).removeprefix("JOB_STATUS_")
        attempts, acknowledged_status = acknowledged.states.get(job_id, (0, "SUBMITTED"))
        assert (len(job.attempts), ORDER.index(status)) >= (attempts, ORDER.index(acknowledged_status)), (name, job)


async def finish(plane: ControlPlane, driver: Any, job_ids: set[str]) -> set[tuple[int, int]]:
    """Run every job that can run, known or not, until none is left; return the fences of the new runs."""
    fences: set[tuple[int, int]] = set()
    done: dict[str, int] = {}

    def note(message: tuple[Any, ...]) -> None:
        if message[0] == "fence":
            fences.add(message[1:])

    async def unfinished() -> bool:
        statuses = [(await plane.job(job_id)).status for job_id in job_ids]
        return any(status < JobStatus.JOB_STATUS_SUCCEEDED for status in statuses)

    for held in list(driver.seen.held):
        if held.HasField("offer"):  # the agent never saw it: it is sent again, whatever the incarnation
            await take_up(driver, held.offer, held.job.job_id, note)
    while await unfinished():
        await driver.until(lambda seen: len(seen.runnable) > sum(done.values()))
        for queued in list(driver.seen.runnable)[sum(done.values()) :]:
            job_id = queued.job.job_id
            done[job_id] = done.get(job_id, 0) + 1
            await run_to_end(driver, job_id, note, nth=done[job_id])
    return fences


# At every sync. Of the writes, some ten to a sync, a number that comes to all places in a commit in turn.
@pytest.mark.parametrize(("calls", "step"), [(SYNCS, 1), (WRITES, 23)])
def test_nothing_acknowledged_is_lost_wherever_the_store_dies(fresh: Path, copies: Path, calls: str, step: int) -> None:
    def run(point: int) -> bool:
        folder = Path(shutil.copytree(fresh, copies / str(point)))
        acknowledged, failures, is_over = play(folder, calls, f"signal=SIGKILL:when={point}")
        assert failures == []
        asyncio.run(check_and_finish(folder, acknowledged, check_tables(folder / "jobs.db")))
        return is_over

    points = sweep(run, step=step)
    print(f"killed at {points} points of {calls}")
    assert points > 20, "the scenario was not under the fault"


@pytest.mark.parametrize(
    ("calls", "step", "error", "text"),
    [
        (SYNCS, 1, "EIO", "disk I/O error"),
        (WRITES, 5, "ENOSPC", "database or disk is full"),
        (WRITES, 83, "EROFS", "disk I/O error"),
    ],
)
def test_a_disk_that_fails_is_told_and_the_store_comes_back_with_it(
    fresh: Path, copies: Path, calls: str, step: int, error: str, text: str
) -> None:
    told = count()

    def run(point: int) -> bool:
        folder = Path(shutil.copytree(fresh, copies / str(point)))
        acknowledged, failures, is_over = play(folder, calls, f"error={error}:when={point}+")
        assert is_over
        for status, said in failures:
            assert status in ("UNAVAILABLE", "OPENING")
            if f"cannot write: {text}" in said:
                next(told)
        asyncio.run(check_and_finish(folder, acknowledged, check_tables(folder / "jobs.db")))
        return not failures

    points = sweep(run, step=step)
    print(f"{error} at {points} points of {calls}")
    assert next(told)
