"""The job definitions that submissions name: asked of the registry, and remembered as long as they are sure to be true.

A revision never changes but for becoming INACTIVE, and of that the store is told before the registry says that it is so
(`take`). The newest revision of a name is remembered for as long as the registry has promised it to be that, counted
from before the question; and not beyond the registry's word that something has changed (`withdraw`), which it sends
before it answers whoever has changed it. What was asked before such a word and is answered after it may be of either
time: it serves those who asked, and is not remembered.
"""

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import grpc.aio

from batchyard.api.registry.v1.job_definition_pb2 import JobDefinition
from batchyard.api.registry.v1.registry_service_pb2 import DescribeJobDefinitionsRequest
from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from batchyard.api.scheduler.v1.resources_service_pb2 import GetNewestJobDefinitionRequest, ResourceChange
from batchyard.api.scheduler.v1.resources_service_pb2_grpc import ResourceWatchServiceStub
from batchyard.domain.clock import Clock
from batchyard.domain.errors import NotFoundError
from batchyard.domain.names import Caller, ResourceKind, name_in_reference, split_revision
from batchyard.jobstore.asking import Questions
from batchyard.rpc.errors import domain_errors
from batchyard.rpc.identity import metadata_for

if TYPE_CHECKING:
    from batchyard.api.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub
    from batchyard.api.scheduler.v1.resources_service_pb2_grpc import ResourceWatchServiceAsyncStub

DEFINITIONS_IN_MEMORY: Final = 10_000
REGISTRY_TIMEOUT_S: Final = 10.0
ACTIVE: Final = "ACTIVE"

K = TypeVar("K")
V = TypeVar("V")


class Definitions:
    """Finds the definition that a submission names."""

    def __init__(self, registry: grpc.aio.Channel, clock: Clock) -> None:
        self._registry: RegistryServiceAsyncStub = RegistryServiceStub(registry)
        self._watches: ResourceWatchServiceAsyncStub = ResourceWatchServiceStub(registry)
        self._clock = clock
        self._revisions: dict[tuple[str, str, int], JobDefinition] = {}
        """Those that are ACTIVE."""
        self._newest: dict[tuple[str, str], tuple[JobDefinition, float]] = {}
        """Each with the time up to which it is promised to be that."""
        self._withdrawals = 0
        self._questions: Questions[JobDefinition | None] = Questions()

    def at_hand(self, caller: Caller, reference: str) -> JobDefinition | None:
        """Return what `find` would, if that is sure without asking the registry."""
        full_name = name_in_reference(reference, ResourceKind.JOB_DEFINITION, caller.namespace)
        name, revision = split_revision(full_name or "")
        if revision is not None:
            return self._revisions.get((caller.namespace, name, revision))
        known = self._newest.get((caller.namespace, name))
        return known[0] if known is not None and self._clock.monotonic_s() < known[1] else None

    async def find(self, caller: Caller, reference: str) -> JobDefinition:
        """Return the ACTIVE revision that a reference names, the newest if it names none; else raise NotFoundError."""
        found = self.at_hand(caller, reference)
        if found is not None:
            return found
        namespace = caller.namespace
        full_name = name_in_reference(reference, ResourceKind.JOB_DEFINITION, namespace)
        if full_name is None:
            raise NotFoundError(f"JobDefinition {reference} not found.", field="jobDefinition")
        name, revision = split_revision(full_name)
        if revision is None:
            found = await self._questions.ask((namespace, name), lambda: self._ask_for_newest(namespace, name))
            if found is None:
                raise _inactive(reference)
            return found
        found = await self._questions.ask(
            (namespace, name, revision), lambda: self._ask_for_revision(caller, name, revision)
        )
        if found is None:
            raise NotFoundError(f"JobDefinition {reference} not found.", field="jobDefinition")
        if found.status != ACTIVE:
            raise _inactive(reference)
        return found

    def take(self, changes: Sequence[ResourceChange]) -> None:
        """Take in what the registry says of revisions."""
        for change in changes:
            definition = change.job_definition
            if change.HasField("job_definition") and definition.status != ACTIVE:
                self.withdraw(change.namespace, definition.job_definition_name)
                self._revisions.pop((change.namespace, definition.job_definition_name, definition.revision), None)

    def withdraw(self, namespace: str, name: str) -> None:
        """Believe no more what was said of which revision is the newest."""
        self._withdrawals += 1
        self._newest.pop((namespace, name), None)

    async def _ask_for_newest(self, namespace: str, name: str) -> JobDefinition | None:
        withdrawals, asked_at = self._withdrawals, self._clock.monotonic_s()
        request = GetNewestJobDefinitionRequest(namespace=namespace, job_definition_name=name)
        answer = await _answered(
            self._watches.GetNewestJobDefinition(request, timeout=REGISTRY_TIMEOUT_S, wait_for_ready=True)
        )
        if not answer.HasField("job_definition"):
            return None
        if withdrawals == self._withdrawals:
            until = asked_at + answer.promised_ms / 1000
            _keep(self._newest, (namespace, name), (answer.job_definition, until))
        return answer.job_definition

    async def _ask_for_revision(self, caller: Caller, name: str, revision: int) -> JobDefinition | None:
        withdrawals = self._withdrawals
        request = DescribeJobDefinitionsRequest(job_definitions=[f"{name}:{revision}"])
        metadata = tuple(metadata_for(caller))
        answer = await _answered(
            self._registry.DescribeJobDefinitions(
                request, metadata=metadata, timeout=REGISTRY_TIMEOUT_S, wait_for_ready=True
            )
        )
        found = next(iter(answer.job_definitions), None)
        if found is not None and found.status == ACTIVE and withdrawals == self._withdrawals:
            _keep(self._revisions, (caller.namespace, name, revision), found)
        return found


async def _answered(call: Awaitable[V]) -> V:
    with domain_errors():
        return await call


def _keep(memory: dict[K, V], key: K, value: V) -> None:
    if key not in memory and len(memory) >= DEFINITIONS_IN_MEMORY:
        del memory[next(iter(memory))]
    memory[key] = value


def _inactive(reference: str) -> NotFoundError:
    return NotFoundError(
        f"JobDefinition name {reference} does not exist or is not in ACTIVE status", field="jobDefinition"
    )
