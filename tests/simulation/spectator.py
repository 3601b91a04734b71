"""Who watches the agents: what is noted of them is all that changes (I14).

The production listing, looked at only where a change was noted, must at any time be the whole listing.
"""

import asyncio
from typing import Final, cast

from batchyard.domain.clock import Clock
from batchyard.scheduler.agent_changes import AgentWatch
from batchyard.scheduler.loop import Scheduler
from batchyard.scheduler.service import AgentsServicer, News, View

_NEVER: Final = cast("asyncio.TimerHandle", object())
_VIEW: Final = View(include_jobs=True)


class Spectator:
    """Watches one scheduler."""

    def __init__(self, scheduler: Scheduler, clock: Clock) -> None:
        self._servicer = AgentsServicer(scheduler, clock)
        self._scheduler = scheduler
        self._changes = scheduler.agent_changes
        # What is noted is taken from here in place of being passed on by a timer.
        self._changes._watches.add(AgentWatch())
        self._changes._timer = _NEVER
        scheduler.planner.use_changed = self._changes.note
        self._told: dict[str, News] = {}

    def missed(self) -> list[str]:
        """Take in what was noted; return the agents that are not as was told even so."""
        noted, self._changes._noted = self._changes._noted, set()
        told = self._told
        self._servicer._response(sorted(noted), told, _VIEW)
        everyone = sorted({*told, *self._servicer._agent_ids()})
        rest = self._servicer._response(everyone, dict(told), _VIEW)
        return [*(agent.agent_id for agent in rest.agents), *rest.gone_agent_ids]
