"""The machine's clocks."""

import time


class SystemClock:
    """The clock of production: CLOCK_REALTIME for stamps, CLOCK_BOOTTIME for decisions."""

    def now_ms(self) -> int:
        """Return the wall clock, in milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Return seconds since boot, time asleep included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
