"""The four operations on job queues.

What decides whether SubmitJob passes is settled with the job store: a queue's state, its deletion, and the new use of a
name that the job store may still know as deleted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from batchyard.api.registry.v1.compute_environment_pb2 import ComputeEnvironmentDetail
from batchyard.api.registry.v1.job_queue_pb2 import JobQueueDetail
from batchyard.api.registry.v1.registry_service_pb2 import (
    CreateJobQueueRequest,
    CreateJobQueueResponse,
    DeleteJobQueueRequest,
    DeleteJobQueueResponse,
    DescribeJobQueuesRequest,
    DescribeJobQueuesResponse,
    UpdateJobQueueRequest,
    UpdateJobQueueResponse,
)
from batchyard.api.registry.v1.resource_state_pb2 import ResourceStatus
from batchyard.domain.compat import Compat
from batchyard.domain.errors import AlreadyExistsError, InvalidRequestError
from batchyard.domain.names import Caller, ResourceKind, name_in_reference
from batchyard.registry.messages import (
    environment_in,
    environment_key,
    find_live,
    policy_key,
    put,
    queue_in,
    queue_key,
    stored_change,
)
from batchyard.registry.policies import policy_name
from batchyard.registry.queue_rules import (
    EnvironmentPlace,
    check_deletable,
    check_new_policy,
    check_new_queue,
    check_queue_type,
    check_queue_update,
    deleted_queue,
    environment_order,
    environment_places,
    new_queue,
    queue_type,
    updated_queue,
    with_status,
)
from batchyard.registry.records import Records
from batchyard.registry.references import list_page, not_found, referenced
from batchyard.registry.settlement import Going, Proposal, Settlements, check_decided, is_going, propose
from batchyard.storage.registry import DELETED, Listing, RegistryWriter

_KIND = ResourceKind.JOB_QUEUE


@dataclass(frozen=True, slots=True)
class _Changed:
    """A queue after a write, and what remains to be settled of it."""

    queue: JobQueueDetail
    proposal: Proposal | None = None


class Queues:
    """Creates, lists, changes and deletes job queues."""

    def __init__(self, records: Records, settlements: Settlements, compat: Compat) -> None:
        self._records = records
        self._settlements = settlements
        self._deletes_jobs = compat is Compat.AWS

    async def create(self, request: CreateJobQueueRequest, caller: Caller) -> CreateJobQueueResponse:
        """Create a queue that takes jobs at once. Raises InvalidRequestError, AlreadyExistsError, UnavailableError."""
        check_new_queue(request)
        places = environment_places(request.compute_environment_order, caller.namespace)
        key = queue_key(caller.namespace, request.job_queue_name)

        def work(writer: RegistryWriter) -> _Changed:
            used = _environments(writer, places, caller.namespace)
            order, kind = environment_order(places, used), queue_type(used.values())
            check_queue_type(request.job_queue_type, kind)
            _check_policy(writer, request.scheduling_policy_arn, caller)
            stored = writer.find(key)
            if stored is not None and stored.status != DELETED:
                raise AlreadyExistsError("Object already exists", field="jobQueueName")
            queue = new_queue(request, caller, order, kind)
            if stored is None:
                put(writer, caller.namespace, queue)
                return _Changed(queue)
            creating = with_status(queue, ResourceStatus.RESOURCE_STATUS_CREATING)
            proposal = propose(
                writer, caller.namespace, before=queue_in(stored), shown=creating, told=queue, accepted=queue
            )
            return _Changed(queue, proposal)

        queue = await self._write_and_settle(work)
        return CreateJobQueueResponse(job_queue_name=queue.job_queue_name, job_queue_arn=queue.job_queue_arn)

    async def describe(self, request: DescribeJobQueuesRequest, caller: Caller) -> DescribeJobQueuesResponse:
        """Return a page of queues, by name. Raises InvalidRequestError."""
        listing = Listing(
            _KIND, caller.namespace, references=referenced(request.job_queues, _KIND, caller, "jobQueues")
        )
        page = await list_page(self._records, listing, request)
        return DescribeJobQueuesResponse(
            job_queues=[queue_in(stored) for stored in page.resources], next_token=page.next_token
        )

    async def update(self, request: UpdateJobQueueRequest, caller: Caller) -> UpdateJobQueueResponse:
        """Change the members that are sent.

        Raises InvalidRequestError, NotFoundError, WrongStateError while another change is under way, UnavailableError.
        """
        check_queue_update(request)
        reference = request.job_queue
        name = name_in_reference(reference, _KIND, caller.namespace)
        sent = request.compute_environment_order
        replaces_order = bool(sent) or "computeEnvironmentOrder" in request.cleared_members
        places = environment_places(sent, caller.namespace) if replaces_order else ()

        def work(writer: RegistryWriter) -> _Changed:
            stored = None if name is None else find_live(writer, queue_key(caller.namespace, name))
            if stored is None:
                raise not_found(reference, _KIND, caller)
            current = queue_in(stored)
            used = _environments(writer, places, caller.namespace)
            check_new_policy(current, request)
            updated = updated_queue(current, request, environment_order(places, used), queue_type(used.values()))
            _check_policy(writer, request.scheduling_policy_arn, caller)
            check_decided(stored, "update")
            if updated.state == current.state:
                put(writer, caller.namespace, updated)
                return _Changed(updated)
            updating = with_status(updated, ResourceStatus.RESOURCE_STATUS_UPDATING)
            proposal = propose(writer, caller.namespace, before=current, shown=updating, told=updated, accepted=updated)
            return _Changed(updated, proposal)

        queue = await self._write_and_settle(work)
        return UpdateJobQueueResponse(job_queue_name=queue.job_queue_name, job_queue_arn=queue.job_queue_arn)

    async def delete(self, request: DeleteJobQueueRequest, caller: Caller) -> DeleteJobQueueResponse:
        """Delete a queue, if there is one. Raises WrongStateError while it is ENABLED or has unfinished jobs.

        In the `aws` profile unfinished jobs are no hindrance: they are terminated, and the queue goes when they have
        ended, which may be after the answer.
        """
        name = name_in_reference(request.job_queue, _KIND, caller.namespace)
        if self._deletes_jobs:
            return await self._delete_with_jobs(name, caller)

        def work(writer: RegistryWriter) -> _Changed:
            stored = None if name is None else find_live(writer, queue_key(caller.namespace, name))
            if stored is None:
                return _Changed(JobQueueDetail())
            check_decided(stored, "delete")
            queue = queue_in(stored)
            check_deletable(queue)
            deleting = with_status(queue, ResourceStatus.RESOURCE_STATUS_DELETING)
            gone = deleted_queue(queue)
            return _Changed(
                gone, propose(writer, caller.namespace, before=queue, shown=deleting, told=deleting, accepted=gone)
            )

        await self._write_and_settle(work)
        return DeleteJobQueueResponse()

    async def _delete_with_jobs(self, name: str | None, caller: Caller) -> DeleteJobQueueResponse:
        def work(writer: RegistryWriter) -> Going | None:
            stored = None if name is None else find_live(writer, queue_key(caller.namespace, name))
            if stored is None or is_going(stored):
                return None
            check_decided(stored, "delete")
            queue = queue_in(stored)
            check_deletable(queue)
            deleting = with_status(queue, ResourceStatus.RESOURCE_STATUS_DELETING)
            return Going(caller.namespace, deleting, stored_change(put(writer, caller.namespace, deleting)))

        going = await self._records.write(work)
        if going is not None:
            await self._settlements.delete_with_jobs(going)
        return DeleteJobQueueResponse()

    async def _write_and_settle(self, work: Callable[[RegistryWriter], _Changed]) -> JobQueueDetail:
        changed = await self._records.write(work)
        if changed.proposal is not None:
            await self._settlements.settle(changed.proposal)
        return changed.queue


def _environments(
    writer: RegistryWriter, places: Sequence[EnvironmentPlace], namespace: str
) -> dict[str, ComputeEnvironmentDetail]:
    """Return those of the environments of an order that exist, by name."""
    found = (find_live(writer, environment_key(namespace, place.name)) for place in places)
    return {stored.key.name: environment_in(stored) for stored in found if stored}


def _check_policy(writer: RegistryWriter, arn: str, caller: Caller) -> None:
    """Raise InvalidRequestError if a request names a scheduling policy that does not exist."""
    if not arn:
        return
    name = policy_name(arn, caller)
    if name is None or find_live(writer, policy_key(caller.namespace, name)) is None:
        raise InvalidRequestError(f"SchedulingPolicy {arn} not found.", field="schedulingPolicyArn")
