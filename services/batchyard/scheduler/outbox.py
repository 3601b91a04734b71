"""What is to be sent on a stream, merged until its sender takes it.

A slow reader costs no memory beyond what there is to say: offers and demands are kept by fence, reports by fence with
only the latest of each, reasons by line. Messages are cut so that they stay far below gRPC's limit.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, Generic, TypeVar

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import run_pb2
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.jobs import Fence, JobKey
from batchyard.scheduler.convert import (
    fence_messages,
    fence_of,
    line_request_message,
    proposal_message,
    share_use_message,
    wait_reason_message,
)
from batchyard.scheduler.leases import Incarnation
from batchyard.scheduler.model import LineKey, LineRequest, Offer, ResourceKey, Resources, ShareUse, WaitReason

ENTRIES_A_MESSAGE: Final = 1000
"""Entries in one list of a message."""
OFFERED_BYTES_A_MESSAGE: Final = 1024 * 1024
"""Bytes of job specifications after which a message takes no further offer."""

Message = TypeVar("Message", session_pb2.ConnectResponse, wire.DispatchRequest)
K = TypeVar("K")
V = TypeVar("V")


class Outbox(ABC, Generic[Message]):
    """What is to be sent, and the wait for it. Filled by anyone, emptied by the one sender of its stream."""

    def __init__(self) -> None:
        self._filled = asyncio.Event()
        self._error: Exception | None = None

    async def take(self) -> Message:
        """Wait for something to send and return it; raise the error with which the outbox was closed."""
        while True:
            message = self.take_now()
            if message is not None:
                return message
            self._filled.clear()
            await self._filled.wait()

    def take_now(self) -> Message | None:
        """Do the same without waiting; None if there is nothing to send."""
        if self._error is not None:
            raise self._error
        return self._next()

    def close(self, error: Exception) -> None:
        """Send nothing more: end the stream with this error."""
        self._error = self._error or error
        self._filled.set()

    @abstractmethod
    def _next(self) -> Message | None:
        """Take out what fits into one message; None if there is nothing."""


class AgentOutbox(Outbox[session_pb2.ConnectResponse]):
    """What is to be sent to an agent."""

    def __init__(self) -> None:
        super().__init__()
        self._welcome: session_pb2.Welcome | None = None
        self._heartbeat = 0
        self._offers: dict[Fence, run_pb2.RunOffer] = {}
        self._demands: dict[Fence, bool] = {}
        self._acknowledged: dict[Fence, None] = {}
        self._stale: dict[Fence, None] = {}
        self._kill_grace_ms = 0

    def welcome(self, welcome: session_pb2.Welcome) -> None:
        """Let the agent in."""
        self._welcome = welcome
        self._filled.set()

    def answer(self, heartbeat: int) -> None:
        """Answer all heartbeats up to this one."""
        self._heartbeat = heartbeat
        self._filled.set()

    def offer(self, offer: run_pb2.RunOffer) -> None:
        """Offer a run."""
        self._offers[fence_of(offer.fence)] = offer
        self._filled.set()

    def demand(self, fence: Fence, *, kill: bool, kill_grace_ms: int) -> None:
        """Demand a run's end, or the offer back; a demand to kill stands above one to give back."""
        self._demands[fence] = kill or self._demands.get(fence, False)
        self._kill_grace_ms = kill_grace_ms
        self._filled.set()

    def acknowledge(self, fence: Fence) -> None:
        """Let the agent forget a run."""
        self._acknowledged[fence] = None
        self._filled.set()

    def disown(self, fence: Fence) -> None:
        """Have the agent kill and forget a run that is not its own any more."""
        self._stale[fence] = None
        self._filled.set()

    def run_ended(self, fence: Fence) -> None:
        """Send no more of what was to be said of a run that is over."""
        self._offers.pop(fence, None)
        self._demands.pop(fence, None)

    def _next(self) -> session_pb2.ConnectResponse | None:
        message = session_pb2.ConnectResponse(heartbeat=self._heartbeat)
        if self._welcome is not None:
            message.welcome.CopyFrom(self._welcome)
        message.offers.extend(self._take_offers())
        for fence, kill in _taken(self._demands):
            (fence_number,) = fence_messages([fence])
            if kill:
                message.kills.add(fence=fence_number, grace_ms=self._kill_grace_ms)
            else:
                message.revocations.append(fence_number)
        message.acknowledged.extend(fence_messages(fence for fence, _ in _taken(self._acknowledged)))
        message.stale.extend(fence_messages(fence for fence, _ in _taken(self._stale)))
        self._welcome, self._heartbeat = None, 0
        return message if message.ByteSize() else None

    def _take_offers(self) -> Iterator[run_pb2.RunOffer]:
        size = 0
        while self._offers and size < OFFERED_BYTES_A_MESSAGE:
            offer = self._offers.pop(next(iter(self._offers)))
            size += offer.ByteSize()
            yield offer


class StoreOutbox(Outbox[wire.DispatchRequest]):
    """What is to be sent to the job store, on one connection."""

    def __init__(self) -> None:
        super().__init__()
        self._lost: dict[Incarnation, None] = {}
        self._registrations: dict[str, wire.AgentRegistration] = {}
        self._reports: dict[tuple[Incarnation, Fence], run_pb2.RunReport] = {}
        self._proposals: dict[JobKey, Offer] = {}
        self._line_requests: dict[LineKey, LineRequest] = {}
        self._reasons: dict[tuple[ResourceKey, str, Resources], WaitReason] = {}
        self._uses: dict[tuple[ResourceKey, str], ShareUse] = {}
        self._fronts: dict[int, wire.Front] = {}
        self._drains: dict[int, wire.AgentDrain] = {}
        self._evictions: dict[str, None] = {}
        self._heartbeat = self._set_back_over = 0

    def beat(self, heartbeat: int) -> None:
        """Send a heartbeat, to go on leading."""
        self._heartbeat = heartbeat
        self._filled.set()

    def end_set_back(self, number: int) -> None:
        """Say that whatever the store forgot when it was set back is over."""
        self._set_back_over = number
        self._filled.set()

    def register(self, registration: wire.AgentRegistration) -> None:
        """Ask to let an agent in."""
        self._registrations[registration.agent_id] = registration
        self._filled.set()

    def report(self, agent: Incarnation, fence: Fence, report: run_pb2.RunReport) -> None:
        """Pass on what an agent reports of a run."""
        self._reports[agent, fence] = report
        self._filled.set()

    def lose(self, agent: Incarnation) -> None:
        """Say that an agent's lease is over."""
        self._lost[agent] = None
        self._filled.set()

    def drain(self, drain: wire.AgentDrain) -> None:
        """Ask to drain an agent, or to drain it no more."""
        self._drains[drain.request] = drain
        self._filled.set()

    def evict(self, agent_id: str) -> None:
        """Ask for the end of all that a drained agent runs."""
        self._evictions[agent_id] = None
        self._filled.set()

    def propose(self, offers: Iterable[Offer]) -> None:
        """Propose to run jobs."""
        self._proposals.update((offer.job, offer) for offer in offers)
        self._filled.set()

    def ask(self, requests: Iterable[LineRequest]) -> None:
        """Ask for more of lines."""
        self._line_requests.update((request.line, request) for request in requests)
        self._filled.set()

    def explain(self, reasons: Iterable[WaitReason]) -> None:
        """Say why jobs wait."""
        self._reasons.update(((reason.queue, reason.share, reason.need), reason) for reason in reasons)
        self._filled.set()

    def keep(self, uses: Iterable[ShareUse]) -> None:
        """Have it kept what shares have used."""
        self._uses.update(((use.queue, use.share), use) for use in uses)
        self._filled.set()

    def tell_front(self, front: wire.Front) -> None:
        """Say which jobs of a queue come first."""
        self._fronts[front.request] = front
        self._filled.set()

    def _next(self) -> wire.DispatchRequest | None:
        message = wire.DispatchRequest(heartbeat=self._heartbeat, set_back_over=self._set_back_over)
        self._heartbeat = self._set_back_over = 0
        if self._lost:
            # Alone and first: a registration that follows must meet a store that knows of the loss.
            for lost, _ in _taken(self._lost):
                message.lost_agents.add(agent_id=lost.agent_id, incarnation=lost.incarnation)
            return message
        message.registrations.extend(registration for _, registration in _taken(self._registrations))
        senders: dict[Incarnation, wire.AgentReports] = {}
        for (agent, _), report in _taken(self._reports):
            sender = senders.get(agent)
            if sender is None:
                sender = senders[agent] = message.reports.add(agent_id=agent.agent_id, incarnation=agent.incarnation)
            sender.reports.append(report)
        message.drains.extend(drain for _, drain in _taken(self._drains))
        message.evictions.extend(agent_id for agent_id, _ in _taken(self._evictions))
        message.proposals.extend(proposal_message(offer) for _, offer in _taken(self._proposals))
        message.line_requests.extend(line_request_message(request) for _, request in _taken(self._line_requests))
        message.wait_reasons.extend(wait_reason_message(reason) for _, reason in _taken(self._reasons))
        message.share_uses.extend(share_use_message(use) for _, use in _taken(self._uses))
        message.fronts.extend(front for _, front in _taken(self._fronts))
        return message if message.ByteSize() else None


def _taken(entries: dict[K, V]) -> list[tuple[K, V]]:
    """Take the oldest entries out, as many as go into one message."""
    taken = list(islice(entries.items(), ENTRIES_A_MESSAGE))
    for key, _ in taken:
        del entries[key]
    return taken
