"""The four operations on compute environments."""

import uuid

from batchyard.api.registry.v1.registry_service_pb2 import (
    CreateComputeEnvironmentRequest,
    CreateComputeEnvironmentResponse,
    DeleteComputeEnvironmentRequest,
    DeleteComputeEnvironmentResponse,
    DescribeComputeEnvironmentsRequest,
    DescribeComputeEnvironmentsResponse,
    UpdateComputeEnvironmentRequest,
    UpdateComputeEnvironmentResponse,
)
from batchyard.domain.compat import Compat
from batchyard.domain.errors import AlreadyExistsError
from batchyard.domain.names import Caller, ResourceKind, name_in_reference
from batchyard.registry.environment_rules import (
    check_deletable,
    check_environment_update,
    deleted_environment,
    new_environment,
    updated_environment,
)
from batchyard.registry.messages import environment_in, environment_key, find_live, put
from batchyard.registry.records import Records
from batchyard.registry.references import list_page, not_found, referenced
from batchyard.storage.registry import Listing, RegistryWriter

_KIND = ResourceKind.COMPUTE_ENVIRONMENT


class Environments:
    """Creates, lists, changes and deletes compute environments."""

    def __init__(self, records: Records, compat: Compat) -> None:
        self._records = records
        self._compat = compat

    async def create(
        self, request: CreateComputeEnvironmentRequest, caller: Caller
    ) -> CreateComputeEnvironmentResponse:
        """Create an environment, VALID at once. Raises InvalidRequestError, AlreadyExistsError."""
        environment = new_environment(request, caller, self._compat, uuid=str(uuid.uuid4()))
        key = environment_key(caller.namespace, environment.compute_environment_name)

        def work(writer: RegistryWriter) -> None:
            if find_live(writer, key) is not None:
                raise AlreadyExistsError("Object already exists", field="computeEnvironmentName")
            put(writer, caller.namespace, environment)

        await self._records.write(work)
        return CreateComputeEnvironmentResponse(
            compute_environment_name=environment.compute_environment_name,
            compute_environment_arn=environment.compute_environment_arn,
        )

    async def describe(
        self, request: DescribeComputeEnvironmentsRequest, caller: Caller
    ) -> DescribeComputeEnvironmentsResponse:
        """Return a page of environments, by name. Raises InvalidRequestError."""
        listing = Listing(
            _KIND,
            caller.namespace,
            references=referenced(request.compute_environments, _KIND, caller, "computeEnvironments"),
        )
        page = await list_page(self._records, listing, request)
        return DescribeComputeEnvironmentsResponse(
            compute_environments=[environment_in(stored) for stored in page.resources], next_token=page.next_token
        )

    async def update(
        self, request: UpdateComputeEnvironmentRequest, caller: Caller
    ) -> UpdateComputeEnvironmentResponse:
        """Change the members that are sent. Raises InvalidRequestError, NotFoundError."""
        check_environment_update(request)
        reference = request.compute_environment
        name = name_in_reference(reference, _KIND, caller.namespace)

        def work(writer: RegistryWriter) -> UpdateComputeEnvironmentResponse:
            stored = None if name is None else find_live(writer, environment_key(caller.namespace, name))
            if stored is None:
                raise not_found(reference, _KIND, caller)
            updated = updated_environment(environment_in(stored), request, self._compat)
            put(writer, caller.namespace, updated)
            return UpdateComputeEnvironmentResponse(
                compute_environment_name=updated.compute_environment_name,
                compute_environment_arn=updated.compute_environment_arn,
            )

        return await self._records.write(work)

    async def delete(
        self, request: DeleteComputeEnvironmentRequest, caller: Caller
    ) -> DeleteComputeEnvironmentResponse:
        """Delete an environment, if there is one. Raises WrongStateError while it is ENABLED or used."""
        name = name_in_reference(request.compute_environment, _KIND, caller.namespace)

        def work(writer: RegistryWriter) -> None:
            stored = None if name is None else find_live(writer, environment_key(caller.namespace, name))
            if stored is None:
                return
            environment = environment_in(stored)
            check_deletable(environment, writer.queues_using(caller.namespace, (_KIND, stored.key.name)))
            put(writer, caller.namespace, deleted_environment(environment))

        await self._records.write(work)
        return DeleteComputeEnvironmentResponse()
