"""The launcher's loop: obeys its agent, starts what has room, reaps, and guards the lease.

One thread, one `select`. Everything that arrived or happened since the last turn is handled as one batch: the claims
of a turn share one sync of the journal, and its changes go to the agent in one message.
"""

from __future__ import annotations

import fcntl
import gc
import os
import selectors
import signal
import socket
from contextlib import suppress

from batchyard.agent.launcher import tree, wire
from batchyard.agent.launcher.cgroups import CgroupPool, open_cgroups
from batchyard.agent.launcher.detach import Options
from batchyard.agent.launcher.journal import Journal
from batchyard.agent.launcher.ledger import Fence, Ledger, Run, RunEnd, RunState
from batchyard.agent.launcher.memory_watch import MemoryWatch
from batchyard.agent.launcher.processes import OUT_OF_MEMORY, Process, StartError
from batchyard.agent.launcher.starting import Starter
from batchyard.agent.launcher.workfolders import WorkFolders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_DISK_RETRY_S = 1.0
_READ_BYTES = 1 << 16
_BUSY_RUNS = 4
_BUSY_PAUSE_S = 0.020
"""After so many changes were told at once, the next are told after a pause: a short run's start and end together."""
_YOUNG_S = 0.003
"""So long a start alone is not told: most of what does next to nothing is over by then."""
_CLAIMS_PER_SYNC = 32
"""More are claimed on disk than have room: a sync takes as long as the starts of a few short runs."""
_STANDBY_AFTER_S = 0.005
"""After so long without a run one is prepared for."""
_STDERR = 2


def serve(options: Options, *, namespaced: bool) -> None:
    """Be the launcher of this folder until it is not needed any more; return at once if the folder has one."""
    os.chdir(options.folder)
    lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if not namespaced:
        _adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _log(f"launcher of {options.agent_id}: {'namespaced' if namespaced else 'plain'}")
    # Hardly anything here is ever in a cycle.
    gc.set_threshold(50_000)
    journal = Journal("journal", wire.boot_id(), namespaced=namespaced)
    cgroups = open_cgroups(f"batchyard-{options.agent_id}") if options.cgroups else None
    _log(f"cgroups: {cgroups.layout if cgroups is not None else 'none, memory is watched'}")
    watch = MemoryWatch() if cgroups is None else None
    Launcher(options, journal, cgroups, namespaced=namespaced, watch=watch).run()


def _log(text: str) -> None:
    """Say something in the launcher's log. Where that can't be written either, the jobs matter more."""
    with suppress(OSError):
        os.write(_STDERR, f"{text}\n".encode())


def _adopt_orphans() -> None:
    # Only here: ctypes costs memory, and PID 1 adopts orphans by itself.
    import ctypes

    set_child_subreaper = 36
    ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0)


class Launcher:
    """Runs, their processes, and the one agent that is connected."""

    def __init__(
        self,
        options: Options,
        journal: Journal,
        cgroups: CgroupPool | None,
        *,
        namespaced: bool,
        watch: MemoryWatch | None = None,
    ) -> None:
        self._options = options
        self._journal = journal
        self._namespaced = namespaced
        self._ledger = Ledger()
        self._processes: dict[Fence, Process] = {}
        self._unreaped: dict[int, Process] = {}
        self._watch = watch
        self._starter = Starter(WorkFolders(f"{options.folder}/work"), cgroups)
        self._selector = selectors.DefaultSelector()
        self._agent: socket.socket | None = None
        self._inbox = wire.LineBuffer()
        self._outbox = bytearray()
        self._exit_asked = False
        self._to_withdraw: list[Run] = []
        self._idle_since = wire.now()
        self._disk_failed_at = float("-inf")
        self._guarded = float("-inf")
        self._told_enough_until = float("-inf")
        self._instance = os.urandom(8).hex()
        self._lost = self._take_over()
        self._listen()
        self._wake_on_exits()

    def run(self) -> None:
        """Serve until nothing is left to do."""
        while not self._is_over(wire.now()):
            self._stand_by(wire.now())
            for key, _ in self._selector.select(self._patience(wire.now())):
                key.data()
            self.turn()
        self._tell(float("inf"))
        self._starter.close()

    def turn(self) -> None:
        """Do all that has fallen due, and tell the agent of it."""
        self._reap()
        now = wire.now()
        self._meet_deadlines(now)
        self._guard_lease(now)
        self._watch_memory(now)
        self._starter.place(now)
        self._start(now)
        self._tell(wire.now())
        self._compact()

    # What an earlier launcher left

    def _take_over(self) -> list[Fence]:
        """Restore the journal; return the fences whose end nobody saw: a launcher that died had begun to start them."""
        history = self._journal.history
        self._ledger.restore(history.runs.values(), history.forgotten, history.floor)
        now = wire.now()
        for run in self._ledger.runs.values():
            # Times of an earlier boot mean nothing now; what stays true is how long the run took.
            if run.ended is not None and history.boot_id != wire.boot_id():
                run.started = now - (run.ended - run.started) if run.started is not None else None
                run.ended = now
        left = self._ledger.active()
        for run in left:
            if history.has_never_started(run, wire.boot_id()):
                reason = "The launcher of the agent died before it started the command"
                self._ledger.finish(run, now, RunEnd.NEVER_STARTED, reason=reason)
            else:
                run.started = min(run.started, now) if run.started is not None else None
                self._ledger.finish(run, now, RunEnd.LOST, reason="The launcher of the agent died")
        self._note(lambda: self._journal.finish(left))
        return [run.fence for run in left if run.end is RunEnd.LOST]

    # The agent

    def _listen(self) -> None:
        # By its name within this folder: a socket's address holds no more than 108 bytes.
        with suppress(FileNotFoundError):
            os.unlink("socket")
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind("socket")
        self._listener.listen(8)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        # What the agent before has said counts, also what has not been read yet: above all what may be forgotten.
        self._receive()
        self._drop_agent()
        connection.setblocking(False)
        self._agent = connection
        self._inbox = wire.LineBuffer()
        self._selector.register(connection, selectors.EVENT_READ, self._receive)
        self._withdraw(self._ledger.take_changes())
        self._send(
            {
                "protocol": wire.PROTOCOL,
                "instance": self._instance,
                "namespaced": self._namespaced,
                "cgroups": self._starter.layout,
                "lost": self._lost,
                "runs": [wire.encode_run(run) for run in self._ledger.runs.values()],
            }
        )

    def _drop_agent(self) -> None:
        if self._agent is not None:
            self._selector.unregister(self._agent)
            self._agent.close()
            self._agent = None
        self._outbox.clear()
        self._idle_since = wire.now()

    def _receive(self) -> None:
        if self._agent is None:
            return
        try:
            data = self._agent.recv(_READ_BYTES)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        if data == b"":
            self._drop_agent()
        try:
            for message in self._inbox.feed(data or b""):
                self._obey(message)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            # Whoever says what cannot be understood goes; the runs stay.
            _log(f"the agent cannot be understood: {error!r}")
            self._drop_agent()
        self._write()

    def _obey(self, orders: dict[str, Any]) -> None:
        ledger = self._ledger
        if "capacity" in orders:
            ledger.set_capacity(wire.decode_need(orders["capacity"]))
        if "lease" in orders:
            ledger.renew_lease(*orders["lease"])
        for offer in orders.get("offers", ()):
            ledger.offer(wire.decode_offer(offer))
        for pair in orders.get("revoke", ()):
            ledger.revoke(wire.decode_fence(pair))
        for pair, grace_s in orders.get("kill", ()):
            self._kill(wire.decode_fence(pair), grace_s)
        forgotten = [fence for fence in map(wire.decode_fence, orders.get("forget", ())) if ledger.forget(fence)]
        if forgotten:
            self._note(lambda: self._journal.forget(forgotten))
        self._exit_asked = self._exit_asked or bool(orders.get("exit"))

    def _kill(self, fence: Fence, grace_s: float) -> None:
        process = self._processes.get(fence)
        if process is None:
            self._ledger.revoke(fence)
        else:
            process.stop(RunEnd.STOPPED, wire.now(), grace_s)

    def _tell(self, now: float) -> None:
        if now < self._to_be_told_at():
            return
        changed = self._ledger.take_changes(now, _YOUNG_S)
        self._withdraw(changed)
        if len(changed) >= _BUSY_RUNS:
            self._told_enough_until = now + _BUSY_PAUSE_S
        if changed and self._agent is not None:
            self._send({"runs": [wire.encode_run(run) for run in changed]})

    def _to_be_told_at(self) -> float:
        """Return when the agent is to be told of what has changed: without a pause if nothing is left to do."""
        if self._processes or self._ledger.has_waiting():
            return max(self._told_enough_until, self._ledger.changes_due(_YOUNG_S))
        return self._ledger.changes_due(_YOUNG_S)

    def _send(self, message: dict[str, object]) -> None:
        self._outbox += wire.encode(message)
        self._write()

    def _write(self) -> None:
        """Send what the agent takes at once; the rest when it is ready again."""
        if self._agent is None:
            return
        try:
            while self._outbox:
                del self._outbox[: self._agent.send(self._outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop_agent()
            return
        if len(self._outbox) > wire.MAX_UNREAD_BYTES:
            self._drop_agent()
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)
        if self._selector.get_key(self._agent).events != events:
            self._selector.modify(self._agent, events, self._receive)

    # Processes

    def _start(self, now: float) -> None:
        if now - self._disk_failed_at < _DISK_RETRY_S:
            return
        self._disk_failed_at = float("-inf")
        runs = self._ledger.startable(now)
        if not runs:
            return
        try:
            if not all(run.journalled for run in runs):
                next_ones = self._ledger.first_waiting(max(len(runs), _CLAIMS_PER_SYNC))
                self._journal.claim([run for run in next_ones if not run.journalled])
        except OSError as error:
            self._disk_fails(error)
            return
        started, failed = [], []
        for run in runs:
            if not self._mark(run):
                break
            self._ledger.claim([run])
            process = self._start_one(run) if self._may_start(run) else None
            if process is None:
                failed.append(run)
            else:
                started.append((run, process.pid))
        self._note(lambda: self._journal.start(started))
        self._note(lambda: self._journal.finish(failed))

    def _withdraw(self, changed: Iterable[Run]) -> None:
        """Take claims back of what was given back, before anybody hears of that."""
        self._to_withdraw += [run for run in changed if run.journalled and run.state is RunState.REVOKED]
        if not self._to_withdraw:
            return
        try:
            self._journal.forget([run.fence for run in self._to_withdraw])
        except OSError as error:
            _log(f"the journal can't be written: {error}")
            return
        for run in self._to_withdraw:
            run.journalled = False
        self._to_withdraw.clear()

    def _mark(self, run: Run) -> bool:
        """Mark a run as about to start; return whether the disk took it. If not, the run goes on waiting."""
        try:
            self._journal.begin(run)
        except OSError as error:
            self._disk_fails(error)
            return False
        return True

    def _disk_fails(self, error: OSError) -> None:
        _log(f"nothing starts, the journal can't be written: {error}")
        # A disk that fails may take its time to say so.
        self._disk_failed_at = wire.now()

    def _may_start(self, run: Run) -> bool:
        """Look at the lease again: a disk can take longer than was left of it."""
        if wire.now() < self._ledger.lease_deadline:
            return True
        reason = "The lease was over before the claim was on disk"
        self._ledger.finish(run, wire.now(), RunEnd.NEVER_STARTED, reason=reason)
        return False

    def _start_one(self, run: Run) -> Process | None:
        try:
            process = self._starter.start(run, self._ledger.capacity)
        except StartError as error:
            self._ledger.finish(run, wire.now(), RunEnd.START_FAILED, reason=str(error))
            return None
        now = wire.now()
        if process.timeout_s is not None:
            process.deadline = now + process.timeout_s
        self._processes[run.fence] = process
        self._unreaped[process.pid] = process
        self._ledger.start(run, now)
        return process

    def _stand_by(self, now: float) -> None:
        """Prepare for the next run when nothing else is to be done."""
        if now >= self._standby_at():
            self._starter.stand_by()

    def _standby_at(self) -> float:
        is_idle = self._agent is not None and not self._processes and not self._ledger.has_waiting()
        return self._idle_since + _STANDBY_AFTER_S if is_idle and self._starter.may_stand_by else float("inf")

    def _reap(self) -> None:
        ended = self._collect_exits()
        if not ended:
            return
        now = wire.now()
        strangers = None
        if len(ended) == len(self._processes) or not all(_is_looked_into_at_once(process) for process in ended):
            children = tree.children()
            strangers = None if children is None else bool(children - self._unreaped.keys() - self._starter.helpers)
        self._finish(
            process
            for process in ended
            if not (process.has_survivors(strangers=strangers) and process.kill(now, self._others(process)))
        )
        if strangers and not self._processes:
            # They hid so well that no run could be named theirs, and now there is none left that they could belong to.
            for pid in (tree.children() or set()) - self._starter.helpers:
                tree.send(pid, signal.SIGKILL)

    def _collect_exits(self) -> list[Process]:
        ended: list[Process] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            self._starter.reaped(pid)
            process = self._unreaped.pop(pid, None)
            if process is not None:
                code = os.waitstatus_to_exitcode(status)
                process.exit_code = code if code >= 0 else 128 - code
                ended.append(process)

    def _meet_deadlines(self, now: float) -> None:
        gone = []
        for process in self._processes.values():
            if process.deadline > now:
                continue
            if process.exit_code is None and process.stopped is None and not process.is_over_memory:
                process.stop(RunEnd.TIMED_OUT, now, process.timeout_grace_s)
            elif not process.kill(now, self._others(process)) and process.exit_code is not None:
                gone.append(process)
        self._finish(gone)

    def _finish(self, gone: Iterable[Process]) -> None:
        """Record the end of processes of which nothing lives any more."""
        finished = [self._finish_one(process) for process in gone]
        self._note(lambda: self._journal.finish(finished))

    def _finish_one(self, process: Process) -> Run:
        del self._processes[process.fence]
        run = self._ledger.runs[process.fence]
        end = process.stopped or RunEnd.EXITED
        out_of_memory = end is RunEnd.EXITED and process.exit_code != 0 and process.was_out_of_memory()
        self._starter.take_back(process)
        exit_code = None if end is RunEnd.LOST else process.exit_code
        self._idle_since = wire.now()
        reason = OUT_OF_MEMORY if out_of_memory else ""
        self._ledger.finish(run, self._idle_since, end, exit_code=exit_code, reason=reason)
        return run

    def _others(self, process: Process) -> set[int]:
        return self._unreaped.keys() - {process.pid}

    def _guard_lease(self, now: float) -> None:
        """End everything once the lease is over: from then on others may run the same jobs."""
        if now < self._ledger.lease_deadline:
            return
        # Also what came after its end: when the lease is renewed, others may have been offered the same jobs.
        self._ledger.revoke_waiting()
        if self._guarded == self._ledger.lease_deadline:
            return
        self._guarded = self._ledger.lease_deadline
        for process in self._processes.values():
            process.stop(RunEnd.LOST, now, 0)
        self._meet_deadlines(now)

    def _watch_memory(self, now: float) -> None:
        if self._watch is None:
            return
        for process in self._watch.over_limit(now, self._processes.values()):
            process.is_over_memory = True
            process.kill(now, self._others(process))

    # Housekeeping

    def _wake_on_exits(self) -> None:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

        def drain() -> None:
            with suppress(BlockingIOError):
                os.read(reader, 4096)

        self._selector.register(reader, selectors.EVENT_READ, drain)

    def _patience(self, now: float) -> float | None:
        """Return how long nothing needs to be done, if nothing happens; None: for ever."""
        moments = [process.deadline for process in self._processes.values()]
        moments += [self._standby_at(), self._starter.place_due()]
        if self._guarded != self._ledger.lease_deadline and (self._processes or self._ledger.has_waiting()):
            moments.append(self._ledger.lease_deadline)
        if self._disk_failed_at != float("-inf"):
            moments.append(self._disk_failed_at + _DISK_RETRY_S)
        moments.append(self._to_be_told_at())
        if self._agent is None and now < self._idle_since + self._options.idle_s:
            moments.append(self._idle_since + self._options.idle_s)
        if self._watch is not None:
            moments.append(self._watch.next_look(self._processes.values()))
        nearest = min(moments, default=float("inf"))
        return None if nearest == float("inf") else max(0.0, nearest - now)

    def _is_over(self, now: float) -> bool:
        if self._processes:
            return False
        if self._exit_asked:
            return True
        if self._agent is not None or now - self._idle_since < self._options.idle_s:
            return False
        return now >= self._ledger.lease_deadline or not self._ledger.has_waiting()

    def _compact(self) -> None:
        if self._journal.is_worth_compacting():
            pids = {fence: process.pid for fence, process in self._processes.items()}
            self._note(lambda: self._journal.compact(self._ledger, pids))

    def _note(self, write: Callable[[], None]) -> None:
        """Write to the journal what may be lost without harm."""
        try:
            write()
        except OSError as error:
            _log(f"the journal can't be written: {error}")


def _is_looked_into_at_once(process: Process) -> bool:
    return process.cgroup is not None and process.cgroup.is_looked_into_at_once
