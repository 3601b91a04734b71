"""Files that hold secrets."""

import os
import stat
from pathlib import Path
from typing import Final

_FORBIDDEN_MODE: Final = stat.S_IWGRP | stat.S_IRWXO


class PrivateFileError(ValueError):
    """A secret that cannot be read, or that is none; the text says why, and what to do."""


def read_private(path: Path) -> bytes:
    """Return what is in a file; raise PrivateFileError if it cannot be read, or others may read or change it."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & _FORBIDDEN_MODE:
                raise PrivateFileError(
                    f"{path} has the mode {mode:04o}, so that others may read or change it: chmod 600 {path}"
                )
            return file.read()
    except OSError as error:
        raise PrivateFileError(f"cannot read {path}: {error.strerror}") from error
