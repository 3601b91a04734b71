"""Names, ARNs and references, in AWS's forms.

A reference is a name or an ARN. Names are unique per kind in a namespace (an account), whatever the region: the
region in an ARN is the one in which the resource was created, and finds its resource from every other.
"""

import re
from enum import StrEnum

from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.values import value_class

DEFAULT_NAMESPACE = "123456789012"
DEFAULT_REGION = "us-east-1"

LOG_GROUP = "/aws/batch/job"

RESOURCE_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")

_REVISION = re.compile(r"(?P<name>.+):(?P<digits>[0-9]+)", re.DOTALL)
_REVISION_DIGITS_MAX = 9
_NO_REVISION = 2**31 - 1
"""Greater than any that a definition will have; for numbers of more digits than one can have."""

_TASK_ID = re.compile(r"[0-9a-f]{32}")
_ARN = re.compile(r"arn:aws:batch:(?P<region>[^:]*):(?P<account>[^:]*):(?P<kind>[a-z-]+)/(?P<name>.+)", re.DOTALL)


class ResourceKind(StrEnum):
    """The kinds of resources, as they stand in ARNs."""

    COMPUTE_ENVIRONMENT = "compute-environment"
    JOB_QUEUE = "job-queue"
    JOB_DEFINITION = "job-definition"
    JOB = "job"
    SCHEDULING_POLICY = "scheduling-policy"


@value_class(frozen=True, slots=True)
class Caller:
    """For whom a request acts: the namespace of its keys, and the region for the ARNs that it makes."""

    namespace: str = DEFAULT_NAMESPACE
    region: str = DEFAULT_REGION

    def arn(self, kind: ResourceKind, name: str) -> str:
        """Return the ARN of a resource that this caller creates."""
        return f"arn:aws:batch:{self.region}:{self.namespace}:{kind}/{name}"


def name_in_reference(reference: str, kind: ResourceKind, namespace: str) -> str | None:
    """Return the name that a name or ARN refers to, or None if it can refer to nothing in this namespace.

    The name of a job definition still carries its `:revision`, if it had one. Raises InvalidRequestError for what is
    neither an ARN nor a name.
    """
    if reference.startswith("arn:"):
        match = _ARN.fullmatch(reference)
        if match is None or match["account"] != namespace or match["kind"] != kind:
            return None
        return match["name"] if _can_be_named(match["name"], kind) else None
    if not _can_be_named(reference, kind):
        raise InvalidRequestError(f"Provided name {reference} is not supported pattern[a-zA-Z_0-9-]{{1,128}}")
    return reference


def resource_in_arn(arn: str, namespace: str) -> tuple[ResourceKind, str] | None:
    """Return the kind and the name in an ARN, or None if it can name nothing in this namespace.

    The name of a job definition still carries its `:revision`, if it had one.
    """
    match = _ARN.fullmatch(arn)
    if match is None or match["account"] != namespace or match["kind"] not in set(ResourceKind):
        return None
    return ResourceKind(match["kind"]), match["name"]


def split_revision(name: str) -> tuple[str, int | None]:
    """Split `name:revision` at the last colon, if only digits follow it; a bare name has the revision None."""
    match = _REVISION.fullmatch(name)
    if match is None:
        return name, None
    digits = match["digits"].lstrip("0") or "0"
    return match["name"], int(digits) if len(digits) <= _REVISION_DIGITS_MAX else _NO_REVISION


def _can_be_named(name: str, kind: ResourceKind) -> bool:
    if kind is ResourceKind.JOB:
        return True
    if kind is ResourceKind.JOB_DEFINITION:
        name, _ = split_revision(name)
    return RESOURCE_NAME.fullmatch(name) is not None


def task_id(sequence: int, digest: bytes) -> str:
    """Return the id of a run of the job with this number: 32 hexadecimal digits, the first 12 of which say it."""
    return f"{sequence:012x}{digest.hex()[:20]}"


def job_of_log(stream: str) -> int | None:
    """Return the sequence number of the job that a log stream is of, or None if it is of none."""
    task = stream.rpartition("/")[2]
    return int(task[:12], 16) if _TASK_ID.fullmatch(task) else None


def log_stream_name(prefix: str, task_id: str) -> str:
    """Return the name of an attempt's log stream, in the form that AWS gives it.

    The prefix is the name of the job's definition, unless its log configuration has one.
    """
    return f"{prefix[:200]}/default/{task_id}"
