"""A database's thread has ended when whoever opened it is gone, in whatever way that was ended."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from batchyard.storage.sqlite import database
from batchyard.storage.sqlite.database import open_database
from support.waiting import eventually


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Hold the opening of files: the first event tells of one that has begun, the second lets it go on."""
    begun, go_on = threading.Event(), threading.Event()
    connect = database.connect

    def held(*arguments: Any, **options: Any) -> sqlite3.Connection:
        begun.set()
        assert go_on.wait(60)
        return connect(*arguments, **options)

    monkeypatch.setattr(database, "connect", held)
    return begun, go_on


async def opened(path: Path) -> None:
    async with open_database(path):
        await anyio.sleep_forever()


def cancelled_by_asyncio(task: "asyncio.Task[None]", _scope: anyio.CancelScope) -> None:
    task.cancel()


def cancelled_by_a_scope(_task: "asyncio.Task[None]", scope: anyio.CancelScope) -> None:
    scope.cancel()


@pytest.mark.parametrize("cancel", [cancelled_by_asyncio, cancelled_by_a_scope])
async def test_a_cancelled_opening_ends_with_its_thread(
    tmp_path: Path,
    gate: tuple[threading.Event, threading.Event],
    cancel: Callable[["asyncio.Task[None]", anyio.CancelScope], None],
) -> None:
    begun, go_on = gate
    before = threading.active_count()
    scope = anyio.CancelScope()

    async def within() -> None:
        with scope:
            await opened(tmp_path / "file.db")

    task = asyncio.create_task(within())
    assert await anyio.to_thread.run_sync(begun.wait, 60)
    threads = threading.active_count()
    assert threads > before
    cancel(task, scope)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    await asyncio.wait([task])
    # Its end has been told from there: what is left is the thread's return.
    await eventually(lambda: threading.active_count() < threads, "the thread has ended")
