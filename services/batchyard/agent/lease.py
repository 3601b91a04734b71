"""When each heartbeat was sent, and what its answer is worth. Pure: the caller brings the time."""

from typing import Final, NamedTuple

KILL_BUDGET_S: Final = 15.0
"""Nothing starts with less than this left of the lease, or a third of it if that is less."""


class Term(NamedTuple):
    """What a runtime is allowed by one answer."""

    deadline: float
    """Until when it may run jobs."""
    start_margin_s: float
    """Nothing starts with less than this left."""


class Heartbeats:
    """The heartbeats of one session after the other. Their numbers grow over all of them."""

    def __init__(self) -> None:
        self._last = 0
        self._sent_at: dict[int, float] = {}

    def begin_session(self) -> None:
        """Expect no more answers to what was sent before."""
        self._sent_at.clear()

    def next(self, now: float) -> int:
        """Return the number of a heartbeat that is sent after `now`."""
        self._last += 1
        self._sent_at[self._last] = now
        return self._last

    def answered(self, heartbeat: int, lease_s: float) -> Term | None:
        """Return what an answer allows: the lease, counted from before the heartbeat was sent. None: nothing new."""
        sent_at = self._sent_at.pop(heartbeat, None)
        if sent_at is None:
            return None
        for older in [number for number in self._sent_at if number < heartbeat]:
            del self._sent_at[older]
        return Term(sent_at + lease_s, min(KILL_BUDGET_S, lease_s / 3))
