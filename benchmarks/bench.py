"""What all cases share: an installation, its clients, and the measuring of what is done with it."""

import asyncio
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc.aio

from batchyard.api.jobs.v1.jobs_pb2 import JOB_STATUS_FAILED, JOB_STATUS_SUCCEEDED
from batchyard.api.jobs.v1.jobs_service_pb2 import DescribeJobsRequest, SubmitJobRequest
from batchyard.api.operations.v1.job_operations_service_pb2 import SubmitJobsRequest, WatchJobsRequest
from batchyard.api.registry.v1.job_definition_pb2 import ContainerProperties
from batchyard.api.registry.v1.registry_service_pb2 import RegisterJobDefinitionRequest
from batchyard.domain.names import Caller
from batchyard.storage.log_files import LogFolder, LogNameError
from batchyard.storage.sqlite.database import connect
from benchmarks.machine import cpu_us, peak_mib, processes_of
from support.installation import Installation, start_up
from support.native import NativeClient

BATCH: Final = 1000
DEADLINE_S: Final = 1800.0
SHIPPING_S: Final = 60.0
ENDED: Final = (JOB_STATUS_SUCCEEDED, JOB_STATUS_FAILED)
SUBMISSION: Final = b'{"jobName": "bench", "jobQueue": "default", "jobDefinition": "bench"}'


@dataclass(slots=True)
class Figures:
    """What one case has to say."""

    n: int
    seconds: float = 0.0
    cpu_us: dict[str, float] = field(default_factory=dict)
    """By role."""
    peak_mib: dict[str, float] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    """What this case alone measures."""
    checks: dict[str, Any] = field(default_factory=dict)
    """What was read back after the measurement."""


class Bench:
    """An installation that something is measured with."""

    def __init__(self, installation: Installation, client: NativeClient) -> None:
        self.installation = installation
        self.client = client

    @contextmanager
    def measuring(self, figures: Figures) -> Iterator[None]:
        """Note the time and the CPU time that something takes, and the memory up to its end."""
        pids = processes_of(self.installation)
        before, begin = cpu_us(pids), time.perf_counter()
        yield
        figures.seconds = time.perf_counter() - begin
        figures.cpu_us = {role: used - before[role] for role, used in cpu_us(pids).items()}
        figures.peak_mib = {role: peak_mib(pid) for role, pid in pids.items()}

    async def register(self, *command: str, memory: int = 16, image: str = "none") -> None:
        """Register what submissions name."""
        properties = ContainerProperties(image=image, vcpus=1, memory=memory, command=command or ["/bin/true"])
        await self.client.registry.RegisterJobDefinition(
            RegisterJobDefinitionRequest(
                job_definition_name="bench", type="container", container_properties=properties
            ),
            **self.client.call,
        )

    async def submit_array(self, size: int) -> str:
        """Submit an array; return its id."""
        request = a_submission()
        request.array_properties.size = size
        return (await self.client.jobs.SubmitJob(request, **self.client.call)).job_id

    async def submit(self, n: int) -> list[str]:
        """Submit jobs in batches; return their ids."""
        job_ids: list[str] = []
        for start in range(0, n, BATCH):
            batch = SubmitJobsRequest(jobs=[a_submission()] * min(BATCH, n - start))
            answer = await self.client.operations.SubmitJobs(batch, **self.client.call)
            job_ids += [result.submitted.job_id for result in answer.results]
        return job_ids

    async def until_ended(self, job_id: str) -> None:
        """Watch one job, be it an array, until it has ended."""
        request = WatchJobsRequest(job_ids=[job_id])
        async with asyncio.timeout(DEADLINE_S):
            async for response in self.client.operations.WatchJobs(request, metadata=self.client.metadata):
                if response.changes and response.changes[-1].status in ENDED:
                    return

    async def until_all_ended(self, n: int) -> list[str]:
        """Watch everything until so many jobs have ended, and return their ids."""
        ended: dict[str, None] = {}
        request = WatchJobsRequest(after_revision=0)
        async with asyncio.timeout(DEADLINE_S):
            async for response in self.client.operations.WatchJobs(request, metadata=self.client.metadata):
                ended.update((change.job_id, None) for change in response.changes if change.status in ENDED)
                if len(ended) >= n:
                    break
        return list(ended)

    async def until_one_ended(self) -> None:
        """Watch everything from now on until a job has ended."""
        async with asyncio.timeout(DEADLINE_S):
            async for response in self.client.operations.WatchJobs(WatchJobsRequest(), metadata=self.client.metadata):
                if any(change.status in ENDED for change in response.changes):
                    return

    async def read_back(self, job_ids: Sequence[str]) -> dict[str, Any]:
        """Count the exit codes that jobs are described with, and the logs that are there and complete."""
        codes: Counter[str] = Counter()
        streams = []
        for start in range(0, len(job_ids), 100):
            request = DescribeJobsRequest(jobs=job_ids[start : start + 100])
            described = await self.client.jobs.DescribeJobs(request, **self.client.call)
            for job in described.jobs:
                container = job.container
                codes[str(container.exit_code) if container.HasField("exit_code") else job.status_reason] += 1
                streams.append(container.log_stream_name)
        return {"exit_codes": dict(codes), "complete_logs": await self._complete_logs(streams)}

    async def _complete_logs(self, streams: Sequence[str]) -> int:
        """Count the logs that are there and complete; those of other hosts take a while to come."""
        logs, namespace = LogFolder(self.installation.folder / "logs"), self.client.caller.namespace

        def is_complete(stream: str) -> bool:
            try:
                return logs.is_finished(namespace, stream)
            except (FileNotFoundError, LogNameError):
                return False

        deadline = time.monotonic() + SHIPPING_S
        while (count := sum(map(is_complete, streams))) < len(streams) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        return count


def a_submission() -> SubmitJobRequest:
    """Return the submission that all cases repeat."""
    return SubmitJobRequest(job_name="bench", job_queue="default", job_definition="bench")


class Folders:
    """Folders for installations. They stay until the last case is over.

    Deleting them between cases would slow the next one down: some file systems look for a while at each file that was
    deleted before they make a new one.
    """

    def __init__(self) -> None:
        # Not in /tmp: that is memory on many machines, where a sync costs nothing.
        self._root = tempfile.TemporaryDirectory(prefix="batchyard-bench-", dir=os.environ.get("TMPDIR", "/var/tmp"))
        self._made = 0

    def fresh(self) -> Path:
        """Return where an installation may put its data."""
        self._made += 1
        folder = Path(self._root.name) / str(self._made)
        folder.mkdir()
        return folder / "data"

    def close(self) -> None:
        """Remove everything."""
        self._root.cleanup()


@asynccontextmanager
async def bench_with(installation: Installation) -> AsyncIterator[Bench]:
    """Connect to an installation for the length of the context."""
    async with grpc.aio.insecure_channel(installation.grpc_target) as channel:
        yield Bench(installation, NativeClient(channel, Caller()))


@asynccontextmanager
async def fresh_bench(folders: Folders, *flags: str) -> AsyncIterator[Bench]:
    """Run `up` on a folder of its own for the length of the context."""
    installation = start_up(folders.fresh(), "--log-level", "warning", *flags)
    try:
        async with bench_with(installation) as bench:
            yield bench
    finally:
        installation.close()


def synchronous(folder: Path) -> int:
    """Return SQLite's setting as our connections to the job store have it: 2 is FULL."""
    connection = connect(folder / "jobs.db")
    try:
        (value,) = connection.execute("PRAGMA synchronous").fetchone()
    finally:
        connection.close()
    return int(value)


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return the median and the 99th percentile, in milliseconds of seconds."""
    in_order = sorted(values)
    return {
        "p50_ms": round(1000 * statistics.median(in_order), 3),
        "p99_ms": round(1000 * in_order[min(len(in_order) - 1, len(in_order) * 99 // 100)], 3),
    }
