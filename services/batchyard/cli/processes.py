"""A child process that is kept running: started again when it dies, ended in order when its parent stops."""

import logging
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import anyio
import anyio.abc

from batchyard.cli.errors import CannotStartError

_log = logging.getLogger(__name__)

BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0
BACKOFF_RESET_S: Final = 30.0
"""A child that has lived this long is started again without delay of its own making."""
TERMINATE_TIMEOUT_S: Final = 3.0
"""How long a child has after SIGTERM, before SIGKILL."""


@asynccontextmanager
async def started(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> AsyncIterator[anyio.abc.Process]:
    """Start a child now that `supervised` will keep running, so that it loads meanwhile; without that it is killed."""
    child = await _start(command, environment)
    try:
        yield child
    finally:
        with anyio.CancelScope(shield=True):
            if child.returncode is None:
                child.kill()
            await child.aclose()


@asynccontextmanager
async def supervised(
    command: Sequence[str], environment: Mapping[str, str] | None = None, first: anyio.abc.Process | None = None
) -> AsyncIterator[None]:
    """Keep a child running for the length of the context, entered once the child has printed its ready line.

    Its environment is that of this process, unless another is given; the first one may have been started already.
    Raises CannotStartError if the child says by its exit code that it never can start.
    """
    ready = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(_keep_running, command, environment, ready, first)
        await ready.wait()
        yield
        group.cancel_scope.cancel()


async def _keep_running(
    command: Sequence[str],
    environment: Mapping[str, str] | None,
    ready: anyio.Event,
    first: anyio.abc.Process | None,
) -> None:
    backoff, child = BACKOFF_FIRST_S, first
    while True:
        started_at = anyio.current_time()
        exit_code = await _run_once(child or await _start(command, environment), ready.set)
        child = None
        if exit_code == CannotStartError.exit_code and not ready.is_set():
            raise CannotStartError("the agent cannot start; its own message is above")
        if anyio.current_time() - started_at > BACKOFF_RESET_S:
            backoff = BACKOFF_FIRST_S
        _log.warning("the child ended and is started again", extra={"exit_code": exit_code, "in_s": backoff})
        await anyio.sleep(backoff)
        backoff = min(backoff * 2, BACKOFF_MAX_S)


async def _start(command: Sequence[str], environment: Mapping[str, str] | None) -> anyio.abc.Process:
    with anyio.CancelScope(shield=True):  # cancelled halfway, it would leave a child that nobody waits for
        child = await anyio.open_process(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=None, env=environment
        )
    return child  # noqa: RET504 - a scope may swallow what is in it, says its type


async def _run_once(child: anyio.abc.Process, ready: Callable[[], None]) -> int:
    """See a child to its end, calling `ready` for what it prints, and return its exit code."""
    async with child:
        assert child.stdout is not None
        try:
            async for _ in child.stdout:
                ready()
            return await child.wait()
        except anyio.get_cancelled_exc_class():
            await _terminate(child)
            raise


async def _terminate(child: anyio.abc.Process) -> None:
    """End the child in order; what is left of it after the deadline is killed by whoever closes it."""
    with anyio.move_on_after(TERMINATE_TIMEOUT_S, shield=True):
        with suppress(ProcessLookupError):  # it has ended by itself
            child.terminate()
        await child.wait()
