"""Who sends an AWS request: its Authorization header, parsed. Whether the signature is right, `sigv4` tells.

Clients of AWS always sign. Where signatures are not verified, an access key of 12 digits is the account whose namespace
the request is about, so that many may use one server without seeing one another; where they are, each key's record says
for whom it acts. The region goes into the ARNs that the request makes.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from batchyard.domain.names import Caller
from batchyard.domain.values import value_class
from batchyard.gateway.aws_errors import AwsError
from batchyard.gateway.config import ACCOUNT, REGION, GatewayConfig
from batchyard.rpc.identity import Invocation, legal_invocation_id

ALGORITHM: Final = "AWS4-HMAC-SHA256"
_PARTS: Final = frozenset({"Credential", "SignedHeaders", "Signature"})
_CREDENTIAL_BYTES: Final = 16
_REMEMBERED_CREDENTIALS: Final = 64
"""A client sends the same one all day."""
_DATE: Final = re.compile(r"[0-9]{8}")


@dataclass(frozen=True, slots=True)
class Credential:
    """The credential of a SigV4 Authorization header: a key, and the scope of what it signs."""

    access_key: str
    date: str
    region: str
    service: str


@value_class(frozen=True, slots=True)
class Authorization:
    """A SigV4 Authorization header, taken apart."""

    credential: Credential
    signed_headers: tuple[str, ...]
    signature: str


def caller_of(credential: Credential, config: GatewayConfig) -> Caller:
    """Return for whom a request acts whose signature is not verified."""
    account = credential.access_key if ACCOUNT.fullmatch(credential.access_key) else config.account
    return Caller(namespace=account, region=credential.region)


def invocation_of(credential: Credential, invocation_id: str | None) -> Invocation | None:
    """Return which request this is a repetition of, if the client says so."""
    legal = legal_invocation_id(invocation_id)
    if legal is None:
        return None
    return Invocation(legal, blake2b(credential.access_key.encode(), digest_size=_CREDENTIAL_BYTES).hexdigest())


def parse_authorization(header: str | None) -> Authorization:
    """Return what a SigV4 Authorization header says; raise AwsError when it is missing or malformed."""
    if not header:
        raise AwsError(
            403,
            "MissingAuthenticationTokenException",
            "The request has no Authorization header. Use an AWS client with credentials.",
        )
    algorithm, _, rest = header.partition(" ")
    if algorithm != ALGORITHM:
        raise _incomplete(f"the Authorization header must begin with {ALGORITHM}")
    pairs = [part.strip().partition("=")[::2] for part in rest.split(",")]
    parts = dict(pairs)
    for name in sorted(_PARTS):
        if not parts.get(name):
            raise _incomplete(f"the Authorization header lacks {name}")
    if len(pairs) != len(_PARTS):
        raise _incomplete(f"the Authorization header must have {', '.join(sorted(_PARTS))}, each once")
    signed_headers = tuple(parts["SignedHeaders"].split(";"))
    return Authorization(_credential_of(parts["Credential"]), signed_headers, parts["Signature"])


@lru_cache(maxsize=_REMEMBERED_CREDENTIALS)
def _credential_of(text: str) -> Credential:
    # An access key may hold slashes; the scope behind it has exactly four parts.
    parts = text.rsplit("/", 4)
    if len(parts) != 5 or parts[4] != "aws4_request":
        raise _incomplete("Credential must be ACCESS_KEY/DATE/REGION/SERVICE/aws4_request")
    access_key, date, region, service, _ = parts
    if not (access_key and service and _DATE.fullmatch(date) and REGION.fullmatch(region)):
        raise _incomplete("Credential must be ACCESS_KEY/DATE/REGION/SERVICE/aws4_request")
    return Credential(access_key, date, region, service)


def _incomplete(problem: str) -> AwsError:
    return AwsError(400, "IncompleteSignatureException", f"The request is not signed as AWS clients do: {problem}.")
