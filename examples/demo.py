"""Batchyard in a minute: starts it here, runs real jobs through boto3, and tells how each of them went.

Exit code 0 means that every job did what the story says it should.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import grpc

from batchyard.api.jobs.v1.jobs_pb2 import JobStatus
from batchyard.api.operations.v1.job_operations_service_pb2 import WatchJobsRequest
from batchyard.api.operations.v1.job_operations_service_pb2_grpc import JobOperationsServiceStub

READY = re.compile(r"batchyard ready (?P<http>http://\S+) grpc://(?P<grpc>\S+)\n")
DEADLINE_S = 60.0
POLL_S = 0.02
TERMINAL = frozenset({"SUCCEEDED", "FAILED"})

EXITED = "Essential container in task exited"
FOREVER = ["sleep", "3600"]


@dataclass
class Job:
    """One job: what is expected of it, and what was seen."""

    name: str
    command: Sequence[str]
    output: Sequence[str] = ()
    exit_code: int | None = 0
    reason: str = EXITED
    job_id: str = ""
    detail: Any = None
    states: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    @property
    def status(self) -> str | None:
        """The state in which it was last seen."""
        return self.detail["status"] if self.detail else None

    def surprises(self) -> Iterator[str]:
        """Tell what is not as expected."""
        seen = {
            "state": (self.status, "SUCCEEDED" if self.exit_code == 0 else "FAILED"),
            "exit code": (self.detail["container"].get("exitCode"), self.exit_code),
            "reason": (self.detail["statusReason"], self.reason),
            "output": (self.lines, list(self.output)),
        }
        for what, (found, expected) in seen.items():
            if found != expected:
                yield f"{self.name}: the {what} is {found!r} and should be {expected!r}"


class Demo:
    """The jobs, and the clients that submit and follow them."""

    def __init__(self, http_url: str, grpc_target: str) -> None:
        # Any keys will do.
        session = boto3.session.Session("demo", "demo", region_name="us-east-1")
        self.batch = session.client("batch", endpoint_url=http_url)
        self.logs = session.client("logs", endpoint_url=http_url)
        self.grpc_target = grpc_target
        self.jobs: list[Job] = []

    def create_resources(self) -> None:
        """Create an environment, a queue over it and a definition, as for AWS."""
        self.batch.create_compute_environment(computeEnvironmentName="demo", type="UNMANAGED")
        self.batch.create_job_queue(
            jobQueueName="demo", priority=1, computeEnvironmentOrder=[{"order": 1, "computeEnvironment": "demo"}]
        )
        self.batch.register_job_definition(
            jobDefinitionName="demo",
            type="container",
            containerProperties={"image": "busybox", "vcpus": 1, "memory": 64, "command": ["true"]},
        )

    def submit(self, job: Job, *, after: Job | None = None) -> Job:
        """Submit a job, maybe one that waits for another."""
        answer = self.batch.submit_job(
            jobName=job.name,
            jobQueue="demo",
            jobDefinition="demo",
            containerOverrides={"command": list(job.command)},
            dependsOn=[{"jobId": after.job_id}] if after else [],
        )
        job.job_id = answer["jobId"]
        self.jobs.append(job)
        return job

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Describe the unfinished jobs again and again until something has come about."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            unfinished = {job.job_id: job for job in self.jobs if job.status not in TERMINAL}
            if unfinished:
                for detail in self.batch.describe_jobs(jobs=list(unfinished))["jobs"]:
                    unfinished[detail["jobId"]].detail = detail
            if reached():
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"waited too long; states now: {[(job.name, job.status) for job in self.jobs]}")
            time.sleep(POLL_S)

    def read_logs(self) -> None:
        """Fetch what each job that ran has printed."""
        for job in self.jobs:
            stream = job.detail["container"].get("logStreamName")
            if stream:
                page = self.logs.get_log_events(logGroupName="/aws/batch/job", logStreamName=stream, startFromHead=True)
                job.lines = [event["message"] for event in page["events"]]

    def read_states(self) -> None:
        """Fetch every state that each job went through: AWS has no call for that, our native API has a watch."""
        by_id = {job.job_id: job for job in self.jobs}
        ended = 0
        with grpc.insecure_channel(self.grpc_target) as channel:
            request = WatchJobsRequest(job_ids=list(by_id), after_revision=0)
            for response in JobOperationsServiceStub(channel).WatchJobs(request, timeout=DEADLINE_S):
                for change in response.changes:
                    state = JobStatus.Name(change.status).removeprefix("JOB_STATUS_")
                    by_id[change.job_id].states.append(state)
                    ended += state in TERMINAL
                if ended == len(by_id):
                    return

    def close(self) -> None:
        """Close the connections."""
        self.batch.close()
        self.logs.close()


def play(demo: Demo, folder: Path) -> None:
    """Submit the jobs and do to them what the story says."""
    demo.create_resources()
    for number in range(1, 16):
        script = f"echo {number} squared is $(({number} * {number}))"
        demo.submit(Job(f"square-{number}", ["sh", "-c", script], [f"{number} squared is {number**2}"]))

    lines = ["on stdout", "on stderr"]
    demo.submit(Job("both-outputs", ["sh", "-c", "echo on stdout; echo on stderr >&2"], lines))
    failing = Job("fails-on-purpose", ["sh", "-c", "echo giving up; exit 3"], ["giving up"], exit_code=3)
    demo.submit(failing)
    broken = Job("needs-the-failing-one", ["true"], exit_code=None, reason="Dependent Job failed")
    demo.submit(broken, after=failing)
    handover = folder / "handover"
    producer = demo.submit(Job("producer", ["sh", "-c", f"sleep 0.2; echo 42 > {handover}"]))
    demo.submit(Job("consumer-after-it", ["cat", str(handover)], ["42"]), after=producer)

    endless = demo.submit(Job("terminated-while-running", FOREVER, exit_code=143, reason="the demo is over"))
    waiting = Job("cancelled-before-start", ["true"], exit_code=None, reason="not needed any more")
    demo.submit(waiting, after=endless)
    demo.batch.cancel_job(jobId=waiting.job_id, reason=waiting.reason)
    demo.wait_until(lambda: endless.status == "RUNNING")
    demo.batch.terminate_job(jobId=endless.job_id, reason=endless.reason)
    demo.wait_until(lambda: all(job.status in TERMINAL for job in demo.jobs))
    demo.read_logs()
    demo.read_states()


def tell(jobs: Sequence[Job]) -> None:
    """Print a paragraph for each job."""
    for job in jobs:
        exit_code = job.detail["container"].get("exitCode", "none")
        print(f"{job.name}  ({job.job_id})")
        print(f"    states     {' > '.join(job.states)}")
        print(f"    exit code  {exit_code}    reason: {job.detail['statusReason']}")
        for line in job.lines:
            print(f"    log        {line}")


@contextmanager
def batchyard_up(folder: Path) -> Iterator[Demo]:
    """Start `batchyard up` on free ports, with room for the whole story at once; stop it at the end."""
    command = [
        *(sys.executable, "-m", "batchyard.cli", "up", "--data-dir", str(folder / "data"), "--log-level", "warning"),
        *(
            "--port",
            "0",
            "--grpc-port",
            "0",
            "--runtime",
            "process",
            "--capacity",
            "vcpus=8,memory=8GiB",
            "--stop-jobs",
        ),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = READY.fullmatch(process.stdout.readline())
            if ready is None:
                raise SystemExit("batchyard up did not start; its log is above")
            print(ready.group().strip())
            demo = Demo(ready["http"], ready["grpc"])
            yield demo
            demo.close()
        finally:
            process.terminate()
    if process.returncode != 0:
        raise SystemExit(f"batchyard up ended with exit code {process.returncode}")


def main() -> None:
    """Play the story and check it."""
    with tempfile.TemporaryDirectory(prefix="batchyard-demo-") as name:
        folder = Path(name)
        with batchyard_up(folder) as demo:
            play(demo, folder)
            tell(demo.jobs)
            surprises = [surprise for job in demo.jobs for surprise in job.surprises()]
    if surprises:
        raise SystemExit("\n".join(["", "not as expected:", *surprises]))
    print(f"\n{len(demo.jobs)} jobs, all as expected; batchyard has stopped cleanly.")


if __name__ == "__main__":
    main()
