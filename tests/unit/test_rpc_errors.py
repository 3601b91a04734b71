import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import anyio
import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from batchyard.cli.logging import ContextFields
from batchyard.domain import errors
from batchyard.domain.errors import BatchyardError
from batchyard.rpc.errors import (
    ERROR_DOMAIN,
    GRPC_CODE,
    ErrorMapping,
    code_of,
    domain_errors,
    error_from,
)
from batchyard.rpc.log_context import REQUEST_ID_KEY
from support import rpc
from support.rpc import failure_of, text

CODES = {
    "BatchyardError": "INTERNAL",
    "InvalidRequestError": "INVALID_ARGUMENT",
    "NotFoundError": "NOT_FOUND",
    "AlreadyExistsError": "ALREADY_EXISTS",
    "WrongStateError": "FAILED_PRECONDITION",
    "StaleIncarnationError": "FAILED_PRECONDITION",
    "NotAllowedError": "PERMISSION_DENIED",
    "SupersededError": "ABORTED",
    "HistoryGoneError": "OUT_OF_RANGE",
    "UnavailableError": "UNAVAILABLE",
}

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, BatchyardError) and kind.__module__ == errors.__name__
]


def details_of(error: grpc.aio.AioRpcError) -> Iterator[Any]:
    raw = error.trailing_metadata()["grpc-status-details-bin"]
    assert isinstance(raw, bytes)
    for detail in status_pb2.Status.FromString(raw).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RequestInfo):
            if detail.Is(kind.DESCRIPTOR):
                message = kind()
                detail.Unpack(message)
                yield message


async def failure(error: Exception, **metadata: str) -> grpc.aio.AioRpcError:
    """Return what the caller sees when a handler raises."""

    async def handler(request: Any, context: Any) -> Any:
        raise error

    async with rpc.in_process(interceptors=[ErrorMapping()], unary_unary=handler) as stub:
        return await failure_of(stub.unary_unary(text(""), metadata=tuple(metadata.items())))


def test_the_table_of_codes_is_complete() -> None:
    assert {kind.__name__: code_of(kind("")).name for kind in CLASSES} == CODES


def test_the_module_lists_the_table() -> None:
    documented = inspect.getdoc(inspect.getmodule(code_of)) or ""
    for kind, code in GRPC_CODE.items():
        assert code.name in documented
        assert kind is BatchyardError or kind.__name__ in documented


@pytest.mark.parametrize("kind", CLASSES)
async def test_every_error_crosses_the_wire_as_itself(kind: type[BatchyardError]) -> None:
    error = await failure(kind("what went wrong", field="jobName"))
    assert (error.code(), error.details()) == (code_of(kind("")), "what went wrong")
    back = error_from(error)
    assert type(back) is kind
    assert back.message == "what went wrong"
    assert back.field == (None if kind is errors.UnavailableError else "jobName")


async def test_the_reason_and_the_field_travel_as_google_details() -> None:
    info, bad_request = details_of(await failure(errors.InvalidRequestError("jobName is required.", field="jobName")))
    assert (info.reason, info.domain) == ("INVALID_REQUEST", ERROR_DOMAIN)
    assert [(it.field, it.description) for it in bad_request.field_violations] == [("jobName", "jobName is required.")]


async def test_a_class_of_ones_own_comes_back_as_its_nearest_ancestor() -> None:
    class QueueNotFoundError(errors.NotFoundError):
        reason = "QUEUE_NOT_FOUND"

        def __init__(self, name: str) -> None:
            super().__init__(f"queue {name} does not exist")

    back = error_from(await failure(QueueNotFoundError("q")))
    assert type(back) is errors.NotFoundError
    assert back.message == "queue q does not exist"


async def test_a_defect_is_logged_and_says_nothing_inside(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(ContextFields())
    error = await failure(KeyError("secret"), **{REQUEST_ID_KEY: "r-17"})
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (error.details() or "")
    assert "r-17" in (error.details() or "")
    assert [it.request_id for it in details_of(error) if hasattr(it, "request_id")] == ["r-17"]
    assert [vars(record)["request_id"] for record in caplog.records if record.name.startswith("batchyard.")] == ["r-17"]
    assert "secret" in caplog.text


async def test_a_defect_without_a_request_id_gets_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(ContextFields())
    error = await failure(ValueError("x"))
    [request_id] = [it.request_id for it in details_of(error) if hasattr(it, "request_id")]
    assert str(UUID(request_id)) == request_id
    assert [vars(record)["request_id"] for record in caplog.records if record.name.startswith("batchyard.")] == [
        request_id
    ]


@pytest.mark.parametrize("nested", [1, 2])
async def test_an_error_out_of_task_groups_counts_as_itself(nested: int) -> None:
    error: Exception = errors.SupersededError("a newer stream")
    for _ in range(nested):
        error = ExceptionGroup("tasks", [error])
    assert (await failure(error)).code() is grpc.StatusCode.ABORTED


async def test_a_defect_beside_a_domain_error_is_a_defect() -> None:
    group = ExceptionGroup("tasks", [errors.SupersededError("a newer stream"), KeyError("x")])
    assert (await failure(group)).code() is grpc.StatusCode.INTERNAL


async def test_an_abort_inside_a_task_group_stands() -> None:
    async def handler(request: Any, context: Any) -> Any:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(context.abort, grpc.StatusCode.DATA_LOSS, "mine")

    async with rpc.in_process(interceptors=[ErrorMapping()], unary_unary=handler) as stub:
        error = await failure_of(stub.unary_unary(text("")))
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "mine")


@pytest.mark.parametrize("shape", ["unary_stream", "stream_unary", "stream_stream"])
async def test_streams_are_mapped_alike(shape: str) -> None:
    async def streaming(request: Any, context: Any) -> AsyncIterator[Any]:
        yield text("a")
        raise errors.HistoryGoneError("gone")

    async def unary(request: Any, context: Any) -> Any:
        raise errors.HistoryGoneError("gone")

    handler = unary if shape == "stream_unary" else streaming
    async with rpc.in_process(interceptors=[ErrorMapping()], **{shape: handler}) as stub:
        if shape == "stream_unary":
            error = await failure_of(stub.stream_unary(iter([])))
        else:
            call = stub.unary_stream(text("")) if shape == "unary_stream" else stub.stream_stream(iter([]))
            assert (await call.read()).value == "a"
            error = await failure_of(call.read())
    assert type(error_from(error)) is errors.HistoryGoneError


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"])
async def test_a_service_behind_that_is_not_reached_is_unavailable(code: str) -> None:
    error = await failure(grpc.aio.AioRpcError(grpc.StatusCode[code], None, None, "no route"))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "no route")


async def test_the_error_of_a_service_behind_is_passed_on_whole() -> None:
    inner = await failure(errors.StaleIncarnationError("lower", field="incarnation"))
    outer = await failure(inner)
    assert (outer.code(), outer.details()) == (inner.code(), inner.details())
    assert list(details_of(outer)) == list(details_of(inner))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("NOT_FOUND", errors.NotFoundError),
        ("FAILED_PRECONDITION", errors.WrongStateError),
        ("DEADLINE_EXCEEDED", errors.UnavailableError),
        ("UNIMPLEMENTED", BatchyardError),
        ("INTERNAL", BatchyardError),
    ],
)
def test_an_error_without_details_is_known_by_its_code(code: str, kind: type[BatchyardError]) -> None:
    error = error_from(grpc.aio.AioRpcError(grpc.StatusCode[code], details="said"))
    assert type(error) is kind
    assert error.message == "said"


def test_details_that_cannot_be_read_are_left_aside() -> None:
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff\xff"))
    error = error_from(grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, None, metadata, "said"))
    assert type(error) is errors.NotFoundError


def test_failed_calls_in_a_block_become_domain_errors() -> None:
    with pytest.raises(errors.AlreadyExistsError, match="taken"), domain_errors():
        raise grpc.aio.AioRpcError(grpc.StatusCode.ALREADY_EXISTS, details="taken")
