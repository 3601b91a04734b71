"""Keeping a long-lived stream going through the outages of its other end."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import anyio
import grpc.aio

from batchyard.domain.errors import BatchyardError

_LOG: Final = logging.getLogger(__name__)

_OUTAGES: Final = (
    grpc.aio.AioRpcError,
    BatchyardError,
    OSError,
    TimeoutError,
    # What grpc.aio raises for a write to a stream that has just ended.
    asyncio.InvalidStateError,
)


async def reconnecting(
    attempt: Callable[[], Awaitable[None]],
    *,
    name: str,
    backoff_min_s: float = 0.05,
    backoff_max_s: float = 2.0,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    now_s: Callable[[], float] = anyio.current_time,
) -> NoReturn:
    """Run `attempt` for ever: when it ends or fails, again after a pause.

    The pause doubles from `backoff_min_s` to `backoff_max_s`, less up to half of it by chance, and starts over after an
    attempt that lasted for `backoff_max_s`. An outage of `name` is logged as a warning when it begins. Failures of
    calls and domain errors count as outages, also as the sole contents of exception groups; everything else, and
    cancellation, is raised.
    """
    pause_s = backoff_min_s
    is_known_outage = False
    while True:
        begin_s = now_s()
        failure: Exception | None = None
        try:
            await attempt()
        except Exception as error:
            if not _is_outage(error):
                raise
            failure = error
        if now_s() - begin_s >= backoff_max_s:
            pause_s = backoff_min_s
            is_known_outage = False
        _LOG.log(logging.DEBUG if is_known_outage else logging.WARNING, "lost %s: %s", name, _summary(failure))
        is_known_outage = True
        await sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnects, guards nothing
        pause_s = min(pause_s * 2, backoff_max_s)


def _is_outage(error: Exception) -> bool:
    if isinstance(error, ExceptionGroup):
        return all(_is_outage(part) for part in error.exceptions)
    return isinstance(error, _OUTAGES)


def _summary(failure: Exception | None) -> str:
    if failure is None:
        return "the stream has ended"
    if isinstance(failure, ExceptionGroup):
        return "; ".join(_summary(part) for part in failure.exceptions)
    if isinstance(failure, grpc.aio.AioRpcError):
        return f"{failure.code().name}: {failure.details()}"
    return f"{type(failure).__name__}: {failure}"
