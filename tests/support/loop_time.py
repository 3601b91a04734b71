"""The time of the running event loop, which passes when a test says so."""

import asyncio

import pytest

TURNS = 10
"""Of the loop, in which what has fallen due is done."""


class LoopTime:
    """Puts timers of the running loop forward; other clocks go on as they do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        own_time, self._ahead_s = loop.time, 0.0
        monkeypatch.setattr(loop, "time", lambda: own_time() + self._ahead_s)

    async def passes(self, seconds: float) -> None:
        """Have all that is due within this time done."""
        self._ahead_s += seconds
        for _ in range(TURNS):
            await asyncio.sleep(0)
