"""How a server ends its streams when it stops."""

from typing import Any

import anyio
import grpc

from batchyard.rpc.interception import Behavior, CallInterceptor, Context, Method


class Draining(CallInterceptor):
    """Ends streams of responses with UNAVAILABLE when the server begins to stop.

    Watches and sessions last for as long as both sides live: waiting for them would use up every drain deadline. Calls
    with a single response are left to finish.
    """

    def __init__(self) -> None:
        super().__init__()
        self._streams: set[anyio.CancelScope] = set()
        self._draining = False

    def around(self, method: Method, behavior: Behavior) -> Behavior:
        """Make streams end when `drain` is called."""
        if not method.response_streaming:
            return behavior

        async def until_draining(request: Any, context: Context) -> None:
            with anyio.CancelScope() as scope:
                self._streams.add(scope)
                try:
                    if not self._draining:
                        await behavior(request, context)
                        return
                finally:
                    self._streams.discard(scope)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

        return until_draining

    def drain(self) -> None:
        """End the streams that are open, and those that still come, at once."""
        self._draining = True
        for scope in self._streams:
            scope.cancel()
