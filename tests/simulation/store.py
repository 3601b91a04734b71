"""The job store as an actor: the production core, feed and conversions between a SQLite database and the network.

The database survives the actor, as a disk does. What is here in place of production code is the async shell alone.
"""

import pickle
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.errors import BatchyardError, UnavailableError
from batchyard.domain.jobs import JobKey
from batchyard.jobstore.convert import (
    agents_message,
    effect_messages,
    jobs_a_line,
    share_uses_message,
    snapshot_message,
)
from batchyard.jobstore.core import Command, JobStoreCore, run_group
from batchyard.jobstore.dispatch import DispatchServicer
from batchyard.jobstore.feed import Subscription
from batchyard.jobstore.fronts import Fronts
from batchyard.jobstore.group import Group
from batchyard.jobstore.leadership import Leadership, holder_of
from batchyard.jobstore.reasons import WaitReasons
from batchyard.jobstore.repeats import submit_once
from batchyard.storage.jobs import Changes, StorageError
from batchyard.storage.sqlite import backup
from batchyard.storage.sqlite.database import RETRY_FIRST_S, connect
from batchyard.storage.sqlite.job_reader import SqliteJobReader
from batchyard.storage.sqlite.jobs import SqliteJobWriter, migrate_jobs
from simulation.checker import Checker
from simulation.kernel import HostClock, Kernel, Life
from simulation.network import End, Network
from simulation.watcher import DrivenFeed, WatchStream

SITE = "store"


class FlakyWriter(SqliteJobWriter):
    """The production writer; a commit may fail, and then it is not known whether it was applied."""

    def __init__(self, connection: sqlite3.Connection, kernel: Kernel) -> None:
        super().__init__(connection)
        self._kernel = kernel
        self.failures = 0.0
        """Probability that a commit fails."""
        self.slow_s = 0.005
        """The longest that a commit takes."""

    def apply(self, epoch: int, changes: Changes) -> int:
        """Write the changes, or say that it failed, or both."""
        fails = self._kernel.chance(self.failures)
        if fails and self._kernel.chance(0.5):
            raise StorageError("the disk failed before the commit")
        revision = super().apply(epoch, changes)
        if fails:
            raise StorageError("the disk failed after the commit")
        return revision


class Store:
    """The actor. It may crash at any event and is started again on the same database."""

    def __init__(
        self,
        kernel: Kernel,
        net: Network,
        checker: Checker,
        settle: Callable[[Group], object],
        *,
        leader_lease_s: float,
        folder: Path,
    ) -> None:
        self._folder = folder
        self._kernel = kernel
        self.leader_lease_s = leader_lease_s
        self._net = net
        self._checker = checker
        self.clock = HostClock(kernel)
        self.connection = connect(":memory:")
        migrate_jobs(self.connection)
        self.writer = FlakyWriter(self.connection, kernel)
        self.life = Life("store")
        run_group(JobStoreCore(self.writer), [Command(settle)], 0)
        self.start()

    def start(self) -> None:
        """Begin a new life."""
        self.life = Life("store")
        self._pending: list[tuple[Command, Callable[[object], None]]] = []
        self.streams: list[_DispatchStream] = []
        self._stops: dict[JobKey, list[Callable[[object], None]]] = {}
        self._is_working = False
        self._watches: list[WatchStream] = []
        self.feed = DrivenFeed()
        self._net.listen("dispatch", self.life, SITE, self._accept_scheduler)
        self._net.listen("jobs", self.life, SITE, self._accept_call)
        self._net.listen("watch", self.life, SITE, self._accept_watch)
        self._open()
        assert self.core is not None
        holder = holder_of(self.core.counters)
        self.leadership = Leadership(self.leader_lease_s, holder=holder, now=self.clock.monotonic_s())

    def crash(self) -> None:
        """Die."""
        self._kernel.note("store dies")
        self.life.alive = False
        self._net.died(self.life)

    def restore(self, copy: bytes) -> None:
        """Put a copy in the place of the database, as `batchyard restore` does."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder) / "jobs.db"
            path.write_bytes(copy)
            with patch.object(time, "time", lambda: self.clock.now_ms() / 1000):
                backup._begin_anew(path, agents_stopped=False, longest_lease_s=0)
            self._checker.about_to_be_rolled_back()
            with closing(sqlite3.connect(path)) as restored:
                restored.backup(self.connection)
        self._kernel.note("store is set back to a backup")
        self._checker.rolled_back()

    def _open(self) -> None:
        self.core: JobStoreCore | None = JobStoreCore(self.writer)
        self.feed.opened(self.core.counters)
        for answers in self._stops.values():
            for answer in answers:
                answer(UnavailableError("the job store was opened anew"))
        self._stops.clear()
        self._kernel.note(f"store opens, epoch {self.core.counters.epoch}")
        self._pump()

    # Commands

    def settle(self, act: Callable[[Group], object], answer: Callable[[object], None]) -> None:
        """Have a group of its own do what the registry asks."""
        if self.life.alive:
            self.do(act, answer=answer, alone=True)
        else:
            answer(UnavailableError("the job store is down"))

    def do(
        self, act: Callable[[Group], object], *keys: JobKey, answer: Callable[[object], None], alone: bool = False
    ) -> None:
        """Have a group do something; `answer` gets what comes of it."""
        if self.core is None:
            answer(UnavailableError("the job store is not open; try again"))
            return
        self._pending.append((Command(act, keys, alone), answer))
        self._work_soon()

    def tell(self, act: Callable[[Group], object], *keys: JobKey) -> None:
        """Have a group do something whose outcome is in the commit's effects."""
        if self.core is not None:
            self.do(act, *keys, answer=lambda _: None)

    def _work_soon(self) -> None:
        if not self._is_working:
            self._is_working = True
            self._kernel.after(self._kernel.rng.random() * 0.01, self.life, self._work)

    def _work(self) -> None:
        size = next((index for index, (command, _) in enumerate(self._pending) if command.alone), len(self._pending))
        group, self._pending = self._pending[: max(size, 1)], self._pending[max(size, 1) :]
        core = self.core
        if core is None or not group:
            self._is_working = False
            return
        try:
            result = run_group(core, [command for command, _ in group], self.clock.now_ms())
        except StorageError as error:
            self._kernel.note(f"store: {error}")
            self.core, self._is_working = None, False
            for _, answer in group:
                answer(UnavailableError("the job store could not say whether this was done"))
            self._kernel.after(RETRY_FIRST_S, self.life, self._open)
            self._checker.store_changed()
            return
        reserved = {key: vcpus for key, vcpus in core.numbers.reserved_vcpus.items() if vcpus}
        assert reserved == self.writer.reserved_vcpus(), "the store has miscounted what runs reserve"
        self._checker.committed(result.committed)
        for value in result.answers:
            assert not isinstance(value, Exception) or isinstance(value, BatchyardError), value
        # The commit is on disk; a crash from here on leaves everybody in the dark.
        self._kernel.after(self._kernel.rng.random() * self.writer.slow_s, self.life, lambda: self._tell(group, result))

    def _tell(self, group: Any, result: Any) -> None:
        self._is_working = False
        if self.core is not None:
            self.feed.committed(result.committed)
        for (_, answer), value in zip(group, result.answers, strict=True):
            answer(value)
        for key in sorted(result.committed.decided & self._stops.keys()):
            for answer in self._stops.pop(key):
                answer(True)
        self._pump()
        if self._pending:
            self._work_soon()

    def _pump(self) -> None:
        for stream in self.streams:
            stream.pump_soon()
        for watch in self._watches:
            watch.pump()

    # Calls of clients

    def _accept_call(self, end: End, data: bytes) -> None:
        kind, argument = pickle.loads(data)

        def answer(value: object) -> None:
            end.send(pickle.dumps((self._checker.times_set_back, value)))
            end.close()

        if kind == "submit":
            submission, key = argument
            said = submission.job.key.job_id.encode()
            self.do(lambda group: submit_once(group, submission, key, said), *submission.depends_on, answer=answer)
            return
        job: JobKey = argument
        act = Group.cancel if kind == "cancel" else Group.terminate

        def asked(value: object) -> None:
            waiting = self._stops.get(job, [])
            if value is not True and answer in waiting:
                waiting.remove(answer)
                answer(value)

        self._stops.setdefault(job, []).append(answer)
        self.do(lambda group: act(group, job, f"{kind} of the client"), job, answer=asked)

    def _accept_watch(self, end: End, data: bytes) -> None:
        self._watches = [watch for watch in self._watches if watch.end.open]
        self._watches.append(WatchStream(end, self.feed, self.connection, pickle.loads(data)))

    # The scheduler's stream

    def _accept_scheduler(self, end: End, data: bytes) -> None:
        self.streams = [stream for stream in self.streams if stream.end.open]
        self.streams.append(_DispatchStream(self, self._kernel, end, wire.DispatchRequest.FromString(data)))


class _DispatchStream:
    """The shell of one Dispatch call around the production servicer's reading of requests."""

    def __init__(self, store: Store, kernel: Kernel, end: End, first: wire.DispatchRequest) -> None:
        assert first.HasField("hello")
        self.end = end
        self._store = store
        self._kernel = kernel
        self._early: list[bytes] | None = []
        self._is_pumping = False
        self._servicer = DispatchServicer(
            writer=cast("Any", store),
            feed=store.feed,
            database=Path(),
            epoch=lambda: 0,
            leadership=store.leadership,
            reasons=WaitReasons(),
            fronts=Fronts(),
            clock=store.clock,
            tasks=cast("Any", None),
        )
        self._scheduler_id = first.hello.scheduler_id
        self._jobs_a_line = jobs_a_line(first.hello.jobs_a_line)
        self._leader_epoch = 0
        self._is_waiting = True
        self._subscription = Subscription()
        end.received, end.closed = self._received, lambda _: store.feed.unsubscribe(self._subscription)
        self._begin()

    def _begin(self) -> None:
        """Wait until no other scheduler leads, and let this one."""
        leadership, clock = self._store.leadership, self._store.clock
        wait_s = leadership.wait_s(self._scheduler_id, clock.monotonic_s())
        if not self.end.open or not self._is_waiting:
            return
        if wait_s > 0:
            self._kernel.after(wait_s + 0.001, self._store.life, self._begin)
            return
        self._is_waiting = False
        leadership.take(self._scheduler_id, clock.monotonic_s())
        self._store.feed.subscribe(self._subscription, UnavailableError("a newer scheduler has taken over"))
        self._store.do(lambda group: (group.lead(self._scheduler_id), group.set_back), answer=self._leads)

    def look_again(self) -> None:
        """Lead, if it waits and may now."""
        self._kernel.after(self._kernel.rng.random() * 0.01, self._store.life, self._begin)

    def _send(self, message: wire.DispatchResponse) -> None:
        self.end.send(message.SerializeToString())

    def _leads(self, said: object) -> None:
        if isinstance(said, Exception):
            self.end.close(said)
            return
        epoch, set_back = cast("tuple[int, int]", said)
        assert self._store.core is not None
        self._leader_epoch = epoch
        self._send(
            wire.DispatchResponse(
                welcome=wire.SchedulerWelcome(
                    leader_epoch=epoch,
                    store_epoch=self._store.core.counters.epoch,
                    lease_ms=self._store.leadership.lease_ms,
                    set_back=set_back,
                )
            )
        )
        self._kernel.after(self._kernel.rng.random() * 0.1, self._store.life, self._snapshot)

    def _snapshot(self) -> None:
        snapshot = SqliteJobReader(self._store.connection).snapshot(self._jobs_a_line)
        self._subscription.begin_after(snapshot.revision)
        self._send(agents_message(snapshot.agents))
        self._send(share_uses_message(snapshot.share_uses, self._store.clock.now_ms()))
        for page in snapshot.pages:
            self._send(snapshot_message(page))
        self._send(wire.DispatchResponse(snapshot_complete=True))
        early, self._early = self._early or [], None
        for data in early:
            self._received(data)
        self.pump_soon()

    def _received(self, data: bytes) -> None:
        if self._early is not None:
            self._early.append(data)
        else:
            request = wire.DispatchRequest.FromString(data)
            if request.heartbeat and self._store.leadership.renew(self._scheduler_id, self._store.clock.monotonic_s()):
                self._subscription.answer(request.heartbeat)
                self.pump_soon()
            self._servicer._take(request, self._leader_epoch)
            if request.resign:
                self._store.leadership.resign(self._scheduler_id)
                for stream in self._store.streams:
                    stream.look_again()

    def pump_soon(self) -> None:
        """Send what there is, soon: until then, commits merge."""
        if not self._is_pumping and self._early is None and self.end.open:
            self._is_pumping = True
            self._kernel.after(self._kernel.rng.random() * 0.02, self._store.life, self._pump)

    def _pump(self) -> None:
        self._is_pumping = False
        try:
            effects, heartbeat = self._subscription.take_now()
        except BatchyardError as error:
            # A generator that is stuck in a write, as its peer reads nothing, learns of its end when that gives way.
            stuck_s = 20 * self._kernel.rng.random() if self._kernel.chance(0.2) else 0.0
            self._kernel.after(stuck_s, self._store.life, partial(self.end.close, error))
            return
        if effects or heartbeat:
            for message in effect_messages(effects, heartbeat):
                self._send(message)
