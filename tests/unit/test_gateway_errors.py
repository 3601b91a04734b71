"""From a gRPC status to the error that an AWS client understands."""

import grpc
import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from batchyard.gateway.aws_errors import AWS_JSON, REST_JSON, AwsError, Protocol, aws_error_of
from support.gateway import status_details


def rpc_error(code: StatusCode, text: str = "inner", *, by_a_service: bool = False) -> AioRpcError:
    trailing = Metadata(*status_details(code, text, "REASON")) if by_a_service else Metadata()
    return AioRpcError(code, Metadata(), trailing, text)


@pytest.mark.parametrize(
    ("code", "batch", "logs"),
    [
        (StatusCode.INVALID_ARGUMENT, (400, "ClientException"), (400, "InvalidParameterException")),
        (StatusCode.NOT_FOUND, (400, "ClientException"), (400, "ResourceNotFoundException")),
        (StatusCode.ALREADY_EXISTS, (400, "ClientException"), (400, "InvalidParameterException")),
        (StatusCode.FAILED_PRECONDITION, (400, "ClientException"), (400, "InvalidParameterException")),
        (StatusCode.OUT_OF_RANGE, (400, "ClientException"), (400, "InvalidParameterException")),
        (StatusCode.UNIMPLEMENTED, (400, "ClientException"), (400, "InvalidParameterException")),
        (StatusCode.UNAUTHENTICATED, (403, "UnrecognizedClientException"), (403, "UnrecognizedClientException")),
        (StatusCode.PERMISSION_DENIED, (403, "AccessDeniedException"), (403, "AccessDeniedException")),
        (StatusCode.RESOURCE_EXHAUSTED, (429, "TooManyRequestsException"), (400, "ThrottlingException")),
        (StatusCode.ABORTED, (500, "ServerException"), (500, "ServiceUnavailableException")),
        (StatusCode.CANCELLED, (500, "ServerException"), (500, "ServiceUnavailableException")),
        (StatusCode.DATA_LOSS, (500, "ServerException"), (500, "ServiceUnavailableException")),
        (StatusCode.DEADLINE_EXCEEDED, (500, "ServerException"), (500, "ServiceUnavailableException")),
        (StatusCode.INTERNAL, (500, "ServerException"), (500, "ServiceUnavailableException")),
        (StatusCode.UNAVAILABLE, (500, "ServerException"), (500, "ServiceUnavailableException")),
        (StatusCode.UNKNOWN, (500, "ServerException"), (500, "ServiceUnavailableException")),
    ],
)
def test_every_status_has_its_type_in_each_protocol(
    code: StatusCode, batch: tuple[int, str], logs: tuple[int, str]
) -> None:
    errors = [aws_error_of(rpc_error(code), protocol) for protocol in (REST_JSON, AWS_JSON)]
    assert [(error.status, error.error_type) for error in errors] == [batch, logs]


@pytest.mark.parametrize("code", [code for code in StatusCode if code is not StatusCode.OK])
def test_passes_on_what_a_service_says(code: StatusCode) -> None:
    error = aws_error_of(rpc_error(code, "JobQueue q not found.", by_a_service=True), REST_JSON)
    assert error.message == "JobQueue q not found."


@pytest.mark.parametrize(
    "code",
    [
        StatusCode.UNAVAILABLE,
        StatusCode.UNKNOWN,
        StatusCode.INTERNAL,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.UNIMPLEMENTED,
    ],
)
def test_keeps_to_itself_what_the_transport_says(code: StatusCode) -> None:
    error = aws_error_of(rpc_error(code, "failed to connect to 10.0.0.1:4711"), REST_JSON)
    assert "10.0.0.1" not in error.message
    assert error.message


def test_a_call_without_a_text_gives_an_empty_message() -> None:
    silent = grpc.aio.AioRpcError(StatusCode.NOT_FOUND, Metadata(), Metadata())
    assert aws_error_of(silent, REST_JSON).message == ""


@pytest.mark.parametrize(
    ("protocol", "body"),
    [(REST_JSON, b'{"message":"no"}'), (AWS_JSON, b'{"__type":"SomeException","message":"no"}')],
)
def test_bodies_are_in_the_form_of_the_protocol(protocol: Protocol, body: bytes) -> None:
    assert protocol.body_of(AwsError(400, "SomeException", "no"), "request-id") == body
