"""Which services a caller may call, by its certificate."""

import logging
from collections.abc import Mapping
from typing import Any

from batchyard.domain.errors import NotAllowedError
from batchyard.rpc.interception import Behavior, CallInterceptor, Context, Method
from batchyard.rpc.peers import EVERY_CLIENT, Role, peer_of

_log = logging.getLogger(__name__)


class Admission(CallInterceptor):
    """Refuses calls that their caller's certificate is not for, on servers that ask for certificates."""

    def __init__(self, callers: Mapping[str, frozenset[Role]]) -> None:
        """`callers` says by the full name of a service who may call it; other services are for all but agents."""
        super().__init__()
        self._callers = callers

    def around(self, method: Method, behavior: Behavior) -> Behavior:
        """Check the caller of a method before anything else."""
        allowed = self._callers.get(method.path.split("/")[1], EVERY_CLIENT)

        async def admitted(request: Any, context: Context) -> Any:
            peer = peer_of(context)
            if peer is not None and peer.role in allowed:
                return await behavior(request, context)
            _log.warning("%s is refused %s", peer or "a certificate without a name of Batchyard's", method.path)
            if peer is None:
                raise NotAllowedError("The certificate of the caller is of no service, agent or client of Batchyard.")
            raise NotAllowedError(f"The certificate is that of {peer}, which may not call {method.path}.")

        return admitted
