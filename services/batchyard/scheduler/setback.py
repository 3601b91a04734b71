"""The time after the job store was set back to an earlier state. Pure: the time comes in as an argument.

A run of the time that the store has forgotten may live on while its agent has a lease, and its job would be offered to
another one. So nothing is offered until every lease that may have been granted before is over; and an agent that comes
meanwhile gets a new one only when the store knows all that it runs.
"""

import math

REASON = (
    "Waiting: the job store was set back to an earlier state. Nothing is started until the leases that agents had "
    "before are over."
)


class SetBack:
    """Counts the time, on this scheduler's own clock, from when the store first told it."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        self._number = 0
        self._over_at = -math.inf
        self._is_told = False

    def told(self, number: int, now: float) -> bool:
        """Take in what the store says at the beginning of a stream; return whether it was set back since the last.

        0: it was not, or that is over. The same number again does not begin the time anew.
        """
        is_new = number not in (0, self._number)
        if is_new:
            self._over_at = now + self.wait_s
        self._number, self._is_told = number, False
        return is_new

    def lengthen(self, wait_s: float) -> None:
        """Wait at least this long: a lease may have been longer than was thought."""
        if wait_s > self.wait_s:
            self._over_at += wait_s - self.wait_s
            self.wait_s = wait_s

    def lasts(self, now: float) -> bool:
        """Tell whether nothing may be offered."""
        return self._number != 0 and now < self._over_at

    def take_over(self, now: float) -> int:
        """Return the number that the store is to be told when the time is over, once on each stream; else 0."""
        if self._is_told or self._number == 0 or now < self._over_at:
            return 0
        self._is_told = True
        return self._number

    def next_deadline(self) -> float | None:
        """Return when `take_over` should be asked next; None if there is nothing to wait for."""
        return self._over_at if self._number and not self._is_told else None
