"""From a service as a context to a process: ready line, signals, an ordered stop with a deadline."""

import logging
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import anyio
import anyio.abc
import click

_log = logging.getLogger(__name__)

STOP_DEADLINE_S: Final = 4.5
"""A stop that takes longer is cut short: whoever sent the signal counts on five seconds."""


def serve(service: Callable[[], AbstractAsyncContextManager[str]]) -> None:
    """Run a service until SIGTERM or SIGINT.

    Entering the context makes it ready and gives its ready line, the one line that goes to stdout. Leaving it stops it
    in order. A signal before it is ready cancels the start. Raises the ClickException that the service raised, also
    out of the exception groups of its task groups.
    """
    try:
        anyio.run(_serve, service, backend_options={"use_uvloop": True})
    except BaseExceptionGroup as group:
        told = _first_click_exception(group)
        if told is None:
            raise
        raise told from group


async def _serve(service: Callable[[], AbstractAsyncContextManager[str]]) -> None:
    ready, stop = anyio.Event(), anyio.Event()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            await group.start(_await_signals, ready, stop, scope)
            async with service() as ready_line:
                print(ready_line, flush=True)
                ready.set()
                await stop.wait()
            group.cancel_scope.cancel()
    if scope.cancelled_caught and ready.is_set():
        _log.warning("stopping took too long and was cut short", extra={"deadline_s": STOP_DEADLINE_S})


async def _await_signals(
    ready: anyio.Event, stop: anyio.Event, scope: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            _log.info("stopping", extra={"signal": signal.Signals(number).name})
            stop.set()
            if ready.is_set():
                scope.deadline = min(scope.deadline, anyio.current_time() + STOP_DEADLINE_S)
            else:
                scope.cancel()


def _first_click_exception(group: BaseExceptionGroup[BaseException]) -> click.ClickException | None:
    for error in group.exceptions:
        found = _first_click_exception(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, click.ClickException):
            return found
    return None
