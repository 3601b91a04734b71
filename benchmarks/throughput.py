"""Whole lives of jobs: from submission to the end that a client sees."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from batchyard.api.registry.v1.compute_environment_pb2 import COMPUTE_ENVIRONMENT_TYPE_UNMANAGED
from batchyard.api.registry.v1.registry_service_pb2 import (
    CreateComputeEnvironmentRequest,
    CreateJobQueueRequest,
)
from benchmarks.bench import SUBMISSION, Bench, Figures, Folders, bench_with, fresh_bench, synchronous
from benchmarks.http_client import post_all
from support.docker import IMAGE, an_engine
from support.installation import start_six

HTTP_CONNECTIONS = 8


async def array(folders: Folders, n: int) -> Figures:
    """Run an array of no-op processes."""
    async with fresh_bench(folders) as bench:
        return await _run_array(bench, n)


async def array_six(folders: Folders, n: int) -> Figures:
    """Run an array of no-op processes, every service a process of its own."""
    async with six_processes(folders) as bench:
        return await _run_array(bench, n)


async def _run_array(bench: Bench, n: int) -> Figures:
    figures = Figures(n)
    await bench.register()
    with bench.measuring(figures):
        begin = time.perf_counter()
        job_id = await bench.submit_array(n)
        figures.more["submit_ms"] = round(1000 * (time.perf_counter() - begin), 1)
        await bench.until_ended(job_id)
    figures.checks = await bench.read_back([f"{job_id}:{index}" for index in range(n)])
    figures.checks["synchronous"] = synchronous(bench.installation.folder)
    return figures


async def batch(folders: Folders, n: int) -> Figures:
    """Submit separate jobs in batches over gRPC, and run them."""
    figures = Figures(n)
    async with fresh_bench(folders) as bench:
        await bench.register()
        with bench.measuring(figures):
            job_ids = await bench.submit(n)
            await bench.until_all_ended(n)
        figures.checks = await bench.read_back(job_ids)
        figures.checks["synchronous"] = synchronous(bench.installation.folder)
    return figures


async def singles(folders: Folders, n: int) -> Figures:
    """Submit separate jobs, an HTTP request each over 8 connections, and run them."""
    figures = Figures(n)
    async with fresh_bench(folders) as bench:
        await bench.register()
        with bench.measuring(figures):
            begin = time.perf_counter()
            url = bench.installation.http_url
            await post_all(url, "/v1/submitjob", [SUBMISSION] * n, connections=HTTP_CONNECTIONS)
            figures.more["submitted_per_s"] = round(n / (time.perf_counter() - begin), 1)
            job_ids = await bench.until_all_ended(n)
        figures.checks = await bench.read_back(job_ids)
        figures.checks["synchronous"] = synchronous(bench.installation.folder)
    return figures


async def one_second(folders: Folders, n: int) -> Figures:
    """Run jobs of a second each, 8 at a time: how much of the slots' time is used."""
    figures = Figures(n)
    async with fresh_bench(folders) as bench:
        await bench.register("sleep", "1")
        with bench.measuring(figures):
            job_id = await bench.submit_array(n)
            await bench.until_ended(job_id)
        figures.more["used_of_slots"] = round(n / (8 * figures.seconds), 3)
        figures.checks = await bench.read_back([f"{job_id}:{index}" for index in range(n)])
    return figures


async def containers(folders: Folders, n: int) -> Figures:
    """Run containers through Docker, and as many with `docker run`, one after the other."""
    figures = Figures(n)
    with an_engine() as engine:
        os.environ["DOCKER_HOST"] = engine.url
        try:
            async with fresh_bench(folders, "--runtime", "docker") as bench:
                await bench.register("true", memory=64, image=IMAGE)
                with bench.measuring(figures):
                    job_id = await bench.submit_array(n)
                    await bench.until_ended(job_id)
                figures.checks = await bench.read_back([f"{job_id}:{index}" for index in range(n)])
            docker_s = await asyncio.to_thread(_docker_run, n)
        finally:
            del os.environ["DOCKER_HOST"]
    figures.more = {
        "containers_per_s": round(n / figures.seconds, 2),
        "docker_run_per_s": round(n / docker_s, 2),
        "of_docker_run": round(docker_s / figures.seconds, 2),
    }
    return figures


def _docker_run(n: int) -> float:
    """Return how many seconds it takes to run containers one after the other."""
    begin = time.perf_counter()
    for _ in range(n):
        subprocess.run(["docker", "run", "--rm", "--network=none", IMAGE, "true"], check=True)
    return time.perf_counter() - begin


@asynccontextmanager
async def six_processes(folders: Folders) -> AsyncIterator[Bench]:
    """Run six services, with the resources that `up` makes by itself."""
    installation = start_six(folders.fresh())
    try:
        async with bench_with(installation) as bench:
            registry, call = bench.client.registry, bench.client.call
            environment = CreateComputeEnvironmentRequest(
                compute_environment_name="default", type=COMPUTE_ENVIRONMENT_TYPE_UNMANAGED
            )
            await registry.CreateComputeEnvironment(environment, **call)
            queue = CreateJobQueueRequest(job_queue_name="default", priority=1)
            queue.compute_environment_order.add(order=1, compute_environment="default")
            await registry.CreateJobQueue(queue, **call)
            yield bench
    finally:
        installation.close()
