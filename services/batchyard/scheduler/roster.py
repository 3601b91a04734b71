"""The agents that are known, connected or not, and what is held for each of them until it has it for sure."""

from collections.abc import Callable, Iterator

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import run_pb2
from batchyard.domain.jobs import Fence
from batchyard.scheduler.session import Session


class AgentRecord:
    """One agent."""

    __slots__ = ("agent_id", "demands", "offers", "registration", "session", "unshipped_logs")

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        self.session: Session | None = None
        self.registration: session_pb2.Registration | None = None
        """As it last presented itself."""
        self.offers: dict[Fence, run_pb2.RunOffer] = {}
        """Offers that it is not known to have claimed."""
        self.demands: dict[Fence, bool] = {}
        """Demands about runs that have not ended; True: to kill."""

        self.unshipped_logs = 0
        """Ended runs of which it had not shipped the whole log when it was last heard of."""

    @property
    def is_connected(self) -> bool:
        """Whether it has a session that was let in."""
        return self.session is not None and self.session.accepted

    def run_ended(self, fence: Fence) -> None:
        """Hold nothing more about a run."""
        self.offers.pop(fence, None)
        self.demands.pop(fence, None)
        if self.session is not None:
            self.session.outbox.run_ended(fence)


class Roster:
    """All agents that are known."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        """Tell `changed` the id of each agent that has become known, or is not any more."""
        self._records: dict[str, AgentRecord] = {}
        self._changed = changed

    def __iter__(self) -> Iterator[AgentRecord]:
        return iter(list(self._records.values()))

    def get(self, agent_id: str) -> AgentRecord | None:
        """Return an agent's record, or None if it is not known."""
        return self._records.get(agent_id)

    def record(self, agent_id: str) -> AgentRecord:
        """Return an agent's record; make it if there is none."""
        record = self._records.get(agent_id)
        if record is None:
            record = self._records[agent_id] = AgentRecord(agent_id)
            self._changed(agent_id)
        return record

    def forget(self, agent_id: str) -> None:
        """Forget an agent."""
        if self._records.pop(agent_id, None) is not None:
            self._changed(agent_id)

    def forget_runs(self) -> None:
        """Forget all offers and demands: a new snapshot of them follows."""
        for record in self._records.values():
            record.offers.clear()
            record.demands.clear()
