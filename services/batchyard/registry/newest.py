"""What the registry promises of job definitions: that a revision is the newest one, for a while.

Every submission that names a definition without a revision must use the newest there is, and asking for it each time
costs more than the rest of the submission. So the job store is given the newest one together with a promise. As long as
any promise is out, a change of a definition is answered only after the job store has been told of it, or after the
last promise is over. So nobody who has been told of a change can see a submission that goes by what was before.

A registry that has just started does not know what the one before it has promised: it takes it that everything was.
"""

import logging
from typing import TYPE_CHECKING, Final

import anyio
import grpc
import grpc.aio

from batchyard.api.registry.v1.job_definition_pb2 import JobDefinition
from batchyard.api.scheduler.v1.resources_service_pb2 import WithdrawJobDefinitionRequest
from batchyard.domain.clock import CLOCK_MARGIN, Clock
from batchyard.domain.names import ResourceKind
from batchyard.registry.definition_rules import ACTIVE
from batchyard.registry.messages import definition_in
from batchyard.registry.records import Records
from batchyard.storage.registry import Listing

if TYPE_CHECKING:
    from batchyard.api.scheduler.v1.resources_service_pb2_grpc import ResourceSettlementServiceAsyncStub

PROMISE_S: Final = 1.0
"""How long a promise lasts, and so how long a change waits at most for a job store that cannot be reached."""

_log = logging.getLogger(__name__)


class NewestDefinitions:
    """Gives promises, and takes them back before a change is answered."""

    def __init__(self, records: Records, job_store: "ResourceSettlementServiceAsyncStub", clock: Clock) -> None:
        self._records = records
        self._job_store = job_store
        self._clock = clock
        self._promised_until = 0.0
        self._promise()

    async def find(self, namespace: str, name: str) -> tuple[JobDefinition | None, float]:
        """Return the newest ACTIVE revision and for how many seconds, from the question on, it is promised to be that.

        Raises UnavailableError.
        """
        # Before it is read: a change that is committed after that must find the promise.
        self._promise()
        listing = Listing(ResourceKind.JOB_DEFINITION, namespace, name=name, status=ACTIVE)
        page = await self._records.read(lambda reader: reader.page(listing, None, 1))
        return next(map(definition_in, page.resources), None), PROMISE_S

    async def withdraw(self, namespace: str, name: str) -> None:
        """Return when nobody goes any more by what a definition was before the last commit."""
        # What is promised from here on is of after the commit.
        until = self._promised_until
        left_s = until - self._clock.monotonic_s()
        if left_s <= 0:
            return
        request = WithdrawJobDefinitionRequest(namespace=namespace, job_definition_name=name)
        try:
            await self._job_store.WithdrawJobDefinition(request, timeout=left_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return  # there is no job store, or one that has never asked for a promise
            _log.warning("the job store was not told of a job definition: %s: %s", error.code(), error.details())
        except grpc.aio.UsageError as error:
            _log.warning("the channel to the job store is closed: %s", error)
        else:
            return
        await anyio.sleep(max(0.0, until - self._clock.monotonic_s()))

    def _promise(self) -> None:
        # Whoever asked may count on the slowest clock, from a little before.
        self._promised_until = self._clock.monotonic_s() + PROMISE_S * CLOCK_MARGIN
