"""What the requests of several operations have in common: their pages."""

from google.protobuf.message import Message

from batchyard.domain.errors import InvalidRequestError


def checked_limit(limit: int | None, maximum: int) -> int:
    """Return how many entries a page may have, at most and by default `maximum`; raise InvalidRequestError."""
    if limit is None:
        return maximum
    if not 1 <= limit <= maximum:
        bound = "greater than or equal to 1" if limit < 1 else f"less than or equal to {maximum}"
        raise InvalidRequestError(
            f"1 validation error detected: Value '{limit}' at 'limit' failed to satisfy constraint: "
            f"Member must have value {bound}",
            field="limit",
        )
    return limit


def listing_key(request: Message, namespace: str) -> str:
    """Return what the requests for all pages of one listing have in common."""
    bare = type(request)()
    bare.CopyFrom(request)
    for member in ("next_token", "limit"):
        bare.ClearField(member)
    return f"{request.DESCRIPTOR.name} {namespace} {bare.SerializeToString(deterministic=True)!r}"
