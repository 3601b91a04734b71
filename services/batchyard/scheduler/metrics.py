"""What the scheduler shows of its agents, read at each scrape from the picture that it has anyway."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from batchyard.domain.clock import Clock
from batchyard.scheduler.loop import Scheduler
from batchyard.scheduler.roster import AgentRecord


class AgentGauges(Collector):
    """What each agent has, what of it is taken, and how long its lease still is."""

    def __init__(self, scheduler: Scheduler, clock: Clock) -> None:
        self._scheduler = scheduler
        self._clock = clock

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return nothing: several schedulers may be measured in one process."""
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield a family for each thing to know, with a sample an agent."""
        leads = GaugeMetricFamily("batchyard_scheduler_leads", "1 while this scheduler decides.")
        leads.add_metric((), self._scheduler.leads)
        yield leads
        connected = _family("connected", "1 while the agent has a session.")
        draining = _family("draining", "1 while it is offered nothing.")
        runs = _family("runs", "Jobs that are offered to it or run on it.")
        lease = _family("lease_seconds", "Until it counts as lost if it is not heard again.")
        capacity = _family("capacity", "What it offers: vcpus, memory_mib, gpus.", "resource")
        used = _family("used", "What of it is taken.", "resource")
        now = self._clock.monotonic_s()
        for record in self._scheduler.roster:
            agent = (record.agent_id,)
            connected.add_metric(agent, record.is_connected)
            draining.add_metric(agent, record.agent_id in self._scheduler.drains)
            ends_at = self._scheduler.lease_ends_at(record.agent_id)
            if ends_at is not None:
                lease.add_metric(agent, ends_at - now)
            use = self._scheduler.planner.use_of(record.agent_id)
            runs.add_metric(agent, use.runs)
            taken = use.used.vcpus_milli / 1000, use.used.memory_mib, use.used.gpus
            for family, amounts in ((capacity, _capacity_of(record)), (used, taken)):
                for resource, amount in zip(("vcpus", "memory_mib", "gpus"), amounts, strict=True):
                    family.add_metric((*agent, resource), amount)
        yield from (connected, draining, runs, lease, capacity, used)


def _family(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"batchyard_agent_{name}", documentation, labels=("agent", *labels))


def _capacity_of(record: AgentRecord) -> tuple[float, float, float]:
    if record.registration is None:
        return (0, 0, 0)
    capacity = record.registration.capacity
    return (capacity.vcpus_milli / 1000, capacity.memory_mib, capacity.gpus)
