"""Asking the scheduler which jobs of a queue it will place first: it alone knows what shares have used."""

from collections.abc import Sequence
from typing import Final

import anyio

from batchyard.domain.jobs import JobId
from batchyard.jobstore.effects import Effects, FrontRequest
from batchyard.jobstore.feed import Subscription
from batchyard.storage.jobs import QueueKey

PATIENCE_S: Final = 2.0
"""How long a scheduler has for its answer."""


class Fronts:
    """The questions that are open."""

    def __init__(self) -> None:
        self._scheduler: Subscription | None = None
        self._requests = 0
        self._open: dict[int, anyio.Event] = {}
        self._answers: dict[int, Sequence[JobId]] = {}

    def begin(self, scheduler: Subscription) -> None:
        """Ask this scheduler from now on."""
        self._scheduler = scheduler

    def end(self, scheduler: Subscription) -> None:
        """Ask a scheduler no more; without effect if another one has begun."""
        if self._scheduler is scheduler:
            self._scheduler = None

    async def ask(self, queue: QueueKey, limit: int) -> Sequence[JobId] | None:
        """Return the first jobs of a queue, or None if no scheduler says so in time."""
        if self._scheduler is None:
            return None
        self._requests += 1
        request = self._requests
        answered = self._open[request] = anyio.Event()
        self._scheduler.say(Effects(fronts=[FrontRequest(request, queue, limit)]))
        try:
            with anyio.move_on_after(PATIENCE_S):
                await answered.wait()
        finally:
            del self._open[request]
        return self._answers.pop(request, None)

    def answered(self, request: int, job_ids: Sequence[JobId]) -> None:
        """Take in an answer; without effect if nobody waits for it any more."""
        if request in self._open:
            self._answers[request] = job_ids
            self._open[request].set()
