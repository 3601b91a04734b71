"""Guards of the protocol, each switched off by name: the simulator must notice, or it shows nothing.

A mutant wraps or replaces one method of production code. Those in DEFENCE_IN_DEPTH are not noticed, for the reason
given there.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any, Final
from unittest.mock import patch

from batchyard.agent.host import Identity, IdentityKeeper
from batchyard.agent.launcher.journal import History, Journal
from batchyard.agent.launcher.ledger import FenceHistory, Ledger, Run
from batchyard.agent.launcher.server import Launcher
from batchyard.agent.reconcile import Reconciler
from batchyard.domain.jobs import AgentId, Fence, Job, JobKey, RunReport
from batchyard.domain.lifecycle import JobState
from batchyard.jobstore import group
from batchyard.jobstore.group import Group, Submission
from batchyard.jobstore.leadership import Leadership
from batchyard.jobstore.offers import Proposal, Refusal, refused_for_agent
from batchyard.rpc.peers import Peer
from batchyard.scheduler.agent_changes import AgentChanges
from batchyard.scheduler.leases import Leases
from batchyard.scheduler.loop import Scheduler
from batchyard.scheduler.setback import SetBack
from batchyard.scheduler.waiting import Waiting
from batchyard.storage.jobs import AgentRecord, RequestKey
from simulation import host, store
from simulation.agent import AgentActor
from simulation.world import simulate

Mutation = tuple[type | ModuleType, str, Callable[..., Any]]

_refused_for_agent = refused_for_agent
_report, _why_not, _register, _cancel = Group.report, Group._why_not, Group.register, Group.cancel
_offer, _startable, _take = Ledger.offer, Ledger.startable, Reconciler._take
_note = AgentChanges.note
_extend, _leases_init, _journal_init = Leases._extend, Leases.__init__, Journal.__init__


def _report_under_any_fence(self: Group, agent_id: AgentId, incarnation: int, report: RunReport) -> None:
    job = self._job(report.key)
    if job is not None and job.run is not None:
        agent_id, incarnation = job.run.agent_id, job.run.incarnation
        report = replace(report, fence=job.run.fence)
    _report(self, agent_id, incarnation, report)


def _report_of_any_incarnation(self: Group, agent_id: AgentId, incarnation: int, report: RunReport) -> None:
    job = self._job(report.key)
    if job is not None and job.run is not None and job.run.agent_id == agent_id:
        incarnation = job.run.incarnation
    _report(self, agent_id, incarnation, report)


def _report_of_any_agent(self: Group, agent_id: AgentId, incarnation: int, report: RunReport) -> None:
    job = self._job(report.key)
    run = job.run if job is not None and job.run is not None and job.run.fence == report.fence else None
    if run is None:
        _report(self, agent_id, incarnation, report)
        return
    _report(self, run.agent_id, run.incarnation, report)
    self._effects.reports[-1] = replace(self._effects.reports[-1], agent_id=agent_id, incarnation=incarnation)


def _offer_what_is_offered(self: Group, job: Job | None, proposal: Proposal) -> Refusal | None:
    if job is not None and job.state is JobState.RUNNABLE:
        proposal = replace(proposal, version=job.version)
        job = replace(job, run=None)
    return _why_not(self, job, proposal)


def _offer_to_any_incarnation(self: Group, job: Job | None, proposal: Proposal) -> Refusal | None:
    reason = _why_not(self, job, proposal)
    return None if reason is not None and "incarnation" in reason.text else reason


def _offer_to_the_drained(agent: AgentRecord | None, proposal: Proposal) -> Refusal | None:
    return _refused_for_agent(replace(agent, draining=False) if agent is not None else None, proposal)


def _register_any_incarnation(
    self: Group,
    agent_id: AgentId,
    incarnation: int,
    known: Collection[Fence],
    claimed_before: Collection[Fence],
    lease_ms: int,
) -> None:
    before = self._agent(agent_id)
    if before is not None and incarnation <= before.incarnation and not before.live:
        self._agents[agent_id] = None
    _register(self, agent_id, incarnation, known, claimed_before, lease_ms)


def _register_without_what_was_claimed_before(
    self: Group,
    agent_id: AgentId,
    incarnation: int,
    known: Collection[Fence],
    claimed_before: Collection[Fence],
    lease_ms: int,
) -> None:
    _register(self, agent_id, incarnation, known, (), lease_ms)


def _register_and_lose_what_is_missing(
    self: Group,
    agent_id: AgentId,
    incarnation: int,
    known: Collection[Fence],
    claimed_before: Collection[Fence],
    lease_ms: int,
) -> None:
    count = len(self._effects.demands)
    _register(self, agent_id, incarnation, known, claimed_before, lease_ms)
    asked = {demand.fence for demand in self._effects.demands[count:]}
    for job in self._jobs_of_agent(agent_id):
        if job.run is not None and job.run.fence in asked:
            self._lose(job)


def _cancel_without_asking(self: Group, key: JobKey, reason: str) -> bool:
    _cancel(self, key, reason)
    return False


def _submit_again(group: Group, new: Submission, key: RequestKey, answer: bytes) -> bytes:
    group.submit(new)
    return answer


def _start_without_a_lease(self: Ledger, now: float) -> list[Run]:
    return _startable(self, float("-inf"))


def _offer_what_is_known(self: Ledger, run: Run) -> None:
    held = self.runs.pop(run.fence, None)
    if held is not None and held.state in (1, 2, 3):
        self.runs[run.fence] = held
    _offer(self, run)


def _take_what_is_known(self: Reconciler, offer: Any) -> bool:
    self._runs.pop(offer.fence, None)
    return _take(self, offer)


def _journal_without_history(self: Journal, path: str, boot_id: str, *, namespaced: bool = False) -> None:
    _journal_init(self, path, boot_id, namespaced=namespaced)
    self.history = History()


def _lease_counted_from_receipt(self: AgentActor, deadline: float, start_margin_s: float) -> None:
    assert self._session is not None
    deadline = self.host.clock.monotonic_s() + self._session._lease_s
    _renew_lease(self, deadline, start_margin_s)


_renew_lease = AgentActor.renew_lease


def _identity_in_memory(self: IdentityKeeper, identity: Identity) -> None:
    self.identity = identity


def _deadlines_as_if_they_were_over(self: Leases, live: Any, now: float) -> None:
    self._leases.clear()
    self._timers.clear()
    for agent in live:
        self.grant(agent, now - self.length_s(self._lease_s))


def _welcome_unasked(self: Scheduler, record: Any, session: Any) -> None:
    if not session.is_vetted:
        self._welcome(record, session, self._clock.monotonic_s())


def _lease_from_now(self: Leases, agent_id: str, lease: Any, now: float) -> None:
    lease.deadline = float("-inf")
    lease.wakes_at = None
    _extend(self, agent_id, lease, now)


def _leases_without_margin(self: Leases, *, lease_s: float, kill_budget_s: float, suspicion_s: float) -> None:
    _leases_init(self, lease_s=lease_s, kill_budget_s=kill_budget_s, suspicion_s=suspicion_s)
    self.length_s = lambda lease_s: lease_s  # type: ignore[method-assign]


def _note_of_what_runs(self: AgentChanges, agent_id: str) -> None:
    if self._planner.use_of(agent_id).runs:
        _note(self, agent_id)


def _nothing(*_: object, **__: object) -> None:
    pass


MUTANTS: Final[Mapping[str, Mutation]] = {
    "reports count under any fence": (Group, "report", _report_under_any_fence),
    "reports count from any incarnation": (Group, "report", _report_of_any_incarnation),
    "reports count from any agent": (Group, "report", _report_of_any_agent),
    "an agent registers as another": (Peer, "is_agent", lambda self, agent_id: True),
    "a job is offered that has an offer": (Group, "_why_not", _offer_what_is_offered),
    "offers go to agents that are not live": (Group, "_why_not", _offer_to_any_incarnation),
    "offers go beyond maxvCpus": (group, "refused_for_environment", _nothing),
    "offers go to drained agents": (group, "refused_for_agent", _offer_to_the_drained),
    "an agent follows a scheduler of before": (IdentityKeeper, "follow", _nothing),
    "an incarnation that is over registers": (Group, "register", _register_any_incarnation),
    "claims of earlier launchers are forgotten": (Group, "register", _register_without_what_was_claimed_before),
    "what a registration lacks is lost at once": (Group, "register", _register_and_lose_what_is_missing),
    "a submit that is sent again is taken in again": (store, "submit_once", _submit_again),
    "a cancel is answered before the agent": (Group, "cancel", _cancel_without_asking),
    "what a launcher left behind lives on": (host, "_end_leftovers", _nothing),
    "nobody guards the lease": (Launcher, "_guard_lease", _nothing),
    "runs start without a lease": (Ledger, "startable", _start_without_a_lease),
    "forgotten offers start again": (FenceHistory, "__contains__", lambda self, fence: False),
    "ended offers start again": (Ledger, "offer", _offer_what_is_known),
    "the agent passes known offers on": (Reconciler, "_take", _take_what_is_known),
    "the journal is not read": (Journal, "__init__", _journal_without_history),
    "a start is not marked before it": (Journal, "begin", _nothing),
    "the lease counts from the receipt of the answer": (AgentActor, "renew_lease", _lease_counted_from_receipt),
    "an incarnation is not on disk": (IdentityKeeper, "_save", _identity_in_memory),
    "deadlines are not reset after a restart": (Leases, "begin", _deadlines_as_if_they_were_over),
    "leases end without a margin": (Leases, "__init__", _leases_without_margin),
    "a scheduler leads without waiting": (Leadership, "wait_s", lambda self, scheduler_id, now: 0),
    "a shorter lease takes back what was granted": (Leases, "_extend", _lease_from_now),
    "a new leader knows of no longer leases": (Scheduler, "_longest", lambda self, agent: self._config.lease_s),
    "jobs are offered at once after a restore": (SetBack, "lasts", lambda self, now: False),
    "agents are not asked what they run after a restore": (Scheduler, "_welcome_if_known", _welcome_unasked),
    "a restored store lets a scheduler lead at once": (store, "holder_of", lambda counters: ""),
    "a scheduler grants without its own lease": (Scheduler, "_may_act", lambda self, now: self._leads),
    "the rest of a line is never asked for": (Waiting, "take_requests", lambda self: []),
    "of an agent without runs nothing is told": (AgentChanges, "note", _note_of_what_runs),
}

_FENCE = "a fence names one run of one agent for ever, and that alone keeps such a word from counting"
_TWICE = "the agent's reconciler and the launcher's ledger each refuse it; either is enough"

DEFENCE_IN_DEPTH: Final[Mapping[str, str]] = {
    "agents are not asked what they run after a restore": "an answer that must be lost just then has the run killed",
    "a restored store lets a scheduler lead at once": "what another one grants meanwhile must outlast the kill budget",
    "runs start without a lease": "what comes after its end is given back, and a claim is looked at again on disk",
    "reports count from any incarnation": _FENCE,
    "a job is offered that has an offer": "a proposal names the job's version, and a leader proposes a job once",
    "offers go to agents that are not live": "a leader loses an agent in its own picture before it tells the store",
    "offers go to drained agents": "a leader proposes none; what it proposed just before the drain is refused",
    "an agent follows a scheduler of before": "a scheduler grants no lease when its own is over",
    "an incarnation that is over registers": "its runs are dead by then: its guard ended them at its own deadline",
    "claims of earlier launchers are forgotten": "the registration's runs say of the same fences that they are lost",
    "forgotten offers start again": "an end is forgotten after its commit, and the store offers no fence after it",
    "ended offers start again": _TWICE,
    "the agent passes known offers on": _TWICE,
    "an incarnation is not on disk": "a number that comes again is refused, or all that ran under it is dead",
}
"""Guards behind other guards, with what stands before them."""

STORMS: Final[Mapping[str, str]] = {
    "what a registration lacks is lost at once": "old streams",
    "what a launcher left behind lives on": "runtimes",
    "the journal is not read": "crashes",
    "a start is not marked before it": "runtimes",
    "offers go beyond maxvCpus": "resources",
    "runs start without a lease": "pauses",
    "reports count from any agent": "intruders",
    "an agent registers as another": "intruders",
    "the lease counts from the receipt of the answer": "late answers",
    "a scheduler leads without waiting": "two schedulers",
    "a shorter lease takes back what was granted": "leases",
    "a new leader knows of no longer leases": "leases",
    "jobs are offered at once after a restore": "backups",
    "agents are not asked what they run after a restore": "backups",
    "a restored store lets a scheduler lead at once": "backups",
    "a scheduler grants without its own lease": "two schedulers",
}
"""The profiles that test a guard hard; the others are noticed by any mixture of faults."""


def noticed_by(seeds: Iterable[int], name: str) -> int | None:
    """Return the first of the seeds that notices that a guard is switched off."""
    with switched_off(name):
        return next((seed for seed in seeds if simulate(seed, profile=STORMS.get(name)).violation), None)


@contextmanager
def switched_off(name: str) -> Iterator[None]:
    """Run with one guard switched off."""
    owner, attribute, replacement = MUTANTS[name]
    with patch.object(owner, attribute, replacement):
        yield
