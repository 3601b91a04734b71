"""`make bench`: one JSON line for each figure.

Jobs a second are those of whole lives, from submission to the end that a client sees. Submissions are measured with no
agent, so that nothing runs beside them. A ratio is the figure divided by the floor, measured right before it.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import grpc.aio
import uvloop

from batchyard.api.jobs.v1.jobs_pb2 import JOB_STATUS_FAILED, JOB_STATUS_SUCCEEDED
from batchyard.api.jobs.v1.jobs_service_pb2 import DescribeJobsRequest, SubmitJobRequest
from batchyard.api.operations.v1.job_operations_service_pb2 import SubmitJobsRequest, WatchJobsRequest
from batchyard.api.registry.v1.job_definition_pb2 import ContainerProperties
from batchyard.api.registry.v1.registry_service_pb2 import RegisterJobDefinitionRequest
from batchyard.domain.names import Caller
from batchyard.storage.sqlite.database import connect
from benchmarks.floor import measure_floor
from benchmarks.http_client import post_all
from benchmarks.machine import cpu_us, peak_mib, processes_of, system
from support.installation import Installation, start_up
from support.native import NativeClient

BATCH: Final = 1000
CONNECTIONS: Final = 32
DEADLINE_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one benchmark saw."""

    seconds: float
    checks: dict[str, Any]
    """Read back after the measurement."""


def main() -> None:
    """Run all benchmarks, or those named."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--jobs", type=int, default=2000, help="jobs of the end-to-end benchmark")
    parser.add_argument("--array", type=int, default=10_000, help="children of the array that is run")
    parser.add_argument("--calls", type=int, default=4000, help="calls of the submission benchmarks")
    arguments = parser.parse_args()
    for name in arguments.names or BENCHMARKS:
        benchmark, n, flags = BENCHMARKS[name](arguments)
        print(json.dumps(measure(name, benchmark, n, flags)), flush=True)


Benchmark = Callable[[Installation, NativeClient, int], Awaitable[Measurement]]


def measure(name: str, benchmark: Benchmark, n: int, flags: tuple[str, ...]) -> dict[str, Any]:
    """Run one benchmark on a fresh installation and put its line together."""
    floor = measure_floor()
    with fresh_installation(*flags) as installation:
        pids = processes_of(installation)
        before = cpu_us(pids)

        async def run() -> Measurement:
            async with grpc.aio.insecure_channel(installation.grpc_target) as channel:
                return await benchmark(installation, NativeClient(channel, Caller()), n)

        seen = uvloop.run(run())
        after = cpu_us(pids)
        checks = {**seen.checks, "synchronous": synchronous(installation)}
    per_s = n / seen.seconds
    return {
        "benchmark": name,
        "system": system(),
        "n": n,
        "seconds": round(seen.seconds, 3),
        "per_s": round(per_s, 1),
        "floor_per_s": round(floor.per_s, 1),
        "floor_by": floor.how,
        "ratio": round(per_s / floor.per_s, 3),
        "cpu_us_each": {role: round((after[role] - before[role]) / n) for role in pids},
        "checks": checks,
    }


@contextmanager
def fresh_installation(*flags: str) -> Iterator[Installation]:
    """Start `up` on a folder of its own, with room for a few jobs at a time."""
    with tempfile.TemporaryDirectory(prefix="batchyard-bench-") as folder:
        installation = start_up(Path(folder) / "data", *flags)
        try:
            yield installation
        finally:
            installation.close()


def synchronous(installation: Installation) -> int:
    """Return SQLite's setting as our connections to the job store have it: 2 is FULL."""
    connection = connect(installation.folder / "jobs.db")
    try:
        (value,) = connection.execute("PRAGMA synchronous").fetchone()
    finally:
        connection.close()
    return int(value)


def a_submission() -> SubmitJobRequest:
    """Return the submission that all benchmarks repeat."""
    return SubmitJobRequest(job_name="bench", job_queue="default", job_definition="bench")


async def register(client: NativeClient) -> None:
    """Register what the submissions name."""
    properties = ContainerProperties(image="none", vcpus=1, memory=16, command=["/bin/true"])
    await client.registry.RegisterJobDefinition(
        RegisterJobDefinitionRequest(job_definition_name="bench", type="container", container_properties=properties),
        **client.call,
    )


async def run_jobs(_installation: Installation, client: NativeClient, n: int) -> Measurement:
    """Submit n jobs in batches and watch until the last has ended."""
    await register(client)
    ended: dict[str, int] = {}

    async def watch() -> None:
        watching = client.operations.WatchJobs(WatchJobsRequest(after_revision=0), metadata=client.metadata)
        async for response in watching:
            for change in response.changes:
                if change.status in (JOB_STATUS_SUCCEEDED, JOB_STATUS_FAILED):
                    ended[change.job_id] = change.status
            if len(ended) == n:
                return

    begin = time.perf_counter()
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        group.create_task(watch())
        for start in range(0, n, BATCH):
            batch = SubmitJobsRequest(jobs=[a_submission()] * min(BATCH, n - start))
            await client.operations.SubmitJobs(batch, **client.call)
    seconds = time.perf_counter() - begin
    return Measurement(seconds, {"exit_codes": await exit_codes(client, list(ended))})


async def run_array(installation: Installation, client: NativeClient, n: int) -> Measurement:
    """Submit an array of n children and watch until it has ended."""
    await register(client)
    request = a_submission()
    request.array_properties.size = n
    begin = time.perf_counter()
    job_id = (await client.jobs.SubmitJob(request, **client.call)).job_id
    submitted = time.perf_counter()
    async with asyncio.timeout(DEADLINE_S):
        watching = client.operations.WatchJobs(WatchJobsRequest(job_ids=[job_id]), metadata=client.metadata)
        async for response in watching:
            if response.changes and response.changes[-1].status in (JOB_STATUS_SUCCEEDED, JOB_STATUS_FAILED):
                break
    seconds = time.perf_counter() - begin
    return Measurement(
        seconds,
        {
            "exit_codes": await exit_codes(client, [f"{job_id}:{index}" for index in range(n)]),
            "submit_ms": round(1000 * (submitted - begin), 1),
            "peak_mib": {name: peak_mib(process.pid) for name, process in installation.processes.items()},
        },
    )


async def exit_codes(client: NativeClient, job_ids: list[str]) -> dict[str, int]:
    """Count the exit codes that the jobs are described with."""
    codes: Counter[str] = Counter()
    for start in range(0, len(job_ids), 100):
        request = DescribeJobsRequest(jobs=job_ids[start : start + 100])
        described = await client.jobs.DescribeJobs(request, **client.call)
        codes.update(
            str(job.container.exit_code) if job.container.HasField("exit_code") else "none" for job in described.jobs
        )
    return dict(codes)


async def submit_by_http(installation: Installation, client: NativeClient, n: int) -> Measurement:
    """Submit n jobs, a request each, over 32 HTTP connections."""
    await register(client)
    body = b'{"jobName": "bench", "jobQueue": "default", "jobDefinition": "bench"}'
    address = urlsplit(installation.http_url)
    assert address.hostname is not None
    assert address.port is not None
    begin = time.perf_counter()
    answers = await post_all(address.hostname, address.port, "/v1/submitjob", [body] * n, connections=CONNECTIONS)
    seconds = time.perf_counter() - begin
    return Measurement(seconds, {"job_ids": len({json.loads(answer)["jobId"] for answer in answers})})


async def submit_by_grpc(_installation: Installation, client: NativeClient, n: int) -> Measurement:
    """Submit n jobs, a call each, 32 at a time on one channel."""
    await register(client)
    waiting = iter(range(n))
    job_ids: set[str] = set()

    async def submit_each() -> None:
        for _ in waiting:
            job_ids.add((await client.jobs.SubmitJob(a_submission(), **client.call)).job_id)

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(submit_each())
    return Measurement(time.perf_counter() - begin, {"job_ids": len(job_ids)})


BENCHMARKS: Final[dict[str, Callable[[argparse.Namespace], tuple[Benchmark, int, tuple[str, ...]]]]] = {
    "jobs": lambda arguments: (run_jobs, arguments.jobs, ()),
    "array": lambda arguments: (run_array, arguments.array, ()),
    "submit-http": lambda arguments: (submit_by_http, arguments.calls, ("--no-agent",)),
    "submit-grpc": lambda arguments: (submit_by_grpc, arguments.calls, ("--no-agent",)),
}

if __name__ == "__main__":
    main()
