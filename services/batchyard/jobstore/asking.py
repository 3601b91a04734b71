"""Questions that many ask at once, asked once for all of them.

An answer must be at least as new as the question: who comes while one is being asked shares the next one, not that.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Questions(Generic[T]):
    """Questions by key; one of each key is asked at a time."""

    def __init__(self) -> None:
        self._next: dict[Hashable, asyncio.Task[T]] = {}
        """Not asked yet: whoever comes may join."""
        self._asked: dict[Hashable, asyncio.Task[T]] = {}

    async def ask(self, key: Hashable, question: Callable[[], Awaitable[T]]) -> T:
        """Return the answer of a question that is asked from now on, once for all who wait; raise what it raises.

        Whoever is cancelled leaves the question to the others.
        """
        task = self._next.get(key)
        if task is None:
            task = self._next[key] = asyncio.get_running_loop().create_task(self._run(key, question))
            task.add_done_callback(_look_at)
        return await asyncio.shield(task)

    async def _run(self, key: Hashable, question: Callable[[], Awaitable[T]]) -> T:
        if (before := self._asked.get(key)) is not None:
            await asyncio.wait([before])
        self._asked[key] = self._next.pop(key)
        try:
            return await question()
        finally:
            del self._asked[key]


def _look_at(task: asyncio.Task[T]) -> None:
    """Let an error be known, also if nobody waits for it any more."""
    if not task.cancelled():
        task.exception()
