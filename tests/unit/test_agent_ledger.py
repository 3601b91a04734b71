"""What a host was offered: room, order, leases, and that no fence starts twice."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchyard.agent.launcher.ledger import Fence, FenceHistory, Ledger, Run, RunEnd, RunState
from batchyard.api.agent.v1 import run_pb2

NOW = 1000.0


def a_ledger(vcpus_milli: int = 4000) -> Ledger:
    ledger = Ledger()
    ledger.set_capacity((vcpus_milli, 1000, 0))
    ledger.renew_lease(NOW + 100, 15)
    return ledger


def a_run(number: int, *, epoch: int = 1, vcpus_milli: int = 1000) -> Run:
    return Run((epoch, number), (vcpus_milli, 1, 0), {}, None)


def fences(runs: Sequence[Run]) -> list[Fence]:
    return [run.fence for run in runs]


def run_all(ledger: Ledger) -> list[Run]:
    """Claim and start whatever may start."""
    runs = ledger.startable(NOW)
    ledger.claim(runs)
    for run in runs:
        ledger.start(run, NOW)
    return runs


def test_states_and_ends_have_the_numbers_of_the_protocol() -> None:
    assert {state.name: int(state) for state in RunState} == {
        name.removeprefix("RUN_STATE_"): number for name, number in run_pb2.RunState.items() if number
    }
    assert {end.name: int(end) for end in RunEnd} == {
        name.removeprefix("RUN_END_"): number for name, number in run_pb2.RunEnd.items() if number
    }


def test_offers_start_in_the_order_of_their_arrival() -> None:
    ledger = a_ledger(vcpus_milli=2000)
    for number in (3, 1, 2):
        ledger.offer(a_run(number))
    assert fences(ledger.startable(NOW)) == [(1, 3), (1, 1)]


def test_a_wide_offer_at_the_head_is_not_passed_by_smaller_ones() -> None:
    ledger = a_ledger(vcpus_milli=2000)
    ledger.offer(a_run(1))
    run_all(ledger)
    ledger.offer(a_run(2, vcpus_milli=2000))
    ledger.offer(a_run(3))
    assert ledger.startable(NOW) == []


def test_an_ended_run_gives_its_room_back() -> None:
    ledger = a_ledger(vcpus_milli=1000)
    ledger.offer(a_run(1))
    ledger.offer(a_run(2))
    (first,) = run_all(ledger)
    assert ledger.startable(NOW) == []
    ledger.finish(first, NOW, RunEnd.EXITED, exit_code=0)
    assert fences(ledger.startable(NOW)) == [(1, 2)]


def test_an_offer_that_could_never_fit_is_given_back() -> None:
    ledger = a_ledger()
    ledger.offer(a_run(1, vcpus_milli=4001))
    assert ledger.startable(NOW) == []
    assert ledger.runs[(1, 1)].state is RunState.REVOKED


@pytest.mark.parametrize(("left_s", "starts"), [(15.0, False), (15.1, True)])
def test_nothing_starts_in_the_margin_before_the_leases_end(left_s: float, starts: bool) -> None:
    ledger = a_ledger()
    ledger.offer(a_run(1))
    assert bool(ledger.startable(NOW + 100 - left_s)) is starts


def test_a_lease_never_gets_shorter() -> None:
    ledger = a_ledger()
    ledger.renew_lease(NOW, 15)
    assert ledger.lease_deadline == NOW + 100


def test_a_known_fence_only_has_its_state_told_again() -> None:
    ledger = a_ledger()
    ledger.offer(a_run(1))
    run_all(ledger)
    ledger.take_changes()
    ledger.offer(a_run(1))
    assert [(run.fence, run.state) for run in ledger.take_changes()] == [((1, 1), RunState.STARTED)]
    assert ledger.startable(NOW) == []


def test_a_forgotten_fence_is_given_back_when_it_is_offered_again() -> None:
    ledger = a_ledger()
    ledger.offer(a_run(1))
    (run,) = run_all(ledger)
    ledger.finish(run, NOW, RunEnd.EXITED, exit_code=0)
    assert ledger.forget((1, 1))
    ledger.offer(a_run(1))
    assert ledger.runs[(1, 1)].state is RunState.REVOKED


def test_a_run_that_is_not_over_is_not_forgotten() -> None:
    ledger = a_ledger()
    ledger.offer(a_run(1))
    run_all(ledger)
    assert not ledger.forget((1, 1))
    assert (1, 1) in ledger.runs


def test_a_fence_of_an_earlier_store_epoch_is_given_back() -> None:
    ledger = a_ledger()
    ledger.offer(a_run(1, epoch=2))
    ledger.offer(a_run(9, epoch=1))
    assert ledger.runs[(1, 9)].state is RunState.REVOKED
    assert fences(ledger.startable(NOW)) == [(2, 1)]


def test_a_revocation_that_overtakes_its_offer_holds() -> None:
    ledger = a_ledger()
    ledger.revoke((1, 1))
    ledger.offer(a_run(1))
    assert ledger.startable(NOW) == []
    assert ledger.runs[(1, 1)].state is RunState.REVOKED


def test_claiming_without_room_is_a_mistake_in_the_code() -> None:
    ledger = a_ledger(vcpus_milli=1000)
    ledger.offer(a_run(1))
    ledger.offer(a_run(2))
    with pytest.raises(AssertionError, match="without room"):
        ledger.claim(list(ledger.runs.values()))


def test_what_a_journal_held_keeps_its_room() -> None:
    claimed = a_run(1, vcpus_milli=3000)
    claimed.state = RunState.CLAIMED
    ledger = Ledger()
    ledger.restore([claimed], forgotten=[(1, 7)], floor=(1, 5))
    ledger.set_capacity((4000, 1000, 0))
    ledger.renew_lease(NOW + 100, 15)
    for number in (4, 7, 8, 9):
        ledger.offer(a_run(number))
    assert fences(ledger.startable(NOW)) == [(1, 8)]
    assert ledger.runs[(1, 4)].state is ledger.runs[(1, 7)].state is RunState.REVOKED


@given(st.lists(st.integers(1, 40)), st.integers(1, 10))
def test_a_history_never_calls_a_fence_new_that_it_was_given(numbers: list[int], length: int) -> None:
    history = FenceHistory(length)
    for number in numbers:
        history.add((1, number))
    assert all((1, number) in history for number in numbers)
    assert len(history) <= length


class LedgerMachine(RuleBasedStateMachine):
    """Any orders in any order: never more than there is, never twice, never backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = a_ledger()
        self.started: list[Fence] = []
        self.seen: dict[Fence, RunState] = {}

    known = st.integers(1, 12)

    @rule(number=known, epoch=st.integers(1, 2), vcpus=st.integers(1, 5))
    def offer(self, number: int, epoch: int, vcpus: int) -> None:
        self.ledger.offer(a_run(number, epoch=epoch, vcpus_milli=vcpus * 1000))

    @rule(number=known, epoch=st.integers(1, 2))
    def revoke(self, number: int, epoch: int) -> None:
        self.ledger.revoke((epoch, number))

    @rule()
    def run_all(self) -> None:
        self.started += fences(run_all(self.ledger))

    @precondition(lambda self: self.ledger.active())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(self.ledger.active()))
        self.ledger.finish(run, NOW, RunEnd.EXITED, exit_code=0)

    @rule(number=known, epoch=st.integers(1, 2))
    def forget(self, number: int, epoch: int) -> None:
        if self.ledger.forget((epoch, number)):
            del self.seen[(epoch, number)]

    @invariant()
    def never_runs_more_than_the_host_has(self) -> None:
        assert sum(run.need[0] for run in self.ledger.active()) <= 4000

    @invariant()
    def never_starts_a_fence_twice(self) -> None:
        assert len(set(self.started)) == len(self.started)

    @invariant()
    def states_only_go_up(self) -> None:
        for run in self.ledger.take_changes():
            assert run.state >= self.seen.get(run.fence, RunState.OFFERED)
            self.seen[run.fence] = run.state


TestLedger = LedgerMachine.TestCase


def test_a_start_is_told_when_it_is_no_longer_young_or_with_what_came_of_it() -> None:
    ledger = a_ledger()
    for number in (1, 2):
        ledger.offer(a_run(number))
    ledger.claim(ledger.startable(NOW))
    ledger.take_changes()
    first, second = ledger.runs.values()
    ledger.start(first, NOW)
    ledger.start(second, NOW + 1)
    assert ledger.changes_due(young_s=3) == NOW + 3
    assert ledger.take_changes(NOW + 2, young_s=3) == []
    ledger.finish(second, NOW + 2, RunEnd.EXITED, exit_code=0)
    assert ledger.changes_due(young_s=3) < NOW
    assert ledger.take_changes(NOW + 2, young_s=3) == [second]
    assert ledger.take_changes(NOW + 3, young_s=3) == [first]
    assert ledger.changes_due(young_s=3) == float("inf")
