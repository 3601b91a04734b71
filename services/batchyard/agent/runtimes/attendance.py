"""Looks after one container from its start to its end: its output, its time, and demands to end it."""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import aiodocker
import anyio
from aiodocker.containers import DockerContainer

from batchyard.agent.launcher import wire
from batchyard.agent.launcher.ledger import Run, RunEnd
from batchyard.agent.runtimes import engine
from batchyard.agent.runtimes.dialect import Dialect, Outcome
from batchyard.agent.runtimes.output import ContainerLog, copy_output

POLL_S: Final = 0.2
POLL_S_MAX: Final = 2.0
"""How often output is asked for that cannot be followed: after some has come, and then ever less."""
QUIET_S: Final = 2.0
"""How long nothing may come of the output of a container that has ended before it is not followed any more."""


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
        self, docker: aiodocker.Docker, container: DockerContainer, dialect: Dialect, log: ContainerLog
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
                state = await _follow(docker, container, dialect, log)
                outcome = dialect.outcome(state, is_killed_here=self._is_killed)
            tasks.cancel_scope.cancel()
        return outcome

    async def _enforce(self, container: DockerContainer) -> None:
        """Send SIGTERM when told to stop or out of time, and SIGKILL after the grace."""
        is_terminated, again = False, math.inf
        while True:
            with anyio.move_on_after(max(0.0, min(self._deadline, again) - wire.now())):
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
                is_terminated = await engine.signal(container, "SIGTERM")
                again = math.inf if is_terminated else wire.now() + engine.RETRY_S


async def _follow(
    docker: aiodocker.Docker, container: DockerContainer, dialect: Dialect, log: ContainerLog
) -> Mapping[str, Any]:
    """Copy the output until the container has ended; return the engine's view of it then."""
    interval_s = POLL_S
    while True:
        # Looked at before its output is copied: once it has ended, a copy that succeeds is complete.
        state = await engine.state_of(container)
        has_ended = dialect.has_ended(state)
        begin, before = anyio.current_time(), log.size
        if has_ended or dialect.is_podman:
            is_copied = await copy_output(docker, container, log, follow=False)
        else:
            is_copied = await _copy_while_it_runs(docker, container, log)
        if has_ended and is_copied:
            return state
        if has_ended or not is_copied:
            await anyio.sleep(engine.RETRY_S)
        elif dialect.is_podman:
            # It loses much of what a loud container prints when it is asked to follow.
            interval_s = POLL_S if log.size > before else min(1.5 * interval_s, POLL_S_MAX)
            with anyio.move_on_after(max(interval_s, 10 * (anyio.current_time() - begin))):
                await _ended(docker, container)
        else:
            # Docker ends the stream also when it has begun a new file.
            with anyio.move_on_after(engine.RETRY_S):
                await _ended(docker, container)


async def _copy_while_it_runs(docker: aiodocker.Docker, container: DockerContainer, log: ContainerLog) -> bool:
    """Follow the output; give up when the container has ended and nothing more comes: engines may forget to end it."""
    is_copied = False

    async def give_up() -> None:
        await _ended(docker, container)
        size = -1
        while size != log.size:
            size = log.size
            await anyio.sleep(QUIET_S)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(give_up)
        is_copied = await copy_output(docker, container, log, follow=True)
        tasks.cancel_scope.cancel()
    return is_copied


async def _ended(docker: aiodocker.Docker, container: DockerContainer) -> None:
    with suppress(*engine.ENGINE_ERRORS):
        await engine.wait(docker, container)
