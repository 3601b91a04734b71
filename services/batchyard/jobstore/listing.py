"""What a ListJobs request with a filter asks for."""

from collections.abc import Sequence
from typing import Final

from batchyard.api.jobs.v1.jobs_service_pb2 import KeyValuesPair
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.lifecycle import JobState
from batchyard.domain.names import ResourceKind, name_in_reference, split_revision
from batchyard.storage.listings import JobFilter, Pattern

FILTER_VALUES_MAX: Final = 100

_NAMES: Final = ("JOB_NAME", "JOB_DEFINITION", "BEFORE_CREATED_AT", "AFTER_CREATED_AT", "SHARE_IDENTIFIER")


def filter_of(filters: Sequence[KeyValuesPair], state: JobState | None, namespace: str) -> JobFilter:
    """Return which jobs to list; `state` is that of the request, if it names one.

    Of the filters only SHARE_IDENTIFIER goes together with a state; the others list jobs of all of them. Raises
    InvalidRequestError for more than one filter, and for one that makes no sense.
    """
    if len(filters) > 1:
        raise _refused("Only one filter can be used at a time.")
    (pair,) = filters
    if not pair.name:
        raise _refused(f"name is required. Valid filter names: [{', '.join(_NAMES)}]")
    if pair.name not in _NAMES:
        raise _refused(f"Filter name {pair.name} is not valid. Valid filter names: [{', '.join(_NAMES)}]")
    if not pair.values or not all(pair.values):
        raise _refused(f"Filter {pair.name} needs values, none of them empty.")
    if len(pair.values) > FILTER_VALUES_MAX:
        raise _refused(f"Filter {pair.name} can have at most {FILTER_VALUES_MAX} values.")
    match pair.name:
        case "JOB_NAME":
            return JobFilter(names=tuple(map(_pattern, pair.values)))
        case "JOB_DEFINITION":
            return JobFilter(definitions=tuple(_definition(value, namespace) for value in pair.values))
        case "BEFORE_CREATED_AT":
            return JobFilter(created_before=_time(pair))
        case "AFTER_CREATED_AT":
            return JobFilter(created_after=_time(pair))
        case _:
            return JobFilter(shares=tuple(pair.values), state=state)


def _pattern(value: str) -> Pattern:
    return Pattern(value.removesuffix("*"), is_prefix=value.endswith("*"))


def _definition(value: str, namespace: str) -> Pattern:
    """Return a pattern for `name:revision`; a name stands for all of its revisions."""
    if value.startswith("arn:"):
        if "*" in value:
            raise _refused("Filter JOB_DEFINITION cannot have an ARN with an asterisk (*).")
        # What is no ARN of a definition of this account stands for no job.
        value = name_in_reference(value, ResourceKind.JOB_DEFINITION, namespace) or value
    if value.endswith("*"):
        return _pattern(value)
    _, revision = split_revision(value)
    return Pattern(f"{value}:", is_prefix=True) if revision is None else Pattern(value)


def _time(pair: KeyValuesPair) -> int:
    if len(pair.values) > 1:
        raise _refused(f"Filter {pair.name} can have only one value.")
    text = pair.values[0]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise _refused(f"Filter {pair.name} needs milliseconds since the epoch, got {text[:100]}.")
    return int(text)


def _refused(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, field="filters")
