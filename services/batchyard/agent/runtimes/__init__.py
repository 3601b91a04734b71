"""What runs jobs: containers or plain processes, behind one small interface."""

from collections.abc import Sequence
from typing import Protocol

from batchyard.agent.launcher.ledger import Fence
from batchyard.agent.state import Orders, RunRecord


class RuntimeLostError(Exception):
    """The runtime's helper has died, and with it all that it ran; open the runtime anew under a new incarnation."""


class Runtime(Protocol):
    """Runs what it is offered as far as there is room, and only under the lease.

    It keeps the journal of claims: a fence is started at most once, whatever comes twice or dies in between.
    """

    @property
    def instance(self) -> str:
        """Name of what holds the runs. Another name than before means that all that ran before is dead."""
        ...

    @property
    def claimed_before(self) -> Sequence[Fence]:
        """Fences that an earlier instance claimed and whose end nobody saw."""
        ...

    async def carry_out(self, orders: Orders) -> None:
        """Take orders; what comes of them is told by `changes`. Raise RuntimeLostError."""
        ...

    async def renew_lease(self, deadline: float, start_margin_s: float) -> None:
        """Allow runs up to the deadline (CLOCK_BOOTTIME, seconds), and starts up to the margin before it.

        At the deadline the runtime ends everything by itself. Raise RuntimeLostError.
        """
        ...

    async def changes(self) -> Sequence[RunRecord]:
        """Wait for news and return them; the first call returns all that is known. Raise RuntimeLostError."""
        ...

    async def release(self) -> None:
        """End what helps the runtime, once nothing runs; the journal stays."""
        ...
