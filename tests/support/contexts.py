"""Async contexts as fixtures."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypeVar

import anyio

T = TypeVar("T")


class Stoppable(Protocol):
    """A server, of a socket or in this process."""

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls and end those that run."""


async def stopped(server: Stoppable) -> None:
    """Stop a server at once, also in a scope that is cancelled.

    A cancellation that reaches the task of a gRPC server comes back as one that no scope knows as its own.
    """
    with anyio.CancelScope(shield=True):
        await server.stop(None)


@asynccontextmanager
async def held_open(context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a context in one task of its own.

    pytest-asyncio sets a fixture up in one task and tears it down in another; a task group must be left in the task
    that entered it.
    """
    entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def hold() -> None:
        try:
            async with context as value:
                entered.set_result(value)
                await leave.wait()
        except Exception as error:
            if entered.done():
                raise
            entered.set_exception(error)

    task = asyncio.create_task(hold())
    try:
        yield await entered
    finally:
        leave.set()
        await task
