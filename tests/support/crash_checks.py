"""What must hold of a store after a crash, or after a disk that failed: all that was acknowledged, in one piece."""

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from batchyard.api.jobs.v1.jobs_pb2 import JobStatus
from batchyard.domain.lifecycle import JobState
from support.control_plane import ControlPlane, control_plane
from support.crash_scenario import driving, run_to_end, take_up

ORDER: Final = [state.name for state in JobState]
PARENTS: Final = {"child": "parent", "orphan": "cancelled"}
"""Jobs that fail with another one."""


@dataclass
class Acknowledged:
    """What clients were told."""

    submitted: dict[str, str] = field(default_factory=dict)
    """Job ids by name."""
    states: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By job id: attempts that had ended, and the state."""
    fences: set[tuple[int, int]] = field(default_factory=set)

    def note(self, message: tuple[Any, ...]) -> None:
        """Take in what the scenario tells."""
        match message:
            case ("submitted", name, job_id):
                self.submitted[name] = job_id
            case ("state", job_id, status, attempts):
                self.states[job_id] = (attempts, status)
            case ("fence", epoch, number):
                self.fences.add((epoch, number))


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
