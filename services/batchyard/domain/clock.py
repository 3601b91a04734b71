"""Time as an argument, so that the simulator can own it."""

from typing import Protocol


class Clock(Protocol):
    """What a service asks of time."""

    def now_ms(self) -> int:
        """Return the wall clock, in milliseconds since the epoch. For display and stamps: it decides nothing."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds on a clock that never goes back and goes on while the machine sleeps."""
        ...
