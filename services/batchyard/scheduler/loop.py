"""The scheduler between its streams: what each of them says changes the picture; one loop plans and passes on.

All of this runs on one event loop and nothing here waits but the loop itself, so each event is applied whole. Wake-ups
merge; between them there is one timer, to the next deadline.
"""

import asyncio
import logging
from typing import Final

from prometheus_client import Counter

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import run_pb2
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.clock import Clock
from batchyard.domain.errors import StaleIncarnationError, SupersededError, UnavailableError
from batchyard.domain.jobs import Fence
from batchyard.rpc.log_context import job_fields
from batchyard.scheduler import setback
from batchyard.scheduler.agent_changes import AgentChanges
from batchyard.scheduler.config import SchedulerConfig
from batchyard.scheduler.convert import (
    agent_of,
    fence_of,
    held_run_of,
    job_key_of,
    queued_children_of,
    queued_job_of,
    share_use_of,
    waiting_line_of,
)
from batchyard.scheduler.drains import Drains
from batchyard.scheduler.leases import Incarnation, Leases
from batchyard.scheduler.model import ResourceKey
from batchyard.scheduler.outbox import StoreOutbox
from batchyard.scheduler.planner import Planner
from batchyard.scheduler.roster import AgentRecord, Roster
from batchyard.scheduler.session import Session
from batchyard.scheduler.setback import SetBack

KILL_GRACE_MS: Final = 30_000
"""Between SIGTERM and SIGKILL, as AWS has it."""
OFFERS_A_TURN: Final = 500
"""After so many decisions in a row the streams get a turn."""

_AGENTS_LOST: Final = Counter("batchyard_agents_lost", "Agents whose leases were over before they were heard again.")

HEARTBEATS_A_LEASE_MIN: Final = 4
"""However short a lease is, so many of its agent's heartbeats fall into it."""

_log = logging.getLogger(__name__)


class Scheduler:
    """Keeps the picture and acts on it.

    It leads while its stream with the job store is up, the snapshot on it is complete, and its lease from the store is
    not over: only then does it plan, and grant leases to agents.
    """

    def __init__(self, config: SchedulerConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self.planner: Final = Planner(
            compat=config.compat, starvation_bound_s=config.starvation_bound_s, jobs_a_line=config.jobs_a_line
        )
        self.agent_changes: Final = AgentChanges(self.planner)
        self.roster: Final = Roster(self.agent_changes.note)
        self.drains: Final = Drains()
        self._leases = Leases(
            lease_s=config.lease_s, kill_budget_s=config.kill_budget_s, suspicion_s=config.suspicion_s
        )
        self._set_back = SetBack(self._leases.length_s(config.lease_s))
        self._forgotten_lease_s = 0.0
        """The longest lease of before the store was set back, if that is known from elsewhere."""
        self._store: StoreOutbox | None = None
        self._epochs = (0, 0)
        """The store's, and the one under which this scheduler leads."""
        self._is_complete = False
        """Whether the snapshot of the stream has been taken in."""
        self._leads = False
        self._leads_until = float("-inf")
        self._live: dict[str, wire.LiveAgent] = {}
        """While a snapshot comes in: the agents that it names, by id."""
        self._leases_changed = False
        """Whether agents may be due another lease than they were told."""
        self._knows_resources = False
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Plan whenever something has happened or fallen due, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            deadline = self.turn()
            timer = None
            if deadline is not None:
                timer = loop.call_later(max(0.0, deadline - self._clock.monotonic_s()), self._wake.set)
            try:
                await self._wake.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    def turn(self) -> float | None:
        """Do what can be done now; return when to do so again even if nothing happens, None if never."""
        now = self._clock.monotonic_s()
        if self._store is None or not self._may_act(now):
            return None
        if self._leases_changed and self._knows_resources:
            self._leases_changed = False
            self._review_leases()
        due = self._leases.due(now)
        for agent_id in due.suspects:
            _log.warning("agent %s is silent", agent_id)
            self.planner.agent_suspended(agent_id)
            self.agent_changes.note(agent_id)
        for agent in due.lost:
            self._lose(agent, self._store)
        for agent_id in self.drains.due(now):
            _log.warning("agent %s is drained, and the limit is over: what it runs is ended", agent_id)
            self._store.evict(agent_id)
        if self._knows_resources and (number := self._set_back.take_over(now)):
            _log.warning("the leases from before the job store was set back are over: jobs are started again")
            self._store.end_set_back(number)
        self.planner.hold_back(setback.REASON if self._set_back.lasts(now) else "")
        deadlines = [self._leases.next_deadline(), self.drains.next_deadline(), self._set_back.next_deadline()]
        if self._knows_resources:
            plan = self.planner.plan(now, offers_max=OFFERS_A_TURN)
            if plan.offers:
                self._store.propose(plan.offers)
            if plan.line_requests:
                self._store.ask(plan.line_requests)
            if plan.wait_reasons:
                self._store.explain(plan.wait_reasons)
            if plan.share_uses:
                self._store.keep(plan.share_uses)
            deadlines.append(plan.next_deadline)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    @property
    def jobs_a_line(self) -> int:
        """How many jobs of each line a snapshot is to tell of."""
        return self._config.jobs_a_line

    @property
    def leads(self) -> bool:
        """Whether this scheduler decides now."""
        return self._store is not None and self._may_act(self._clock.monotonic_s())

    def lease_ends_at(self, agent_id: str) -> float | None:
        """Return when, on the clock, an agent counts as lost if it is not heard again; None without a lease."""
        return self._leases.deadline_of(agent_id)

    def is_late(self, agent_id: str) -> bool:
        """Tell whether an agent with a lease has been silent for too long to be offered anything."""
        return self._leases.is_suspect(agent_id)

    def resources_changed(self, *, complete: bool) -> None:
        """Note that queues or environments in the picture have changed; planning begins when they are complete."""
        self._knows_resources = self._knows_resources or complete
        self._leases_changed = True
        self._wake.set()

    # The job store's stream

    def store_opened(self, outbox: StoreOutbox) -> None:
        """Begin anew with a stream on which a snapshot follows."""
        self._store, self._leads, self._is_complete = outbox, False, False
        self._leads_until = float("-inf")
        self._live.clear()
        self.drains.snapshot_begins(self._clock.monotonic_s())
        self.planner.forget_jobs()
        self.roster.forget_runs()

    def store_closed(self, outbox: StoreOutbox) -> None:
        """Stop leading: no plans, no leases, until the next snapshot is complete."""
        if self._store is outbox:
            self._store, self._leads, self._is_complete = None, False, False
            self.drains.snapshot_begins(self._clock.monotonic_s())

    def leadership_renewed(self, until: float) -> None:
        """Lead until this time, on the clock, unless it is renewed again."""
        self._leads_until = max(self._leads_until, until)
        self._lead_if_it_may()
        self._wake.set()

    def store_said(self, response: wire.DispatchResponse) -> None:
        """Apply what the job store says. Beginnings go before ends: commits may have been merged into one message."""
        if response.HasField("welcome"):
            self._epochs = (response.welcome.store_epoch, response.welcome.leader_epoch)
            self._forgotten_lease_s = response.welcome.set_back_lease_ms / 1000
            self._set_back.lengthen(self._leases.length_s(self._forgotten_lease_s))
            if self._set_back.told(response.welcome.set_back, self._clock.monotonic_s()):
                self._begin_after_set_back()
        for part in response.lines:
            self.planner.queue_part(waiting_line_of(part))
        self._live.update((agent.agent_id, agent) for agent in response.agents)
        for run in response.held:
            self._run_held(run)
        for outcome in response.offers:
            self._offer_answered(outcome)
        for demand in response.demands:
            self._demanded(demand)
        for ended in response.ended:
            self.planner.run_ended(fence_of(ended.fence), ended.ran_for_ms if ended.HasField("ran_for_ms") else None)
            if (record := self.roster.get(ended.agent_id)) is not None:
                record.run_ended(fence_of(ended.fence))
        for drain in response.drains:
            self._drain_told(drain)
        for use in response.share_uses:
            self.planner.share_used(share_use_of(use))
        for job in response.runnable:
            self.planner.queue_job(queued_job_of(job))
        for children in response.children:
            self.planner.queue_children(queued_children_of(children))
        for ref in response.withdrawn:
            self.planner.withdraw_job(job_key_of(ref))
        for asked in response.front_requests:
            self._front_asked(asked)
        for registered in response.registered:
            self._registration_answered(registered)
        for report in response.reports:
            self._report_answered(report)
        if response.snapshot_complete:
            self._is_complete = True
            for agent_id in self.drains.snapshot_ends():
                self.planner.agent_undrained(agent_id)
                self.agent_changes.note(agent_id)
            self._lead_if_it_may()
        self._wake.set()

    def _front_asked(self, asked: wire.FrontRequest) -> None:
        if self._store is not None:
            queue = ResourceKey(asked.namespace, asked.job_queue)
            job_ids = self.planner.front(queue, self._clock.monotonic_s(), asked.limit)
            self._store.tell_front(wire.Front(request=asked.request, job_ids=job_ids))

    def _begin_after_set_back(self) -> None:
        """Have all agents present themselves anew: what the store has acknowledged of their runs it may not know."""
        _log.warning(
            "the job store was set back to an earlier state: no job is started for %.0f s, until all leases from "
            "before are over",
            self._set_back.wait_s,
        )
        for record in self.roster:
            if record.session is not None:
                self._end_session(record, record.session, "the job store was set back")

    def _may_act(self, now: float) -> bool:
        return self._leads and now < self._leads_until

    def _lead_if_it_may(self) -> None:
        """Take over: every live agent gets a full lease anew, every session tells the store what it may have missed."""
        now = self._clock.monotonic_s()
        if self._leads or not self._is_complete or now >= self._leads_until:
            return
        self._leads = True
        live = {Incarnation(agent.agent_id, agent.incarnation): self._longest(agent) for agent in self._live.values()}
        if live and self._set_back.lasts(now):
            # The store may have forgotten who of them got the longest.
            longest_s = max(*live.values(), self._forgotten_lease_s)
            live = dict.fromkeys(live, longest_s)
            self._set_back.lengthen(self._leases.length_s(longest_s))
        self._leases.begin(live, now)
        self._leases_changed = True
        for agent_id in self._live:
            self.roster.record(agent_id)
        for agent_id in self.drains:
            self._ask_offers_back(agent_id)
        for record in self.roster:
            self.agent_changes.note(record.agent_id)
            if record.session is not None:
                self._resume(record, record.session, now)
            elif record.agent_id not in self._live:
                self._forget(record)

    def _longest(self, agent: wire.LiveAgent) -> float:
        """Return the longest lease that an agent may have got from an earlier leader."""
        return agent.lease_ms / 1000 if agent.lease_ms else self._config.lease_s

    def _review_leases(self) -> None:
        """Have agents present themselves anew that are due another lease: one on a stream counts for all of it."""
        if longest_s := self.planner.environments.longest_lease_s():
            self._set_back.lengthen(self._leases.length_s(longest_s))
        for record in self.roster:
            session = record.session
            if session is not None and session.accepted and session.lease_s != self._lease_of(session):
                self._end_session(record, session, "its lease is another one now")

    def _lease_of(self, session: Session) -> float:
        names = session.registration.compute_environments
        # In whole milliseconds, as it is written down.
        return round(self.planner.environments.lease_s(names, self._config.lease_s), 3)

    def _end_session(self, record: AgentRecord, session: Session, reason: str) -> None:
        """Have an agent present itself anew; what it runs goes on."""
        session.accepted = False
        session.outbox.close(UnavailableError(f"{reason}: present yourself anew"))
        record.session = None
        self.planner.agent_suspended(record.agent_id)
        self.agent_changes.note(record.agent_id)

    def _resume(self, record: AgentRecord, session: Session, now: float) -> None:
        live = self._live.get(record.agent_id)
        if session.accepted and live is not None and live.incarnation == session.agent.incarnation:
            self.planner.agent_resumed(record.agent_id)
            self._leases.grant(session.agent, now, session.lease_s)
            session.outbox.welcome(self._terms(session))
            session.outbox.answer(session.heartbeat)
            self._send_what_is_held(record, session)
            self._pass_on_reports(session, now)
        else:
            session.accepted = False
            self.planner.agent_suspended(record.agent_id)
            self._apply(session)

    def _run_held(self, message: wire.HeldRun) -> None:
        run = held_run_of(message)
        self.planner.run_held(run)
        if message.HasField("offer"):
            self.roster.record(run.agent_id).offers[run.fence] = message.offer

    def _offer_answered(self, outcome: wire.OfferOutcome) -> None:
        job = job_key_of(outcome.job)
        if not outcome.HasField("offer"):
            about = job_fields(job.job_id)
            _log.debug("the store refused the offer to %s: %s", outcome.agent_id, outcome.refused, extra=about)
            is_about_place = outcome.refusal == wire.OFFER_REFUSAL_ENVIRONMENT
            self.planner.offer_refused(job, not_there=outcome.refused if is_about_place else "")
            return
        fence = fence_of(outcome.offer.fence)
        if not self.planner.offer_accepted(job, fence):
            return
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("offered to %s", outcome.agent_id, extra=job_fields(job.job_id, outcome.offer.attempt))
        record = self.roster.record(outcome.agent_id)
        record.offers[fence] = outcome.offer
        if record.session is not None and record.session.accepted:
            record.session.outbox.offer(outcome.offer)

    def _demanded(self, demand: wire.RunDemand) -> None:
        fence = fence_of(demand.fence)
        if self.planner.holds_run(fence):  # else it has ended since
            self._demand(demand.agent_id, fence, kill=demand.kill)

    def _demand(self, agent_id: str, fence: Fence, *, kill: bool) -> None:
        record = self.roster.record(agent_id)
        record.demands[fence] = kill or record.demands.get(fence, False)
        # What a snapshot demands is sent when it is complete, with the offers: an agent must not be asked to give back
        # what it has not seen.
        if self._leads and record.session is not None and record.session.accepted:
            record.session.outbox.demand(fence, kill=kill, kill_grace_ms=KILL_GRACE_MS)

    # Drains

    async def drain(self, agent_id: str, *, draining: bool, limit_ms: int | None = None) -> None:
        """Begin or end to drain an agent; return when that is durable.

        Raises NotFoundError if no such agent has ever registered, UnavailableError when it is not known to be done.
        """
        if self._store is None or not self._may_act(self._clock.monotonic_s()):
            raise UnavailableError("the scheduler is not connected with the job store; try again")
        request, answered = self.drains.ask()
        self._store.drain(wire.AgentDrain(agent_id=agent_id, draining=draining, limit_ms=limit_ms, request=request))
        try:
            await answered
        finally:
            self.drains.forget(request)

    def _drain_told(self, message: wire.AgentDrain) -> None:
        agent_id = message.agent_id
        self.drains.told(message, self._clock.monotonic_s())
        self.agent_changes.note(agent_id)
        if agent_id in self.drains:
            self.planner.agent_drained(agent_id)
            if self._leads:
                self._ask_offers_back(agent_id)
        elif not message.unknown:
            self.planner.agent_undrained(agent_id)
            record = self.roster.get(agent_id)
            if record is not None and record.is_connected and not self._leases.is_suspect(agent_id):
                self.planner.agent_resumed(agent_id)

    def _ask_offers_back(self, agent_id: str) -> None:
        record = self.roster.get(agent_id)
        for fence in list(record.offers) if record is not None else ():
            self._demand(agent_id, fence, kill=False)

    # The agents, as the store sees them

    def _registration_answered(self, outcome: wire.AgentRegistered) -> None:
        now = self._clock.monotonic_s()
        record = self.roster.record(outcome.agent_id)
        lease_s = outcome.lease_ms / 1000 if outcome.lease_ms else self._config.lease_s
        if outcome.accepted:
            self._leases.grant(Incarnation(outcome.agent_id, outcome.incarnation), now, lease_s)
            self.agent_changes.note(outcome.agent_id)
        session = record.session
        if session is None or session.agent.incarnation != outcome.incarnation:
            return
        session.lease_s = lease_s
        if outcome.accepted and self._set_back.lasts(now):
            session.is_vetted = False
            self._pass_on_reports(session, now)
            self._welcome_if_known(record, session)
        elif outcome.accepted:
            self._welcome(record, session, now)
        else:
            self._refuse(session)

    def _report_answered(self, outcome: wire.ReportOutcome) -> None:
        record = self.roster.get(outcome.agent_id)
        if record is None:
            return
        fence = fence_of(outcome.fence)
        if outcome.state >= run_pb2.RUN_STATE_CLAIMED or outcome.stale:
            record.offers.pop(fence, None)
        session = record.session
        if session is not None and session.agent.incarnation == outcome.incarnation:
            session.answer(fence, outcome.state, stale=outcome.stale)
            if session.is_vetted:
                return
            if outcome.stale and outcome.state < run_pb2.RUN_STATE_DONE:
                _log.warning("agent %s runs what the job store has forgotten: it begins anew", record.agent_id)
                self._refuse(session)
            else:
                self._welcome_if_known(record, session)

    def _welcome_if_known(self, record: AgentRecord, session: Session) -> None:
        """Welcome an agent once the store, which was set back, has said that it knows all of its runs.

        A welcome is a lease: with one the agent would run on, beyond the time that is waited for, what the store has
        forgotten.
        """
        now = self._clock.monotonic_s()
        if not session.unanswered(now):
            self._welcome(record, session, now)

    # The agents' streams

    def session_opened(self, session: Session) -> None:
        """Take in an agent that presents itself; it is welcomed once the job store has accepted it.

        An older session of the agent ends with SupersededError. Raises StaleIncarnationError if that one is of a later
        incarnation.
        """
        record = self.roster.record(session.agent.agent_id)
        older = record.session
        if older is not None:
            if older.agent.incarnation > session.agent.incarnation:
                raise _stale(session.agent)
            older.outbox.close(SupersededError("a newer session of this agent has taken over"))
        record.session, record.registration = session, session.registration
        self.planner.agent_suspended(session.agent.agent_id)
        self.agent_changes.note(session.agent.agent_id)
        self._apply(session)

    def session_closed(self, session: Session) -> None:
        """Offer an agent nothing until it is back; what it runs goes on while its lease lasts."""
        record = self.roster.get(session.agent.agent_id)
        if record is not None and record.session is session:
            _log.info("agent %s has left", record.agent_id)
            record.session = None
            self.planner.agent_suspended(record.agent_id)
            self.agent_changes.note(record.agent_id)
            # Before it leads it knows of no leases, and the snapshot may have told of what is held for this agent.
            if self._leads and not self._leases.has(record.agent_id):
                self._forget(record)

    def agent_said(self, session: Session, request: session_pb2.ConnectRequest) -> None:
        """Take in heartbeats and reports."""
        record = self.roster.get(session.agent.agent_id)
        if record is None or record.session is not session:
            return
        now = self._clock.monotonic_s()
        news = session.hear(request.reports, now)
        if record.unshipped_logs != request.unshipped_logs:
            record.unshipped_logs = request.unshipped_logs
            self.agent_changes.note(record.agent_id)
        session.heartbeat = max(session.heartbeat, request.heartbeat)
        if self._store is None or not self._may_act(now) or not session.accepted:
            return
        for fence, report in news:
            self._store.report(session.agent, fence, report)
        if request.heartbeat:
            was_suspect = self._leases.is_suspect(record.agent_id)
            if self._leases.renew(session.agent, now):
                session.outbox.answer(session.heartbeat)
            if was_suspect:
                _log.info("agent %s is heard again", record.agent_id)
                self.planner.agent_resumed(record.agent_id)
                self.agent_changes.note(record.agent_id)
                self._wake.set()

    def _apply(self, session: Session) -> None:
        if self._leads and self._store is not None:
            self._store.register(session.application(self._lease_of(session)))

    def _welcome(self, record: AgentRecord, session: Session, now: float) -> None:
        agent = agent_of(session.registration)
        _log.info(
            "agent %s has joined, incarnation %d: %g vCPUs, %d MiB, %d GPUs",
            *(agent.agent_id, agent.incarnation),
            *(agent.capacity.vcpus_milli / 1000, agent.capacity.memory_mib, agent.capacity.gpus),
        )
        session.accepted = session.is_vetted = True
        self.planner.agent_joined(agent)
        self.agent_changes.note(agent.agent_id)
        session.outbox.welcome(self._terms(session))
        session.outbox.answer(session.heartbeat)
        self._send_what_is_held(record, session)
        self._pass_on_reports(session, now)

    def _terms(self, session: Session) -> session_pb2.Welcome:
        store_epoch, leader_epoch = self._epochs
        interval_s = min(self._config.heartbeat_interval_s, session.lease_s / HEARTBEATS_A_LEASE_MIN)
        return session_pb2.Welcome(
            heartbeat_interval_ms=int(interval_s * 1000),
            lease_ms=round(session.lease_s * 1000),
            store_epoch=store_epoch,
            leader_epoch=leader_epoch,
        )

    def _send_what_is_held(self, record: AgentRecord, session: Session) -> None:
        for offer in record.offers.values():
            session.outbox.offer(offer)
        for fence, kill in record.demands.items():
            session.outbox.demand(fence, kill=kill, kill_grace_ms=KILL_GRACE_MS)

    def _pass_on_reports(self, session: Session, now: float) -> None:
        assert self._store is not None
        for fence, report in session.unanswered(now):
            self._store.report(session.agent, fence, report)

    def _lose(self, agent: Incarnation, store: StoreOutbox) -> None:
        _log.warning("agent %s is lost: its lease is over", agent.agent_id)
        _AGENTS_LOST.inc()
        store.lose(agent)
        self.agent_changes.note(agent.agent_id)
        record = self.roster.get(agent.agent_id)
        if record is not None and record.session is not None:
            self._refuse(record.session)
        elif record is not None:
            self._forget(record)

    def _refuse(self, session: Session) -> None:
        """End a session whose incarnation has no right to run anything."""
        session.accepted, session.is_vetted = False, True
        self.planner.agent_suspended(session.agent.agent_id)
        self.agent_changes.note(session.agent.agent_id)
        session.outbox.close(_stale(session.agent))

    def _forget(self, record: AgentRecord) -> None:
        self.planner.agent_gone(record.agent_id)
        self.roster.forget(record.agent_id)


def _stale(agent: Incarnation) -> StaleIncarnationError:
    return StaleIncarnationError(f"incarnation {agent.incarnation} of agent {agent.agent_id} is over")
