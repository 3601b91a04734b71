"""What a job reserves, and the rules of the members that several requests share.

Every check raises InvalidRequestError with AWS's own words; `field` is the member's AWS name.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from batchyard.domain.errors import InvalidRequestError

MEMORY_MIB_MIN: Final = 4
TIMEOUT_S_MIN: Final = 60
SCHEDULING_PRIORITY_MAX: Final = 9999
TAGS_MAX: Final = 50
TAG_KEY_LENGTH_MAX: Final = 128
TAG_VALUE_LENGTH_MAX: Final = 256
RESERVED_ENVIRONMENT_PREFIX: Final = "AWS_BATCH"

_REQUIREMENT_TYPES: Final = ("GPU", "MEMORY", "VCPU")
# At most three places behind the point can be held; further ones may be zeros. Nine digits keep sums in 64 bits.
_VCPUS: Final = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,3})0*)?")
_SHARE_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_-]{1,255}\*?")
_WHOLE: Final = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Resources:
    """What a job holds while it runs."""

    vcpus_milli: int
    """Thousandths of a vCPU."""
    memory_mib: int
    gpus: int = 0
    """Devices."""


class ResourceRequirement(Protocol):
    """An amount of one kind of resource: the message of that name."""

    @property
    def type(self) -> str:
        """VCPU, MEMORY or GPU."""
        ...

    @property
    def value(self) -> str:
        """An amount as decimal text."""
        ...


class Container(Protocol):
    """The members of a container's properties that reserve resources."""

    def HasField(self, field_name: Any, /) -> bool:  # noqa: N802  # protobuf's name
        """Tell whether a member was sent."""
        ...

    @property
    def vcpus(self) -> int:
        """vCPUs, in the older form."""
        ...

    @property
    def memory(self) -> int:
        """MiB, in the older form."""
        ...

    @property
    def resource_requirements(self) -> Iterable[ResourceRequirement]:
        """The newer form of both, and GPUs."""
        ...


class EnvironmentVariable(Protocol):
    """The message KeyValuePair."""

    @property
    def name(self) -> str:
        """Name of the variable."""
        ...


def reserved_resources(container: Container) -> Resources:
    """Return what a container reserves, whichever form says it.

    vCPUs and memory are required, in one form only; raises InvalidRequestError otherwise, and for amounts that are
    malformed or too small.
    """
    required = requirement_amounts(container.resource_requirements)
    for kind, member, legacy in (("VCPU", "vcpus", container.vcpus), ("MEMORY", "memory", container.memory)):
        if legacy and kind in required:
            raise InvalidRequestError(
                f"Cannot use both ECS containerProperties {member} and resourceRequirement {kind}.", field=member
            )
    vcpus_milli = required.get("VCPU", container.vcpus * 1000)
    memory_mib = required.get("MEMORY", container.memory)
    if "VCPU" not in required and not container.HasField("vcpus"):
        raise InvalidRequestError("vCPU is required.", field="vcpus")
    if vcpus_milli <= 0:
        raise InvalidRequestError(f"vCPU must be at least 1, got {vcpus_milli // 1000}.", field="vcpus")
    if "MEMORY" not in required and not container.HasField("memory"):
        raise InvalidRequestError("Memory is required.", field="memory")
    if memory_mib < MEMORY_MIB_MIN:
        raise InvalidRequestError(
            f"Memory must be at least {MEMORY_MIB_MIN} Mib, got {memory_mib} Mib.", field="memory"
        )
    return Resources(vcpus_milli, memory_mib, required.get("GPU", 0))


def requirement_amounts(requirements: Iterable[ResourceRequirement]) -> dict[str, int]:
    """Return the amount by type: thousandths of a vCPU for VCPU, MiB for MEMORY, devices for GPU."""
    amounts: dict[str, int] = {}
    for requirement in requirements:
        amount = _amount(requirement)
        if requirement.type in amounts:
            raise InvalidRequestError(
                "Cannot provide duplicates in resourceRequirements.", field="resourceRequirements"
            )
        amounts[requirement.type] = amount
    return amounts


def _amount(requirement: ResourceRequirement) -> int:
    if requirement.type not in _REQUIREMENT_TYPES:
        raise InvalidRequestError(
            f"Type {requirement.type} in resourceRequirement is not valid. "
            f"Valid types: [{', '.join(_REQUIREMENT_TYPES)}]",
            field="resourceRequirements",
        )
    if requirement.type == "VCPU":
        if match := _VCPUS.fullmatch(requirement.value):
            whole, thousandths = match.groups()
            return int(whole) * 1000 + int((thousandths or "").ljust(3, "0"))
    elif _WHOLE.fullmatch(requirement.value):
        return int(requirement.value)
    raise InvalidRequestError(
        f"Value {requirement.value} for type {requirement.type} in resourceRequirement is not valid. "
        "Please provide a numeric value.",
        field="resourceRequirements",
    )


def check_environment(variables: Iterable[EnvironmentVariable]) -> None:
    """Check the names of environment variables."""
    for variable in variables:
        if not variable.name:
            raise InvalidRequestError("Environment variable name is required.", field="environment")
        if variable.name.startswith(RESERVED_ENVIRONMENT_PREFIX):
            raise InvalidRequestError(
                f"Environment variable cannot start with {RESERVED_ENVIRONMENT_PREFIX}", field="environment"
            )


def check_scheduling_priority(priority: int, field: str) -> None:
    """Check a scheduling priority that was sent."""
    if not 0 <= priority <= SCHEDULING_PRIORITY_MAX:
        raise InvalidRequestError(f"Scheduling priority must be between 0 and {SCHEDULING_PRIORITY_MAX}.", field=field)


def check_share_identifier(identifier: str) -> None:
    """Check the share identifier of a job."""
    if not _SHARE_IDENTIFIER.fullmatch(identifier):
        raise InvalidRequestError("ShareIdentifier name should match a valid pattern.", field="shareIdentifier")


def check_timeout(attempt_duration_s: int) -> None:
    """Check the member `attemptDurationSeconds` of a timeout that was sent."""
    if attempt_duration_s < TIMEOUT_S_MIN:
        raise InvalidRequestError(
            f"AttemptDurationSeconds in Timeout must be at least {TIMEOUT_S_MIN} seconds.",
            field="attemptDurationSeconds",
        )


def merged_tags(tags: Mapping[str, str], changes: Mapping[str, str], removed: Iterable[str]) -> dict[str, str]:
    """Return tags with some set and some taken away; raise InvalidRequestError if they become too many."""
    gone = frozenset(removed)
    merged = {key: value for key, value in {**tags, **changes}.items() if key not in gone}
    if len(merged) > TAGS_MAX:
        raise InvalidRequestError(f"Number of tags must not exceed {TAGS_MAX}.", field="tags")
    return merged


def check_tags(tags: Mapping[str, str]) -> None:
    """Check the tags that a request sets."""
    if len(tags) > TAGS_MAX:
        raise InvalidRequestError(f"Number of tags must not exceed {TAGS_MAX}.", field="tags")
    for key, value in tags.items():
        if not 1 <= len(key) <= TAG_KEY_LENGTH_MAX:
            raise InvalidRequestError(f"Tag keys must have 1 to {TAG_KEY_LENGTH_MAX} characters.", field="tags")
        if key.lower().startswith("aws:"):
            raise InvalidRequestError(f"Tag key {key} is not valid: the prefix aws: is reserved.", field="tags")
        if len(value) > TAG_VALUE_LENGTH_MAX:
            raise InvalidRequestError(f"Tag values must not exceed {TAG_VALUE_LENGTH_MAX} characters.", field="tags")
