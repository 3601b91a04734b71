"""The core at scale: ten thousand agents, a million waiting jobs; decisions a second, and bytes a job."""

import gc
import time
import tracemalloc
from collections import deque
from collections.abc import Iterator
from random import Random
from typing import Any

from batchyard.domain.jobs import Fence, JobId, JobKey
from batchyard.scheduler.model import QueuedJob, Resources
from batchyard.scheduler.planner import Planner
from benchmarks.scheduling.production import NAMESPACE, QUEUE, a_planner
from benchmarks.scheduling.workload import a_host

ENDS_A_PLAN = 50
"""Runs that end between two plans."""


def measure_scale(agents: int, jobs: int) -> Iterator[dict[str, Any]]:
    """Yield what it costs to take in all agents and jobs, to fill the agents, and to go on from there."""
    for shares in (0, 100):
        yield from _measure(agents, jobs, shares)


def _measure(agents: int, jobs: int, shares: int) -> Iterator[dict[str, Any]]:
    names = {f"share-{number:03d}": 1.0 + number % 7 for number in range(shares)}
    about = {"agents": agents, "jobs": jobs, "shares": shares}
    gc.collect()
    begin = time.process_time()
    planner = a_planner([a_host(64, 256) for _ in range(agents)], names)
    yield {"scale": "agents join", **about, "us_each": _each_us(begin, agents)}
    yield {"scale": "memory of a waiting job", **about, "bytes": _bytes_a_job(names)}
    begin = time.process_time()
    for number in range(jobs):
        planner.queue_job(_job(number, list(names)))
    yield {"scale": "jobs are taken in", **about, "us_each": _each_us(begin, jobs)}
    running: deque[Fence] = deque()
    begin = time.process_time()
    placed = _plan(planner, 0.0, running, None)
    yield {"scale": "empty agents are filled", **about, "placed": placed, "us_each": _each_us(begin, placed)}
    slowest = 0.0
    begin, before, looks = time.process_time(), len(running), planner.looks
    decisions = 0
    now = 0.0
    while decisions < min(50_000, jobs // 4):
        now += 0.1
        for _ in range(ENDS_A_PLAN):
            planner.run_ended(running.popleft())
        step = time.process_time()
        decisions += _plan(planner, now, running, None)
        slowest = max(slowest, time.process_time() - step)
    seconds = time.process_time() - begin
    yield {
        "scale": "runs end, others are placed",
        **about,
        "decisions": decisions,
        "per_s": round(decisions / seconds),
        "looks_each": round((planner.looks - looks) / decisions, 2),
        "slowest_plan_ms": round(slowest * 1000, 1),
        "running": before,
    }


def _plan(planner: Planner, now: float, running: deque[Fence], offers_max: int | None) -> int:
    plan = planner.plan(now, offers_max=offers_max)
    for offer in plan.offers:
        fence = Fence(1, int(offer.job.job_id[-12:]))
        planner.offer_accepted(offer.job, fence)
        running.append(fence)
    return len(plan.offers)


def _job(number: int, shares: list[str]) -> QueuedJob:
    # Of a few dozen shapes, as users' jobs are.
    vcpus = (1, 1, 1, 2, 2, 4, 8, 16)[number % 8]
    need = Resources(vcpus * 1000, vcpus * (1024, 2048, 3072, 4096)[number // 8 % 4], 0)
    job_id = JobId(f"00000000-0000-7000-8000-{number:012d}")
    share = shares[Random(number).randrange(len(shares))] if shares else ""
    return QueuedJob(JobKey(NAMESPACE, job_id), QUEUE.name, number, need, 1, share)


def _bytes_a_job(names: dict[str, float], count: int = 50_000) -> int:
    planner = a_planner([], names)
    shares = list(names)
    tracemalloc.start()
    for number in range(count):
        planner.queue_job(_job(number, shares))
    cost, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return cost // count


def _each_us(begin: float, count: int) -> float:
    return round((time.process_time() - begin) * 1e6 / max(count, 1), 2)
