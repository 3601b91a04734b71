"""A job store whose last commits were not on disk when its machine stopped says that it may have forgotten runs."""

from contextlib import closing
from pathlib import Path

import pytest

from batchyard.storage.jobs import AgentRecord, Changes
from batchyard.storage.sqlite import setback
from batchyard.storage.sqlite.database import connect
from batchyard.storage.sqlite.jobs import SqliteJobWriter, migrate_jobs
from support.control_plane import control_plane
from support.jobs import AGENT


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> "Boot":
    return Boot(monkeypatch)


class Boot:
    """The machine, which can be started anew."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.again("first")

    def again(self, name: str) -> None:
        self._monkeypatch.setattr(setback, "boot_id", lambda: name)


async def welcome(folder: Path, *, durable: bool, ends_set_back: bool = False) -> int:
    """Start a control plane, and stop it in order; return what its store says to a scheduler of being set back."""
    async with control_plane(folder, durable=durable) as plane, plane.scheduler() as scheduler:
        number = scheduler.welcome.set_back
        if ends_set_back:
            await scheduler.send(set_back_over=number)
            await plane.make_queue("written-after-it")
    return number


def crash(folder: Path) -> None:
    """Leave the store as a writer does that is killed: what it has noted of itself stays."""
    with closing(connect(folder / "jobs.db")) as connection:
        connection.execute("UPDATE store SET unsynced_boot = 'first'")


async def test_a_stop_in_order_loses_nothing(tmp_path: Path, boot: Boot) -> None:
    assert await welcome(tmp_path, durable=False) == 0
    boot.again("second")
    assert await welcome(tmp_path, durable=False) == 0


async def test_a_crash_of_the_process_loses_nothing(tmp_path: Path, boot: Boot) -> None:
    await welcome(tmp_path, durable=False)
    crash(tmp_path)
    assert await welcome(tmp_path, durable=False) == 0


@pytest.mark.parametrize("durable_then", [False, True])
async def test_a_stop_of_the_machine_sets_a_relaxed_store_back_until_a_scheduler_has_waited(
    tmp_path: Path, boot: Boot, durable_then: bool
) -> None:
    await welcome(tmp_path, durable=False)
    crash(tmp_path)
    boot.again("second")
    number = await welcome(tmp_path, durable=durable_then)
    assert number > 0
    boot.again("third")
    assert await welcome(tmp_path, durable=True, ends_set_back=True) == number
    assert await welcome(tmp_path, durable=True) == 0


def test_a_store_that_syncs_little_syncs_which_leases_agents_may_have(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "jobs.db")) as connection:
        connection.execute("PRAGMA synchronous=NORMAL")
        migrate_jobs(connection)
        writer, said = SqliteJobWriter(connection), list[str]()
        epoch = writer.begin_epoch().epoch
        connection.set_trace_callback(said.append)
        writer.apply(epoch, Changes(agents=[AgentRecord(AGENT, 1, live=True, lease_ms=60_000)]))
        assert said.index("PRAGMA synchronous=FULL") < said.index("BEGIN IMMEDIATE")
        assert said.index("COMMIT") < said.index("PRAGMA synchronous=1")
        said.clear()
        writer.apply(epoch, Changes(tags={1: {}}))
        assert not [statement for statement in said if "synchronous" in statement]


def test_only_a_writer_that_does_not_sync_notes_its_boot(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "jobs.db")) as connection:
        migrate_jobs(connection)
        for durable, noted in ((True, ""), (False, "boot"), (True, "")):
            assert not setback.begin(connection, durable=durable, boot="boot")
            assert connection.execute("SELECT unsynced_boot FROM store").fetchone() == (noted,)
        setback.begin(connection, durable=False, boot="boot")
        setback.end(connection)
        assert connection.execute("SELECT unsynced_boot FROM store").fetchone() == ("",)
