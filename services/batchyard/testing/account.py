"""An account on a server, and what tests ask of it again and again."""

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from batchyard.testing.keeper import Server

if TYPE_CHECKING:
    import pytest

WAIT_TIMEOUT_S: Final = 60.0
LOG_TIMEOUT_S: Final = 30.0
FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.25
DESCRIBED_JOBS_MAX: Final = 100

QUEUE: Final = "default"
"""Name of the job queue, and of its compute environment, that every account begins with."""
_ENDED: Final = frozenset({"SUCCEEDED", "FAILED"})

Job = dict[str, Any]
"""A job as DescribeJobs shows it."""


class Refused(Exception):  # noqa: N818 - it is what the service answers, in AWS's words
    """The server refused a request."""


class Batchyard:
    """A fresh account: nothing is in it but an empty job queue.

    `http_url` is what AWS clients take for their endpoint, `grpc_target` what gRPC channels do.
    """

    def __init__(self, server: Server, account: str, region: str) -> None:
        self.http_url = server.http_url
        self.grpc_target = server.grpc_target
        self.account = account
        """12 digits; also the access key."""
        self.region = region
        self.queue = QUEUE
        """Name of the job queue that is there from the beginning."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables by which AWS clients, in this process or another, reach this account."""
        return {
            "AWS_ENDPOINT_URL_BATCH": self.http_url,
            "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS": self.http_url,
            "AWS_ENDPOINT_URL_STS": self.http_url,
            "AWS_ACCESS_KEY_ID": self.account,
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
        }

    def client(self, service: str = "batch", **options: Any) -> Any:
        """Return a boto3 client of this account: `batch`, `logs` or `sts`."""
        try:
            import boto3
        except ImportError as error:
            raise ImportError("client() needs boto3, which Batchyard itself does not: pip install boto3") from error
        session = boto3.session.Session(self.account, "not-a-secret", region_name=self.region)
        return session.client(service, **{"endpoint_url": self.http_url, **options})  # type: ignore[call-overload]

    def describe(self, job_ids: Sequence[str]) -> list[Job]:
        """Return those of the jobs that exist, in this order."""
        jobs: list[Job] = []
        for start in range(0, len(job_ids), DESCRIBED_JOBS_MAX):
            answer = self._call("describejobs", jobs=list(job_ids[start : start + DESCRIBED_JOBS_MAX]))
            jobs += answer["jobs"]
        return jobs

    def wait(self, job: str, *, timeout: float = WAIT_TIMEOUT_S) -> Job:
        """Wait until a job is SUCCEEDED or FAILED; return it as DescribeJobs shows it then.

        The job is named by id or ARN. Raises TimeoutError after `timeout` seconds, with what the job waits for, and
        LookupError for a job that does not exist.
        """
        return self.wait_all([job], timeout=timeout)[0]

    def wait_all(self, jobs: Iterable[str], *, timeout: float = WAIT_TIMEOUT_S) -> list[Job]:
        """Wait until each of some jobs is SUCCEEDED or FAILED; return them in their order. See `wait`."""
        names = list(jobs)
        deadline, pause = time.monotonic() + timeout, FIRST_PAUSE_S
        found: dict[str, Job] = {}
        while rest := [name for name in names if found.get(name, {}).get("status") not in _ENDED]:
            found |= _by_name(rest, self.describe(rest))
            if lost := [name for name in rest if name not in found]:
                raise LookupError(f"there is no job {lost[0]} in account {self.account}")
            if any(found[name]["status"] not in _ENDED for name in rest):
                if time.monotonic() > deadline:
                    raise TimeoutError("\n".join([f"not ended after {timeout:g} s:", *_states(found[n] for n in rest)]))
                time.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE_S)
        return [found[name] for name in names]

    def logs(self, job: str | Job, *, attempt: int | None = None) -> list[str]:
        """Return the lines that an attempt of a job has printed, the latest one if none is named; numbers begin at 1.

        Of an attempt that still runs, waits for its end. Empty if it never began to run.
        """
        detail = job if isinstance(job, dict) else self.describe([job])[0]
        container = detail["container"] if attempt is None else detail["attempts"][attempt - 1]["container"]
        stream = container.get("logStreamName")
        return list(self._lines(stream)) if stream else []

    def _lines(self, log_stream_name: str) -> Iterator[str]:
        # Loaded when it is wanted: importing gRPC takes longer than many a test.
        import grpc

        from batchyard.api.operations.v1.logs_service_pb2 import FollowLogEventsRequest
        from batchyard.api.operations.v1.logs_service_pb2_grpc import LogsServiceStub

        with grpc.insecure_channel(self.grpc_target) as channel:
            request = FollowLogEventsRequest(log_stream_name=log_stream_name)
            metadata = (("batchyard-namespace", self.account), ("batchyard-region", self.region))
            call = LogsServiceStub(channel).FollowLogEvents(request, metadata=metadata, timeout=LOG_TIMEOUT_S)
            try:
                for response in call:
                    yield from (event.message for event in response.events)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
                raise TimeoutError(f"{log_stream_name} is not at its end after {LOG_TIMEOUT_S:g} s") from None

    def create_queue(self, name: str = QUEUE) -> None:
        """Create a job queue and a compute environment for it, both of this name."""
        self._call("createcomputeenvironment", computeEnvironmentName=name, type="UNMANAGED")
        order = [{"order": 1, "computeEnvironment": name}]
        self._call("createjobqueue", jobQueueName=name, priority=1, computeEnvironmentOrder=order)

    def _call(self, operation: str, **members: Any) -> Any:
        """Call an operation of AWS Batch as its clients do, without needing one of them."""
        credential = f"{self.account}/20160810/{self.region}/batch/aws4_request"
        request = urllib.request.Request(  # noqa: S310 - the URL is that of our own server
            f"{self.http_url}/v1/{operation}",
            data=json.dumps(members).encode(),
            headers={
                "Content-Type": "application/json",
                "Authorization": f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=none",
            },
        )
        # Never by a proxy that the environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(f"{operation}: {json.load(error).get('message')}") from None


@contextmanager
def in_environment(batchyard: Batchyard) -> "Iterator[pytest.MonkeyPatch]":
    """Have the AWS clients of this process reach an account, and no other."""
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
            patch.delenv(name, raising=False)
        for name, value in batchyard.environment.items():
            patch.setenv(name, value)
        if (boto3 := sys.modules.get("boto3")) is not None:
            # Its default session keeps the first keys that it finds.
            patch.setattr(boto3, "DEFAULT_SESSION", None)
        yield patch


def _by_name(names: Sequence[str], jobs: Sequence[Job]) -> dict[str, Job]:
    """Return jobs by the id or ARN that they were asked for by."""
    known = {name: job for job in jobs for name in (job["jobId"], job["jobArn"])}
    return {name: known[name] for name in names if name in known}


def _states(jobs: Iterable[Job]) -> Iterator[str]:
    for job in jobs:
        reason = job.get("statusReason")
        yield f"  {job['jobName']} ({job['jobId']}) is {job['status']}{f': {reason}' if reason else ''}"
