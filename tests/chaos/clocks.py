"""Wall clocks that jump, one for each process: libfaketime leaves the monotonic clocks and the machine's own alone."""

from pathlib import Path
from typing import Final

_LIBRARIES: Final = "/usr/lib/*/faketime/libfaketimeMT.so.1"


class Clocks:
    """What each process is told of the time of day."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._library = next(iter(Path("/").glob(_LIBRARIES.removeprefix("/"))), None)
        self.why_not = "" if self._library else "no libfaketime (apt-get install faketime)"

    def environment(self, name: str) -> dict[str, str]:
        """Return the variables under which a process lives by its own clock."""
        if self._library is None:
            return {}
        if not self._file(name).exists():
            self.jump(name, 0)
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file(name)),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # With it, gRPC threads spin: they wait by the monotonic clock already.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "FAKETIME_DISABLE_SHM": "1",
            "NO_FAKE_STAT": "1",
        }

    def jump(self, name: str, seconds: int) -> None:
        """Set a clock off by so much, from within a second on."""
        fresh = self._file(f"{name}.new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.rename(self._file(name))

    def _file(self, name: str) -> Path:
        return self._folder / name
