"""Who may lead: at every moment at most one scheduler believes that it does."""

from hypothesis import given
from hypothesis import strategies as st

from batchyard.domain.clock import CLOCK_DRIFT, CLOCK_MARGIN
from batchyard.jobstore.leadership import Leadership

LEASE_S = 10.0


def test_the_first_scheduler_of_an_installation_need_not_wait() -> None:
    assert Leadership(LEASE_S, holder="", now=5).wait_s("first", 5) == 0


def test_another_scheduler_waits_until_the_leaders_lease_is_over_by_any_clock() -> None:
    leadership = Leadership(LEASE_S, holder="", now=0)
    leadership.take("first", 0)
    leadership.renew("first", 4)
    assert leadership.wait_s("second", 4) > LEASE_S * (1 + CLOCK_DRIFT)
    assert leadership.wait_s("second", 4 + LEASE_S * CLOCK_MARGIN) == 0


def test_the_leader_itself_comes_back_at_once() -> None:
    leadership = Leadership(LEASE_S, holder="", now=0)
    leadership.take("first", 0)
    assert leadership.wait_s("first", 1) == 0


def test_a_store_that_starts_again_waits_for_whoever_led_before() -> None:
    leadership = Leadership(LEASE_S, holder="first", now=100)
    assert leadership.wait_s("second", 100) > LEASE_S
    assert leadership.wait_s("first", 100) == 0


def test_a_store_that_does_not_know_who_led_before_waits_for_anybody() -> None:
    leadership = Leadership(LEASE_S, holder=None, now=100)
    assert leadership.wait_s("first", 100) > LEASE_S
    assert leadership.wait_s("first", 100 + LEASE_S * CLOCK_MARGIN) == 0


def test_a_leader_that_resigns_is_not_waited_for() -> None:
    leadership = Leadership(LEASE_S, holder="", now=0)
    leadership.take("first", 0)
    leadership.resign("second")
    assert leadership.wait_s("second", 1) > 0
    leadership.resign("first")
    assert leadership.wait_s("second", 1) == 0


def test_a_scheduler_that_was_replaced_renews_nothing() -> None:
    leadership = Leadership(LEASE_S, holder="", now=0)
    leadership.take("first", 0)
    leadership.take("second", 50)
    assert not leadership.renew("first", 51)
    assert leadership.renew("second", 51)


def test_without_a_lease_nobody_waits() -> None:
    leadership = Leadership(None, holder="first", now=0)
    assert leadership.wait_s("second", 0) == 0
    assert leadership.lease_ms == 0


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(0, 15)), max_size=60),
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.floats(1 - CLOCK_DRIFT, 1 + CLOCK_DRIFT)),
)
def test_no_two_schedulers_ever_believe_that_they_lead(
    attempts: list[tuple[str, float]], clock_rates: dict[str, float]
) -> None:
    """Each attempt is a heartbeat, or a hello of one that does not lead; it takes no time, the worst case."""
    leadership = Leadership(LEASE_S, holder="", now=0)
    now = 0.0
    believes_until: dict[str, float] = {}
    for scheduler_id, later in attempts:
        now += later
        if leadership.wait_s(scheduler_id, now) > 0:
            continue
        leadership.take(scheduler_id, now)
        others = [until for other, until in believes_until.items() if other != scheduler_id]
        assert all(until <= now for until in others)
        # By its own clock it leads for the whole lease, which a slow clock makes longer.
        believes_until[scheduler_id] = now + LEASE_S / clock_rates.get(scheduler_id, 1.0)
