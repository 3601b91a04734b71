"""The three operations on tags. Those of a job are the job store's; all others stand in the resource itself."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

from batchyard.api.registry.v1.registry_service_pb2 import (
    ListTagsForResourceRequest,
    ListTagsForResourceResponse,
    TagResourceRequest,
    TagResourceResponse,
    UntagResourceRequest,
    UntagResourceResponse,
)
from batchyard.api.scheduler.v1.job_tags_service_pb2 import ChangeJobTagsRequest, ListJobTagsRequest
from batchyard.domain.errors import InvalidRequestError, NotFoundError
from batchyard.domain.leases import check_lease_tag
from batchyard.domain.names import Caller, ResourceKind, resource_in_arn, split_revision
from batchyard.domain.resources import TAGS_MAX, check_tags, merged_tags
from batchyard.registry.messages import definition_key, find_live, message_in, put
from batchyard.registry.newest import NewestDefinitions
from batchyard.registry.records import Records
from batchyard.registry.settlement import check_decided
from batchyard.rpc.errors import domain_errors
from batchyard.storage.registry import RegistryReader, RegistryWriter, ResourceKey, StoredResource

if TYPE_CHECKING:
    from batchyard.api.scheduler.v1.job_tags_service_pb2_grpc import JobTagsServiceAsyncStub

JOB_STORE_TIMEOUT_S: Final = 10.0


class Tags:
    """Adds, removes and lists tags, of whatever has an ARN here."""

    def __init__(self, records: Records, newest: NewestDefinitions, job_tags: "JobTagsServiceAsyncStub") -> None:
        self._records = records
        self._newest = newest
        self._job_tags = job_tags

    async def tag(self, request: TagResourceRequest, caller: Caller) -> TagResourceResponse:
        """Add tags. Raises InvalidRequestError, NotFoundError, WrongStateError, UnavailableError."""
        check_tags(request.tags)
        await self._change(request.resource_arn, caller, changes=request.tags)
        return TagResourceResponse()

    async def untag(self, request: UntagResourceRequest, caller: Caller) -> UntagResourceResponse:
        """Take tags away. Raises InvalidRequestError, NotFoundError, WrongStateError, UnavailableError."""
        if len(request.tag_keys) > TAGS_MAX:
            raise InvalidRequestError(f"Number of tag keys must not exceed {TAGS_MAX}.", field="tagKeys")
        await self._change(request.resource_arn, caller, removed=request.tag_keys)
        return UntagResourceResponse()

    async def list(self, request: ListTagsForResourceRequest, caller: Caller) -> ListTagsForResourceResponse:
        """Return the tags of a resource. Raises InvalidRequestError, NotFoundError, UnavailableError."""
        arn = request.resource_arn
        key = _key_of(arn, caller)
        if key.kind is ResourceKind.JOB:
            with _job_store_errors(arn):
                answer = await self._job_tags.ListJobTags(
                    ListJobTagsRequest(namespace=key.namespace, job_id=key.name), timeout=JOB_STORE_TIMEOUT_S
                )
            return ListTagsForResourceResponse(tags=answer.tags)
        stored = await self._records.read(lambda reader: _found(reader, key, arn))
        return ListTagsForResourceResponse(tags=message_in(stored).tags)

    async def _change(
        self, arn: str, caller: Caller, *, changes: Mapping[str, str] | None = None, removed: Sequence[str] = ()
    ) -> None:
        key = _key_of(arn, caller)
        if key.kind is ResourceKind.COMPUTE_ENVIRONMENT:
            check_lease_tag(changes or {})
        if key.kind is ResourceKind.JOB:
            request = ChangeJobTagsRequest(namespace=key.namespace, job_id=key.name, set=changes, removed=removed)
            with _job_store_errors(arn):
                await self._job_tags.ChangeJobTags(request, timeout=JOB_STORE_TIMEOUT_S)
            return

        def work(writer: RegistryWriter) -> None:
            stored = _found(writer, key, arn)
            check_decided(stored, "update")
            resource = message_in(stored)
            tags = merged_tags(resource.tags, changes or {}, removed)
            resource.tags.clear()
            resource.tags.update(tags)
            put(writer, key.namespace, resource)

        await self._records.write(work)
        if key.kind is ResourceKind.JOB_DEFINITION:
            await self._newest.withdraw(key.namespace, key.name)


@contextmanager
def _job_store_errors(arn: str) -> Iterator[None]:
    """Turn the failures of calls into domain errors; that of a job that does not exist names its ARN."""
    try:
        with domain_errors():
            yield
    except NotFoundError:
        _raise_unknown(arn)


def _key_of(arn: str, caller: Caller) -> ResourceKey:
    """Return the key of the resource that an ARN names, whether it is there or not."""
    found = resource_in_arn(arn, caller.namespace)
    if found is None:
        _raise_unknown(arn)
    kind, name = found
    if kind is ResourceKind.JOB and not {":", "#"}.isdisjoint(name):
        raise InvalidRequestError(
            f"{arn} cannot have tags: it is a child of an array job or a node of a multi-node job. Tag its parent.",
            field="resourceArn",
        )
    if kind is not ResourceKind.JOB_DEFINITION:
        return ResourceKey(kind, caller.namespace, name)
    name, revision = split_revision(name)
    if revision is None:
        _raise_unknown(arn)
    return definition_key(caller.namespace, name, revision)


def _found(reader: RegistryReader, key: ResourceKey, arn: str) -> StoredResource:
    stored = find_live(reader, key)
    if stored is None:
        _raise_unknown(arn)
    return stored


def _raise_unknown(arn: str) -> NoReturn:
    raise NotFoundError(f"Resource {arn} does not exist", field="resourceArn")
