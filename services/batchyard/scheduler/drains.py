"""Which agents are drained, and until when what they run may take. The store keeps the first, this the second.

Limits are counted on the scheduler's own clock from when it was told, so a restart of the scheduler begins them anew.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.errors import NotFoundError, UnavailableError


@dataclass(slots=True)
class _Drain:
    limit_s: float | None
    due_at: float | None
    """When its limit is over; None without a limit, or when the store has been told."""
    confirmed: bool = True
    """Whether the present stream's snapshot has told of it."""


class Drains:
    """All drained agents, and the calls that wait for the store's answer."""

    def __init__(self) -> None:
        self._drains: dict[str, _Drain] = {}
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}

    def __contains__(self, agent_id: str) -> bool:
        return agent_id in self._drains

    def __iter__(self) -> Iterator[str]:
        return iter(self._drains)

    # Calls

    def ask(self) -> tuple[int, asyncio.Future[None]]:
        """Return a number for a request to the store, and what is done when it is answered."""
        number = next(self._numbers)
        self._waiting[number] = future = asyncio.get_running_loop().create_future()
        return number, future

    def forget(self, request: int) -> None:
        """Wait for an answer no longer."""
        self._waiting.pop(request, None)

    # What the store says

    def snapshot_begins(self, now: float) -> None:
        """Begin anew with a stream: what has reached its limit is told again, calls that wait have no answer."""
        for drain in self._drains.values():
            drain.confirmed = False
            if drain.limit_s is not None and drain.due_at is None:
                drain.due_at = now
        error = UnavailableError("the job store has not answered: whether this was done is not known; try again")
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(error)

    def snapshot_ends(self) -> list[str]:
        """Return the agents that are not drained any more; they are forgotten."""
        ended = [agent_id for agent_id, drain in self._drains.items() if not drain.confirmed]
        for agent_id in ended:
            del self._drains[agent_id]
        return ended

    def told(self, message: wire.AgentDrain, now: float) -> None:
        """Take in whether an agent is drained; a request begins its limit anew, a snapshot does not."""
        future = self._waiting.pop(message.request, None)
        if message.unknown:
            if future is not None and not future.done():
                future.set_exception(NotFoundError(f"agent {message.agent_id} does not exist", field="agentId"))
            return
        if not message.draining:
            self._drains.pop(message.agent_id, None)
        else:
            limit_s = message.limit_ms / 1000 if message.HasField("limit_ms") else None
            known = self._drains.get(message.agent_id)
            if known is not None and known.limit_s == limit_s and not message.request:
                known.confirmed = True
            else:
                self._drains[message.agent_id] = _Drain(limit_s, None if limit_s is None else now + limit_s)
        if future is not None and not future.done():
            future.set_result(None)

    # Limits

    def due(self, now: float) -> list[str]:
        """Return the agents whose limit is over, each once for each stream with the store."""
        due = [agent_id for agent_id, drain in self._drains.items() if drain.due_at is not None and drain.due_at <= now]
        for agent_id in due:
            self._drains[agent_id].due_at = None
        return due

    def next_deadline(self) -> float | None:
        """Return when `due` should be asked next; None while there is no limit to come."""
        return min((drain.due_at for drain in self._drains.values() if drain.due_at is not None), default=None)
