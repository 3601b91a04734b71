"""Small disks that can be filled and freed, under the folders of a cluster."""

import os
import subprocess
from pathlib import Path
from typing import Final

_CHUNK: Final = bytes(65536)
_LAST_CHUNK: Final = bytes(4096)


class Disks:
    """A tmpfs for each folder, where the machine lets us mount."""

    def __init__(self, folders: dict[str, Path], *, mib: int) -> None:
        """Mount them all, or none. `folders` are named by what is to be harmed."""
        self._folders: dict[str, Path] = {}
        self.why_not = ""
        for name, folder in folders.items():
            folder.mkdir(mode=0o700)
            command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", str(folder)]
            done = subprocess.run(command, check=False, capture_output=True)
            if done.returncode != 0:
                self.why_not = f"nothing can be mounted: {done.stderr.decode().strip().partition(chr(10))[0]}"
                self.close()
                return
            self._folders[name] = folder

    @property
    def names(self) -> list[str]:
        """What can be filled."""
        return list(self._folders)

    def fill(self, name: str) -> None:
        """Leave no room."""
        descriptor = os.open(self._filler(name), os.O_WRONLY | os.O_CREAT)
        try:
            for chunk in (_CHUNK, _LAST_CHUNK):
                try:
                    while os.write(descriptor, chunk) == len(chunk):
                        pass
                except OSError:
                    continue
        finally:
            os.close(descriptor)

    def free(self, name: str) -> None:
        """Make room again."""
        self._filler(name).unlink(missing_ok=True)

    def _filler(self, name: str) -> Path:
        return self._folders[name] / "filler"

    def close(self) -> list[str]:
        """Unmount all, what was on them is lost; return those that somebody still uses."""
        busy = []
        for name in list(self._folders):
            folder = self._folders.pop(name)
            if subprocess.run(["umount", folder], check=False, capture_output=True).returncode != 0:
                subprocess.run(["umount", "-l", folder], check=True, capture_output=True)
                busy.append(f"{folder} is still used")
        return busy


def mounts_below(folder: Path) -> list[str]:
    """Return what is mounted in a folder."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [mount for mount in mounts if Path(mount).is_relative_to(folder)]
