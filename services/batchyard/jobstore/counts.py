"""How many jobs stand where, for those who measure: counted now and then, and only while anything changes."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import anyio
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from batchyard.domain.clock import Clock
from batchyard.domain.errors import UnavailableError
from batchyard.domain.lifecycle import JobState
from batchyard.jobstore.metrics import place_of
from batchyard.jobstore.reading import Reading
from batchyard.storage.jobs import QueueKey

COUNT_EVERY_S: Final = 5.0
SHARE_OF_TIME: Final = 0.02
"""Of a processor, at most: very many jobs are counted less often."""

_log = logging.getLogger(__name__)


class JobCounts(Collector):
    """Shows the jobs of each queue that have not ended, by state."""

    def __init__(self, *, reading: Reading, revision: Callable[[], int], clock: Clock) -> None:
        """Count what `reading` shows, whenever `revision` has grown."""
        self._reading = reading
        self._revision = revision
        self._clock = clock
        self._counts: dict[tuple[str, str, JobState], int] = {}

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return nothing: several stores may be measured in one process."""
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the newest counts."""
        family = GaugeMetricFamily(
            "batchyard_jobs",
            "Jobs that have not ended; of an array, its children.",
            labels=("account", "job_queue", "state"),
        )
        for (account, job_queue, state), count in self._counts.items():
            family.add_metric((account, job_queue, state.name), count)
        yield family

    async def run(self) -> None:
        """Count again and again, until cancelled."""
        REGISTRY.register(self)
        try:
            counted = None
            while True:
                begin = self._clock.monotonic_s()
                if self._revision() != counted:
                    counted = self._revision()
                    try:
                        self.take(await self._reading.ask(lambda reader: reader.tallies()))
                    except UnavailableError as error:
                        _log.warning("jobs are not counted: %s", error.message)
                took = self._clock.monotonic_s() - begin
                await anyio.sleep(max(COUNT_EVERY_S, took / SHARE_OF_TIME))
        finally:
            REGISTRY.unregister(self)

    def take(self, counts: Mapping[tuple[QueueKey, JobState], int]) -> None:
        """Show these; a place that was shown before and has no job any more is shown as empty."""
        shown = Counter[tuple[str, str, JobState]]()
        for (queue, state), count in counts.items():
            shown[*place_of(queue.namespace, queue.name), state] += count
        self._counts = {**dict.fromkeys(self._counts, 0), **shown}
