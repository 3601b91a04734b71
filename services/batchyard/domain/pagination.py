"""Pages of a listing, by key-set tokens: a token says after which position of which listing the next page begins.

A position names a row's place in the order of the listing, never an offset, so that rows that come and go between two
pages neither hide others nor show them twice. Tokens hold all that they need: they outlive restarts.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from typing import Final

from batchyard.domain.errors import InvalidRequestError

PAGE_SIZE_MAX: Final = 100

_DIGEST_BYTES: Final = 8
_INVALID_TOKEN: Final = "nextToken is not valid for this request."  # noqa: S105

Position = Sequence[str | int]
"""The sort key of the last row of a page, in the order of the listing."""


def encode_token(filter_key: str, position: Position) -> str:
    """Return the token of the page after this position. It is opaque to clients and safe in a URL.

    `filter_key` is any text that is equal for equal listings: operation, namespace and filters, not the page size.
    """
    body = json.dumps(list(position), separators=(",", ":"), ensure_ascii=False).encode()
    return base64.urlsafe_b64encode(_digest(filter_key, body) + body).decode().rstrip("=")


def decode_token(token: str, filter_key: str) -> list[str | int]:
    """Return the position in a token; raise InvalidRequestError if it is unreadable or of another listing."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequestError(_INVALID_TOKEN, field="nextToken") from None
    digest, body = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if digest != _digest(filter_key, body):
        raise InvalidRequestError(_INVALID_TOKEN, field="nextToken")
    position: list[str | int] = json.loads(body)
    return position


def page_size(max_results: int | None, *, maximum: int = PAGE_SIZE_MAX) -> int:
    """Return how many rows a page holds at most; raise InvalidRequestError outside 1 to `maximum`.

    Absent means 100. A page never holds more than 100, also where the operation accepts larger numbers.
    """
    if max_results is None:
        return PAGE_SIZE_MAX
    if not 1 <= max_results <= maximum:
        raise InvalidRequestError(f"maxResults must be between 1 and {maximum}.", field="maxResults")
    return min(max_results, PAGE_SIZE_MAX)


def _digest(filter_key: str, body: bytes) -> bytes:
    """Bind a position to its listing. No secret: whoever forges a token can only ask for another place in a list."""
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES, key=hashlib.blake2b(filter_key.encode()).digest()).digest()
