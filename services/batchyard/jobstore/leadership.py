"""Which scheduler may lead. Pure: the caller brings the time, in seconds of a clock that goes on while it sleeps."""

from batchyard.domain.clock import CLOCK_MARGIN
from batchyard.storage.jobs import Counters


class Leadership:
    """The lease of the leader, as the store sees it: never shorter than the leader itself believes."""

    def __init__(self, lease_s: float | None, *, holder: str | None, now: float) -> None:
        """Begin as a store that has just started: whoever led before it may still do so, None if that is not known.

        With a `lease_s` of None the store and its one scheduler are the same process, and nobody needs to wait.
        """
        self._lease_s = lease_s
        self._holder = holder
        self._until = now if holder == "" else self._end_of_lease(now)

    @property
    def lease_ms(self) -> int:
        """What a scheduler is told of its lease; 0 for none."""
        return int((self._lease_s or 0) * 1000)

    def wait_s(self, scheduler_id: str, now: float) -> float:
        """Return how long a scheduler must wait at least before it may lead; 0 if it may now."""
        if self._lease_s is None or scheduler_id == self._holder:
            return 0
        return max(0.0, self._until - now)

    def take(self, scheduler_id: str, now: float) -> None:
        """Let a scheduler lead that need not wait."""
        assert self.wait_s(scheduler_id, now) == 0, "two schedulers lead"
        self._holder = scheduler_id
        self._until = self._end_of_lease(now)

    def renew(self, scheduler_id: str, now: float) -> bool:
        """Lengthen the lease, if it is this scheduler's; return whether it is."""
        if scheduler_id != self._holder:
            return False
        self._until = self._end_of_lease(now)
        return True

    def resign(self, scheduler_id: str) -> None:
        """End a lease whose holder says that it leads no more."""
        if scheduler_id == self._holder:
            self._holder = ""
            self._until = float("-inf")

    def _end_of_lease(self, now: float) -> float:
        return now + (self._lease_s or 0) * CLOCK_MARGIN


def holder_of(counters: Counters) -> str | None:
    """Return who led when the store stopped; empty: nobody; None: a store that was set back does not know."""
    return None if counters.set_back else counters.leader.scheduler_id
