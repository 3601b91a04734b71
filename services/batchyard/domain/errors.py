"""What can go wrong, in the domain's words.

Every error carries a stable `reason`, which travels as `ErrorInfo.reason`, and where it is about one member of a
request, the member's AWS name as `field`. `batchyard.rpc.errors` maps the classes to gRPC codes, the gateway maps
those to AWS's errors; nobody matches on message text.
"""

from typing import ClassVar


class BatchyardError(Exception):
    """An error that a caller is told about."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidRequestError(BatchyardError):
    """A request that can never succeed as it stands."""

    reason = "INVALID_REQUEST"


class NotFoundError(BatchyardError):
    """A request that names something that is not there."""

    reason = "NOT_FOUND"


class AlreadyExistsError(BatchyardError):
    """A request to create what is there already."""

    reason = "ALREADY_EXISTS"


class WrongStateError(BatchyardError):
    """A request that the present state of a resource forbids."""

    reason = "WRONG_STATE"


class StaleIncarnationError(WrongStateError):
    """An agent that was given up, or that a newer incarnation has replaced."""

    reason = "STALE_INCARNATION"


class NotAllowedError(BatchyardError):
    """A request that its caller has no right to, whatever the state of things."""

    reason = "NOT_ALLOWED"


class SupersededError(BatchyardError):
    """A stream that a newer one of its kind has replaced."""

    reason = "SUPERSEDED"


class HistoryGoneError(BatchyardError):
    """A watch from a revision whose events are no longer kept."""

    reason = "HISTORY_GONE"


class UnavailableError(BatchyardError):
    """Something that may succeed when tried again."""

    reason = "UNAVAILABLE"
