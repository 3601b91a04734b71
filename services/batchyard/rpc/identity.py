"""For whom a call acts, and which of its repetitions it may be, carried in its metadata."""

import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Protocol

from batchyard.domain.names import DEFAULT_NAMESPACE, DEFAULT_REGION, Caller
from batchyard.rpc.log_context import request_metadata

NAMESPACE_KEY: Final = "batchyard-namespace"
REGION_KEY: Final = "batchyard-region"
INVOCATION_KEY: Final = "amz-sdk-invocation-id"
"""Names a request; AWS's SDKs send the same with each of its automatic repetitions. So may native clients."""
CREDENTIAL_KEY: Final = "batchyard-credential"
"""Set by the gateway: a digest of the access key with which a request was signed."""

_INVOCATION_ID: Final = re.compile(r"[!-~]{1,128}")


class Invocation(NamedTuple):
    """Which request a call carries, however often it is sent."""

    invocation_id: str
    credential: str = ""


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
    """Return the metadata that makes a call act for this caller, and be in the course of the current request."""
    return ((NAMESPACE_KEY, caller.namespace), (REGION_KEY, caller.region), *request_metadata())


def invocation_of(context: _HasMetadata) -> Invocation | None:
    """Return which request a call carries, or None if it does not say."""
    sent = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
    invocation_id = legal_invocation_id(sent.get(INVOCATION_KEY))
    return None if invocation_id is None else Invocation(invocation_id, sent.get(CREDENTIAL_KEY, ""))


def legal_invocation_id(text: str | None) -> str | None:
    """Return the text if it can name a request: 1 to 128 visible ASCII characters; else None."""
    return text if text is not None and _INVOCATION_ID.fullmatch(text) else None


def metadata_of(invocation: Invocation | None) -> Iterable[tuple[str, str]]:
    """Return the metadata that says which request a call carries."""
    if invocation is None:
        return ()
    return ((INVOCATION_KEY, invocation.invocation_id), (CREDENTIAL_KEY, invocation.credential))
