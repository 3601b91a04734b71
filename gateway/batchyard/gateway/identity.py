"""Who sends an AWS request: the credential scope of its Authorization header, parsed and not yet verified.

Clients of AWS always sign. The access key, where it is 12 digits, is the account whose namespace the request is about,
so that many may use one server without seeing one another; the region goes into the ARNs that the request makes.
"""

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from batchyard.domain.names import Caller
from batchyard.gateway.aws_errors import AwsError
from batchyard.gateway.config import ACCOUNT, REGION, GatewayConfig
from batchyard.rpc.identity import Invocation, legal_invocation_id

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_PARTS: Final = ("Credential", "SignedHeaders", "Signature")
_CREDENTIAL_BYTES: Final = 16
_DATE: Final = re.compile(r"[0-9]{8}")


@dataclass(frozen=True, slots=True)
class Credential:
    """The credential of a SigV4 Authorization header: a key, and the scope of what it signs."""

    access_key: str
    date: str
    region: str
    service: str


def caller_of(authorization: str | None, config: GatewayConfig) -> Caller:
    """Return for whom a request acts; raise AwsError when its Authorization header is missing or malformed."""
    credential = parse_authorization(authorization)
    account = credential.access_key if ACCOUNT.fullmatch(credential.access_key) else config.account
    return Caller(namespace=account, region=credential.region)


def invocation_of(authorization: str | None, invocation_id: str | None) -> Invocation | None:
    """Return which request this is a repetition of, if the client says so; the header has passed `caller_of`."""
    legal = legal_invocation_id(invocation_id)
    if legal is None:
        return None
    credential = parse_authorization(authorization)
    return Invocation(legal, blake2b(credential.access_key.encode(), digest_size=_CREDENTIAL_BYTES).hexdigest())


def parse_authorization(authorization: str | None) -> Credential:
    """Return the credential of a SigV4 Authorization header; raise AwsError when it is missing or malformed."""
    if not authorization:
        raise AwsError(
            403,
            "MissingAuthenticationTokenException",
            "The request has no Authorization header. Use an AWS client with any credentials.",
        )
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != _ALGORITHM:
        raise _incomplete(f"the Authorization header must begin with {_ALGORITHM}")
    parts = _parts_of(rest)
    for name in _PARTS:
        if not parts.get(name):
            raise _incomplete(f"the Authorization header lacks {name}")
    return _credential_of(parts["Credential"])


def _parts_of(text: str) -> dict[str, str]:
    pairs = (part.strip().partition("=") for part in text.split(","))
    return {name: value for name, _, value in pairs}


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
    return AwsError(403, "IncompleteSignatureException", f"The request is not signed as AWS clients do: {problem}.")
