"""The store keeps the longest lease that an agent may have got, for the scheduler that leads next."""

from collections.abc import Iterator

import pytest

from batchyard.jobstore.convert import agents_message
from support.jobs import AGENT, Store


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.connection.close()


def kept(store: Store) -> int:
    """Return what the next scheduler is told."""
    snapshot = store.reader.snapshot(10)
    for _ in snapshot.pages:  # until they are read, nothing else can be done
        pass
    (agent,) = agents_message(snapshot.agents).agents
    return agent.lease_ms


def test_the_longest_of_an_incarnation_is_kept(store: Store) -> None:
    for lease_ms, longest in ((60_000, 60_000), (600_000, 600_000), (30_000, 600_000)):
        committed = store.register(lease_ms=lease_ms)
        assert [outcome.lease_ms for outcome in committed.effects.registered] == [lease_ms]
        assert kept(store) == longest


def test_the_next_incarnation_begins_with_its_own_since_the_one_before_is_dead(store: Store) -> None:
    store.register(lease_ms=600_000)
    store.register(incarnation=2, lease_ms=60_000)
    assert kept(store) == 60_000


def test_a_refused_registration_changes_nothing(store: Store) -> None:
    store.register(incarnation=2, lease_ms=60_000)
    store.register(incarnation=1, lease_ms=600_000)
    assert kept(store) == 60_000


def test_a_drain_does_not_forget_the_lease(store: Store) -> None:
    store.register(lease_ms=60_000)
    store.do(lambda group: group.drain(AGENT, draining=True, limit_ms=None, request=1))
    assert kept(store) == 60_000
