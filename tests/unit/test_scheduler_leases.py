import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchyard.domain.clock import CLOCK_DRIFT, CLOCK_MARGIN
from batchyard.scheduler.leases import Incarnation, Leases

AGENT = Incarnation("agent", 1)
LENGTH_S = (600 + 15) * CLOCK_MARGIN


@pytest.fixture
def leases() -> Leases:
    return Leases(lease_s=600, kill_budget_s=15, suspicion_s=15)


def test_an_agent_is_suspect_long_before_it_is_lost(leases: Leases) -> None:
    leases.grant(AGENT, 0)
    assert leases.due(14.9).suspects == ()
    assert leases.due(15).suspects == ("agent",)
    assert leases.is_suspect("agent")
    assert leases.due(LENGTH_S - 0.1).lost == ()
    assert leases.due(LENGTH_S).lost == (AGENT,)


def test_an_agent_is_named_suspect_and_lost_once(leases: Leases) -> None:
    leases.grant(AGENT, 0)
    assert leases.due(20).suspects == ("agent",)
    assert leases.due(21).suspects == ()
    assert leases.due(LENGTH_S).lost == (AGENT,)
    assert leases.due(LENGTH_S + 1).lost == ()
    assert leases.next_deadline() is None


def test_a_heartbeat_renews_the_lease_and_ends_the_suspicion(leases: Leases) -> None:
    leases.grant(AGENT, 0)
    leases.due(100)
    assert leases.renew(AGENT, 100)
    assert not leases.is_suspect("agent")
    assert leases.due(LENGTH_S).suspects == ("agent",)
    assert leases.due(LENGTH_S + 99).lost == ()
    assert leases.due(LENGTH_S + 100).lost == (AGENT,)


def test_a_lost_agent_cannot_renew(leases: Leases) -> None:
    leases.grant(AGENT, 0)
    leases.due(LENGTH_S)
    assert not leases.renew(AGENT, LENGTH_S)
    assert not leases.has("agent")


def test_another_incarnation_cannot_renew(leases: Leases) -> None:
    leases.grant(AGENT, 0)
    assert not leases.renew(Incarnation("agent", 2), 1)
    assert leases.due(LENGTH_S).lost == (AGENT,)


def test_a_new_incarnation_replaces_the_lease_of_the_old_one(leases: Leases) -> None:
    leases.grant(AGENT, 0)
    leases.grant(Incarnation("agent", 2), 100)
    assert leases.due(LENGTH_S).lost == ()
    assert leases.due(LENGTH_S + 100).lost == (Incarnation("agent", 2),)


def test_a_new_leader_gives_every_live_agent_a_full_lease_and_forgets_the_others(leases: Leases) -> None:
    leases.grant(AGENT, 0)
    leases.grant(Incarnation("other", 1), 0)
    leases.begin({AGENT: 600}, 500)
    assert leases.due(LENGTH_S).lost == ()
    assert leases.due(LENGTH_S + 500).lost == (AGENT,)


def test_the_next_deadline_is_when_something_falls_due(leases: Leases) -> None:
    assert leases.next_deadline() is None
    leases.grant(AGENT, 100)
    assert leases.next_deadline() == 115
    leases.due(115)
    assert leases.next_deadline() == pytest.approx(100 + LENGTH_S)


@example(lease_s=3600, kill_budget_s=15, sent_at=0, delay_s=0, agent_rate=1 - CLOCK_DRIFT, own_rate=1 + CLOCK_DRIFT)
@given(
    lease_s=st.floats(1, 3600),
    kill_budget_s=st.floats(0.1, 60),
    sent_at=st.floats(0, 1e6),
    delay_s=st.floats(0, 1e4),
    agent_rate=st.floats(1 - CLOCK_DRIFT, 1 + CLOCK_DRIFT),
    own_rate=st.floats(1 - CLOCK_DRIFT, 1 + CLOCK_DRIFT),
)
def test_the_agents_jobs_are_dead_before_the_agent_is_lost_whatever_the_delay_and_the_drift(
    lease_s: float, kill_budget_s: float, sent_at: float, delay_s: float, agent_rate: float, own_rate: float
) -> None:
    """In true time: the agent counts its lease and its kill budget with its clock, the scheduler with its own."""
    dead_at = sent_at + (lease_s + kill_budget_s) / agent_rate
    received_at = sent_at + delay_s
    leases = Leases(lease_s=lease_s, kill_budget_s=kill_budget_s, suspicion_s=lease_s / 2)
    leases.grant(AGENT, received_at * own_rate)
    assert leases.due(dead_at * own_rate - 1e-3).lost == ()
