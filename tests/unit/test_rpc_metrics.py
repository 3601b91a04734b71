import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from batchyard.domain.errors import NotFoundError
from batchyard.rpc.errors import ErrorMapping
from batchyard.rpc.metrics import Measuring
from support import rpc
from support.rpc import SERVICE, failure_of, text


def value(metric: str, method: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(metric, {"method": f"{SERVICE}/{method}", **labels}) or 0.0


class Counted:
    """How much a count grows."""

    def __init__(self, method: str, code: str) -> None:
        self._labels = (method, code)
        self._before = self._now()

    def _now(self) -> float:
        method, code = self._labels
        return value("batchyard_rpc_calls_total", method, code=code)

    @property
    def growth(self) -> float:
        return self._now() - self._before


async def answer(request: Any, context: Any) -> Any:
    match request.value:
        case "missing":
            raise NotFoundError("missing")
        case "set":
            context.set_code(grpc.StatusCode.DATA_LOSS)
        case "defect":
            raise ValueError("defect")
        case "hang":
            await asyncio.Event().wait()
    return request


@pytest.mark.parametrize(
    ("request_text", "code"), [("", "OK"), ("missing", "NOT_FOUND"), ("set", "DATA_LOSS"), ("defect", "INTERNAL")]
)
async def test_calls_are_counted_by_what_their_caller_got(request_text: str, code: str) -> None:
    counted = Counted("UnaryUnary", code)
    timed = value("batchyard_rpc_call_seconds_count", "UnaryUnary")
    async with rpc.in_process(interceptors=[Measuring(), ErrorMapping()], unary_unary=answer) as stub:
        call = stub.unary_unary(text(request_text))
        assert await call.code() is grpc.StatusCode[code]
    assert counted.growth == 1
    assert value("batchyard_rpc_call_seconds_count", "UnaryUnary") == timed + 1


async def test_an_exception_that_nobody_maps_counts_as_unknown() -> None:
    counted = Counted("UnaryUnary", "UNKNOWN")
    async with rpc.in_process(interceptors=[Measuring()], unary_unary=answer) as stub:
        await failure_of(stub.unary_unary(text("defect")))
    assert counted.growth == 1


async def test_cancelled_calls_count_as_such() -> None:
    counted = Counted("UnaryUnary", "CANCELLED")
    async with rpc.in_process(interceptors=[Measuring()], unary_unary=answer) as stub:
        await failure_of(stub.unary_unary(text("hang"), timeout=0.01))
    assert counted.growth == 1


async def test_streams_are_counted_while_they_are_open_and_when_they_end() -> None:
    may_end = asyncio.Event()

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        yield request
        await may_end.wait()

    counted = Counted("UnaryStream", "OK")
    async with rpc.in_process(interceptors=[Measuring()], unary_stream=stream) as stub:
        call = stub.unary_stream(text(""))
        await call.read()
        assert value("batchyard_rpc_open_streams", "UnaryStream") == 1
        assert counted.growth == 0
        may_end.set()
        await call.read()
    assert value("batchyard_rpc_open_streams", "UnaryStream") == 0
    assert counted.growth == 1
