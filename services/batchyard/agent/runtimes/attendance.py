"""Looks after one container from its start to its end: its output, its time, and demands to end it."""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import aiodocker
import anyio
from aiodocker.containers import DockerContainer
from anyio import to_thread

from batchyard.agent.launcher import wire
from batchyard.agent.launcher.ledger import Run, RunEnd
from batchyard.agent.runtimes import engine
from batchyard.agent.runtimes.dialect import Dialect, Outcome

MakeLog = Callable[[], Path]
"""Makes a run's log, if there is none, and returns where it is."""


class Attendance:
    """A run's container, or its place until it has one."""

    def __init__(self, run: Run, *, timeout_s: float | None, timeout_grace_s: float) -> None:
        self.run = run
        self.stopped: RunEnd | None = None
        """Why it was told to end, if it was."""
        self.container = ""
        """Id of the container; empty: it has none yet."""
        self.volumes: Sequence[str] = ()
        """Names of the volumes that go with the container."""
        self.gpus: Sequence[int] = ()
        """Numbers of the devices that are its own."""
        self._timeout_s = timeout_s
        self._timeout_grace_s = timeout_grace_s
        self._deadline = math.inf
        self._changed = anyio.Event()
        self._stopping = anyio.Event()
        self._is_killed = False

    def stop(self, end: RunEnd, grace_s: float) -> None:
        """Have it ended; a later call may only shorten the grace."""
        deadline = wire.now() + grace_s
        self._deadline = deadline if self.stopped is None else min(self._deadline, deadline)
        self.stopped = self.stopped or end
        self._stopping.set()
        self._changed.set()

    async def unless_stopped(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what comes before the start, until it is told to end."""
        failures: list[Exception] = []

        async def do() -> None:
            try:
                await work()
            except Exception as error:
                failures.append(error)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(do)
            await self._stopping.wait()
            tasks.cancel_scope.cancel()
        if failures:
            raise failures[0]

    async def attend(
        self, docker: aiodocker.Docker, container: DockerContainer, dialect: Dialect, make_log: MakeLog
    ) -> Outcome | None:
        """Wait until a started container has ended and its output is copied; None if it is gone without a trace.

        While the log cannot be written, or the engine is away, the copying is tried again.
        """
        if self._timeout_s is not None and self.stopped is None:
            assert self.run.started is not None
            self._deadline = self.run.started + self._timeout_s
        outcome = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._enforce, container)
            with suppress(engine.GoneError):
                state = await _follow(docker, container, dialect, make_log)
                outcome = dialect.outcome(state, is_killed_here=self._is_killed)
            tasks.cancel_scope.cancel()
        return outcome

    async def _enforce(self, container: DockerContainer) -> None:
        """Send SIGTERM when told to stop or out of time, and SIGKILL after the grace."""
        is_terminated = False
        while True:
            with anyio.move_on_after(max(0.0, self._deadline - wire.now())):
                await self._changed.wait()
            self._changed = anyio.Event()
            is_due = self._deadline <= wire.now()
            if is_due and self.stopped is None:
                self.stop(RunEnd.TIMED_OUT, self._timeout_grace_s)
            elif is_due:
                self._is_killed = True
                await engine.signal(container, "SIGKILL")
                self._deadline = wire.now() + engine.RETRY_S
            elif self.stopped is not None and not is_terminated:
                is_terminated = True
                await engine.signal(container, "SIGTERM")


async def _follow(
    docker: aiodocker.Docker, container: DockerContainer, dialect: Dialect, make_log: MakeLog
) -> Mapping[str, Any]:
    """Copy the output until the container has ended; return the engine's view of it then."""
    while True:
        # Looked at before its output is copied: once it has ended, a copy that succeeds is complete.
        state = await engine.state_of(container)
        has_ended = dialect.has_ended(state)
        is_copied = await _copy_output(docker, container, make_log)
        if has_ended and is_copied:
            return state
        if not has_ended and is_copied:
            with suppress(*engine.ENGINE_ERRORS):
                await container.wait()
        else:
            await anyio.sleep(engine.RETRY_S)


async def _copy_output(docker: aiodocker.Docker, container: DockerContainer, make_log: MakeLog) -> bool:
    """Append what the container prints after what the log holds; return False if engine or disk failed."""
    try:
        file = await to_thread.run_sync(lambda: make_log().open("ab", buffering=0))
    except OSError:
        return False
    try:
        skip = file.tell()
        # Closed here, and its connection with it, also when this is cancelled while it writes.
        async with aclosing(engine.output_of(docker, container)) as output:
            async for data in output:
                fresh = data[skip:]
                skip = max(0, skip - len(data))
                if fresh:
                    await to_thread.run_sync(file.write, fresh)
    except engine.ENGINE_ERRORS:
        return False
    finally:
        file.close()
    return True
