"""What the job store measures: its commits, and what they say of jobs.

Jobs are told apart by account and job queue, never by name or id: what is measured must not grow with them. Nor without
end with queues, of which each of many test runs may have its own.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Final

from prometheus_client import Counter, Histogram

from batchyard.domain.jobs import Job, JobChange
from batchyard.domain.lifecycle import TERMINAL, JobState

COMMIT_SECONDS: Final = Histogram(
    "batchyard_jobstore_commit_seconds",
    "From the begin of a transaction until it is on disk.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
COMMIT_COMMANDS: Final = Histogram(
    "batchyard_jobstore_commit_commands",
    "Commands that were committed together.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
)
PLACES_MAX: Final = 1000
"""Job queues that are measured one by one."""
_OTHER: Final = ("other", "other")
_places: set[tuple[str, str]] = set()
_LABELS: Final = ("account", "job_queue")
SUBMITTED: Final = Counter("batchyard_jobs_submitted", "Jobs that were taken in; of an array, its children.", _LABELS)
STATE_CHANGES: Final = Counter(
    "batchyard_job_state_changes", "Jobs, and arrays, that came into a state.", (*_LABELS, "state")
)
WAIT_SECONDS: Final = Histogram(
    "batchyard_job_wait_seconds",
    "From RUNNABLE until an agent took the job.",
    _LABELS,
    buckets=(0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
)
RUN_SECONDS: Final = Histogram(
    "batchyard_job_run_seconds",
    "How long the last attempt of a finished job ran.",
    _LABELS,
    buckets=(0.01, 0.1, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
)


def place_of(account: str, job_queue: str) -> tuple[str, str]:
    """Return the labels of a job queue; all that come after the first many have the same."""
    place = account, job_queue
    if place not in _places:
        if len(_places) >= PLACES_MAX:
            return _OTHER
        _places.add(place)
    return place


def count_submission(job: Job, count: int) -> None:
    """Measure that a job, or an array of so many, was taken in."""
    _submitted(*place_of(job.key.namespace, job.job_queue))(count)


def count_changes(changes: Sequence[JobChange]) -> None:
    """Measure what a commit says of jobs."""
    for change in changes:
        if change.blocked:
            continue
        place = place_of(change.key.namespace, change.job_queue)
        _came_into(*place, change.state)(change.count)
        if change.waited_ms is not None:
            _waited(*place)(change.waited_ms / 1000)
        if change.state in TERMINAL and change.stopped_at is not None and change.started_at is not None:
            _ran(*place)((change.stopped_at - change.started_at) / 1000)


@contextmanager
def timed_commit(commands: int) -> Iterator[None]:
    """Measure a commit, if it comes to its end."""
    begin = time.perf_counter()
    yield
    COMMIT_SECONDS.observe(time.perf_counter() - begin)
    COMMIT_COMMANDS.observe(commands)


@cache
def _submitted(account: str, job_queue: str) -> Callable[[float], None]:
    return SUBMITTED.labels(account, job_queue).inc


@cache
def _came_into(account: str, job_queue: str, state: JobState) -> Callable[[float], None]:
    return STATE_CHANGES.labels(account, job_queue, state.name).inc


@cache
def _waited(account: str, job_queue: str) -> Callable[[float], None]:
    return WAIT_SECONDS.labels(account, job_queue).observe


@cache
def _ran(account: str, job_queue: str) -> Callable[[float], None]:
    return RUN_SECONDS.labels(account, job_queue).observe
