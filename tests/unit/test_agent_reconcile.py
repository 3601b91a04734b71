"""The agent's core: what it passes on, reports, forgets and kills, whatever comes twice, late or out of order."""

import random
from collections.abc import Callable, Sequence
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from batchyard.agent.launcher.ledger import Fence, Ledger, Run, RunEnd, RunState
from batchyard.agent.reconcile import RESEND_AFTER_ROUNDS, Reconciler
from batchyard.agent.state import Demands, Orders, RunRecord, record_of
from support.agent import an_offer

FENCE: Fence = (1, 1)


def a_record(state: RunState, fence: Fence = FENCE) -> RunRecord:
    return RunRecord(fence, state, end=RunEnd.EXITED if state is RunState.DONE else None)


def reported(reconciler: Reconciler) -> list[tuple[Fence, RunState]]:
    return [(record.fence, record.state) for record in reconciler.take_reports(1000)]


def test_a_new_offer_is_passed_on_and_a_known_one_is_not() -> None:
    reconciler = Reconciler()
    offer = an_offer("true")
    assert reconciler.demand(Demands(offers=[offer])) == Orders(offers=(offer,))
    assert not reconciler.demand(Demands(offers=[offer]))


def test_an_offer_of_a_run_that_was_claimed_is_answered_by_its_state() -> None:
    reconciler = Reconciler()
    reconciler.observe([a_record(RunState.CLAIMED)])
    reported(reconciler)
    assert not reconciler.demand(Demands(offers=[an_offer("true")]))
    assert reported(reconciler) == [(FENCE, RunState.CLAIMED)]


def test_an_offer_of_an_earlier_store_epoch_is_given_back_and_one_that_is_held_is_not() -> None:
    reconciler = Reconciler()
    held, late = an_offer("true", fence=(1, 1)), an_offer("true", fence=(1, 2))
    reconciler.demand(Demands(offers=[held]))
    reconciler.follow(2)
    reconciler.follow(1)
    current = an_offer("true", fence=(2, 1))
    assert reconciler.demand(Demands(offers=[held, late, current])) == Orders(offers=(current,))
    assert reported(reconciler) == [((1, 2), RunState.REVOKED)]
    assert reconciler.demand(Demands(acknowledged=[(1, 2)])) == Orders(forgotten=((1, 2),))
    reconciler.observe([a_record(RunState.CLAIMED, (1, 1))])
    assert reported(reconciler) == [((1, 1), RunState.CLAIMED)]


def test_an_unclaimed_run_is_not_reported() -> None:
    reconciler = Reconciler()
    reconciler.observe([a_record(RunState.OFFERED)])
    assert reported(reconciler) == []


def test_a_revocation_of_a_claimed_run_is_answered_at_once() -> None:
    reconciler = Reconciler()
    reconciler.observe([a_record(RunState.STARTED)])
    reported(reconciler)
    assert not reconciler.demand(Demands(revocations=[FENCE]))
    assert reported(reconciler) == [(FENCE, RunState.STARTED)]


def test_a_revocation_of_an_unknown_fence_is_passed_on() -> None:
    assert Reconciler().demand(Demands(revocations=[FENCE])) == Orders(revocations=(FENCE,))


def test_the_owners_time_between_the_signals_stands_above_the_schedulers_and_not_above_an_end_at_once() -> None:
    reconciler = Reconciler(stop_timeout_s=7.0)
    reconciler.observe([a_record(RunState.STARTED), a_record(RunState.STARTED, (1, 2))])
    assert reconciler.demand(Demands(kills=[(FENCE, 30.0)])).kills == ((FENCE, 7.0),)
    assert reconciler.demand(Demands(stale=[(1, 2)])).kills == (((1, 2), 0.0),)
    assert Reconciler().demand(Demands(kills=[(FENCE, 30.0)])).kills == ((FENCE, 30.0),)


def test_a_kill_of_a_run_that_is_over_is_answered_by_its_end() -> None:
    reconciler = Reconciler()
    reconciler.observe([a_record(RunState.DONE)])
    reported(reconciler)
    assert not reconciler.demand(Demands(kills=[(FENCE, 30.0)]))
    assert reported(reconciler) == [(FENCE, RunState.DONE)]


def test_an_acknowledged_end_is_forgotten() -> None:
    reconciler = Reconciler()
    reconciler.observe([a_record(RunState.DONE)])
    assert reconciler.demand(Demands(acknowledged=[FENCE])) == Orders(forgotten=(FENCE,))
    assert reconciler.is_empty()
    assert reported(reconciler) == []


def test_an_acknowledgement_of_a_run_that_is_not_over_means_nothing() -> None:
    reconciler = Reconciler()
    reconciler.observe([a_record(RunState.STARTED)])
    assert not reconciler.demand(Demands(acknowledged=[FENCE]))
    assert not reconciler.is_empty()


def test_a_stale_run_is_killed_and_its_end_is_forgotten_unreported() -> None:
    reconciler = Reconciler()
    reconciler.observe([a_record(RunState.STARTED)])
    assert reconciler.demand(Demands(stale=[FENCE])) == Orders(kills=((FENCE, 0.0),))
    assert not reconciler.demand(Demands(stale=[FENCE]))
    assert reconciler.observe([a_record(RunState.DONE)]) == Orders(forgotten=(FENCE,))
    assert reported(reconciler) == []
    assert reconciler.everything() == []


def test_a_stale_end_is_forgotten() -> None:
    reconciler = Reconciler()
    reconciler.observe([a_record(RunState.DONE)])
    assert reconciler.demand(Demands(stale=[FENCE])) == Orders(forgotten=(FENCE,))


def test_an_unanswered_end_is_reported_again_after_some_heartbeats() -> None:
    reconciler = Reconciler()
    reconciler.observe([a_record(RunState.DONE)])
    assert reported(reconciler) == [(FENCE, RunState.DONE)]
    for _ in range(RESEND_AFTER_ROUNDS - 1):
        reconciler.next_round()
        assert reported(reconciler) == []
    reconciler.next_round()
    assert reported(reconciler) == [(FENCE, RunState.DONE)]


def test_a_registration_tells_everything_that_was_not_acknowledged() -> None:
    reconciler = Reconciler()
    reconciler.observe([a_record(RunState.DONE), a_record(RunState.STARTED, (1, 2))])
    reported(reconciler)
    assert [record.fence for record in reconciler.everything()] == [FENCE, (1, 2)]


def test_reports_come_in_portions() -> None:
    reconciler = Reconciler()
    reconciler.observe([a_record(RunState.CLAIMED, (1, number)) for number in range(5)])
    assert [len(reconciler.take_reports(2)) for _ in range(4)] == [2, 2, 1, 0]


def test_a_closed_agent_takes_no_offers() -> None:
    reconciler = Reconciler()
    reconciler.close()
    assert not reconciler.demand(Demands(offers=[an_offer("true")]))
    assert reconciler.is_empty()


@given(st.permutations([RunState.OFFERED, RunState.CLAIMED, RunState.STARTED, RunState.DONE] * 2))
def test_records_in_any_order_and_number_come_to_the_same_end(states: list[RunState]) -> None:
    reconciler = Reconciler()
    for state in states:
        reconciler.observe([a_record(state)])
    assert [record.state for record in reconciler.everything()] == [RunState.DONE]


FENCES: Sequence[Fence] = [(1, 1), (1, 2), (2, 1), (2, 2)]


class World:
    """A store's side, an agent's core and a ledger in place of a runtime.

    Messages of the network come late, twice, out of order or not at all; those between agent and runtime do not.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.reconciler = Reconciler()
        self.ledger = Ledger()
        self.ledger.set_capacity((2000, 1000, 0))
        self.ledger.renew_lease(1000, 0)
        self.starts: list[Fence] = []
        self.reports: dict[Fence, RunState] = {}
        self.network: list[Callable[[], None]] = []
        self.local: list[Callable[[], None]] = []

    def post(self, message: Callable[[], None]) -> None:
        """Have a message delivered once or twice, at any later time."""
        for _ in range(self.rng.choice([1, 1, 2])):
            self.network.insert(self.rng.randint(0, len(self.network)), message)

    def demand(self, demands: Demands) -> None:
        orders = self.reconciler.demand(demands)
        self.local.append(lambda: self.carry_out(orders))

    def carry_out(self, orders: Orders) -> None:
        for offer in orders.offers:
            self.ledger.offer(Run(offer.fence, offer.need, offer.about, offer))
        for fence in [*orders.revocations, *(fence for fence, _ in orders.kills)]:
            run = self.ledger.runs.get(fence)
            if run is not None and run.state in (RunState.CLAIMED, RunState.STARTED):
                self.ledger.finish(run, 0, RunEnd.STOPPED)
            else:
                self.ledger.revoke(fence)
        for fence in orders.forgotten:
            self.ledger.forget(fence)

    def work(self) -> None:
        """Let the runtime start and end what it can, and everybody tell the others."""
        runs = self.ledger.startable(0)
        self.ledger.claim(runs)
        for run in runs:
            self.starts.append(run.fence)
            self.ledger.start(run, 0)
        for run in self.ledger.active():
            if self.rng.random() < 0.5:
                self.ledger.finish(run, 0, RunEnd.EXITED, exit_code=0)
        if records := [record_of(run) for run in self.ledger.take_changes()]:
            self.local.append(lambda: self.carry_out(self.reconciler.observe(records)))
        for record in self.reconciler.take_reports(100):
            if self.rng.random() < 0.8:
                self.post(partial(self.receive, record))

    def pass_time(self) -> None:
        """Deliver something, let everybody work, and beat the heart."""
        for messages in (self.network, self.local):
            for _ in range(self.rng.randint(0, len(messages))):
                messages.pop(0)()
        self.work()
        self.reconciler.next_round()

    def receive(self, record: RunRecord) -> None:
        self.reports[record.fence] = max(record.state, self.reports.get(record.fence, RunState.OFFERED))
        if record.is_final:
            self.post(lambda: self.demand(Demands(acknowledged=[record.fence])))


@given(st.integers(0, 2**32))
def test_no_fence_starts_twice_and_everything_is_forgotten_in_the_end(seed: int) -> None:
    world = World(random.Random(seed))
    for fence in FENCES:
        world.post(partial(world.demand, Demands(offers=[an_offer("true", fence=fence)])))
    world.post(partial(world.demand, Demands(revocations=[(1, 2)])))
    world.post(partial(world.demand, Demands(kills=[((2, 1), 0.0)])))
    for _ in range(2000):
        world.pass_time()
        if not (world.network or world.local or world.ledger.runs) and world.reconciler.is_empty():
            break
    assert len(set(world.starts)) == len(world.starts)
    assert set(world.reports) == set(FENCES)
    assert {world.reports[fence] for fence in FENCES} <= {RunState.DONE, RunState.REVOKED}
    assert world.reconciler.is_empty()
    assert not world.ledger.runs
