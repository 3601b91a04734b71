"""AWS's own clients, pointed at an installation, and what tests ask of them again and again."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from support.waiting import soon

if TYPE_CHECKING:
    from types_boto3_batch import BatchClient
    from types_boto3_batch.type_defs import JobDetailTypeDef
    from types_boto3_logs import CloudWatchLogsClient

T = TypeVar("T")
Json: TypeAlias = dict[str, Any]

STATUSES: Final = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED")
LOG_GROUP: Final = "/aws/batch/job"
TERMINAL: Final = frozenset({"SUCCEEDED", "FAILED"})

LARGE: Final[Mapping[str, int]] = {"vcpus": 1000}
"""Has a job wait for ever."""

_loader: Final = botocore.session.Session().get_component("data_loader")


def boto3_session(
    access_key: str, secret: str = "any secret", token: str | None = None, *, region: str = "us-east-1"
) -> boto3.session.Session:
    """Return a session that shares with all others what botocore knows of AWS: to read it takes a tenth of a second."""
    core = botocore.session.Session()
    core.register_component("data_loader", _loader)
    return boto3.session.Session(access_key, secret, token, region_name=region, botocore_session=core)


class Account:
    """One AWS account on an installation: what boto3 users have, after a few lines of their own."""

    def __init__(
        self, http_url: str, access_key: str, region: str = "us-east-1", *, config: Config | None = None
    ) -> None:
        self.access_key = access_key
        session = boto3_session(access_key, region=region)
        # No retries unless asked for: a test is to see each error.
        config = config or Config(retries={"total_max_attempts": 1}, max_pool_connections=4)
        self.batch: BatchClient = session.client("batch", endpoint_url=http_url, config=config)
        self.logs: CloudWatchLogsClient = session.client("logs", endpoint_url=http_url, config=config)

    def close(self) -> None:
        """Close the connections."""
        self.batch.close()
        self.logs.close()

    def make_queue(self, name: str = "queue", *, priority: int = 1) -> str:
        """Create an UNMANAGED environment and a queue over it, both of this name; return the name."""
        self.batch.create_compute_environment(computeEnvironmentName=name, type="UNMANAGED")
        self.batch.create_job_queue(
            jobQueueName=name, priority=priority, computeEnvironmentOrder=[{"order": 1, "computeEnvironment": name}]
        )
        return name

    def cluster_of(self, environment: str) -> str:
        """Return the ARN of the ECS cluster that a compute environment is said to have."""
        (found,) = self.batch.describe_compute_environments(computeEnvironments=[environment])["computeEnvironments"]
        return found["ecsClusterArn"]

    def define(self, name: str = "definition", command: Sequence[str] = ("true",), **members: Any) -> str:
        """Register a job definition and return it as name:revision."""
        properties: Any = {"image": "busybox", "vcpus": 1, "memory": 16, "command": list(command)}
        properties |= members.pop("containerProperties", {})
        answer = self.batch.register_job_definition(
            jobDefinitionName=name, type="container", containerProperties=properties, **members
        )
        return f"{answer['jobDefinitionName']}:{answer['revision']}"

    def submit(self, command: Sequence[str] | None = None, **members: Any) -> str:
        """Submit a job and return its id; by default of `definition` to `queue`."""
        request = {"jobName": "job", "jobQueue": "queue", "jobDefinition": "definition", **members}
        if command is not None:
            request["containerOverrides"] = {"command": list(command), **members.get("containerOverrides", {})}
        return self.batch.submit_job(**request)["jobId"]

    def describe(self, job_id: str) -> "JobDetailTypeDef":
        """Return the job as it is."""
        (job,) = self.batch.describe_jobs(jobs=[job_id])["jobs"]
        return job

    def wait(self, job_id: str, *statuses: str) -> "JobDetailTypeDef":
        """Wait until the job is in one of the statuses, by default until it has ended; return it then."""
        wanted = frozenset(statuses) or TERMINAL

        def job_then() -> "JobDetailTypeDef | None":
            job = self.describe(job_id)
            if job["status"] not in wanted and job["status"] in TERMINAL:
                raise AssertionError(f"ended as {job['status']}, waited for {sorted(wanted)}: {job}")
            return job if job["status"] in wanted else None

        return soon(job_then, f"job {job_id} in {sorted(wanted)}")

    def wait_all(self, job_ids: Iterable[str]) -> dict[str, "JobDetailTypeDef"]:
        """Wait until all jobs have ended; return them by id."""
        waiting, ended = list(job_ids), {}

        def rest_ended() -> bool:
            nonlocal waiting
            for start in range(0, len(waiting), 100):
                for job in self.batch.describe_jobs(jobs=waiting[start : start + 100])["jobs"]:
                    if job["status"] in TERMINAL:
                        ended[job["jobId"]] = job
            waiting = [job_id for job_id in waiting if job_id not in ended]
            return not waiting

        soon(rest_ended, "the end of all jobs")
        return ended

    def job_ids(self, queue: str = "queue") -> list[str]:
        """Return the ids of all jobs of a queue, in whatever state. One that moves on meanwhile may come twice."""
        summaries = [
            summary
            for status in STATUSES
            for page in pages(self.batch.list_jobs, "jobSummaryList", jobQueue=queue, jobStatus=status)
            for summary in page
        ]
        return [summary["jobId"] for summary in summaries]

    def log_lines(self, job: "JobDetailTypeDef", complete: Callable[[list[str]], bool] = bool) -> list[str]:
        """Return what the latest attempt of a job printed; logs come after the end of the job, so wait for enough."""
        return self.lines_of(job["container"]["logStreamName"], complete)

    def lines_of(self, log_stream_name: str, complete: Callable[[list[str]], bool] = bool) -> list[str]:
        """Return what a log stream holds, once that is complete; by default, once it is something."""

        def enough() -> list[str] | None:
            lines = self.stream_lines(log_stream_name)
            return lines if complete(lines) else None

        return soon(enough, f"all of the log {log_stream_name}")

    def stream_lines(self, log_stream_name: str) -> list[str]:
        """Return all lines of a log stream, page by page."""
        lines: list[str] = []
        request: dict[str, Any] = {"logGroupName": LOG_GROUP, "logStreamName": log_stream_name, "startFromHead": True}
        while True:
            page = self.logs.get_log_events(**request)
            lines += [event["message"] for event in page["events"]]
            if page["nextForwardToken"] == request.get("nextToken"):
                return lines
            request["nextToken"] = page["nextForwardToken"]


@contextmanager
def refused(containing: str) -> Iterator[None]:
    """Expect an AWS ClientException, HTTP 400, whose message contains the text."""
    with pytest.raises(ClientError) as caught:
        yield
    response = caught.value.response
    assert response["Error"]["Code"] == "ClientException", response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert containing in response["Error"]["Message"]


def pages(call: Callable[..., Any], member: str, **request: Any) -> Iterator[Sequence[Any]]:
    """Yield a list member page by page, following the tokens."""
    while True:
        page = call(**request)
        yield page[member]
        if "nextToken" not in page:
            return
        request["nextToken"] = page["nextToken"]
