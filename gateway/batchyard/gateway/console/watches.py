"""What open pages watch for: once for all pages that want the same, as long as one of them is open."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from functools import partial
from typing import Any, TypeAlias

import anyio

from batchyard.api.operations.v1.job_operations_service_pb2 import JobChange
from batchyard.domain.names import Caller
from batchyard.gateway.console.api import Api

Heard: TypeAlias = Callable[[Sequence[JobChange]], None]
"""Takes what has changed; nothing in particular: the page is to look anew, as what changed before was not told."""


class Watches:
    """One watch of the jobs of each account that has pages open, and one of the agents for all accounts."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._shared: dict[Caller | None, _Shared] = {}
        """Of the jobs by account; None: of the agents."""

    async def jobs(self, caller: Caller, heard: Heard) -> None:
        """Hear of changes of the account's jobs until cancelled; raises AioRpcError when the watch breaks."""
        await self._follow(caller, heard, partial(self._watch_jobs, caller))

    async def agents(self, heard: Heard) -> None:
        """Hear when agents have changed, until cancelled; raises AioRpcError when the watch breaks."""
        await self._follow(None, heard, self._watch_agents)

    async def _follow(
        self, key: Caller | None, heard: Heard, watch: "Callable[[_Shared], Coroutine[Any, Any, None]]"
    ) -> None:
        shared = self._shared.get(key)
        if shared is None or shared.has_ended:
            shared = self._shared[key] = _Shared()
            shared.begin(watch(shared))
        try:
            await shared.follow(heard)
        finally:
            if shared.has_ended and self._shared.get(key) is shared:
                del self._shared[key]

    async def _watch_jobs(self, caller: Caller, shared: "_Shared") -> None:
        async for response in self._api.watch(caller, []):
            # The first says that the watch has begun.
            shared.tell(response.changes if shared.has_begun else ())

    async def _watch_agents(self, shared: "_Shared") -> None:
        async for response in self._api.watch_agents():
            if response.caught_up:
                shared.tell(())


class _Shared:
    """A watch with all who hear of it. It ends with the last of them."""

    def __init__(self) -> None:
        self.has_begun = False
        self._heard: list[Heard] = []
        self._task: asyncio.Task[None] | None = None
        self._is_left = False

    @property
    def has_ended(self) -> bool:
        """Whether nobody hears anything of it any more: also while it is being ended."""
        return self._is_left or self._task is None or self._task.done()

    def begin(self, watch: Coroutine[Any, Any, None]) -> None:
        """Watch, in the course of nobody's request."""
        self._task = asyncio.get_running_loop().create_task(watch, context=Context())

    def tell(self, changes: Sequence[JobChange]) -> None:
        """Have all hear of changes."""
        self.has_begun = True
        for heard in self._heard:
            heard(changes)

    async def follow(self, heard: Heard) -> None:
        """Hear of changes until cancelled; raises what ends the watch."""
        assert self._task is not None
        self._heard.append(heard)
        try:
            if self.has_begun:
                heard(())
            await asyncio.shield(self._task)
        finally:
            self._heard.remove(heard)
            if not self._heard:
                self._is_left = True
                self._task.cancel()
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([self._task])
