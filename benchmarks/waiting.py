"""What many waiting jobs cost: calls beside them, memory, and a start with them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from batchyard.api.jobs.v1.jobs_pb2 import JOB_STATUS_RUNNABLE
from batchyard.api.jobs.v1.jobs_service_pb2 import DescribeJobsRequest, ListJobsRequest
from benchmarks.bench import SUBMISSION, Bench, Figures, Folders, bench_with, fresh_bench, spread
from benchmarks.http_client import connected
from benchmarks.machine import cpu_us, processes_of, resident_mib
from support.installation import start_up

CALLS = 300
STEPS = 4
IDLE_S = 3.0
CONTROL_PLANE = "control plane"


async def separate(folders: Folders, n: int) -> Figures:
    """Let n separate jobs wait, in steps; at each measure calls and memory; then start anew and run one more job."""
    figures = Figures(n)
    places = folders.fresh()
    installation = start_up(places, "--log-level", "warning", "--no-agent")
    try:
        async with bench_with(installation) as bench:
            await bench.register()
            steps = [await _look(bench, 0)]
            begin = time.perf_counter()
            for step in range(1, STEPS + 1):
                await bench.submit(n * step // STEPS - n * (step - 1) // STEPS)
                steps.append(await _look(bench, n * step // STEPS))
            figures.seconds = time.perf_counter() - begin
    finally:
        installation.close()
    figures.more = {"steps": steps, **_compared(steps[0], steps[-1]), **await _start_again(places)}
    return figures


async def _look(bench: Bench, waiting: int) -> dict[str, object]:
    """Measure calls of each kind beside so many waiting jobs, and what waiting alone costs."""
    jobs, call = bench.client.jobs, bench.client.call
    found: dict[str, object] = {"waiting": waiting}
    async with connected(bench.installation.http_url) as http:

        async def submit() -> object:
            return await http.post("/v1/submitjob", SUBMISSION)

        found["SubmitJob"] = await _timed(submit)
    listed = await jobs.ListJobs(
        ListJobsRequest(job_queue="default", job_status=JOB_STATUS_RUNNABLE, max_results=100), **call
    )
    assert listed.job_summary_list
    job_id = listed.job_summary_list[0].job_id

    async def describe() -> object:
        return await jobs.DescribeJobs(DescribeJobsRequest(jobs=[job_id]), **call)

    async def list_page() -> object:
        request = ListJobsRequest(job_queue="default", job_status=JOB_STATUS_RUNNABLE, max_results=100)
        return await jobs.ListJobs(request, **call)

    found["DescribeJobs"] = await _timed(describe)
    found["ListJobs"] = await _timed(list_page)
    pid = processes_of(bench.installation)[CONTROL_PLANE]
    used = cpu_us({CONTROL_PLANE: pid})[CONTROL_PLANE]
    await asyncio.sleep(IDLE_S)
    found["idle_cpu_percent"] = round((cpu_us({CONTROL_PLANE: pid})[CONTROL_PLANE] - used) / IDLE_S / 10_000, 2)
    found["memory_mib"] = resident_mib(pid)
    return found


async def _timed(call: Callable[[], Awaitable[object]]) -> dict[str, float]:
    seconds = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        await call()
        seconds.append(time.perf_counter() - begin)
    return spread(seconds)


def _compared(empty: dict[str, object], full: dict[str, object]) -> dict[str, float]:
    """Return how many times longer the median call takes beside all the waiting jobs than beside none."""
    growth = {}
    for name in ("SubmitJob", "DescribeJobs", "ListJobs"):
        before, after = empty[name], full[name]
        assert isinstance(before, dict)
        assert isinstance(after, dict)
        growth[f"{name}_growth"] = round(after["p50_ms"] / before["p50_ms"], 2)
    return growth


async def _start_again(data: Path) -> dict[str, float]:
    """Start on what is stored, with an agent, and see the first of the waiting jobs end."""
    begin = time.perf_counter()
    installation = start_up(data, "--log-level", "warning")
    try:
        ready_s = time.perf_counter() - begin
        async with bench_with(installation) as bench:
            await bench.until_one_ended()
            first_end_s = time.perf_counter() - begin
            memory = resident_mib(processes_of(installation)[CONTROL_PLANE])
    finally:
        installation.close()
    return {
        "start_until_ready_s": round(ready_s, 2),
        "start_until_first_end_s": round(first_end_s, 2),
        "memory_after_start_mib": memory,
    }


async def arrays(folders: Folders, n: int) -> Figures:
    """Let n arrays of 10,000 wait."""
    figures = Figures(n)
    async with fresh_bench(folders, "--no-agent") as bench:
        await bench.register()
        await bench.submit_array(10)
        pid = processes_of(bench.installation)[CONTROL_PLANE]
        before = resident_mib(pid)
        with bench.measuring(figures):
            for _ in range(n):
                await bench.submit_array(10_000)
        await asyncio.sleep(1)
        figures.more = {"empty_mib": before, "more_mib": round(resident_mib(pid) - before, 1)}
    return figures
