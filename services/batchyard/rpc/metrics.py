"""What servers measure: how many calls of each method ended how, how long they took, how many streams are open."""

import time
from collections.abc import Callable
from typing import Any, Final

import grpc
import grpc.aio
from anyio import get_cancelled_exc_class
from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from batchyard.rpc.interception import Behavior, CallInterceptor, Context, Method

# When each sample began: three series more for every histogram, which nobody plots.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it comes without types

CALLS: Final = Counter("batchyard_rpc_calls", "Calls that ended.", ["method", "code"])
DURATION: Final = Histogram(
    "batchyard_rpc_call_seconds",
    "Time that calls with a single response took.",
    ["method"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
OPEN_STREAMS: Final = Gauge("batchyard_rpc_open_streams", "Calls with a stream of responses in progress.", ["method"])


class Measuring(CallInterceptor):
    """Counts and times the calls of a server; the messages of a stream cost nothing."""

    def around(self, method: Method, behavior: Behavior) -> Behavior:
        """Measure a method."""
        name = method.path[1:]
        count = _counter_of(name)
        return _measured_stream(name, behavior, count) if method.response_streaming else _timed(name, behavior, count)


def _timed(name: str, behavior: Behavior, count: Callable[[str], None]) -> Behavior:
    observe = DURATION.labels(name).observe

    async def timed(request: Any, context: Context) -> Any:
        begin = time.perf_counter()
        code = "UNKNOWN"
        try:
            response = await behavior(request, context)
            code = _code_set(context)
        except BaseException as error:
            code = _code_of(error, context)
            raise
        finally:
            observe(time.perf_counter() - begin)
            count(code)
        return response

    return timed


def _measured_stream(name: str, behavior: Behavior, count: Callable[[str], None]) -> Behavior:
    open_streams = OPEN_STREAMS.labels(name)

    async def measured(request: Any, context: Context) -> None:
        code = "UNKNOWN"
        open_streams.inc()
        try:
            await behavior(request, context)
            code = _code_set(context)
        except BaseException as error:
            code = _code_of(error, context)
            raise
        finally:
            open_streams.dec()
            count(code)

    return measured


def _counter_of(name: str) -> Callable[[str], None]:
    increments: dict[str, Callable[[], None]] = {}

    def count(code: str) -> None:
        increment = increments.get(code)
        if increment is None:
            increment = increments[code] = CALLS.labels(name, code).inc
        increment()

    return count


def _code_set(context: Context) -> str:
    code: grpc.StatusCode | None = context.code()
    return "OK" if code is None else code.name


def _code_of(error: BaseException, context: Context) -> str:
    if isinstance(error, grpc.aio.AbortError):
        return _code_set(context)
    return "CANCELLED" if isinstance(error, get_cancelled_exc_class()) else "UNKNOWN"
