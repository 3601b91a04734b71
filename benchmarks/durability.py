"""What is left of acknowledged jobs after kill -9."""

import asyncio
import contextlib
import json
import os
import signal

from batchyard.api.jobs.v1.jobs_service_pb2 import DescribeJobsRequest
from benchmarks.bench import SUBMISSION, Figures, Folders, bench_with
from benchmarks.http_client import connected
from support.installation import start_up

CLIENTS = 16


async def kill(folders: Folders, n: int) -> Figures:
    """Submit from 16 clients; when n jobs are acknowledged, kill everything at once; start again and look for each."""
    figures = Figures(n)
    data = folders.fresh()
    acknowledged: list[str] = []
    reached = asyncio.Event()
    installation = start_up(data, "--log-level", "warning", "--no-agent")

    async def submit() -> None:
        # The connection breaks in the middle of a request, in whatever way.
        with contextlib.suppress(OSError, EOFError, RuntimeError):
            async with connected(installation.http_url) as http:
                while True:
                    acknowledged.append(json.loads(await http.post("/v1/submitjob", SUBMISSION))["jobId"])
                    if len(acknowledged) >= n:
                        reached.set()

    try:
        async with bench_with(installation) as bench:
            await bench.register()
        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(submit())
            await reached.wait()
            os.killpg(installation.processes["up"].pid, signal.SIGKILL)
    finally:
        installation.close()
    figures.n = len(acknowledged)
    found: set[str] = set()
    installation = start_up(data, "--log-level", "warning", "--no-agent")
    try:
        async with bench_with(installation) as bench:
            for start in range(0, len(acknowledged), 100):
                request = DescribeJobsRequest(jobs=acknowledged[start : start + 100])
                answer = await bench.client.jobs.DescribeJobs(request, **bench.client.call)
                found.update(job.job_id for job in answer.jobs)
    finally:
        installation.close()
    figures.more = {"acknowledged": len(acknowledged), "lost": len(set(acknowledged) - found)}
    return figures
