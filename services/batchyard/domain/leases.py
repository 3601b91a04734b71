"""How long agents may run jobs without a word from the scheduler, as compute environments ask for it. Pure."""

from collections.abc import Mapping
from typing import Final

from batchyard.domain.errors import InvalidRequestError

LEASE_TAG: Final = "batchyard:lease-seconds"
"""Tag of a compute environment: the lease of the agents that are there for it by name, in seconds."""
LEASE_S_MIN: Final = 30
LEASE_S_MAX: Final = 3600
SPOT_LEASE_S: Final = 60
"""Of an environment of type SPOT without the tag: its hosts go at any moment."""


def check_lease_tag(tags: Mapping[str, str]) -> None:
    """Raise InvalidRequestError if the tags of a compute environment ask for a lease that cannot be."""
    text = tags.get(LEASE_TAG)
    if text is not None and _seconds(text) is None:
        raise InvalidRequestError(
            f"Tag {LEASE_TAG} must be a whole number of seconds from {LEASE_S_MIN} to {LEASE_S_MAX}, not {text!r}.",
            field="tags",
        )


def lease_of(tags: Mapping[str, str], resource_type: str) -> int | None:
    """Return the lease that a compute environment asks for, in seconds; None: the scheduler's own.

    `resource_type` is that of its compute resources, empty if it has none.
    """
    seconds = _seconds(tags.get(LEASE_TAG, ""))
    if seconds is None and resource_type == "SPOT":
        return SPOT_LEASE_S
    return seconds


def _seconds(text: str) -> int | None:
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(LEASE_S_MAX))
    return int(text) if is_number and LEASE_S_MIN <= int(text) <= LEASE_S_MAX else None
