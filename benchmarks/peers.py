"""`make bench-peers`: the same work on HyperQueue and moto, in the same run as ours.

Run with the Python of a virtual environment that has both (`hyperqueue`, `moto[batch,server]`); ours is measured by
`python -m benchmarks` of the other environment. HyperQueue runs no-op processes; moto's server only answers.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from benchmarks.floor import measure_floor
from benchmarks.http_client import post_all
from benchmarks.report import write_report

TASKS: Final = (1000, 10_000)
SINGLES: Final = 1000
CALLS: Final = 2000
SLOTS: Final = 8
START_DEADLINE_S: Final = 60.0
_TICK_US: Final = 1_000_000 / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure the peers and add their lines to the results."""
    parser = argparse.ArgumentParser(prog="make bench-peers")
    parser.add_argument("--to", type=Path, default=Path("build/bench"), help="folder of the lines and the report")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the work of each case")
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    for line in (*hyperqueue(arguments.scale), moto(max(1, round(CALLS * arguments.scale)))):
        print(json.dumps(line), flush=True)
        with (arguments.to / "results.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    print(f"report: {write_report(arguments.to)}")


def hyperqueue(scale: float) -> Iterator[dict[str, Any]]:
    """Run one job of many no-op tasks, and many jobs of one, each with files for its output, as ours have.

    Server, worker and client are threads of one process, as its Python package has them.
    """
    from hyperqueue import Job
    from hyperqueue.cluster import LocalCluster, WorkerConfig

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")))
        stack.enter_context(contextlib.chdir(folder))
        client = stack.enter_context(LocalCluster(folder, WorkerConfig(cores=SLOTS))).client()

        def a_job(tasks: int) -> Any:
            job = Job(folder)
            for _ in range(tasks):
                job.program(["/bin/true"])
            return job

        def run(jobs: list[Any]) -> None:
            # Raises if a task has failed.
            with open(os.devnull, "w") as devnull, contextlib.redirect_stderr(devnull):
                client.wait_for_jobs([client.submit(job) for job in jobs])

        for tasks in TASKS:
            n = max(1, round(tasks * scale))
            yield _measured(f"array-{tasks}", "hyperqueue", n, partial(run, [a_job(n)]))
        n = max(1, round(SINGLES * scale))
        yield _measured("singles", "hyperqueue", n, partial(run, [a_job(1) for _ in range(n)]))


def moto(n: int) -> dict[str, Any]:
    """Submit jobs to a server that marks them as ended, over 32 connections."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with _process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]) as server:
        _until_listening(port)
        url = f"http://127.0.0.1:{port}"
        names = _prepare_moto(url)
        body = json.dumps({"jobName": "bench", **names}).encode()
        floor = measure_floor()
        begin, before = time.perf_counter(), _cpu_us(server.pid)
        answers = asyncio.run(post_all(url, "/v1/submitjob", [body] * n, connections=32, persistent=False))
        seconds, used = time.perf_counter() - begin, _cpu_us(server.pid) - before
    return _line("submit-http", "moto", n, seconds, floor.between(measure_floor()), {"server": used}) | {
        "checks": {"job_ids": len({json.loads(answer)["jobId"] for answer in answers})}
    }


def _prepare_moto(url: str) -> dict[str, str]:
    import boto3

    where: Any = {
        "region_name": "us-east-1",
        "aws_access_key_id": "x",
        "aws_secret_access_key": "x",
        "endpoint_url": url,
    }
    role = boto3.client("iam", **where).create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    batch: Any = boto3.client("batch", **where)
    batch.create_compute_environment(
        computeEnvironmentName="default", type="UNMANAGED", state="ENABLED", serviceRole=role
    )
    order = [{"order": 1, "computeEnvironment": "default"}]
    batch.create_job_queue(jobQueueName="default", state="ENABLED", priority=1, computeEnvironmentOrder=order)
    properties = {"image": "none", "vcpus": 1, "memory": 16, "command": ["true"]}
    batch.register_job_definition(jobDefinitionName="bench", type="container", containerProperties=properties)
    return {"jobQueue": "default", "jobDefinition": "bench"}


def _measured(case: str, product: str, n: int, work: Callable[[], None]) -> dict[str, Any]:
    floor = measure_floor()
    begin, before = time.perf_counter(), time.process_time()
    work()
    seconds, used = time.perf_counter() - begin, time.process_time() - before
    return _line(case, product, n, seconds, floor.between(measure_floor()), {"all": used * 1e6})


def _line(case: str, product: str, n: int, seconds: float, floor: Any, used: dict[str, float]) -> dict[str, Any]:
    return {
        "case": case,
        "product": product,
        "n": n,
        "seconds": round(seconds, 3),
        "per_s": round(n / seconds, 1),
        "floor_per_s": round(floor.per_s, 1),
        "floor_by": floor.how,
        "ratio": round(n / seconds / floor.per_s, 3),
        "cpu_us_each": {role: round(us / n) for role, us in used.items()},
        "peak_mib": {},
    }


@contextmanager
def _process(command: list[str], **options: Any) -> Iterator["subprocess.Popen[bytes]"]:
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | options
    with cast("subprocess.Popen[bytes]", subprocess.Popen(command, **options)) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _until_listening(port: int) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _cpu_us(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_US


if __name__ == "__main__":
    main()
