"""From a service as a context to a process: ready line, signals, an ordered stop with a deadline."""

import gc
import logging
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final, TypeVar

import anyio
import anyio.abc

from batchyard.cli.errors import CannotStartError
from batchyard.cli.notify import notify
from batchyard.storage.sqlite.migrations import MigrationError

_log = logging.getLogger(__name__)

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

ALLOCATIONS_A_COLLECTION: Final = 50_000
"""Messages come and go by the thousand and are in no cycle: looking for cycles among every 700 of them costs more."""
STOP_DEADLINE_S: Final = 4.5
"""A stop that takes longer is cut short: whoever sent the signal counts on five seconds."""


def serve(service: Callable[[], AbstractAsyncContextManager[str]], *, with_parent: bool = False) -> None:
    """Run a service until SIGTERM or SIGINT; `with_parent`, until SIGTERM.

    A Ctrl-C interrupts all that is on the terminal: what another one of it stops in order must not go before its time.

    Entering the context makes it ready and gives its ready line, the one line that goes to stdout. Leaving it stops it
    in order. A signal before it is ready cancels the start. A CannotStartError is raised bare, out of the groups of
    whatever task groups; any other error ends the process with exit code 1, its traceback in the log.
    """
    gc.set_threshold(ALLOCATIONS_A_COLLECTION, 20, 20)
    try:
        anyio.run(_serve, service, with_parent, backend_options={"use_uvloop": True})
    except Exception as error:
        told = first_of(error, CannotStartError)
        if told is not None:
            raise told from None
        _log.critical("stopped by an error", exc_info=True)
        sys.exit(1)


@asynccontextmanager
async def or_cannot_start(opening: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Open something that takes addresses or files of the machine; raise CannotStartError if it cannot have them."""
    async with AsyncExitStack() as stack:
        try:
            opened = await stack.enter_async_context(opening)
        except Exception as error:
            cause = first_of(error, (OSError, sqlite3.Error, MigrationError))
            if cause is None:
                raise
            raise CannotStartError(_text_of(cause)) from error
        yield opened


def _text_of(error: Exception) -> str:
    """Return an error's text without the number that an OSError begins with."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


async def _serve(service: Callable[[], AbstractAsyncContextManager[str]], with_parent: bool) -> None:
    ready, stop = anyio.Event(), anyio.Event()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            await group.start(_await_signals, ready, stop, scope, with_parent)
            async with service() as ready_line:
                print(ready_line, flush=True)
                notify("READY=1")
                # What was loaded stays: nobody needs to look through it again.
                gc.freeze()
                ready.set()
                await stop.wait()
                notify("STOPPING=1")
            group.cancel_scope.cancel()
    if scope.cancelled_caught and ready.is_set():
        _log.warning("stopping took too long and was cut short", extra={"deadline_s": STOP_DEADLINE_S})


async def _await_signals(
    ready: anyio.Event,
    stop: anyio.Event,
    scope: anyio.CancelScope,
    with_parent: bool,
    *,
    task_status: anyio.abc.TaskStatus[None],
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if with_parent and number == signal.SIGINT:
                continue
            _log.info("stopping", extra={"signal": signal.Signals(number).name})
            stop.set()
            if ready.is_set():
                scope.deadline = min(scope.deadline, anyio.current_time() + STOP_DEADLINE_S)
            else:
                scope.cancel()


def first_of(error: BaseException, kinds: type[E] | tuple[type[E], ...]) -> E | None:
    """Return the first error of these kinds: the error itself, or one in the groups that it is made of."""
    if isinstance(error, kinds):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for part in error.exceptions if (found := first_of(part, kinds)) is not None), None)
    return None
