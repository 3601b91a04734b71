"""The domain's errors on the wire, in both directions.

    | domain error           | gRPC code           |
    | ---------------------- | ------------------- |
    | InvalidRequestError    | INVALID_ARGUMENT    |
    | NotFoundError          | NOT_FOUND           |
    | AlreadyExistsError     | ALREADY_EXISTS      |
    | WrongStateError        | FAILED_PRECONDITION |
    | NotAllowedError        | PERMISSION_DENIED   |
    | SupersededError        | ABORTED             |
    | HistoryGoneError       | OUT_OF_RANGE        |
    | UnavailableError       | UNAVAILABLE         |
    | any other              | INTERNAL            |

Beside the code and the message travel an `ErrorInfo` with the error's reason and, for an error about one member, a
`BadRequest` that names it. An exception that is no domain error is a defect: it is logged under a request id, and the
caller learns that id and nothing else.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, cast

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from batchyard.domain import errors
from batchyard.domain.errors import BatchyardError
from batchyard.rpc.interception import Behavior, CallInterceptor, Context, Method
from batchyard.rpc.log_context import Request, begin_request, current_request, request_metadata

_LOG: Final = logging.getLogger(__name__)

ERROR_DOMAIN: Final = "batchyard"
"""`ErrorInfo.domain` of every error of ours."""
_DETAILS_KEY: Final = "grpc-status-details-bin"

GRPC_CODE: Final[dict[type[BatchyardError], grpc.StatusCode]] = {
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.WrongStateError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotAllowedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.SupersededError: grpc.StatusCode.ABORTED,
    errors.HistoryGoneError: grpc.StatusCode.OUT_OF_RANGE,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    BatchyardError: grpc.StatusCode.INTERNAL,
}
"""The code of each class of errors; a subclass has that of its nearest ancestor here."""

_UNREACHED: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)
"""Codes of a call that may succeed when tried again."""


def code_of(error: BatchyardError) -> grpc.StatusCode:
    """Return the gRPC code of an error."""
    return next(GRPC_CODE[ancestor] for ancestor in type(error).__mro__ if ancestor in GRPC_CODE)


def status_of(error: BatchyardError) -> status_pb2.Status:
    """Return the rich status of an error."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN)
    details = [_packed(info)]
    if error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    return _status(code_of(error), error.message, details)


def error_from(error: grpc.aio.AioRpcError) -> BatchyardError:
    """Return the domain error that a failed call stands for.

    A server of ours named its class by its reason, any other by its code. What only says that the server was not
    reached becomes an UnavailableError.
    """
    message = error.details() or error.code().name
    reason = field = None
    for detail in _details_of(error):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            reason = _unpacked(detail, error_details_pb2.ErrorInfo).reason
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            violations = _unpacked(detail, error_details_pb2.BadRequest).field_violations
            field = violations[0].field if violations else None
    if error.code() in _UNREACHED:
        return errors.UnavailableError(message)
    candidates = [kind for kind, code in GRPC_CODE.items() if code is error.code()]
    kind = candidates[0] if candidates else BatchyardError
    kind = next((descendant for descendant in _plain_family(kind) if descendant.reason == reason), kind)
    return kind(message, field=field)


@contextmanager
def domain_errors() -> Iterator[None]:
    """Turn the failures of calls in the block into domain errors."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise error_from(error) from error


class ErrorMapping(CallInterceptor):
    """Ends calls whose handlers raise with the status that the exception calls for.

    A call to another service that failed ends its caller's call alike; that service not being reached is UNAVAILABLE.
    """

    def around(self, method: Method, behavior: Behavior) -> Behavior:
        """Map the exceptions of a method."""

        async def mapped(request: Any, context: Context) -> Any:
            try:
                return await behavior(request, context)
            except Exception as error:
                await _end_call(method, context, error)

        return mapped


async def _end_call(method: Method, context: Context, error: Exception) -> NoReturn:
    for cause in _causes(error):
        if isinstance(cause, grpc.aio.AbortError):
            raise cause  # the handler has ended the call itself
    if current_request() is None:
        begin_request(Request(context=context))
    status = status_of_failure(error, method.path)
    details = ((_DETAILS_KEY, status.SerializeToString()), *request_metadata())
    await context.abort(_CODES[status.code], status.message, details)


def status_of_failure(error: Exception, path: str) -> status_pb2.Status:
    """Return the status with which a call of a method ends whose handler has raised an exception; log a defect."""
    causes = list(_causes(error))
    first = causes[0]
    if not all(isinstance(cause, BatchyardError | grpc.aio.AioRpcError) for cause in causes):
        return _status_of_defect(error, path)
    return status_of(first) if isinstance(first, BatchyardError) else _status_like(cast("grpc.aio.AioRpcError", first))


def failure_with(status: status_pb2.Status) -> grpc.aio.AioRpcError:
    """Return what the caller of a call meets that ended with a status."""
    details = () if not status.details else ((_DETAILS_KEY, status.SerializeToString()),)
    return grpc.aio.AioRpcError(_CODES[status.code], grpc.aio.Metadata(), grpc.aio.Metadata(*details), status.message)


def _causes(error: Exception) -> Iterator[Exception]:
    """Take apart what the task groups of a handler have put together."""
    if isinstance(error, ExceptionGroup):
        for part in error.exceptions:
            yield from _causes(part)
    else:
        yield error


def _status_like(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    if error.code() in _UNREACHED:
        return status_of(errors.UnavailableError(error.details() or ""))
    return _status(error.code(), error.details() or "", _details_of(error))


def _status_of_defect(error: Exception, path: str) -> status_pb2.Status:
    """Log an exception; return what its caller may know."""
    known = current_request()
    request_id = Request().request_id if known is None else known.request_id
    _LOG.error("%s failed", path, exc_info=error)
    info = error_details_pb2.ErrorInfo(reason=BatchyardError.reason, domain=ERROR_DOMAIN)
    request = error_details_pb2.RequestInfo(request_id=request_id)
    return _status(
        grpc.StatusCode.INTERNAL, f"Internal error, request id {request_id}", [_packed(info), _packed(request)]
    )


_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


def _status(code: grpc.StatusCode, message: str, details: list[any_pb2.Any]) -> status_pb2.Status:
    return status_pb2.Status(code=code.value[0], message=message, details=details)


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _details_of(error: grpc.aio.AioRpcError) -> list[any_pb2.Any]:
    raw = (error.trailing_metadata() or {}).get(_DETAILS_KEY)
    if not isinstance(raw, bytes):
        return []
    try:
        return list(status_pb2.Status.FromString(raw).details)
    except DecodeError:
        return []


def _unpacked(detail: any_pb2.Any, kind: Any) -> Any:
    message = kind()
    detail.Unpack(message)
    return message


def _plain_family(kind: type[BatchyardError]) -> Iterator[type[BatchyardError]]:
    """Return a class and its descendants, save those that cannot be made from a message and a field alone."""
    if kind.__init__ is BatchyardError.__init__:
        yield kind
    for child in kind.__subclasses__():
        yield from _plain_family(child)
