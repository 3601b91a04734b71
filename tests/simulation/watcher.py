"""A watcher of jobs: the production WatchJobs, followed over broken streams from the revision seen last (I12)."""

import pickle
import sqlite3
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any, TypeVar, cast

from batchyard.api.jobs.v1.jobs_pb2 import JobStatus
from batchyard.api.operations.v1.job_operations_service_pb2 import JobChange as JobChangeMessage
from batchyard.api.operations.v1.job_operations_service_pb2 import WatchJobsRequest, WatchJobsResponse
from batchyard.domain.errors import BatchyardError, HistoryGoneError
from batchyard.domain.jobs import JobChange
from batchyard.domain.lifecycle import TERMINAL, JobState
from batchyard.jobstore.feed import Feed
from batchyard.jobstore.operations import JobOperationsServicer
from batchyard.storage.job_reader import JobReader
from batchyard.storage.sqlite.job_reader import SqliteJobReader
from simulation.checker import Checker
from simulation.kernel import Kernel, Life
from simulation.network import End, Network
from support.jobs import NAMESPACE

SITE = "watcher"

T = TypeVar("T")


class _Parked:
    """What a coroutine waits for that goes on when its driver says so."""

    def __await__(self) -> Generator[None]:
        yield


class DrivenFeed(Feed):
    """The production feed, whose waiting needs no event loop."""

    async def wait(self) -> None:
        """Wait for the next commit that changes a job."""
        changed = self._changed
        while not changed.is_set():
            await _Parked()

    def _tell_later(self) -> None:
        self._tell()


class _Reading:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._reader = SqliteJobReader(connection)

    async def ask(self, question: Callable[[JobReader], T]) -> T:
        """Ask at once."""
        return question(self._reader)


class _Context:
    def invocation_metadata(self) -> tuple[()]:
        """Return nothing: it is the default account that watches."""
        return ()


class WatchStream:
    """One WatchJobs call of the production servicer, driven from outside."""

    def __init__(self, end: End, feed: Feed, connection: sqlite3.Connection, after_revision: int | None) -> None:
        self.end = end
        servicer = JobOperationsServicer(
            feed=feed, reading=cast("Any", _Reading(connection)), submitter=cast("Any", None)
        )
        request = WatchJobsRequest(after_revision=after_revision)
        self._messages = servicer.WatchJobs(request, cast("Any", _Context()))
        self._next: Any = None
        self.pump()

    def pump(self) -> None:
        """Send what there is."""
        while self.end.open:
            if self._next is None:
                self._next = anext(self._messages).__await__()
            try:
                next(self._next)
            except StopIteration as message:
                self._next = None
                self.end.send(pickle.dumps(message.value.SerializeToString()))
            except BatchyardError as error:
                self.end.close(error)
            else:
                return


class Watcher:
    """The actor. It checks that it misses nothing and is told nothing twice, however often its stream breaks."""

    def __init__(self, kernel: Kernel, net: Network, checker: Checker) -> None:
        self._kernel = kernel
        self._net = net
        self._checker = checker
        self._life = Life("watcher")
        self._revision: int | None = None
        self._first = 0
        self._seen: list[tuple[str, JobState]] = []
        self._told_within: list[tuple[int, int]] = []
        """Of what was seen: the revision of its message, and before that of the one before it."""
        self._over: set[str] = set()
        self._connect()

    def _connect(self) -> None:
        end = self._net.connect(self._life, SITE, "watch")

        def received(data: bytes) -> None:
            self._told(WatchJobsResponse.FromString(pickle.loads(data)))

        def closed(error: Exception | None) -> None:
            if isinstance(error, HistoryGoneError):
                self._checker.require(self._checker.times_set_back > 0, "I12", f"the watcher is told: {error}")
                self.forget()
            self._kernel.after(self._kernel.rng.uniform(0.02, 2), self._life, self._connect)

        end.received, end.closed = received, closed
        end.send(pickle.dumps(self._revision))

    def forget(self) -> None:
        """Begin anew: the store is another one."""
        self._revision = None
        self._seen.clear()
        self._told_within.clear()
        self._over.clear()

    def _told(self, message: WatchJobsResponse) -> None:
        if self._revision is None:
            self._revision = self._first = message.revision
            return
        require = self._checker.require
        require(message.revision > self._revision, "I12", f"revision {message.revision} comes after {self._revision}")
        within = (self._revision, message.revision)
        self._revision = message.revision
        for change in message.changes:
            state = JobState[JobStatus.Name(change.status).removeprefix("JOB_STATUS_")]
            for job_id in _names(change):
                require(job_id not in self._over, "I12", f"{job_id} is {state.name} after its end")
                if state in TERMINAL:
                    self._over.add(job_id)
                self._seen.append((job_id, state))
                self._told_within.append(within)

    def check_end(self, connection: sqlite3.Connection) -> None:
        """Check that all that has happened was seen, in its order."""
        happened: list[tuple[str, JobState]] = []
        revisions: list[int] = []
        for revision, changes in SqliteJobReader(connection).changes_after(self._first, 1 << 30):
            singles = [single for change in changes for single in change.each() if _is_watched(single)]
            happened += [(single.key.job_id, single.state) for single in singles]
            revisions += [revision] * len(singles)
        missed = Counter(happened) - Counter(self._seen)
        require = self._checker.require
        require(not missed, "I12", f"the watcher was not told of {list(missed)}")
        require(self._seen == happened, "I12", "the watcher was told in another order")
        # Else whoever begins again after a message would miss what comes later, or be told of it twice.
        for revision, (before, told) in zip(revisions, self._told_within, strict=True):
            require(before < revision <= told, "I12", f"revision {revision} was told between {before} and {told}")


def _names(change: JobChangeMessage) -> list[str]:
    """Return the jobs that a message speaks of: one, or children of an array."""
    indices = [index for span in change.children for index in range(span.first, span.last + 1)]
    return [f"{change.job_id}:{index}" for index in indices] or [change.job_id]


def _is_watched(change: JobChange) -> bool:
    return change.key.namespace == NAMESPACE
