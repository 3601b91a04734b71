"""Time as an argument, so that the simulator can own it."""

from typing import Final, Protocol

CLOCK_DRIFT: Final = 0.01
"""Bound on how much faster or slower than true time a host's clock runs."""

CLOCK_MARGIN: Final = (1 + CLOCK_DRIFT) / (1 - CLOCK_DRIFT)
"""By how much longer one host must count, on the fastest clock, for another one to have counted on the slowest."""


class Clock(Protocol):
    """What a service asks of time."""

    def now_ms(self) -> int:
        """Return the wall clock, in milliseconds since the epoch. For display and stamps: it decides nothing."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds on a clock that never goes back and goes on while the machine sleeps."""
        ...
