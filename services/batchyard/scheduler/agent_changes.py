"""Which agents have changed, for those who watch them: noted while somebody does, passed on together."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from batchyard.scheduler.planner import Planner

PASSED_ON_EVERY_S: Final = 1.0
"""Watches are told no more often, however much changes; the first change after so much quiet is told at once."""


class AgentWatch:
    """What one watch has yet to look at."""

    def __init__(self) -> None:
        self._changed: set[str] = set()
        self._news = asyncio.Event()

    def tell(self, agent_ids: Iterable[str]) -> None:
        """Note agents that have changed."""
        self._changed.update(agent_ids)
        self._news.set()

    async def changed(self) -> set[str]:
        """Wait until agents have changed; return the ids of all that have since the last time."""
        await self._news.wait()
        self._news.clear()
        changed, self._changed = self._changed, set()
        return changed


class AgentChanges:
    """Passes on what has changed of agents. What it is told while nobody watches costs one look at that."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._watches: set[AgentWatch] = set()
        self._noted: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._passed_on_at = float("-inf")

    @contextmanager
    def watch(self) -> Iterator[AgentWatch]:
        """Watch for the length of the context."""
        watch = AgentWatch()
        self._watches.add(watch)
        self._planner.use_changed = self.note
        try:
            yield watch
        finally:
            self._watches.remove(watch)
            if not self._watches:
                self._planner.use_changed = None

    def note(self, agent_id: str) -> None:
        """Note that something of an agent has changed, or may have."""
        if not self._watches:
            return
        self._noted.add(agent_id)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(loop.time(), self._passed_on_at + PASSED_ON_EVERY_S), self._pass_on, loop)

    def _pass_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._passed_on_at = None, loop.time()
        noted, self._noted = self._noted, set()
        for watch in self._watches:
            watch.tell(noted)
