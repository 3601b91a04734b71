"""For whom a call acts, carried in its metadata."""

from collections.abc import Iterable
from typing import Any, Final, Protocol

from batchyard.domain.names import DEFAULT_NAMESPACE, DEFAULT_REGION, Caller

NAMESPACE_KEY: Final = "batchyard-namespace"
REGION_KEY: Final = "batchyard-region"


class _HasMetadata(Protocol):
    def invocation_metadata(self) -> Any: ...


def caller_of(context: _HasMetadata) -> Caller:
    """Return who calls; a call that does not say acts for the default account and region."""
    namespace, region = DEFAULT_NAMESPACE, DEFAULT_REGION
    for key, value in context.invocation_metadata() or ():
        if key == NAMESPACE_KEY:
            namespace = str(value)
        elif key == REGION_KEY:
            region = str(value)
    return Caller(namespace, region)


def metadata_for(caller: Caller) -> Iterable[tuple[str, str]]:
    """Return the metadata that makes a call act for this caller."""
    return ((NAMESPACE_KEY, caller.namespace), (REGION_KEY, caller.region))
