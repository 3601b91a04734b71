"""`batchyard launcher`: starts what outlives an agent, for one that may not keep it in its own unit or container."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import anyio
import pytest

from batchyard.agent.host import AgentStartError
from batchyard.agent.launcher import starter
from batchyard.agent.runtimes import detached
from batchyard.agent.runtimes.launched import ProcessSettings, open_process_runtime
from batchyard.storage.log_files import LogFolder
from support.agent import pids_with
from support.installation import BatchyardProcess, batchyard
from support.waiting import soon


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An agent's folder, which is in its data folder."""
    path = tmp_path / "agent"
    path.mkdir()
    return path


async def open_and_leave(folder: Path) -> None:
    settings = ProcessSettings(idle_s=0.2, starter_folder=folder)
    launcher = folder / "launcher"
    async with open_process_runtime(
        launcher,
        agent_id=folder.parent.name,
        capacity=(1000, 64, 0),
        logs=LogFolder(folder / "logs"),
        settings=settings,
    ):
        assert pids_with(f"{launcher}")


async def test_what_it_started_stays_when_it_stops_in_order(folder: Path, tmp_path: Path) -> None:
    with batchyard(["launcher", "--data-dir", str(tmp_path)], log=tmp_path / "log") as process:
        assert process.ready_line() == f"batchyard ready launcher unix:{folder / 'starter'}\n"
        assert (folder / "starter").stat().st_mode & 0o777 == 0o600
        await open_and_leave(folder)
        assert process.interrupt() == 0
    # Whoever comes before the end of the launcher finds it, and needs no starter.
    soon(lambda: not pids_with(str(folder / "launcher")), "the launcher has ended")


def test_one_folder_has_one(tmp_path: Path) -> None:
    arguments = ["launcher", "--data-dir", str(tmp_path)]
    with batchyard(arguments, log=tmp_path / "log") as first:
        first.ready_line()
        second = BatchyardProcess(arguments, log=tmp_path / "log.2")
        assert second.wait() == 2
        second.close()
    assert f"process {first.pid} runs its launcher" in (tmp_path / "log.2").read_text()


async def test_an_agent_that_finds_none_says_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached, "STARTER_PATIENCE_S", 0.1)
    with pytest.raises(AgentStartError, match=r"no `batchyard launcher` answers on .*: start one"):
        await open_and_leave(folder)


async def test_an_agent_that_waits_for_one_can_be_told_to_stop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detached, "STARTER_PATIENCE_S", 3600.0)
    with anyio.move_on_after(0.2) as stopped:
        await open_and_leave(folder)
    assert stopped.cancelled_caught


async def test_an_agent_hears_that_nothing_could_be_started(folder: Path, tmp_path: Path) -> None:
    with batchyard(["launcher", "--data-dir", str(tmp_path)], log=tmp_path / "log") as process:
        process.ready_line()
        with await detached._connected(folder) as connection:
            connection.setblocking(True)
            connection.sendall(b"nonsense")
            connection.shutdown(1)
            assert int(connection.recv(16)) != 0
        await open_and_leave(folder)


@contextmanager
def a_cgroup() -> Iterator[Path]:
    """Make a cgroup of version 2 without limits, below that of the tests."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    mount = next((where for _, where, kind, *_ in mounts if kind == "cgroup2"), None)
    own = next((line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), "/")
    if mount is None:
        pytest.skip("kernel: no cgroups of version 2")
    folder = Path(f"{mount}{own.rstrip('/')}/batchyard-{uuid4().hex}")
    try:
        folder.mkdir()
        os.setxattr(folder, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"kernel: no cgroup can be made: {error.strerror}")
    try:
        yield folder
    finally:
        for each in (*folder.glob("*/"), folder):
            each.rmdir()


@pytest.mark.parametrize("is_delegated", [True, False])
def test_it_leaves_a_cgroup_that_was_delegated_to_those_of_jobs(*, is_delegated: bool) -> None:
    with a_cgroup() as folder:
        if not is_delegated:
            os.removexattr(folder, "user.delegate")
        mount = str(folder)[: -len(path_within(folder))]
        body = f"open({str(folder / 'cgroup.procs')!r}, 'w').write('0')\nfrom batchyard.agent.launcher import starter\n"
        body += f"starter.step_aside({mount!r})\nprint(open('/proc/self/cgroup').read())"
        said = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=True).stdout
        assert (f"{folder.name}/{starter.SUBGROUP}\n" in said) is is_delegated
        soon(lambda: not (folder / "cgroup.procs").read_text(), "nothing lives there")


def path_within(folder: Path) -> str:
    """Return what comes after the mount point in the path of a cgroup."""
    place = folder
    while not os.path.ismount(place):
        place = place.parent
    return f"/{folder.relative_to(place)}"


async def test_sigterm_ends_it_also_while_somebody_asks_and_says_nothing(folder: Path, tmp_path: Path) -> None:
    with batchyard(["launcher", "--data-dir", str(tmp_path)], log=tmp_path / "log") as process:
        process.ready_line()
        with await detached._connected(folder):
            assert process.interrupt(signal.SIGTERM) == 0
