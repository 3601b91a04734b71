"""Plays the crash scenario in this process while the store's disk fails at one write after the other."""

import asyncio
import errno
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from batchyard.storage.sqlite import database
from support.crash_checks import Acknowledged, check_and_finish, check_tables
from support.crash_scenario import play_through_failures
from support.failing_writes import failing_writes

FAILURES_MAX: Final = 3
"""A scheduler that waits for an answer is told nothing while the disk is full: only clients are."""


class _Client:
    """What the scenario speaks to."""

    def __init__(self, heal: Callable[[], bool]) -> None:
        self.acknowledged = Acknowledged()
        self.failures: list[tuple[str, str]] = []
        self._heal = heal

    def send(self, message: tuple[Any, ...]) -> None:
        """Take in what was acknowledged."""
        self.acknowledged.note(message)
        if message[0] == "failed":
            self.failures.append((message[1], message[2]))

    def recv(self) -> None:
        """Make the disk well again."""
        self._heal()


def child(fresh: Path, scratch: Path, error: str, first: int, step: int, parent: Connection) -> None:
    """Play at the `first` write and at every `step`th after it, each time on a copy of the folder `fresh`.

    After the word of the parent it gets ("played", point, failures that were told) for each point, the last of which
    is beyond the last write; or, at the end, ("wrong", point, text) if what must hold does not.
    """
    os.setpgid(0, 0)
    parent.send(("ready",))
    parent.recv()
    database.RETRY_FIRST_S = 0.002  # type: ignore[misc]
    # Each failure is told many times.
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as this process lives
    point, was_met = first, True
    while was_met:
        try:
            was_met, failures = _play(Path(shutil.copytree(fresh, scratch / str(point))), getattr(errno, error), point)
        except BaseException:
            parent.send(("wrong", point, traceback.format_exc()))
            raise
        shutil.rmtree(scratch / str(point))
        parent.send(("played", point, failures))
        point += step


def _play(folder: Path, error: int, point: int) -> tuple[bool, list[tuple[str, str]]]:
    with failing_writes(point, error, times_max=FAILURES_MAX) as heal:
        client = _Client(heal)
        asyncio.run(play_through_failures(folder, client))
        was_met = heal()
    asyncio.run(check_and_finish(folder, client.acknowledged, check_tables(folder / "jobs.db")))
    return was_met, client.failures
