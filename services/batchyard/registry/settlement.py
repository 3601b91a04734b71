"""Changes that the job store must obey before the registry says that they are made.

Such a change is committed twice. First as undecided: the resource is shown CREATING, UPDATING or DELETING, is closed
to other changes, and what it was before is kept. Then the job store is told, under a revision reserved for that, higher
than that of the first commit. When it has taken the change in, the second commit makes it final; when it refuses or
cannot be reached, the second commit goes back to what was before. Either way that commit has the highest revision, so
whatever the job store took in of an attempt that went unanswered is overtaken by the watch.

An attempt that a stop of the registry cut off was answered to nobody: at the next start it goes back as well.

The deletion of a queue together with its jobs is no such attempt: it is final with its first commit, as DELETING, and
is carried out from then on, over restarts, until the job store has ended all jobs.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio
import anyio.abc
import grpc.aio

from batchyard.api.registry.v1.job_queue_pb2 import JobQueueDetail
from batchyard.api.scheduler.v1.resources_service_pb2 import ResourceChange, SettleResourcesRequest
from batchyard.domain.errors import BatchyardError, UnavailableError, WrongStateError
from batchyard.domain.names import ResourceKind
from batchyard.registry.messages import (
    ResourceMessage,
    message_before,
    put,
    queue_in,
    stored_change,
    told_change,
)
from batchyard.registry.queue_rules import deleted_queue
from batchyard.registry.records import Records
from batchyard.rpc.errors import error_from
from batchyard.storage.registry import RegistryWriter, StoredResource

if TYPE_CHECKING:
    from batchyard.api.scheduler.v1.resources_service_pb2_grpc import ResourceSettlementServiceAsyncStub

SETTLE_TIMEOUT_S: Final = 5.0
WRITE_RETRY_S: Final = 1.0
DELETION_RETRY_S: Final = 0.5
QUEUE_DELETED: Final = "Job queue deleted"
"""Status reason of the jobs that go with their queue."""
DELETING: Final = "DELETING"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Proposal:
    """An undecided change."""

    namespace: str
    before: ResourceMessage
    accepted: ResourceMessage
    """What the resource is once the job store has agreed."""
    told: ResourceChange
    """What the job store is asked to take in."""


@dataclass(frozen=True, slots=True)
class Going:
    """A queue that is being deleted together with its jobs."""

    namespace: str
    queue: JobQueueDetail
    """As it is stored, DELETING."""
    told: ResourceChange
    """What the job store is asked to take in, once it has ended the jobs."""


@dataclass(slots=True, eq=False)
class _Decision:
    made: anyio.Event = field(default_factory=anyio.Event)
    refusal: BatchyardError | None = None


def propose(
    writer: RegistryWriter,
    namespace: str,
    *,
    before: ResourceMessage,
    shown: ResourceMessage,
    told: ResourceMessage,
    accepted: ResourceMessage,
) -> Proposal:
    """Store a change as undecided; `shown` is what readers see of the resource until it is decided."""
    stored = put(writer, namespace, shown, before=before)
    return Proposal(namespace, before, accepted, told_change(writer.reserve_revision(), stored, told))


def check_decided(stored: StoredResource, verb: str) -> None:
    """Raise WrongStateError if a change of the resource is under way; `verb` says what cannot be done now."""
    if stored.before is not None or is_going(stored):
        raise WrongStateError(f"Cannot {verb}, resource is being modified.")


def is_going(stored: StoredResource) -> bool:
    """Return whether a resource is being deleted for good."""
    return stored.before is None and stored.status == DELETING


def take_back_undecided(writer: RegistryWriter) -> Sequence[StoredResource]:
    """Undo every undecided change, when nobody is there any more to decide it."""
    return [put(writer, stored.key.namespace, message_before(stored)) for stored in writer.undecided()]


class Settlements:
    """Decides proposals. Each is seen through in a task of its own, whether its caller still waits or not."""

    def __init__(
        self, records: Records, job_store: "ResourceSettlementServiceAsyncStub", tasks: anyio.abc.TaskGroup
    ) -> None:
        self._records = records
        self._job_store = job_store
        self._tasks = tasks

    async def settle(self, proposal: Proposal) -> None:
        """Return when the change is final.

        Raises WrongStateError with the job store's words if it refuses, UnavailableError if it cannot be reached;
        then the resource is again what it was before.
        """
        decision = _Decision()
        self._tasks.start_soon(self._decide, proposal, decision, name="registry settlement")
        await decision.made.wait()
        if decision.refusal is not None:
            raise decision.refusal

    async def delete_with_jobs(self, going: Going) -> None:
        """End the jobs of a queue that is stored as DELETING, and then let it go; return when that is under way.

        Returns at once for a queue without unfinished jobs when it has gone.
        """
        tried = anyio.Event()
        self._tasks.start_soon(self._delete, going, tried, name="registry deletion")
        await tried.wait()

    async def resume_deletions(self) -> None:
        """Go on with the deletions that a stop of the registry cut off."""
        for stored in await self._records.read(lambda reader: reader.with_status(ResourceKind.JOB_QUEUE, DELETING)):
            if is_going(stored):
                going = Going(stored.key.namespace, queue_in(stored), stored_change(stored))
                self._tasks.start_soon(self._delete, going, anyio.Event(), name="registry deletion")

    async def _delete(self, going: Going, tried: anyio.Event) -> None:
        while await self._refusal_of(going.told, end_jobs_reason=QUEUE_DELETED) is not None:
            tried.set()
            await anyio.sleep(DELETION_RETRY_S)
        await self._write(going.namespace, deleted_queue(going.queue))
        tried.set()

    async def _decide(self, proposal: Proposal, decision: _Decision) -> None:
        decision.refusal = await self._refusal_of(proposal.told)
        await self._write(proposal.namespace, proposal.accepted if decision.refusal is None else proposal.before)
        decision.made.set()

    async def _write(self, namespace: str, outcome: ResourceMessage) -> None:
        while True:
            try:
                await self._records.write(lambda writer: put(writer, namespace, outcome))
                return
            except UnavailableError:
                # The caller's own deadline ends its wait. The resource must not stay closed: it goes on here.
                await anyio.sleep(WRITE_RETRY_S)

    async def _refusal_of(self, told: ResourceChange, *, end_jobs_reason: str = "") -> BatchyardError | None:
        request = SettleResourcesRequest(changes=[told], end_jobs_reason=end_jobs_reason)
        try:
            await self._job_store.SettleResources(request, timeout=SETTLE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            refusal = error_from(error)
            if isinstance(refusal, WrongStateError):
                return refusal
            _log.warning("the job store did not settle a change: %s: %s", error.code(), error.details())
        except grpc.aio.UsageError as error:
            _log.warning("the channel to the job store is closed: %s", error)
        else:
            return None
        return UnavailableError("The job store cannot be reached; nothing was changed. Try again.")
