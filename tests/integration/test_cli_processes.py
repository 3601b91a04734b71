"""Supervision of a real child process."""

import os
import signal
import sys
from pathlib import Path

import pytest

from batchyard.cli.errors import CannotStartError
from batchyard.cli.processes import started, supervised
from support.waiting import eventually


def child(body: str) -> list[str]:
    """Return a command that runs a few lines of Python."""
    return [sys.executable, "-S", "-c", f"import os, signal, sys, time\n{body}"]


async def test_is_entered_when_the_child_is_ready_and_ends_it_with_sigterm(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    body = (
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(ended)!r}, 'w').close(), sys.exit(0)))\n"
        "print('ready', flush=True)\nsignal.pause()"
    )
    async with supervised(child(body)):
        assert not ended.exists()
    assert ended.exists()


async def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    body = f"print(os.getpid(), file=open({str(starts)!r}, 'a'))\nprint('ready', flush=True)\nsignal.pause()"
    async with supervised(child(body)):
        os.kill(int(starts.read_text()), signal.SIGKILL)
        await eventually(lambda: len(starts.read_text().split()) == 2)


async def test_a_child_that_dies_before_it_is_ready_is_started_again(tmp_path: Path) -> None:
    before = tmp_path / "before"
    body = (
        f"first = not os.path.exists({str(before)!r})\nopen({str(before)!r}, 'w').close()\n"
        "sys.exit(1) if first else print('ready', flush=True)\nsignal.pause()"
    )
    async with supervised(child(body)):
        assert before.exists()


async def test_a_child_that_says_it_never_can_start_is_not_tried_again(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    with pytest.RaisesGroup(CannotStartError):
        async with supervised(child(f"print('x', file=open({str(starts)!r}, 'a'))\nsys.exit(2)")):
            pytest.fail("entered")
    assert starts.read_text() == "x\n"


async def test_a_child_that_was_started_before_is_kept_and_then_started_anew(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    command = child(f"print(os.getpid(), file=open({str(starts)!r}, 'a'))\nprint('ready', flush=True)\nsignal.pause()")
    async with started(command) as first:
        await eventually(lambda: starts.exists() and starts.read_text().endswith("\n"))
        async with supervised(command, None, first):
            assert starts.read_text() == f"{first.pid}\n"
            first.kill()
            await eventually(lambda: len(starts.read_text().split()) == 2)
        assert first.returncode == -signal.SIGKILL


async def test_a_child_that_nobody_comes_to_keep_is_killed() -> None:
    with pytest.raises(RuntimeError, match="something else"):
        async with started(child("signal.pause()")) as first:
            raise RuntimeError("something else")
    assert first.returncode == -signal.SIGKILL
