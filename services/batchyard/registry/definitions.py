"""The three operations on job definitions."""

from batchyard.api.registry.v1.registry_service_pb2 import (
    DeregisterJobDefinitionRequest,
    DeregisterJobDefinitionResponse,
    DescribeJobDefinitionsRequest,
    DescribeJobDefinitionsResponse,
    RegisterJobDefinitionRequest,
    RegisterJobDefinitionResponse,
)
from batchyard.domain.errors import InvalidRequestError, NotFoundError
from batchyard.domain.names import RESOURCE_NAME, Caller, ResourceKind, name_in_reference, split_revision
from batchyard.registry.definition_rules import (
    ACTIVE,
    INACTIVE,
    check_definition,
    deregistered_definition,
    new_definition,
)
from batchyard.registry.messages import definition_in, definition_key, put
from batchyard.registry.newest import NewestDefinitions
from batchyard.registry.records import Records
from batchyard.registry.references import list_page, referenced
from batchyard.registry.settlement import Proposal, Settlements, check_decided, propose
from batchyard.storage.registry import Listing, RegistryWriter

_KIND = ResourceKind.JOB_DEFINITION


class Definitions:
    """Registers, lists and deregisters job definitions."""

    def __init__(self, records: Records, settlements: Settlements, newest: NewestDefinitions) -> None:
        self._records = records
        self._settlements = settlements
        self._newest = newest

    async def register(self, request: RegisterJobDefinitionRequest, caller: Caller) -> RegisterJobDefinitionResponse:
        """Store a new revision, ACTIVE at once. Raises InvalidRequestError."""
        check_definition(request)

        def work(writer: RegistryWriter) -> RegisterJobDefinitionResponse:
            revision = writer.next_number(caller.namespace, request.job_definition_name)
            definition = new_definition(request, caller, revision)
            put(writer, caller.namespace, definition)
            return RegisterJobDefinitionResponse(
                job_definition_name=definition.job_definition_name,
                job_definition_arn=definition.job_definition_arn,
                revision=revision,
            )

        answer = await self._records.write(work)
        await self._newest.withdraw(caller.namespace, request.job_definition_name)
        return answer

    async def describe(self, request: DescribeJobDefinitionsRequest, caller: Caller) -> DescribeJobDefinitionsResponse:
        """Return a page of definitions, by name and newest revision first; all filters narrow.

        Raises InvalidRequestError.
        """
        references = referenced(request.job_definitions, _KIND, caller, "jobDefinitions")
        name = request.job_definition_name or None
        if name is not None and not RESOURCE_NAME.fullmatch(name):
            raise InvalidRequestError("Job Definition name should match a valid pattern.", field="jobDefinitionName")
        status = request.status or None
        if status not in (None, ACTIVE, INACTIVE):
            raise InvalidRequestError("Status must be ACTIVE or INACTIVE.", field="status")
        listing = Listing(_KIND, caller.namespace, references=references, name=name, status=status)
        page = await list_page(self._records, listing, request)
        return DescribeJobDefinitionsResponse(
            job_definitions=[definition_in(stored) for stored in page.resources], next_token=page.next_token
        )

    async def deregister(
        self, request: DeregisterJobDefinitionRequest, caller: Caller
    ) -> DeregisterJobDefinitionResponse:
        """Make a revision INACTIVE; once more changes nothing.

        Raises InvalidRequestError for a name without revision, NotFoundError, WrongStateError while another call does
        the same, UnavailableError.
        """
        reference = request.job_definition
        name, revision = split_revision(name_in_reference(reference, _KIND, caller.namespace) or "")
        if name and revision is None:
            raise InvalidRequestError(
                f"JobDefinition {reference} must be given with its revision.", field="jobDefinition"
            )
        key = definition_key(caller.namespace, name, revision or 0)

        def work(writer: RegistryWriter) -> Proposal | None:
            stored = writer.find(key)
            if stored is None:
                raise NotFoundError(f"JobDefinition {reference} not found.", field="jobDefinition")
            check_decided(stored, "update")
            if stored.status == INACTIVE:
                return None
            active = definition_in(stored)
            inactive = deregistered_definition(active)
            return propose(writer, caller.namespace, before=active, shown=inactive, told=inactive, accepted=inactive)

        proposal = await self._records.write(work)
        if proposal is not None:
            try:
                await self._settlements.settle(proposal)
            finally:
                # Refused, it is ACTIVE again, which it was not for a while.
                await self._newest.withdraw(caller.namespace, name)
        return DeregisterJobDefinitionResponse()
