"""The job store dies, or its disk fails, at every single sync and write of a scenario: nothing acknowledged is lost."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final

import pytest

from support import failing_store
from support.control_plane import control_plane
from support.crash_checks import Acknowledged, check_and_finish, check_tables
from support.crash_scenario import child
from support.crashes import CHILD_DEADLINE_S, NEEDS_STRACE, SYNCS, WORKERS, forked, stop, sweep, traced, was_killed
from support.failing_writes import NEEDS_SQLITE_LIBRARY

WRITES: Final = "pwrite64"
IO_ERROR: Final = "disk I/O error"
SHARED_MEMORY: Final = Path("/dev/shm")
FULL: Final = "database or disk is full"

pytestmark = pytest.mark.timeout(600)


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


@pytest.fixture
def memory() -> Iterator[Path]:
    """Where copies go that no disk needs to hold."""
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
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


# At every sync. Of the writes, some ten to a sync, a number that comes to all places in a commit in turn.
@pytest.mark.parametrize(("calls", "step"), [(SYNCS, 1), (WRITES, 23)])
@NEEDS_STRACE
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
    [(SYNCS, 1, "EIO", IO_ERROR), (SYNCS, 1, "ENOSPC", IO_ERROR), (WRITES, 83, "EROFS", IO_ERROR)],
)
@NEEDS_STRACE
def test_a_disk_that_fails_is_told_and_the_store_comes_back_with_it(
    fresh: Path, copies: Path, calls: str, step: int, error: str, text: str
) -> None:
    told: list[tuple[str, str]] = []

    def run(point: int) -> bool:
        folder = Path(shutil.copytree(fresh, copies / str(point)))
        acknowledged, failures, is_over = play(folder, calls, f"error={error}:when={point}+")
        assert is_over
        told.extend(failures)
        asyncio.run(check_and_finish(folder, acknowledged, check_tables(folder / "jobs.db")))
        return not failures

    points = sweep(run, step=step)
    print(f"{error} at {points} points of {calls}")
    check_told(told, text)


@NEEDS_SQLITE_LIBRARY
def test_a_disk_that_is_full_at_any_write_is_told_and_the_store_comes_back_with_it(fresh: Path, memory: Path) -> None:
    workers = [forked(failing_store.child, fresh, memory, "ENOSPC", 1 + worker, WORKERS) for worker in range(WORKERS)]
    for _, pipe in workers:
        pipe.send("go")
    points, told = 0, []
    for process, pipe in workers:
        with pipe:
            for kind, point, said in messages(pipe):
                assert kind == "played", f"write {point}: {said}"
                points += 1
                told.extend(said)
        assert not was_killed(process)
    print(f"ENOSPC at {points} writes")
    assert points > 200, "the scenario was not under the fault"
    check_told(told, FULL)


def check_told(failures: list[tuple[str, str]], text: str) -> None:
    for status, _ in failures:
        assert status in ("UNAVAILABLE", "OPENING")
    assert any(f"cannot write: {text}" in said for _, said in failures)
