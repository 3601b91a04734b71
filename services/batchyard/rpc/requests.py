"""Makes every call of a server a request, by whose id the log tells what belongs together."""

from typing import Any

from batchyard.rpc.interception import Behavior, CallInterceptor, Context, Method
from batchyard.rpc.log_context import Request, begin_request


class Requests(CallInterceptor):
    """Has all that is logged in the course of a call carry its request's id."""

    def around(self, method: Method, behavior: Behavior) -> Behavior:
        """Begin a request with each call of a method."""

        async def in_request(request: Any, context: Context) -> Any:
            begin_request(Request(context=context))
            return await behavior(request, context)

        return in_request
