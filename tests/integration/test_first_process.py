"""`batchyard` as the first process of a container: what it owes to the others there."""

import signal
import subprocess
import sys

import pytest

from batchyard.agent.launcher import detach
from support.waiting import soon

# Says how many there are that nobody has reaped, itself left out, whenever it gets a line.
BODY = """
import os, signal, subprocess, sys
from pathlib import Path
from batchyard.cli.init import be_init_if_first
be_init_if_first()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
if os.fork() == 0:
    # Its child is an orphan as soon as it ends itself.
    os.fork()
    os._exit(0)
os.wait()
print(os.getpid(), os.getppid(), flush=True)
for line in sys.stdin:
    # One that is reaped meanwhile has no file any more.
    stats = [subprocess.run(["cat", path], capture_output=True).stdout for path in Path("/proc").glob("[0-9]*/stat")]
    print(sum(b") Z " in stat for stat in stats), flush=True)
"""


def in_namespace(body: str) -> subprocess.Popen[str]:
    command = detach._unshare()
    if command is None:
        pytest.skip("kernel: no PID namespace can be made")
    return subprocess.Popen(
        [*command, sys.executable, "-c", body], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_it_reaps_orphans_passes_signals_on_and_ends_with_the_code_of_the_command() -> None:
    with in_namespace(BODY) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "2 1\n"

        def zombies() -> int:
            print(file=process.stdin, flush=True)
            assert process.stdout is not None
            return int(process.stdout.readline())

        soon(lambda: zombies() == 0, "the orphan is reaped")
        signal_first(process.pid)
        assert process.wait() == 7


def test_a_command_that_is_killed_says_by_which_signal() -> None:
    body = "from batchyard.cli.init import be_init_if_first\nbe_init_if_first()\nimport os\nos.kill(os.getpid(), 9)"
    with in_namespace(body) as process:
        assert process.wait() == 128 + signal.SIGKILL


def signal_first(parent: int) -> None:
    """Send SIGTERM to the first process of the namespace that this one has made."""
    with open(f"/proc/{parent}/task/{parent}/children", encoding="ascii") as children:
        (first,) = children.read().split()
    subprocess.run(["kill", "-TERM", first], check=True)
