"""Waiting for what happens in other processes or behind a server, which tell nobody: by asking again and again."""

import inspect
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

import anyio

T = TypeVar("T")

PATIENCE_S = 60.0
"""How long anything in a test may take before it counts as not happening."""
POLL_S = 0.02


@overload
async def eventually(condition: Callable[[], Coroutine[Any, Any, T | None]], what: str = "") -> T: ...


@overload
async def eventually(condition: Callable[[], T | None], what: str = "") -> T: ...


async def eventually(condition: Callable[[], Any], what: str = "") -> Any:
    """Return what the condition returns, awaited if need be, once that is true; fail if it never is."""
    with anyio.move_on_after(PATIENCE_S):
        while True:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            await anyio.sleep(POLL_S)
    raise AssertionError(f"not seen within {PATIENCE_S:.0f} s: {what or condition}")


def soon(condition: Callable[[], T | None], what: str = "") -> T:
    """Do what `eventually` does, in a test that is not asynchronous."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not seen within {PATIENCE_S:.0f} s: {what or condition}"
        time.sleep(POLL_S)
    return value
