"""The lease of an agent on disk: until when its containers may run, for whoever has not heard the agent say so.

It is written in place, so that a disk that is full takes it too, and holds the deadline twice, so that a reader knows
half a write from a whole one. Nothing is synced: what a machine loses when it dies, it loses with its containers.
"""

import os

_BYTES_MAX = 256


class LeaseFile:
    """A deadline (CLOCK_BOOTTIME, seconds) that counts in this run of the kernel."""

    def __init__(self, path: str, boot_id: str) -> None:
        """Open it; a new one holds a lease that is over."""
        self._boot_id = boot_id
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not os.fstat(self._fd).st_size:
            self.write(0.0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def write(self, deadline: float) -> None:
        """Put a deadline in place of the one before."""
        text = f"{deadline:018.6f}"
        os.pwrite(self._fd, f"{self._boot_id} {text} {text}\n".encode(), 0)

    def read(self) -> float | None:
        """Return the deadline, minus infinity if it is of another boot; None if it is just being written."""
        parts = os.pread(self._fd, _BYTES_MAX, 0).decode(errors="replace").split()
        try:
            boot_id, first, second = parts[:3]
            if first != second:
                return None
            deadline = float(first)
        except ValueError:
            return None
        return deadline if boot_id == self._boot_id else float("-inf")
