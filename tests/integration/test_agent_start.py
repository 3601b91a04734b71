"""How an agent starts and what ends it: its identity, its parent, another runtime than before."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from batchyard.agent.app import AgentConfig, run_agent
from batchyard.agent.host import AgentStartError, IdentityKeeper, OutdatedSchedulerError
from batchyard.agent.launcher import wire
from batchyard.agent.runtimes.address import find_engine
from batchyard.agent.runtimes.launched import open_process_runtime
from batchyard.agent.state import Orders
from batchyard.rpc.peers import Peer, Role
from batchyard.storage.log_files import LogFolder
from support.agent import QUICK, an_offer, is_running, pids_with
from support.waiting import eventually, soon

CHILD = """
import sys, anyio
from pathlib import Path
from batchyard.agent.app import AgentConfig, run_agent
from batchyard.agent.runtimes.launched import ProcessSettings
config = AgentConfig(
    folder=Path(sys.argv[1]),
    scheduler="127.0.0.1:1",
    runtime="process",
    parent_death=True,
    process=ProcessSettings(idle_s=0.2),
)
anyio.run(lambda: run_agent(config, ready=lambda: None))
"""

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
print(child.pid, flush=True)
child.wait()
"""


def test_an_agent_ends_with_its_parent_if_told_to(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        agent = int(parent.stdout.readline())
        soon(lambda: (tmp_path / "launcher" / "process.json").exists(), "the agent is at work")
        parent.kill()
        soon(lambda: not is_running(agent), "the agent has ended")
    soon(lambda: not pids_with(str(tmp_path)), "its launcher has ended")


def test_an_incarnation_is_on_disk_before_anybody_hears_of_it(tmp_path: Path) -> None:
    keeper = IdentityKeeper(tmp_path)
    agent_id = keeper.identity.agent_id
    keeper.begin_incarnation("process", "first")
    keeper.begin_incarnation("process", "second")
    again = IdentityKeeper(tmp_path).identity
    assert again == keeper.identity
    assert (again.agent_id, again.incarnation, again.instance) == (agent_id, 2, "second")


def test_a_scheduler_that_was_followed_is_remembered_and_an_older_one_is_refused(tmp_path: Path) -> None:
    keeper = IdentityKeeper(tmp_path)
    for epochs in ((1, 7), (1, 7), (2, 3)):
        keeper.follow(epochs)
    for kept in (keeper, IdentityKeeper(tmp_path)):
        for epochs in ((2, 2), (1, 9), (0, 0)):
            with pytest.raises(OutdatedSchedulerError, match=f"remove {tmp_path} and start it again"):
                kept.follow(epochs)
        kept.follow((2, 3))


def test_a_scheduler_is_followed_though_the_disk_takes_no_note_of_it(tmp_path: Path) -> None:
    keeper = IdentityKeeper(tmp_path)
    in_the_way = tmp_path / "agent.json.new"
    in_the_way.mkdir()
    keeper.follow((2, 3))
    with pytest.raises(OutdatedSchedulerError):
        keeper.follow((2, 2))
    in_the_way.rmdir()
    keeper.follow((2, 3))
    assert IdentityKeeper(tmp_path).identity.store_epoch == 2


def test_a_damaged_identity_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "agent.json").write_text('{"agent_id": ')
    with pytest.raises(AgentStartError, match=r"agent\.json is damaged"):
        IdentityKeeper(tmp_path)
    assert (tmp_path / "agent.json").read_text() == '{"agent_id": '


async def test_without_an_engine_the_docker_runtime_says_so(tmp_path: Path) -> None:
    host = f"unix://{tmp_path}/no-engine"
    config = AgentConfig(folder=tmp_path, scheduler="127.0.0.1:1", runtime="docker", docker_host=host)
    with pytest.raises(AgentStartError, match="no container engine answers at unix://"):
        await run_agent(config, ready=lambda: None)


@pytest.mark.parametrize("url", ["unix:///no/such/socket", "http://127.0.0.1:1", "nonsense"])
async def test_an_engine_that_is_not_there_does_not_answer(url: str) -> None:
    assert await find_engine(url) is None


async def an_engine_that_vanishes(docker_host: str | None, _before: str | None = None) -> str:
    return docker_host or ""


async def test_what_ran_in_another_runtime_is_ended_before_the_new_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = f"6{os.getpid():07d}.5"
    keeper = IdentityKeeper(tmp_path)
    logs = LogFolder(tmp_path / "logs")
    agent_id = keeper.identity.agent_id
    async with open_process_runtime(
        tmp_path / "launcher", agent_id=agent_id, capacity=(1000, 1000, 0), logs=logs, settings=QUICK
    ) as runtime:
        keeper.begin_incarnation("process", runtime.instance)
        await runtime.renew_lease(wire.now() + 600, 0)
        await runtime.carry_out(Orders(offers=[an_offer("sleep", mark)]))
        await eventually(lambda: pids_with(mark))
    host = f"unix://{tmp_path}/no-engine"
    config = AgentConfig(folder=tmp_path, scheduler="127.0.0.1:1", runtime="docker", docker_host=host)
    with pytest.raises(AgentStartError, match="no container engine"):
        await run_agent(config, ready=lambda: None)
    assert pids_with(mark)
    monkeypatch.setattr("batchyard.agent.runtimes.address.require_engine", an_engine_that_vanishes)
    with pytest.raises(AgentStartError, match="container engine"):
        await run_agent(config, ready=lambda: None)
    assert not pids_with(mark)
    await eventually(lambda: not pids_with(str(tmp_path / "launcher")))


def test_signals_to_the_whole_group_of_an_agent_do_not_reach_its_launcher(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, start_new_session=True) as agent:
        soon((tmp_path / "launcher" / "process.json").exists, "the agent is at work")
        launcher = json.loads((tmp_path / "launcher" / "process.json").read_text())["pid"]
        os.killpg(agent.pid, signal.SIGKILL)
    assert is_running(launcher)
    soon(lambda: not is_running(launcher), "the launcher ends by itself")


def test_an_agent_with_a_certificate_begins_its_id_with_the_name_in_it(tmp_path: Path) -> None:
    peer = Peer(Role.AGENT, "worker-1")
    keeper = IdentityKeeper(tmp_path, peer)
    assert keeper.identity.agent_id.startswith("worker-1.")
    assert IdentityKeeper(tmp_path, peer).identity == keeper.identity
    # The disk is lost: what ran may run still, so it is another agent.
    (tmp_path / "agent.json").unlink()
    assert IdentityKeeper(tmp_path, peer).identity.agent_id != keeper.identity.agent_id


def test_an_agent_starts_on_no_folder_of_another(tmp_path: Path) -> None:
    agent_id = IdentityKeeper(tmp_path).identity.agent_id
    with pytest.raises(AgentStartError, match=f"--agent {agent_id}"):
        IdentityKeeper(tmp_path, Peer(Role.AGENT, "worker-1"))
    assert IdentityKeeper(tmp_path, Peer(Role.AGENT, agent_id)).identity.agent_id == agent_id
