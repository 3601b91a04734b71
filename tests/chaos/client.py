"""Clients that submit, cancel and terminate without a pause, look at what they did, and keep every acknowledgement."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from batchyard.domain.names import DEFAULT_NAMESPACE
from chaos import history
from chaos.cluster import CONTAINERS, PROCESSES
from support.aws import TERMINAL, Account

if TYPE_CHECKING:
    from types_boto3_batch.type_defs import JobDetailTypeDef

ATTEMPTS: Final = 5
SUBMITTERS: Final = 2
JOB_S: Final = (0.1, 0.5, 3.0)
UNFINISHED_MAX: Final = 60
"""More are not submitted before some have ended: the bound of what healing may take counts on it."""
_DESCRIBED_MAX: Final = 100
_CONFIG: Final = Config(
    retries={"mode": "standard", "total_max_attempts": 3}, connect_timeout=5, read_timeout=20, max_pool_connections=4
)
REASON: Final = "no longer wanted"


def boot_s() -> float:
    """Return the time that histories are written in."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A job as a client saw it."""

    job_id: str
    asked_at: float
    at: float
    """When the answer had come."""
    status: str
    attempts: int
    outcome: tuple[Any, ...]
    """What must not change any more once the job has ended."""


@dataclass
class Notes:
    """What clients did and what they were told."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    """Job ids, in order, with their queues."""
    acknowledged_at: dict[str, float] = field(default_factory=dict)
    dependencies: dict[str, str] = field(default_factory=dict)
    stopped: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Of jobs for which a cancel or terminate was acknowledged: the verb, and when the answer had come."""
    sightings: list[Sighting] = field(default_factory=list)
    ended: "dict[str, JobDetailTypeDef]" = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    """Calls that failed after all retries, by what the last answer was."""
    longest_outage_s: float = 0.0
    """The longest time without an answer to calls of one kind, of which at least one failed."""

    def unfinished(self) -> list[str]:
        """Return the jobs that have not been seen at an end."""
        return [job_id for job_id in list(self.acknowledged) if job_id not in self.ended]


class Clients:
    """Threads with one account; their notes may be read once they have ended."""

    def __init__(self, http_url: str, path: Path, seed: int, *, containers: bool) -> None:
        self.notes = Notes()
        self._http_url = http_url
        self._path = path
        self._seed = seed
        self._queues = [PROCESSES, PROCESSES, PROCESSES, *([CONTAINERS] if containers else [])]
        self._lock = threading.Lock()
        self._answered: dict[str, float] = {}
        self._failing: dict[str, float] = {}

    def prepare(self) -> None:
        """Make the queues and a definition."""
        account = Account(self._http_url, DEFAULT_NAMESPACE, config=_CONFIG)
        try:
            for queue in dict.fromkeys(self._queues):
                account.make_queue(queue)
            account.define(containerProperties={"image": "bb:1"})
        finally:
            account.close()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep them busy for the length of the context."""
        stop = threading.Event()
        deeds: list[Callable[[Account, random.Random], None]] = [*[self._submit] * SUBMITTERS, self._stop_some]
        threads = [
            threading.Thread(target=self._repeat, args=(deed, number, stop)) for number, deed in enumerate(deeds)
        ]
        threads.append(threading.Thread(target=self._repeat, args=(self._look_at_all, len(deeds), stop)))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def wait_for_all(self, bound_s: float) -> list[str]:
        """Look until all have ended; return those that have not when the time is over."""
        account = Account(self._http_url, DEFAULT_NAMESPACE, config=_CONFIG)
        deadline = time.monotonic() + bound_s
        try:
            while (left := self.notes.unfinished()) and time.monotonic() < deadline:
                self._look_at(account, left)
                time.sleep(0.2)
            # Once more, at all of them: what has ended does not change.
            self._look_at(account, list(self.notes.acknowledged))
        finally:
            account.close()
        return left

    def logs_of(self, queue: str, silenced: Collection[str], bound_s: float) -> dict[str, list[str]]:
        """Return what each attempt of the jobs of a queue printed, by job id and number of the attempt.

        Logs come after the end of their job: what succeeded, and was not silenced, is waited for, as long as the bound.
        """
        account = Account(self._http_url, DEFAULT_NAMESPACE, config=_CONFIG)
        deadline = time.monotonic() + bound_s
        logs: dict[str, list[str]] = {}
        try:
            for job_id, job in self.notes.ended.items():
                if self.notes.acknowledged[job_id] != queue:
                    continue
                for number, attempt in enumerate(job["attempts"], 1):
                    stream = attempt["container"].get("logStreamName")
                    is_last = number == len(job["attempts"])
                    is_whole = job["status"] == "SUCCEEDED" and is_last and job_id not in silenced
                    if stream is not None:
                        lines = self._log(account, stream)
                        while is_whole and not history.is_complete(lines) and time.monotonic() < deadline:
                            time.sleep(0.2)
                            lines = self._log(account, stream)
                        logs[f"{job_id} {number}"] = lines
        finally:
            account.close()
        return logs

    def _log(self, account: Account, stream: str) -> list[str]:
        try:
            return account.stream_lines(stream)
        except ClientError as error:
            # A run that was lost may have left nothing.
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
            return []

    # What the threads do

    def _repeat(self, deed: Callable[[Account, random.Random], None], number: int, stop: threading.Event) -> None:
        account = Account(self._http_url, DEFAULT_NAMESPACE, config=_CONFIG)
        choices = random.Random(self._seed + number)
        try:
            while not stop.wait(choices.uniform(0.05, 0.3)):
                deed(account, choices)
        finally:
            account.close()

    def _submit(self, account: Account, choices: random.Random) -> None:
        queue = choices.choice(self._queues)
        unfinished = self.notes.unfinished()
        if len(unfinished) >= UNFINISHED_MAX:
            return
        mine = [job_id for job_id in unfinished if self.notes.acknowledged[job_id] == queue]
        parent = choices.choice(mine) if mine and choices.random() < 0.3 else None
        seconds, code = choices.choice(JOB_S), choices.choice((0, 0, 0, 0, 3))
        command = history.command(self._path if queue == PROCESSES else None, seconds, code)
        dependencies: Any = {"dependsOn": [{"jobId": parent}]} if parent else {}

        def call() -> str:
            attempts = choices.choice((1, ATTEMPTS))
            return account.submit(command, jobQueue=queue, retryStrategy={"attempts": attempts}, **dependencies)

        job_id = self._called("SubmitJob", call)
        if job_id is not None:
            if parent:
                self.notes.dependencies[job_id] = parent
            self.notes.acknowledged_at[job_id] = boot_s()
            self.notes.acknowledged[job_id] = queue

    def _stop_some(self, account: Account, choices: random.Random) -> None:
        unfinished = [job_id for job_id in self.notes.unfinished() if job_id not in self.notes.stopped]
        if not unfinished or choices.random() < 0.7:
            return
        # The newest: some of them have not begun.
        job_id = choices.choice(unfinished[-10:])
        if choices.random() < 0.6:
            verb, call = "CancelJob", lambda: account.batch.cancel_job(jobId=job_id, reason=REASON)
        else:
            verb, call = "TerminateJob", lambda: account.batch.terminate_job(jobId=job_id, reason=REASON)
        if self._called(verb, call) is not None:
            self.notes.stopped[job_id] = (verb, boot_s())

    def _look_at_all(self, account: Account, choices: random.Random) -> None:
        seen = choices.sample(list(self.notes.ended), min(5, len(self.notes.ended)))
        self._look_at(account, self.notes.unfinished() + seen)

    def _look_at(self, account: Account, job_ids: Sequence[str]) -> None:
        for start in range(0, len(job_ids), _DESCRIBED_MAX):
            part = job_ids[start : start + _DESCRIBED_MAX]
            asked_at = boot_s()
            answer = self._called("DescribeJobs", partial(account.batch.describe_jobs, jobs=part))
            if answer is None:
                return
            at = boot_s()
            for job in answer["jobs"]:
                attempts = job.get("attempts", [])
                outcome = (
                    *(job.get(name) for name in ("status", "statusReason", "startedAt", "stoppedAt")),
                    *(job["container"].get(name) for name in ("exitCode", "reason", "logStreamName")),
                    len(attempts),
                )
                self.notes.sightings.append(Sighting(job["jobId"], asked_at, at, job["status"], len(attempts), outcome))
                if job["status"] in TERMINAL:
                    self.notes.ended[job["jobId"]] = job

    def _called(self, verb: str, call: Callable[[], Any]) -> Any:
        """Return the answer to a call, or None if it failed for good."""
        began = time.monotonic()
        try:
            answer = call()
        except (ClientError, BotoCoreError) as error:
            with self._lock:
                self.notes.calls[verb] += 1
                self.notes.refusals[_kind(error)] += 1
                self._failing.setdefault(verb, began)
            return None
        with self._lock:
            self.notes.calls[verb] += 1
            now = time.monotonic()
            if verb in self._failing:
                outage_s = now - max(self._failing.pop(verb), self._answered.get(verb, 0.0))
                self.notes.longest_outage_s = max(self.notes.longest_outage_s, outage_s)
            self._answered[verb] = now
        return answer


def _kind(error: Exception) -> str:
    if isinstance(error, ClientError):
        return f"{error.response['Error']['Code']}: {error.response['Error']['Message'].split(':')[0]}"
    return type(error).__name__
