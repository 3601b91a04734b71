"""How fast jobs are taken in, durably and with no agent beside; and how fast servers are that do nothing."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

import grpc.aio

from batchyard.api.jobs.v1.jobs_service_pb2_grpc import JobsServiceStub
from benchmarks.bench import SUBMISSION, Bench, Figures, Folders, a_submission, fresh_bench, synchronous
from benchmarks.http_client import post_all
from benchmarks.throughput import six_processes

CONNECTIONS = 32
LARGER_THAN_ANY_MIB = 10_000_000
"""Memory of jobs that no agent has room for."""


async def http(folders: Folders, n: int) -> Figures:
    """Submit over 32 HTTP connections."""
    return await _by_http(folders, n, CONNECTIONS)


async def http_one(folders: Folders, n: int) -> Figures:
    """Submit over one HTTP connection, one request after the other."""
    return await _by_http(folders, n, 1)


async def _by_http(folders: Folders, n: int, connections: int) -> Figures:
    figures = Figures(n)
    bodies = [SUBMISSION] * n
    async with fresh_bench(folders, "--no-agent") as bench:
        await bench.register()
        with bench.measuring(figures):
            url = bench.installation.http_url
            answers = await post_all(url, "/v1/submitjob", bodies, connections=connections)
        figures.checks = {"job_ids": len(set(answers)), "synchronous": synchronous(bench.installation.folder)}
    for what, folder in (("echo", None), ("durable_echo", folders.fresh().parent)):
        with _echo("http", folder) as port:
            begin = time.perf_counter()
            await post_all(f"http://127.0.0.1:{port}", "/v1/submitjob", bodies, connections=connections)
            _compare(figures, what, time.perf_counter() - begin)
    return figures


async def by_grpc(folders: Folders, n: int) -> Figures:
    """Submit by a gRPC call each, 32 at a time on one channel."""
    return await _by_grpc(fresh_bench(folders, "--no-agent"), folders, n)


async def by_grpc_six(folders: Folders, n: int) -> Figures:
    """Do the same, every service a process of its own."""
    return await _by_grpc(six_processes(folders), folders, n)


async def _by_grpc(beginning: AbstractAsyncContextManager[Bench], folders: Folders, n: int) -> Figures:
    figures = Figures(n)
    async with beginning as bench:
        await bench.register(memory=LARGER_THAN_ANY_MIB)
        with bench.measuring(figures):
            job_ids = await _call_each(JobsServiceStub(bench.client.channel), n, bench)
        figures.checks = {"job_ids": len(job_ids), "synchronous": synchronous(bench.installation.folder)}
        for what, folder in (("echo", None), ("durable_echo", folders.fresh().parent)):
            with _echo("grpc", folder) as port:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    begin = time.perf_counter()
                    await _call_each(JobsServiceStub(channel), n, bench)
                    _compare(figures, what, time.perf_counter() - begin)
    return figures


async def _call_each(stub: JobsServiceStub, n: int, bench: Bench) -> set[str]:
    waiting = iter(range(n))
    job_ids: set[str] = set()

    async def submit_each() -> None:
        for _ in waiting:
            job_ids.add((await stub.SubmitJob(a_submission(), **bench.client.call)).job_id)  # type: ignore[misc]

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(submit_each())
    return job_ids


async def in_batches(folders: Folders, n: int) -> Figures:
    """Submit in batches of 1,000 over gRPC."""
    figures = Figures(n)
    async with fresh_bench(folders, "--no-agent") as bench:
        await bench.register()
        with bench.measuring(figures):
            job_ids = await bench.submit(n)
        figures.checks = {"job_ids": len(set(job_ids)), "synchronous": synchronous(bench.installation.folder)}
    return figures


def _compare(figures: Figures, what: str, seconds: float) -> None:
    figures.more[f"{what}_per_s"] = round(figures.n / seconds, 1)
    figures.more[f"of_{what}"] = round(seconds / figures.seconds, 3)


@contextmanager
def _echo(kind: str, folder: Path | None) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.echo", kind, *([] if folder is None else [str(folder)])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline())
        finally:
            server.terminate()
