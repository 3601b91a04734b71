"""Commands as people and scripts have them: on a terminal that is as wide as it is, and piped."""

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from click.testing import CliRunner, Result

from batchyard.cli.main import main
from support.installation import Installation

CTRL_C: Final = b"\x03"
CTRL_D: Final = b"\x04"

_CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_COLOUR: Final = re.compile(r"\x1b\[(?:\d+;)*3\d(?:;\d+)*m")


def on_terminal(
    up: Installation,
    *arguments: str,
    columns: int = 100,
    until: Callable[[str], bool] | None = None,
    typed: str | None = None,
    **variables: str,
) -> tuple[str, int]:
    """Return what a command writes to the terminal that it has for itself, and its exit code.

    Ctrl-C is typed once it has written enough. `typed` is what it gets to read, up to a Ctrl-D.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {**os.environ, "BATCHYARD_DATA_DIR": str(up.folder), "TERM": "xterm-256color", **variables}
    environment.pop("COLUMNS", None)
    with subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-m", "batchyard.cli", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
    ) as process:
        os.close(slave)
        if typed is not None:
            os.write(master, typed.encode() + CTRL_D)
        written = b""
        while True:
            if until is not None and until(written.decode(errors="replace")):
                os.write(master, CTRL_C)
                until = None
            try:
                chunk = os.read(master, 4096)
            except OSError:  # how a terminal says that nobody has it open any more
                break
            if not chunk:
                break
            written += chunk
    os.close(master)
    return written.decode(), process.returncode


def piped(up: Installation, *arguments: str, stdin: str | None = None, code: int = 0) -> Result:
    """Call a command in this process, as if its output were piped; it is to end with this code, and has no colours."""
    environment = {"BATCHYARD_DATA_DIR": str(up.folder)}
    with _logging_as_before():
        result = CliRunner(env=environment).invoke(main, arguments, input=stdin, catch_exceptions=False)
    assert result.exit_code == code, (result.stdout, result.stderr)
    assert "\x1b" not in result.output
    return result


@contextmanager
def _logging_as_before() -> Iterator[None]:
    """Take back what a command makes of this process's logging: it is a process's own to configure."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def plain(written: str) -> str:
    """Return what was written to a terminal without its orders to the terminal."""
    return _CONTROL.sub("", written)


def has_colour(written: str) -> bool:
    """Whether any of what was written to a terminal is in a colour."""
    return _COLOUR.search(written) is not None
