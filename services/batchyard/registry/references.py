"""Which resources a request means: by name or ARN, one or many, a page at a time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from batchyard.api.registry.v1.registry_service_pb2 import (
    DescribeComputeEnvironmentsRequest,
    DescribeJobDefinitionsRequest,
    DescribeJobQueuesRequest,
    ListSchedulingPoliciesRequest,
)
from batchyard.domain.errors import InvalidRequestError, NotFoundError
from batchyard.domain.names import Caller, ResourceKind, name_in_reference, split_revision
from batchyard.domain.pagination import decode_token, encode_token, page_size
from batchyard.registry.records import Records
from batchyard.storage.registry import Listing, Place, StoredResource

REFERENCES_MAX: Final = 100

PagedRequest: TypeAlias = (
    DescribeComputeEnvironmentsRequest
    | DescribeJobDefinitionsRequest
    | DescribeJobQueuesRequest
    | ListSchedulingPoliciesRequest
)


@dataclass(frozen=True, slots=True)
class ListedPage:
    """A page of a listing and, if more follow, the token of the next."""

    resources: Sequence[StoredResource]
    next_token: str | None


def not_found(reference: str, kind: ResourceKind, caller: Caller) -> NotFoundError:
    """Return the error for a reference to nothing; its text has an ARN, which clients look for."""
    arn = reference if reference.startswith("arn:") else caller.arn(kind, reference)
    return NotFoundError(f"{arn} does not exist")


def referenced(
    references: Sequence[str], kind: ResourceKind, caller: Caller, field: str
) -> frozenset[tuple[str, int | None]] | None:
    """Return the names, with revisions for job definitions, that a filter lists; None if it lists nothing.

    What can refer to nothing here is left out. Raises InvalidRequestError for a malformed or too long filter.
    """
    if not references:
        return None
    check_number(references, field)
    names = {name_in_reference(reference, kind, caller.namespace) for reference in references}
    if kind is ResourceKind.JOB_DEFINITION:
        return frozenset(split_revision(name) for name in names if name is not None)
    return frozenset((name, None) for name in names if name is not None)


def check_number(references: Sequence[str], field: str) -> None:
    """Raise InvalidRequestError if a request names too many resources."""
    if len(references) > REFERENCES_MAX:
        raise InvalidRequestError(f"Maximum number of {field} supported is {REFERENCES_MAX}.", field=field)


async def list_page(records: Records, listing: Listing, request: PagedRequest) -> ListedPage:
    """Return the page of a listing that a request is for. Raises InvalidRequestError for a bad size or token."""
    limit = page_size(request.max_results if request.HasField("max_results") else None)
    filter_key = _filter_key(listing)
    after = _place(request.next_token, filter_key) if request.next_token else None
    page = await records.read(lambda reader: reader.page(listing, after, limit))
    if not page.more:
        return ListedPage(page.resources, None)
    last = page.resources[-1].key
    return ListedPage(page.resources, encode_token(filter_key, (last.name, last.number)))


def _filter_key(listing: Listing) -> str:
    references = None if listing.references is None else sorted(listing.references, key=_sort_key)
    return json.dumps([listing.kind, listing.namespace, references, listing.name, listing.status])


def _sort_key(reference: tuple[str, int | None]) -> tuple[str, int]:
    return reference[0], reference[1] or 0


def _place(token: str, filter_key: str) -> Place:
    name, number = decode_token(token, filter_key)
    return Place(str(name), int(number))
