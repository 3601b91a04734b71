import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import pairwise

import grpc
import grpc.aio
import pytest

from batchyard.domain.errors import HistoryGoneError
from batchyard.rpc.reconnect import reconnecting

UNAVAILABLE = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, details="nobody there")


class Over(BaseException):
    """Ends a test's endless loop."""


class Script:
    """Attempts that end as told, on a clock that only the script moves."""

    def __init__(self, *ends: Exception | None, lasting_s: float = 0.0) -> None:
        self._ends = list(ends)
        self._lasting_s = lasting_s
        self._now_s = 0.0
        self.pauses: list[float] = []

    async def attempt(self) -> None:
        if not self._ends:
            raise Over
        self._now_s += self._lasting_s
        end = self._ends.pop(0)
        if end is not None:
            raise end

    async def sleep(self, seconds: float) -> None:
        self._now_s += seconds
        self.pauses.append(seconds)

    async def play(self) -> list[float]:
        with pytest.raises(Over):
            await run(self.attempt, self.sleep, lambda: self._now_s)
        return self.pauses


async def run(
    attempt: Callable[[], Awaitable[None]], sleep: Callable[[float], Awaitable[None]], now_s: Callable[[], float]
) -> None:
    await reconnecting(attempt, name="registry", backoff_min_s=1, backoff_max_s=8, sleep=sleep, now_s=now_s)


async def test_pauses_grow_to_their_bound() -> None:
    pauses = await Script(*[UNAVAILABLE] * 7).play()
    for pause, full in zip(pauses, (1, 2, 4, 8, 8, 8, 8), strict=True):
        assert full / 2 <= pause <= full


async def test_a_stream_that_ends_in_order_is_opened_again() -> None:
    assert len(await Script(None, None).play()) == 2


async def test_pauses_start_over_after_an_attempt_that_lasted() -> None:
    pauses = await Script(*[UNAVAILABLE] * 5, lasting_s=9).play()
    assert all(pause <= 1 for pause in pauses)


@pytest.mark.parametrize(
    "outage",
    [
        UNAVAILABLE,
        HistoryGoneError("too far behind"),
        ConnectionResetError(),
        TimeoutError(),
        asyncio.InvalidStateError("RPC already finished."),
        ExceptionGroup("tasks", [UNAVAILABLE, ExceptionGroup("more", [TimeoutError()])]),
    ],
)
async def test_outages_are_outlived(outage: Exception) -> None:
    assert len(await Script(outage).play()) == 1


@pytest.mark.parametrize("defect", [KeyError("x"), ExceptionGroup("tasks", [UNAVAILABLE, KeyError("x")])])
async def test_defects_are_raised(defect: Exception) -> None:
    script = Script(defect)
    with pytest.raises(type(defect)):
        await run(script.attempt, script.sleep, lambda: 0.0)


async def test_cancellation_is_raised() -> None:
    entered = asyncio.Event()

    async def attempt() -> None:
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(run(attempt, asyncio.sleep, lambda: 0.0))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    await Script(*[UNAVAILABLE] * 5).play()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("batchyard.")] == [
        "lost registry: UNAVAILABLE: nobody there"
    ]


async def test_the_pauses_of_many_are_spread() -> None:
    pauses = sorted([(await Script(UNAVAILABLE).play())[0] for _ in range(20)])
    assert any(one != other for one, other in pairwise(pauses))
