"""What the tests of one service each begin with: a job store in memory, a scheduler, the services behind a gateway."""

from collections.abc import Iterator

import pytest

from batchyard.scheduler.config import SchedulerConfig
from batchyard.scheduler.loop import Scheduler
from support.gateway import FakeServices
from support.jobs import Store
from support.scheduler import a_queue, an_environment
from support.scheduler_world import VirtualClock


@pytest.fixture
def store() -> Iterator[Store]:
    """A job store with a queue, an environment and an agent."""
    store = Store()
    store.register()
    yield store
    store.connection.close()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def scheduler(clock: VirtualClock) -> Scheduler:
    """A scheduler that knows a queue and an environment, and neither leads nor has an agent."""
    scheduler = Scheduler(SchedulerConfig(), clock)
    scheduler.planner.put_environment(an_environment())
    scheduler.planner.put_queue(a_queue())
    scheduler.resources_changed(complete=True)
    return scheduler


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()
