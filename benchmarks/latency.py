"""One job into an idle system, until a watching client sees that it has ended."""

import asyncio
import statistics
import time

from batchyard.api.operations.v1.job_operations_service_pb2 import WatchJobsRequest
from benchmarks import bare
from benchmarks.bench import DEADLINE_S, ENDED, Figures, Folders, a_submission, fresh_bench, spread

PAUSE_S = 0.03
"""Between two jobs, for the system to become idle."""
BARE_JOBS = 200
"""So many go the bare way, for comparison."""


async def idle(folders: Folders, n: int) -> Figures:
    """Submit a job, wait for its end, n times."""
    figures = Figures(n)
    seen: list[float] = []
    async with fresh_bench(folders) as bench, asyncio.timeout(DEADLINE_S):
        await bench.register()
        client = bench.client
        changes = client.operations.WatchJobs(WatchJobsRequest(after_revision=0), metadata=client.metadata)
        job_ids = []
        with bench.measuring(figures):
            for _ in range(n):
                await asyncio.sleep(PAUSE_S)
                begin = time.perf_counter()
                job_ids.append((await client.jobs.SubmitJob(a_submission(), **client.call)).job_id)
                async for response in changes:
                    if any(change.job_id == job_ids[-1] and change.status in ENDED for change in response.changes):
                        break
                seen.append(time.perf_counter() - begin)
        changes.cancel()
        figures.checks = await bench.read_back(job_ids)
    bare_s = statistics.median(await bare.measure(folders.fresh().parent, min(n, BARE_JOBS), PAUSE_S))
    # Without the pauses.
    figures.seconds = sum(seen)
    figures.more = {
        **spread(seen),
        "bare_p50_ms": round(1000 * bare_s, 2),
        "of_bare": round(statistics.median(seen) / bare_s, 2),
        "all_ms": [round(1000 * value, 2) for value in seen],
    }
    return figures
