"""Errors as AWS writes them, in the two protocols that its clients speak to this server.

| gRPC status                         | AWS Batch (REST-JSON)        | CloudWatch Logs (JSON 1.1)      |
| ----------------------------------- | ---------------------------- | ------------------------------- |
| NOT_FOUND                           | 400 ClientException          | 400 ResourceNotFoundException   |
| INVALID_ARGUMENT, ALREADY_EXISTS,   | 400 ClientException          | 400 InvalidParameterException   |
| FAILED_PRECONDITION, OUT_OF_RANGE,  |                              |                                 |
| UNIMPLEMENTED                       |                              |                                 |
| UNAUTHENTICATED                     | 403 UnrecognizedClientException                                |
| PERMISSION_DENIED                   | 403 AccessDeniedException                                      |
| RESOURCE_EXHAUSTED                  | 429 TooManyRequestsException | 400 ThrottlingException         |
| all others, worth trying again      | 500 ServerException          | 500 ServiceUnavailableException |
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import grpc.aio
import msgspec
from grpc import StatusCode

STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
"""Trailing metadata with a google.rpc.Status: a service of ours wrote this error, not the transport."""

_CLIENT_CODES: Final = frozenset(
    {
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
        StatusCode.ALREADY_EXISTS,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.OUT_OF_RANGE,
    }
)
_TRANSPORT_TEXTS: Final[Mapping[StatusCode, str]] = {
    StatusCode.UNIMPLEMENTED: "The operation is not supported by this server.",
    StatusCode.RESOURCE_EXHAUSTED: "Too Many Requests",
    StatusCode.DEADLINE_EXCEEDED: "The request took too long.",
    StatusCode.UNAVAILABLE: "The service is not available at the moment.",
}


class AwsError(Exception):
    """An error that is the answer to a request."""

    def __init__(self, status: int, error_type: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.message = message
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Protocol:
    """How one family of AWS's services writes its answers."""

    content_type: str
    client_error: str
    """Type of the error for a request that can never succeed."""
    server_error: str
    throttled: tuple[int, str]
    signing_name: str
    """Of the service, in the credential scope of a request."""
    type_in_body: bool
    """The error's type stands in the body as `__type`, not only in the header."""
    client_errors: Mapping[StatusCode, str] = field(default_factory=dict)
    """Types of errors for single statuses, where they differ from `client_error`."""

    def error_of(self, code: StatusCode) -> tuple[int, str]:
        """Return the HTTP status and the error type for a gRPC status."""
        if code in _CLIENT_CODES or code is StatusCode.UNIMPLEMENTED:
            return 400, self.client_errors.get(code, self.client_error)
        match code:
            case StatusCode.UNAUTHENTICATED:
                return 403, "UnrecognizedClientException"
            case StatusCode.PERMISSION_DENIED:
                return 403, "AccessDeniedException"
            case StatusCode.RESOURCE_EXHAUSTED:
                return self.throttled
            case _:
                return 500, self.server_error

    def body_of(self, error: AwsError, _request_id: str) -> bytes:
        """Return the body of an error's answer."""
        body = {"message": error.message}
        return msgspec.json.encode({"__type": error.error_type} | body if self.type_in_body else body)


REST_JSON: Final = Protocol(
    content_type="application/json",
    client_error="ClientException",
    server_error="ServerException",
    throttled=(429, "TooManyRequestsException"),
    signing_name="batch",
    type_in_body=False,
)
"""AWS Batch."""

AWS_JSON: Final = Protocol(
    content_type="application/x-amz-json-1.1",
    client_error="InvalidParameterException",
    server_error="ServiceUnavailableException",
    throttled=(400, "ThrottlingException"),
    signing_name="logs",
    type_in_body=True,
    client_errors={StatusCode.NOT_FOUND: "ResourceNotFoundException"},
)
"""CloudWatch Logs."""


def aws_error_of(error: grpc.aio.AioRpcError, protocol: Protocol) -> AwsError:
    """Return what a client is told of a failed call.

    A text that a service wrote is passed on; what the transport says (addresses, names of exceptions) is not.
    """
    status, error_type = protocol.error_of(error.code())
    return AwsError(status, error_type, _text_of(error))


def _text_of(error: grpc.aio.AioRpcError) -> str:
    written_by_a_service = any(key == STATUS_DETAILS_KEY for key, _ in error.trailing_metadata() or ())
    if written_by_a_service or error.code() in _CLIENT_CODES:
        return error.details() or ""
    return _TRANSPORT_TEXTS.get(error.code(), "The server failed to handle the request.")
