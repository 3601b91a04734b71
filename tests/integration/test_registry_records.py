"""Writes in groups, and reads beside them. Needs the threads of real connections."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from batchyard.domain.errors import InvalidRequestError, UnavailableError
from batchyard.domain.names import ResourceKind
from batchyard.registry.records import Records, open_records
from batchyard.rpc.clock import SystemClock
from batchyard.storage.registry import RegistryWriter, ResourceKey, StoredResource
from support.contexts import held_open


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[Records]:
    async with held_open(open_records(tmp_path / "registry.db", SystemClock(), durable=False)) as records:
        yield records


def key(name: str) -> ResourceKey:
    return ResourceKey(ResourceKind.JOB_QUEUE, "123456789012", name)


def put(writer: RegistryWriter, name: str) -> StoredResource:
    return writer.put(key(name), "VALID", b"")


async def found(records: Records, name: str) -> StoredResource | None:
    return await records.read(lambda reader: reader.find(key(name)))


class Busy:
    """Keeps the writer inside a transaction for the length of the context."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._began = asyncio.Event()
        self._end = threading.Event()

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()

        def work(writer: RegistryWriter) -> None:
            loop.call_soon_threadsafe(self._began.set)
            self._end.wait()

        self._task = asyncio.create_task(self._records.write(work))
        await self._began.wait()

    async def __aexit__(self, *_: object) -> None:
        self._end.set()
        await self._task


async def asked(*coroutines: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Begin writes, and let each of them get into the queue."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.sleep(0)
    return tasks


async def test_writes_that_are_asked_during_a_commit_go_into_one_transaction(records: Records) -> None:
    transactions: list[RegistryWriter] = []
    async with Busy(records):
        writes = await asked(*(records.write(transactions.append) for _ in range(3)))
        assert transactions == []
    await asyncio.gather(*writes)
    assert len(transactions) == 3
    assert len(set(map(id, transactions))) == 1


async def test_a_write_that_fails_is_alone_in_it(records: Records) -> None:
    def fail(writer: RegistryWriter) -> None:
        put(writer, "b")
        raise InvalidRequestError("no")

    async with Busy(records):
        a, b, c = await asked(
            records.write(lambda writer: put(writer, "a")),
            records.write(fail),
            records.write(lambda writer: put(writer, "c")),
        )
    with pytest.raises(InvalidRequestError, match="no"):
        await b
    assert [await a, None, await c] == [await found(records, name) for name in "abc"]


async def test_a_database_that_fails_is_told_to_all_of_the_group_and_to_no_later_one(records: Records) -> None:
    def break_down(writer: RegistryWriter) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    async with Busy(records):
        a, b = await asked(records.write(lambda writer: put(writer, "a")), records.write(break_down))
    for write in (a, b):
        with pytest.raises(UnavailableError, match="disk is full"):
            await write
    assert await found(records, "a") is None
    await records.write(lambda writer: put(writer, "a"))
    assert await found(records, "a") is not None


async def test_reads_do_not_wait_for_the_writer(records: Records) -> None:
    stored = await records.write(lambda writer: put(writer, "a"))
    async with Busy(records):
        assert await found(records, "a") == stored


async def test_a_write_is_made_although_its_caller_has_gone(records: Records) -> None:
    async with Busy(records):
        (write,) = await asked(records.write(lambda writer: put(writer, "a")))
        write.cancel()
    await records.write(lambda writer: None)
    assert await found(records, "a") is not None


async def test_who_waits_for_a_commit_is_woken_by_it_and_not_before(records: Records) -> None:
    await records.write(lambda writer: put(writer, "a"))
    (waiting,) = await asked(records.committed_beyond(1))
    await records.write(lambda writer: writer.revision())
    assert not waiting.done()
    await records.write(lambda writer: put(writer, "b"))
    await waiting
    await records.committed_beyond(1)
