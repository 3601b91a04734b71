"""An agent's session, as the scheduler's loop sees it: what the agent said, and what is to be said to it."""

import logging
from collections.abc import Iterable

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import run_pb2
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.errors import NotAllowedError
from batchyard.domain.jobs import Fence
from batchyard.rpc.peers import Peer
from batchyard.scheduler.convert import fence_messages, fence_of
from batchyard.scheduler.leases import Incarnation
from batchyard.scheduler.outbox import AgentOutbox

_log = logging.getLogger(__name__)

_ENDS = frozenset({run_pb2.RUN_STATE_DONE, run_pb2.RUN_STATE_REVOKED})


class _Reported:
    """The latest report of a run."""

    __slots__ = ("answered", "at", "report")

    def __init__(self, report: run_pb2.RunReport, at: float) -> None:
        self.report = report
        self.at = at
        self.answered = False


class Session:
    """One stream of one agent."""

    def __init__(self, registration: session_pb2.Registration, now: float, peer: Peer | None = None) -> None:
        """Raise NotAllowedError if its peer, where that is known by a certificate, is another agent."""
        if peer is not None and not peer.is_agent(registration.agent_id):
            _log.warning("%s is refused a session as agent %.100r", peer, registration.agent_id)
            raise NotAllowedError(
                f"The certificate is that of {peer}, which may not register as agent {registration.agent_id}."
            )
        self.agent = Incarnation(registration.agent_id, registration.incarnation)
        self.outbox = AgentOutbox()
        self.accepted = False
        """Whether the job store has let this incarnation in, and the agent has been welcomed."""
        self.lease_s = 0.0
        """Its lease, which the store has written down; the same for as long as the stream is up."""
        self.is_vetted = True
        """False while the job store is asked whether it knows all that the agent runs."""
        self.heartbeat = 0
        """The highest heartbeat received."""
        self._reported: dict[Fence, _Reported] = {}
        self.hear(registration.runs, now)
        self.registration = session_pb2.Registration()
        self.registration.CopyFrom(registration)
        self.registration.ClearField("runs")

    def hear(self, reports: Iterable[run_pb2.RunReport], now: float) -> list[tuple[Fence, run_pb2.RunReport]]:
        """Take reports in; return those that say more than what was known."""
        news = []
        for report in reports:
            fence = fence_of(report.fence)
            known = self._reported.get(fence)
            if known is None or known.report.state <= report.state:
                self._reported[fence] = _Reported(report, now)
                news.append((fence, report))
        return news

    def answer(self, fence: Fence, state: run_pb2.RunState.ValueType, *, stale: bool) -> None:
        """Note that the job store has committed a report, and tell the agent what it needs to know of that."""
        known = self._reported.get(fence)
        if stale or state in _ENDS:
            self._reported.pop(fence, None)
            if stale:
                self.outbox.disown(fence)
            else:
                self.outbox.acknowledge(fence)
        elif known is not None and known.report.state <= state:
            known.answered = True

    def unanswered(self, now: float) -> list[tuple[Fence, run_pb2.RunReport]]:
        """Return the reports that the job store has not committed, their elapsed times brought up to `now`."""
        return [
            (fence, _aged(reported.report, now - reported.at))
            for fence, reported in self._reported.items()
            if not reported.answered
        ]

    def application(self, lease_s: float) -> wire.AgentRegistration:
        """Return what the job store needs to let this incarnation in, with a lease of this length."""
        return wire.AgentRegistration(
            agent_id=self.agent.agent_id,
            incarnation=self.agent.incarnation,
            claimed_before=self.registration.claimed_before,
            known=fence_messages(self._reported),
            lease_ms=round(lease_s * 1000),
        )


def _aged(report: run_pb2.RunReport, seconds: float) -> run_pb2.RunReport:
    """Return a report as the agent would send it this much later."""
    aged = run_pb2.RunReport()
    aged.CopyFrom(report)
    for member in ("started_ago_ms", "ended_ago_ms"):
        if report.HasField(member):
            setattr(aged, member, getattr(report, member) + int(seconds * 1000))
    return aged
