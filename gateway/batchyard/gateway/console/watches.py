"""What the open pages of an account watch for: once for all of them, as long as one of them is open."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any, Final, TypeAlias

import anyio

from batchyard.api.operations.v1.job_operations_service_pb2 import JobChange
from batchyard.domain.names import Caller
from batchyard.gateway.console.api import Api

AGENTS_EVERY_S: Final = 3.0
"""While pages that show agents are open they are looked at as often: agents send no changes of their own."""

Heard: TypeAlias = Callable[[Sequence[JobChange]], None]
"""Takes what has changed; nothing in particular: the page is to look anew, as what changed before was not told."""


class Watches:
    """One watch of the jobs, and one of the agents, for each account that has pages open."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._shared: dict[tuple[str, Caller], _Shared] = {}

    async def jobs(self, caller: Caller, heard: Heard) -> None:
        """Hear of changes of the account's jobs until cancelled; raises AioRpcError when the watch breaks."""
        await self._follow("jobs", caller, heard, self._watch_jobs)

    async def agents(self, caller: Caller, heard: Heard) -> None:
        """Hear when agents have changed, until cancelled; raises AioRpcError when they cannot be looked at."""
        await self._follow("agents", caller, heard, self._watch_agents)

    async def _follow(
        self, what: str, caller: Caller, heard: Heard, watch: "Callable[[_Shared, Caller], Coroutine[Any, Any, None]]"
    ) -> None:
        key = (what, caller)
        shared = self._shared.get(key)
        if shared is None or shared.has_ended:
            shared = self._shared[key] = _Shared()
            shared.begin(watch(shared, caller))
        try:
            await shared.follow(heard)
        finally:
            if shared.has_ended and self._shared.get(key) is shared:
                del self._shared[key]

    async def _watch_jobs(self, shared: "_Shared", caller: Caller) -> None:
        async for response in self._api.watch(caller, []):
            # The first says that the watch has begun.
            shared.tell(response.changes if shared.has_begun else ())

    async def _watch_agents(self, shared: "_Shared", caller: Caller) -> None:
        before: Any = None
        while True:
            agents = await self._api.call(caller, "ListAgents", {})
            for agent in agents["agents"]:
                agent.pop("leaseLeftMs", None)
            if before is not None and agents != before:
                shared.tell(())
            before = agents
            await anyio.sleep(AGENTS_EVERY_S)


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
