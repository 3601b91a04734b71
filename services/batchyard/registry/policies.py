"""The five operations on scheduling policies."""

from batchyard.api.registry.v1.registry_service_pb2 import (
    CreateSchedulingPolicyRequest,
    CreateSchedulingPolicyResponse,
    DeleteSchedulingPolicyRequest,
    DeleteSchedulingPolicyResponse,
    DescribeSchedulingPoliciesRequest,
    DescribeSchedulingPoliciesResponse,
    ListSchedulingPoliciesRequest,
    ListSchedulingPoliciesResponse,
    UpdateSchedulingPolicyRequest,
    UpdateSchedulingPolicyResponse,
)
from batchyard.api.registry.v1.scheduling_policy_pb2 import SchedulingPolicyListingDetail
from batchyard.domain.errors import AlreadyExistsError, NotFoundError
from batchyard.domain.names import Caller, ResourceKind, resource_in_arn
from batchyard.registry.messages import bury, find_live, policy_in, policy_key, put
from batchyard.registry.policy_rules import (
    check_deletable,
    check_policy_update,
    deleted_policy,
    new_policy,
    updated_policy,
)
from batchyard.registry.records import Records
from batchyard.registry.references import check_number, list_page
from batchyard.storage.registry import Listing, RegistryWriter

_KIND = ResourceKind.SCHEDULING_POLICY


class Policies:
    """Creates, lists, changes and deletes scheduling policies."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def create(self, request: CreateSchedulingPolicyRequest, caller: Caller) -> CreateSchedulingPolicyResponse:
        """Create a policy. Raises InvalidRequestError, AlreadyExistsError."""
        policy = new_policy(request, caller)
        key = policy_key(caller.namespace, policy.name)

        def work(writer: RegistryWriter) -> None:
            if find_live(writer, key) is not None:
                raise AlreadyExistsError("Object already exists", field="name")
            put(writer, caller.namespace, policy)

        await self._records.write(work)
        return CreateSchedulingPolicyResponse(name=policy.name, arn=policy.arn)

    async def describe(
        self, request: DescribeSchedulingPoliciesRequest, caller: Caller
    ) -> DescribeSchedulingPoliciesResponse:
        """Return policies by ARN, each once, by name. Raises InvalidRequestError for too many."""
        check_number(request.arns, "arns")
        names = {name for arn in request.arns if (name := policy_name(arn, caller)) is not None}
        listing = Listing(_KIND, caller.namespace, references=frozenset((name, None) for name in names))
        page = await self._records.read(lambda reader: reader.page(listing, None, len(names)))
        return DescribeSchedulingPoliciesResponse(scheduling_policies=[policy_in(stored) for stored in page.resources])

    async def list(self, request: ListSchedulingPoliciesRequest, caller: Caller) -> ListSchedulingPoliciesResponse:
        """Return a page of the ARNs of policies, by name. Raises InvalidRequestError."""
        page = await list_page(self._records, Listing(_KIND, caller.namespace), request)
        return ListSchedulingPoliciesResponse(
            scheduling_policies=[SchedulingPolicyListingDetail(arn=policy_in(stored).arn) for stored in page.resources],
            next_token=page.next_token,
        )

    async def update(self, request: UpdateSchedulingPolicyRequest, caller: Caller) -> UpdateSchedulingPolicyResponse:
        """Replace what a policy says. Raises InvalidRequestError, NotFoundError."""
        check_policy_update(request)
        name = policy_name(request.arn, caller)

        def work(writer: RegistryWriter) -> None:
            stored = None if name is None else find_live(writer, policy_key(caller.namespace, name))
            if stored is None:
                raise NotFoundError(f"{request.arn} does not exist", field="arn")
            put(writer, caller.namespace, updated_policy(policy_in(stored), request))

        await self._records.write(work)
        return UpdateSchedulingPolicyResponse()

    async def delete(self, request: DeleteSchedulingPolicyRequest, caller: Caller) -> DeleteSchedulingPolicyResponse:
        """Delete a policy, if there is one. Raises WrongStateError while a queue names it."""
        name = policy_name(request.arn, caller)

        def work(writer: RegistryWriter) -> None:
            stored = None if name is None else find_live(writer, policy_key(caller.namespace, name))
            if stored is None:
                return
            check_deletable(writer.queues_using(caller.namespace, (_KIND, stored.key.name)))
            bury(writer, caller.namespace, deleted_policy(policy_in(stored)))

        await self._records.write(work)
        return DeleteSchedulingPolicyResponse()


def policy_name(arn: str, caller: Caller) -> str | None:
    """Return the name of the policy that an ARN may refer to, or None if it can refer to none."""
    found = resource_in_arn(arn, caller.namespace)
    return found[1] if found is not None and found[0] is _KIND else None
