"""Starts what outlives its agent: the launcher of processes, the guard of containers."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from batchyard.agent.launcher import wire
from batchyard.agent.launcher.detach import Options

_PROGRAM: Final = str(Path(wire.__file__).parent / "__main__.py")


def start_detached(folder: Path, options: Options) -> None:
    """Start a launcher or guard in this folder, as no child of this process; its log of before is kept once."""
    with suppress(FileNotFoundError):
        (folder / "log").rename(folder / "log.1")
    subprocess.run(  # noqa: S603
        [sys.executable, "-I", "-S", _PROGRAM, options.encode(), "detach"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
        env={"PATH": os.environ.get("PATH", os.defpath)},
    )
