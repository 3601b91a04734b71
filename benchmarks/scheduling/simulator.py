"""Virtual time: jobs come and end, a scheduler says what starts where, and everything that it says is checked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple, Protocol

from batchyard.scheduler.model import NOTHING, Resources
from benchmarks.scheduling.workload import Task, Workload


class Start(NamedTuple):
    """A job starts on a host."""

    task: Task
    host: int


class Scheduler(Protocol):
    """What is compared: told of jobs and ends, it says what is to start."""

    def submit(self, task: Task) -> None:
        """Take a job in."""

    def end(self, task: Task) -> None:
        """Note that a job that was started has ended."""

    def decide(self, now: float) -> tuple[Sequence[Start], float | None]:
        """Return what is to start now, and when to be asked again even if nothing happens."""
        ...


@dataclass(slots=True)
class Run:
    """What became of a job."""

    task: Task
    host: int
    started_at: float

    @property
    def ended_at(self) -> float:
        """When it ended."""
        return self.started_at + self.task.runs_s

    @property
    def waited_s(self) -> float:
        """How long it waited."""
        return self.started_at - self.task.submitted_at


@dataclass(slots=True)
class Trace:
    """All that happened."""

    workload: Workload
    runs: list[Run] = field(default_factory=list)
    decisions: int = 0
    """How often the scheduler was asked."""


def simulate(workload: Workload, scheduler: Scheduler) -> Trace:
    """Run a workload to its end.

    Raises AssertionError if the scheduler oversubscribes a host, starts a job twice, or leaves one waiting for ever.
    """
    trace = Trace(workload)
    room = list(workload.hosts)
    coming = list(reversed(workload.tasks))
    ending: list[tuple[float, int, Run]] = []
    started: set[int] = set()
    wake: float | None = None
    while coming or ending or len(started) < len(workload.tasks):
        due = [moment for moment in (coming[-1].submitted_at if coming else None, wake) if moment is not None]
        due += [ending[0][0]] if ending else []
        assert due, "jobs wait, and nothing will ever happen"
        now = min(due)
        while ending and ending[0][0] <= now:
            _, _, run = heappop(ending)
            room[run.host] = room[run.host].plus(run.task.need)
            scheduler.end(run.task)
        while coming and coming[-1].submitted_at <= now:
            scheduler.submit(coming.pop())
        starts, wake = scheduler.decide(now)
        trace.decisions += 1
        for task, host in starts:
            assert task.number not in started, f"job {task.number} was started twice"
            assert task.submitted_at <= now, f"job {task.number} was started before it came"
            assert task.need.fits_in(room[host]), f"host {host} is oversubscribed"
            started.add(task.number)
            room[host] = room[host].minus(task.need)
            run = Run(task, host, now)
            trace.runs.append(run)
            heappush(ending, (run.ended_at, task.number, run))
        if wake is not None and wake <= now:
            wake = now + 1e-6
    assert all(left == whole for left, whole in zip(room, workload.hosts, strict=True)), NOTHING
    return trace


def total(needs: Sequence[Resources]) -> Resources:
    """Return a sum of amounts."""
    return Resources(*(sum(amounts) for amounts in zip(*needs, strict=True))) if needs else NOTHING
