"""The launcher with real processes: it starts them, reaps them, ends them whole, and outlives its agent."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from batchyard.agent.launcher import wire
from batchyard.agent.launcher.cgroups import Cgroup, open_cgroups
from batchyard.agent.launcher.ledger import Fence, RunEnd, RunState
from batchyard.agent.launcher.processes import Process
from batchyard.agent.launcher.workfolders import WorkFolders
from support.agent import (
    NEEDS_NAMESPACES,
    NEEDS_ROOT,
    LauncherClient,
    a_launcher,
    is_running,
    pids_with,
    start_entry,
    start_launcher,
)
from support.waiting import soon

FIRST: Fence = (1, 1)
SECOND: Fence = (1, 2)

DETACHED_SLEEP = "setsid sh -c 'sleep {mark} & wait' & wait"
"""A child in a session of its own, with a grandchild."""

HIDING_SLEEP = "(setsid sh -c 'sleep {mark} & exit' &) ; sleep 0.05; exit 4"
"""An orphan in a session of its own, left behind by a job that ends."""


def a_mark() -> str:
    """Return a number of seconds that no other process sleeps."""
    return f"1{os.getpid():07d}.{os.urandom(4).hex().translate(str.maketrans('abcdef', '123456'))}"


def can_limit_memory() -> bool:
    pool = open_cgroups("batchyard-probe")
    if pool is not None:
        pool.close()
    return pool is not None


NEEDS_CGROUPS = pytest.mark.skipif(not can_limit_memory(), reason="kernel: cgroups with memory limits cannot be made")

CONTAINMENTS = [
    pytest.param({"namespace": False}, {}, id="plain"),
    pytest.param({"namespace": True}, {}, id="namespace", marks=NEEDS_NAMESPACES),
    pytest.param({"namespace": False}, {"memory_mib": 64}, id="cgroup", marks=NEEDS_CGROUPS),
]


def test_a_job_ends_with_its_exit_code_and_its_output_in_its_log(tmp_path: Path) -> None:
    with a_launcher(tmp_path) as launcher:
        script = "echo out; echo err >&2; exit 7"
        launcher.send(offers=[start_entry("sh", "-c", script, log=tmp_path / "job.log")])
        assert launcher.until_done(FIRST) == (RunEnd.EXITED, 7, "")
    assert (tmp_path / "job.log").read_text() == "out\nerr\n"


def test_a_job_that_a_signal_ends_has_128_and_its_number_as_exit_code(tmp_path: Path) -> None:
    with a_launcher(tmp_path) as launcher:
        launcher.send(offers=[start_entry("sh", "-c", "kill -USR1 $$")])
        assert launcher.until_done(FIRST) == (RunEnd.EXITED, 128 + signal.SIGUSR1, "")


@pytest.fixture
def in_the_background() -> Iterator[None]:
    """Ignore what a shell has its commands in the background ignore."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGQUIT)}
    yield
    for number, action in before.items():
        signal.signal(number, action)


@pytest.mark.usefixtures("in_the_background")
def test_a_job_starts_without_input_and_without_the_launchers_signal_settings(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    with a_launcher(tmp_path) as launcher:
        script = "cat; grep -E 'SigBlk|SigIgn' /proc/self/status"
        launcher.send(offers=[start_entry("sh", "-c", script, log=log)])
        assert launcher.until_done(FIRST)[1] == 0
    standard_signals = 0x7FFF_FFFF
    assert [int(line.split()[1], 16) & standard_signals for line in log.read_text().splitlines()] == [0, 0]


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["no-such-command"], 'exec: "no-such-command": executable file not found in $PATH'),
        (["/no/such/file"], 'exec: "/no/such/file": stat /no/such/file: no such file or directory'),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
        ([], "no command specified"),
    ],
)
def test_a_command_that_cannot_be_executed_fails_to_start(tmp_path: Path, argv: list[str], reason: str) -> None:
    with a_launcher(tmp_path) as launcher:
        launcher.send(offers=[start_entry(*argv)])
        assert launcher.until_done(FIRST) == (RunEnd.START_FAILED, None, f"CannotStartContainerError: {reason}")


def test_a_command_with_a_missing_interpreter_fails_to_start(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with a_launcher(tmp_path) as launcher:
        launcher.send(offers=[start_entry(str(script))])
        end, exit_code, reason = launcher.until_done(FIRST)
    assert (end, exit_code) == (RunEnd.START_FAILED, None)
    assert "interpreter" in reason


@pytest.mark.parametrize(
    "order",
    [
        pytest.param({"argv": ["true\0"]}, id="NUL in the command"),
        pytest.param({"argv": ["true", "\0"]}, id="NUL in an argument"),
        pytest.param({"env": {"PATH": "/bin\0"}}, id="NUL in PATH"),
        pytest.param({"env": {"A=B": ""}}, id="a name with an equals sign"),
        pytest.param({"user": [1 << 40, 0, False]}, id="a user id that is too large"),
    ],
)
def test_an_order_that_no_system_call_takes_harms_no_other_job(tmp_path: Path, order: dict[str, Any]) -> None:
    with a_launcher(tmp_path) as launcher:
        launcher.send(offers=[start_entry("sleep", "1000")])
        launcher.until(FIRST, RunState.STARTED)
        launcher.send(offers=[start_entry("true", fence=SECOND) | order])
        assert launcher.until_done(SECOND)[:2] == (RunEnd.START_FAILED, None)
        launcher.send(kill=[(FIRST, 0)])
        assert launcher.until_done(FIRST)[:2] == (RunEnd.STOPPED, 137)


@pytest.mark.parametrize("said", [b"nonsense\n", b"[]\n", b'{"offers": [{}]}\n', b'{"kill": 1}\n', b'{"lease": [1]}\n'])
def test_an_agent_that_cannot_be_understood_is_dropped_and_the_jobs_go_on(tmp_path: Path, said: bytes) -> None:
    with a_launcher(tmp_path) as launcher:
        launcher.send(offers=[start_entry("sleep", "1000")])
        launcher.until(FIRST, RunState.STARTED)
        stranger = LauncherClient(tmp_path)
        stranger.say(said)
        stranger.until_dropped()
        successor = LauncherClient(tmp_path)
        successor.send(kill=[(FIRST, 0)])
        assert successor.until_done(FIRST)[:2] == (RunEnd.STOPPED, 137)
        successor.close()


def test_what_a_newer_agent_says_beside_what_is_known_is_passed_over(tmp_path: Path) -> None:
    with a_launcher(tmp_path) as launcher:
        launcher.send(offers=[start_entry("true", nice=5)], hint="later")
        assert launcher.until_done(FIRST) == (RunEnd.EXITED, 0, "")


def test_a_launcher_whose_log_cannot_be_written_runs_jobs(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    with a_launcher(tmp_path) as launcher:
        launcher.send(offers=[start_entry("true")])
        assert launcher.until_done(FIRST) == (RunEnd.EXITED, 0, "")


def test_each_job_works_in_an_empty_folder_of_its_own(tmp_path: Path) -> None:
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    with a_launcher(tmp_path) as launcher:
        for fence, log in zip((FIRST, SECOND), logs, strict=True):
            launcher.send(offers=[start_entry("sh", "-c", "ls -A; pwd; echo x > left", fence=fence, log=log)])
            launcher.until_done(fence)
        folders = [Path(log.read_text().strip()) for log in logs]
        assert folders[0] != folders[1]
        soon(lambda: not any(folder.exists() for folder in folders), "what jobs left is removed")


@pytest.mark.parametrize(("options", "members"), CONTAINMENTS)
def test_a_kill_ends_the_whole_tree_before_the_end_is_told(
    tmp_path: Path, options: dict[str, Any], members: dict[str, Any]
) -> None:
    mark = a_mark()
    with a_launcher(tmp_path, **options) as launcher:
        launcher.send(offers=[start_entry("sh", "-c", DETACHED_SLEEP.format(mark=mark), **members)])
        soon(lambda: [pid for pid in pids_with(mark) if is_sleep(pid)], "the grandchild runs")
        launcher.send(kill=[[FIRST, 0.2]])
        assert launcher.until_done(FIRST)[0] is RunEnd.STOPPED
        assert not pids_with(mark)


@pytest.mark.parametrize(("options", "members"), CONTAINMENTS)
def test_what_a_job_leaves_running_dies_with_it(
    tmp_path: Path, options: dict[str, Any], members: dict[str, Any]
) -> None:
    mark = a_mark()
    with a_launcher(tmp_path, **options) as launcher:
        bystander = start_entry("sleep", "600", fence=SECOND)
        launcher.send(offers=[bystander, start_entry("sh", "-c", HIDING_SLEEP.format(mark=mark), **members)])
        assert launcher.until_done(FIRST) == (RunEnd.EXITED, 4, "")
        assert not pids_with(mark)
        assert launcher.runs[SECOND][1] == RunState.STARTED


def test_a_job_that_obeys_sigterm_ends_within_its_grace_with_its_own_exit_code(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    with a_launcher(tmp_path) as launcher:
        script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done"
        launcher.send(offers=[start_entry("sh", "-c", script, log=log)])
        soon(lambda: log.exists() and log.read_text(), "the trap is set")
        launcher.send(kill=[[FIRST, 600]])
        assert launcher.until_done(FIRST) == (RunEnd.STOPPED, 9, "")


def test_a_process_that_is_gone_when_it_would_get_sigterm_is_passed_over() -> None:
    gone = subprocess.Popen(["true"], start_new_session=True)
    gone.wait()

    class CgroupOfTheGone(Cgroup):
        def __init__(self) -> None:
            """Have no files."""

        def members(self) -> set[int]:
            return {gone.pid}

    order = wire.StartOrder(argv=["sleep", "1000"], env={}, log=os.devnull)
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as first:
        Process(FIRST, first.pid, order, "/", CgroupOfTheGone()).stop(RunEnd.STOPPED, now=0.0, grace_s=30.0)
        assert first.wait() == -signal.SIGTERM


def test_what_a_job_leaves_is_seen_in_a_folder_that_was_long_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = WorkFolders(str(tmp_path / "work"))
    folder = folders.take(None)
    # Nobody can set this time of a folder back: the launcher's clock is an hour ahead in place of that.
    hour_ahead = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: hour_ahead)
    folders.give_back(folder)
    monkeypatch.undo()
    with patch.object(os, "listdir", side_effect=AssertionError("it is known to be empty")):
        assert folders.take(None) == folder
        folders.give_back(folder)
    assert folders.take(None) == folder
    # Two changes within one tick of the kernel's clock have one time.
    emptied_ns, probe = Path(folder).stat().st_ctime_ns, tmp_path / "probe"

    def has_ticked() -> bool:
        probe.touch()
        return probe.stat().st_ctime_ns > emptied_ns

    soon(has_ticked, "the clock has ticked")
    Path(folder, "left").touch()
    folders.give_back(folder)
    for pid in folders.removers:
        os.waitpid(pid, 0)
    assert not Path(folder).exists()
    assert folders.take(None) != folder


def test_a_folder_that_cannot_be_removed_now_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    folders = WorkFolders(str(tmp_path))
    used = folders.take(None)
    (Path(used) / "left").touch()
    monkeypatch.setattr(os, "posix_spawnp", refuse)
    folders.give_back(used)
    assert folders.take(None) != used


def test_a_second_kill_shortens_the_grace_of_the_first(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    with a_launcher(tmp_path) as launcher:
        script = "trap '' TERM; echo ready; while :; do sleep 0.01; done"
        launcher.send(offers=[start_entry("sh", "-c", script, log=log)])
        soon(lambda: log.exists() and log.read_text(), "the trap is set")
        launcher.send(kill=[[FIRST, 600]])
        launcher.send(kill=[[FIRST, 0]])
        assert launcher.until_done(FIRST) == (RunEnd.STOPPED, 128 + signal.SIGKILL, "")


def test_a_job_out_of_time_gets_sigterm_then_sigkill(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    with a_launcher(tmp_path) as launcher:
        script = "trap 'echo told' TERM; echo ready; while :; do sleep 0.01; done"
        entry = start_entry("sh", "-c", script, log=log, timeout_s=0.5, timeout_grace_s=0.3)
        launcher.send(offers=[entry])
        assert launcher.until_done(FIRST) == (RunEnd.TIMED_OUT, 128 + signal.SIGKILL, "")
    assert "told" in log.read_text().splitlines()


@NEEDS_ROOT
def test_user_and_limits_are_set_before_the_command_runs(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    with a_launcher(tmp_path) as launcher:
        script = "id -u; id -g; ulimit -Sn; ulimit -Hn; touch mine && echo writable"
        entry = start_entry("sh", "-c", script, log=log, user=[65534, 65533, False], rlimits=[["nofile", 100, 200]])
        launcher.send(offers=[entry])
        assert launcher.until_done(FIRST)[1] == 0
    assert log.read_text().split() == ["65534", "65533", "100", "200", "writable"]


@NEEDS_CGROUPS
def test_a_job_over_its_memory_is_killed_and_the_reason_says_so(tmp_path: Path) -> None:
    with a_launcher(tmp_path) as launcher:
        eater = start_entry("sh", "-c", "exec tail /dev/zero", memory_mib=32)
        modest = start_entry("true", fence=SECOND, memory_mib=32)
        launcher.send(offers=[eater])
        assert launcher.until_done(FIRST) == (RunEnd.EXITED, 128 + signal.SIGKILL, OUT_OF_MEMORY)
        launcher.send(offers=[modest])
        assert launcher.until_done(SECOND) == (RunEnd.EXITED, 0, "")


OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"


def test_where_there_are_no_cgroups_a_job_over_its_memory_is_seen_and_killed(tmp_path: Path) -> None:
    with a_launcher(tmp_path, cgroups=False) as launcher:
        modest = start_entry("sleep", "600", fence=SECOND, memory_mib=32)
        program = "import time; held = b'x' * (96 << 20); time.sleep(600)"
        launcher.send(offers=[start_entry(sys.executable, "-S", "-c", program, memory_mib=64), modest])
        assert launcher.until_done(FIRST) == (RunEnd.EXITED, 128 + signal.SIGKILL, OUT_OF_MEMORY)
        assert launcher.runs[SECOND][1] == RunState.STARTED


def test_the_memory_of_the_whole_tree_counts_wherever_it_hides(tmp_path: Path) -> None:
    mark = a_mark()
    holder = f"{sys.executable} -S -c 'import time; held = bytearray(b\"x\") * (20 << 20); time.sleep({mark})'"
    with a_launcher(tmp_path, cgroups=False) as launcher:
        script = f"for _ in 1 2 3 4; do (setsid {holder} &); done; sleep 600"
        # Each of them has some 30 MiB.
        launcher.send(offers=[start_entry("sh", "-c", script, memory_mib=80)])
        assert launcher.until_done(FIRST) == (RunEnd.EXITED, 128 + signal.SIGKILL, OUT_OF_MEMORY)
        assert not pids_with(mark)


def test_what_processes_share_counts_once(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    program = (
        "import os, time\nheld = b'x' * (64 << 20)\n"
        "for _ in range(5): os.fork() or (time.sleep(1.5), os._exit(0))\n"
        "for _ in range(5): os.wait()\nprint('done')"
    )
    with a_launcher(tmp_path, cgroups=False) as launcher:
        launcher.send(offers=[start_entry(sys.executable, "-S", "-c", program, log=log, memory_mib=192)])
        assert launcher.until_done(FIRST) == (RunEnd.EXITED, 0, "")
    assert log.read_text() == "done\n"


def test_each_gpu_is_for_one_job_at_a_time(tmp_path: Path) -> None:
    def seen(number: int) -> list[str]:
        log = tmp_path / f"{number}.log"
        soon(lambda: log.exists() and log.read_text().count("\n") == 2, "it tells what it sees")
        return log.read_text().split("\n")[:2]

    def entry(number: int, gpus: int) -> dict[str, Any]:
        script = "echo $CUDA_VISIBLE_DEVICES; echo $NVIDIA_VISIBLE_DEVICES; sleep 600"
        log = tmp_path / f"{number}.log"
        return start_entry("sh", "-c", script, fence=(1, number), log=log, need=[100, 4, gpus])

    with a_launcher(tmp_path) as launcher:
        launcher.send(capacity=[4000, 4096, 3])
        launcher.send(offers=[entry(1, 2), entry(2, 1), entry(3, 0), entry(4, 2)])
        assert [seen(number) for number in (1, 2, 3)] == [["0,1", "0,1"], ["2", "2"], ["", "void"]]
        launcher.send(kill=[[FIRST, 0]])
        launcher.until_done(FIRST)
        assert seen(4) == ["0,1", "0,1"]


def test_never_runs_more_than_it_has_room_for(tmp_path: Path) -> None:
    journal = tmp_path / "concurrency"
    # Each job adds one line when it starts and one when it ends, in one write each.
    script = f"echo 1 >> {journal}; sleep 0.02; echo -1 >> {journal}"
    fences = [(1, number) for number in range(1, 61)]
    with a_launcher(tmp_path) as launcher:
        launcher.send(offers=[start_entry("sh", "-c", script, fence=fence) for fence in fences])
        for fence in fences:
            assert launcher.until_done(fence)[1] == 0
    running = most = 0
    for line in journal.read_text().split():
        running += int(line)
        most = max(most, running)
    assert running == 0
    assert most == 4


def test_a_job_that_could_never_fit_is_given_back(tmp_path: Path) -> None:
    with a_launcher(tmp_path) as launcher:
        wide = start_entry("true", need=[5000, 1, 0])
        launcher.send(offers=[wide, start_entry("true", fence=SECOND)])
        launcher.until(FIRST, RunState.REVOKED)
        assert launcher.until_done(SECOND)[1] == 0


def test_a_waiting_offer_can_be_taken_back_and_a_claimed_one_cannot(tmp_path: Path) -> None:
    with a_launcher(tmp_path) as launcher:
        whole = start_entry("sleep", "600", need=[4000, 1, 0])
        launcher.send(offers=[whole, start_entry("touch", str(tmp_path / "ran"), fence=SECOND)])
        launcher.until(FIRST, RunState.STARTED)
        launcher.history.clear()
        launcher.send(revoke=[FIRST, SECOND])
        launcher.until(SECOND, RunState.REVOKED)
        assert launcher.history == [(FIRST, RunState.STARTED), (SECOND, RunState.REVOKED)]
        launcher.send(kill=[[FIRST, 0]])
        launcher.until_done(FIRST)
    assert not (tmp_path / "ran").exists()


def test_a_fence_starts_once_however_often_it_is_offered(tmp_path: Path) -> None:
    traces = tmp_path / "traces"
    entry = start_entry("sh", "-c", f"echo ran >> {traces}")
    with a_launcher(tmp_path) as launcher:
        launcher.send(offers=[entry, entry])
        launcher.until_done(FIRST)
        launcher.send(offers=[entry])
        launcher.send(forget=[FIRST])
        launcher.send(offers=[entry])
        launcher.until(FIRST, RunState.REVOKED)
    assert traces.read_text() == "ran\n"


def test_an_agent_that_comes_back_learns_the_exits_that_it_missed(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with a_launcher(tmp_path, idle_s=60) as first:
        launcher_pid = first.pid
        first.send(offers=[start_entry("sh", "-c", f"read line < {gate}; exit 5")])
        first.until(FIRST, RunState.STARTED)
        first.close()
        gate.write_text("go\n")
        second = LauncherClient(tmp_path)
        assert second.pid == launcher_pid
        assert second.until_done(FIRST) == (RunEnd.EXITED, 5, "")
        assert second.runs[FIRST][2] == {"job_id": "job-1"}
        second.close()


@NEEDS_NAMESPACES
def test_the_death_of_a_launcher_in_a_namespace_ends_all_that_it_started(tmp_path: Path) -> None:
    mark = a_mark()
    with a_launcher(tmp_path, namespace=True) as launcher:
        launcher.send(offers=[start_entry("sh", "-c", DETACHED_SLEEP.format(mark=mark))])
        soon(lambda: [pid for pid in pids_with(mark) if is_sleep(pid)], "the grandchild runs")
        os.kill(launcher.pid, signal.SIGKILL)
        soon(lambda: not pids_with(mark), "the grandchild is dead")


def test_claims_of_a_dead_launcher_are_lost_and_never_start_again(tmp_path: Path) -> None:
    traces = tmp_path / "traces"
    entry = start_entry("sh", "-c", f"echo ran >> {traces}; sleep 600")
    with a_launcher(tmp_path) as first:
        first.send(offers=[entry])
        first.until(FIRST, RunState.STARTED)
        soon(traces.exists)
        os.kill(first.pid, signal.SIGKILL)
        soon(lambda: not is_running(first.pid))
        job = first.runs[FIRST]
        assert job[1] == RunState.STARTED
    with a_launcher(tmp_path) as second:
        assert second.hello["lost"] == [list(FIRST)]
        assert second.runs[FIRST][1] == RunState.DONE
        assert second.runs[FIRST][6] == RunEnd.LOST
        second.send(offers=[entry])
        second.send(offers=[start_entry("true", fence=SECOND)])
        second.until_done(SECOND)
        assert second.runs[FIRST][1] == RunState.DONE
    assert traces.read_text() == "ran\n"
    for pid in pids_with("echo ran"):
        os.kill(pid, signal.SIGKILL)


def test_everything_ends_when_the_lease_does(tmp_path: Path) -> None:
    mark = a_mark()
    start_launcher(tmp_path)
    launcher = LauncherClient(tmp_path)
    launcher.send(capacity=[1000, 4096, 0], lease=[wire.now() + 0.5, 0])
    launcher.send(offers=[start_entry("sleep", mark), start_entry("true", fence=SECOND)])
    assert launcher.until_done(FIRST) == (RunEnd.LOST, None, "")
    launcher.until(SECOND, RunState.REVOKED)
    assert not pids_with(mark)
    launcher.close()
    soon(lambda: not is_running(launcher_pid_of(tmp_path)), "the launcher ends")


def test_what_is_offered_after_the_lease_does_not_wait_for_the_next(tmp_path: Path) -> None:
    start_launcher(tmp_path)
    launcher = LauncherClient(tmp_path)
    launcher.send(capacity=[1000, 4096, 0], lease=[wire.now() - 1, 0], offers=[start_entry("true")])
    launcher.until(FIRST, RunState.REVOKED)
    launcher.send(lease=[wire.now() + 3600, 0], offers=[start_entry("true", fence=SECOND)])
    assert launcher.until_done(SECOND)[1] == 0
    launcher.send(exit=True)
    launcher.close()
    soon(lambda: not launcher_pid_of(tmp_path), "the launcher ends")


def launcher_pid_of(folder: Path) -> int:
    """Return the process of a folder's launcher, or 0."""
    return next(iter(pids_with(str(folder))), 0)


def test_nothing_starts_with_less_of_the_lease_left_than_it_takes_to_end_it(tmp_path: Path) -> None:
    with a_launcher(tmp_path) as launcher:
        launcher.send(lease=[0, 100_000])
        launcher.send(offers=[start_entry("true")])
        launcher.send(revoke=[FIRST])
        launcher.until(FIRST, RunState.REVOKED)
        launcher.send(lease=[wire.now() + 200_000, 100_000], offers=[start_entry("true", fence=SECOND)])
        assert launcher.until_done(SECOND)[1] == 0


def test_the_launcher_ignores_signals_and_ends_when_neither_agent_nor_job_is_left(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with a_launcher(tmp_path) as launcher:
        pid = launcher.pid
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
        launcher.send(offers=[start_entry("sh", "-c", f"read line < {gate}")])
        launcher.until(FIRST, RunState.STARTED)
        launcher.close()
        gate.write_text("go\n")
        soon(lambda: not is_running(pid), "the launcher ends")


def test_offers_that_nothing_allows_to_start_do_not_keep_the_launcher(tmp_path: Path) -> None:
    start_launcher(tmp_path)
    launcher = LauncherClient(tmp_path)
    pid = launcher.pid
    launcher.send(capacity=[4000, 4096, 0], offers=[start_entry("true"), start_entry("true", fence=SECOND)])
    launcher.send(revoke=[FIRST])
    launcher.until(FIRST, RunState.REVOKED)
    launcher.close()
    soon(lambda: not is_running(pid), "the launcher ends")


def test_a_folder_has_one_launcher(tmp_path: Path) -> None:
    with a_launcher(tmp_path) as launcher:
        start_launcher(tmp_path)
        launcher.send(offers=[start_entry("true")])
        assert launcher.until_done(FIRST)[1] == 0
        again = LauncherClient(tmp_path)
        assert again.pid == launcher.pid
        again.close()


def is_sleep(pid: int) -> bool:
    """Tell whether a process is a `sleep` itself, and not a shell that is about to start one."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0")
    except OSError:
        return False
