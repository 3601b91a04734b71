"""When what is over goes, by a clock that is set by hand."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from batchyard.domain.errors import UnavailableError
from batchyard.domain.jobs import JobKey
from batchyard.jobstore.core import CommandError
from batchyard.jobstore.group import Group
from batchyard.jobstore.retention import Retention
from support.jobs import Store

DAY_MS = 24 * 3600 * 1000
RETENTION_S = 0.04
"""So short that a sweep follows another at once; the clock of these tests stands still."""


class Machine:
    """A store and its clock, and what it is to fail with."""

    def __init__(self) -> None:
        self.store = Store()
        self.store.now = 1000 * DAY_MS
        self.failures: list[Exception] = []
        self.sweeps = 0

    def now_ms(self) -> int:
        return self.store.now

    def monotonic_s(self) -> float:
        return 0.0

    async def do(self, act: Callable[[Group], object], *, alone: bool) -> object:
        assert alone
        self.sweeps += 1
        if self.failures:
            raise self.failures.pop()
        result = self.store.group(act)
        return result.answers[0]

    def ended_job(self, name: str) -> JobKey:
        key = self.store.submit(name)
        self.store.do(lambda group: group.cancel(key, "enough"))
        return key

    def exists(self, key: JobKey) -> bool:
        return bool(self.store.writer.jobs([key]))

    async def sweep_on(self, count: int = 12) -> None:
        """Wait for so many further steps, of which each sweep takes two and those that remove something."""
        goal = self.sweeps + count
        with anyio.fail_after(30):
            while True:
                await anyio.lowlevel.checkpoint()
                if self.sweeps >= goal:
                    return


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.store.connection.close()


@asynccontextmanager
async def sweeping(machine: Machine, retention_s: float = RETENTION_S) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Retention(cast("Any", machine), machine, retention_s).run)
        yield
        tasks.cancel_scope.cancel()


async def test_a_clock_that_jumps_forward_takes_what_is_over_its_time_by_it_and_no_more(machine: Machine) -> None:
    old = machine.ended_job("old")
    unfinished = machine.store.submit("unfinished")
    async with sweeping(machine):
        await machine.sweep_on()
        assert machine.exists(old)
        machine.store.now += DAY_MS
        young = machine.ended_job("young")
        await machine.sweep_on()
        assert [machine.exists(key) for key in (old, unfinished, young)] == [False, True, True]


async def test_a_clock_that_is_set_back_keeps_everything(machine: Machine) -> None:
    job = machine.ended_job("job")
    machine.store.now -= DAY_MS
    earlier = machine.ended_job("earlier")
    async with sweeping(machine):
        await machine.sweep_on()
        assert machine.exists(job)
        assert machine.exists(earlier)
        machine.store.now += 2 * DAY_MS
        await machine.sweep_on()
        assert not machine.exists(job)
        assert not machine.exists(earlier)


@pytest.mark.parametrize("error", [UnavailableError("the disk is full"), CommandError("a mistake of ours")])
async def test_a_sweep_that_fails_is_followed_by_another(
    machine: Machine, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    job = machine.ended_job("job")
    machine.store.now += DAY_MS
    machine.failures = [error]
    async with sweeping(machine):
        await machine.sweep_on()
    assert not machine.exists(job)
    assert f"what is over stays for now: {error}" in caplog.text
