"""Verification of AWS's Signature Version 4, from the request as it came: raw path, raw query, all of the body.

A request that is signed in its query (a presigned one) is refused: no client of these services sends one.
"""

import hmac
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Final
from urllib.parse import parse_qsl, quote

from batchyard.gateway.access_keys import AccessKey
from batchyard.gateway.asgi import Request
from batchyard.gateway.aws_errors import AwsError
from batchyard.gateway.identity import ALGORITHM, Authorization, Credential

CLOCK_SKEW_S: Final = 15 * 60.0
"""How far apart the clocks of client and server may be."""

_DATE_HEADER: Final = "x-amz-date"
_TOKEN_HEADER: Final = "x-amz-security-token"  # noqa: S105  # the name of a header
_TIMESTAMP: Final = "%Y%m%dT%H%M%SZ"
_REMEMBERED_SIGNING_KEYS: Final = 1024
_QUERY_SIGNATURES: Final = ("x-amz-algorithm", "x-amz-credential", "x-amz-signature")
_BLANK: Final = " \t"
_BLANKS: Final = re.compile(f"[{_BLANK}]+")
_NOBODY: Final = AccessKey(secret="", namespace="")
"""Signs for keys that do not exist, so that these take as long as a wrong signature."""


class SignatureVerifier:
    """Knows the access keys of a server, and tells whether a request was signed with one of them."""

    def __init__(
        self, keys: Mapping[str, AccessKey], now: Callable[[], float], *, clock_skew_s: float = CLOCK_SKEW_S
    ) -> None:
        """`now` is the wall clock, in seconds since the epoch."""
        self._keys = keys
        self._now = now
        self._skew = timedelta(seconds=clock_skew_s)
        # Also for keys that do not exist: they are not to be told by their time.
        self._signing_key = lru_cache(_REMEMBERED_SIGNING_KEYS)(_derive)

    def check_head(self, request: Request, authorization: Authorization, service: str) -> None:
        """Raise AwsError for a request that no body can make a well signed one."""
        if any(name.lower() in _QUERY_SIGNATURES for name, _ in _query_of(request)):
            raise AwsError(400, "IncompleteSignatureException", "Signatures in the query are not supported.")
        signed = authorization.signed_headers
        if list(signed) != sorted(set(signed)) or any(name not in request.headers for name in signed):
            raise _invalid("SignedHeaders must be names of headers of this request in lower case, sorted, each once.")
        required = {"host", _DATE_HEADER, *(name for name in request.headers if name.startswith("x-amz-"))}
        for name in sorted(required.difference(signed)):
            raise _invalid(f"'{name}' must be a 'SignedHeader' in the AWS Authorization.")
        credential = authorization.credential
        if credential.service != service:
            raise _invalid(f"Credential should be scoped to correct service: '{service}'.")
        self._check_time(request.headers[_DATE_HEADER], credential)

    def _check_time(self, timestamp: str, credential: Credential) -> None:
        signed_at = _time_of(timestamp)
        if signed_at is None:
            raise _invalid("X-Amz-Date must be a time such as 20300131T235959Z.")
        if credential.date != timestamp[:8]:
            raise _invalid("Date in Credential scope does not match the date of X-Amz-Date.")
        now = datetime.fromtimestamp(self._now(), UTC)
        minutes = f"{self._skew.total_seconds() / 60:g} min."
        if signed_at < now - self._skew:
            raise _invalid(f"Signature expired: {timestamp} is now earlier than {now:{_TIMESTAMP}} - {minutes}")
        if signed_at > now + self._skew:
            raise _invalid(f"Signature not yet current: {timestamp} is still later than {now:{_TIMESTAMP}} + {minutes}")

    def verify(self, request: Request, authorization: Authorization, body: bytes) -> AccessKey:
        """Return the key that has signed a request, whose head was checked; raise AwsError if none has."""
        credential = authorization.credential
        key = self._keys.get(credential.access_key, _NOBODY)
        text = _string_to_sign(request, authorization, body)
        expected = hmac.new(self._signing_key(key.secret, credential), text.encode(), sha256).hexdigest()
        is_signed = hmac.compare_digest(expected.encode(), authorization.signature.encode())
        token = request.headers.get(_TOKEN_HEADER, "")
        is_token = hmac.compare_digest(token.encode("latin-1"), key.session_token.encode("latin-1"))
        if key is _NOBODY or (is_signed and not is_token):
            raise AwsError(403, "UnrecognizedClientException", "The security token included in the request is invalid.")
        if not is_signed:
            raise _invalid(
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
                "Access Key and signing method."
            )
        if key.expires is not None and self._now() >= key.expires.timestamp():
            raise AwsError(403, "ExpiredTokenException", "The security token included in the request is expired.")
        return key


def _derive(secret: str, credential: Credential) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (credential.date, credential.region, credential.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


@lru_cache(64)
def _time_of(timestamp: str) -> datetime | None:
    try:
        return datetime.strptime(timestamp, _TIMESTAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def _string_to_sign(request: Request, authorization: Authorization, body: bytes) -> str:
    credential = authorization.credential
    headers = "".join(
        f"{name}:{_BLANKS.sub(' ', request.headers[name].strip(_BLANK))}\n" for name in authorization.signed_headers
    )
    signed_headers = ";".join(authorization.signed_headers)
    # The path once more, percent signs and all: all services but S3 sign what is sent as if it were not encoded yet.
    path = quote(request.path, safe="/-_.~", encoding="latin-1")
    pairs = [tuple(quote(part, safe="-_.~", encoding="latin-1") for part in pair) for pair in _query_of(request)]
    query = "&".join(f"{name}={value}" for name, value in sorted(pairs))
    canonical = "\n".join((request.verb, path, query, headers, signed_headers, sha256(body).hexdigest()))
    scope = f"{credential.date}/{credential.region}/{credential.service}/aws4_request"
    digest = sha256(canonical.encode("latin-1")).hexdigest()
    return "\n".join((ALGORITHM, request.headers[_DATE_HEADER], scope, digest))


def _query_of(request: Request) -> list[tuple[str, str]]:
    """Return the names and values of the query, its bytes as characters, read as they are when they are acted upon."""
    return parse_qsl(request.query, keep_blank_values=True, encoding="latin-1") if request.query else []


def _invalid(problem: str) -> AwsError:
    return AwsError(403, "InvalidSignatureException", problem)
