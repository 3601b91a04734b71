"""Why jobs wait, as the scheduler tells it: by line, which is all jobs of one queue that need the same.

Kept in memory alone, and put into what is told of a job when it is read: a reason costs nothing per job, and changes
for a million of them at once. A scheduler that takes over tells all of them anew.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from batchyard.domain.jobs import Job
from batchyard.domain.lifecycle import JobState
from batchyard.storage.jobs import QueueKey
from batchyard.storage.listings import LineKey


@dataclass(frozen=True, slots=True)
class Wait:
    """Why the jobs of a line wait."""

    reason: str
    since_s: float
    """When a reason with this code was first told of it without a break, on the clock that never goes back."""

    @property
    def code(self) -> str:
        """The word that the reason begins with: AWS's code, if it has one."""
        return code_of(self.reason)


NO_SCHEDULER: Final = "Waiting for a scheduler: none is connected to the job store."

_NOTHING: Final[dict[LineKey, Wait]] = {}


class WaitReasons:
    """The newest word on each line that waits."""

    def __init__(self) -> None:
        self._lines: dict[LineKey, Wait] = {}
        self._before = _NOTHING
        self._schedulers = 0
        self._is_led = False

    @property
    def lines(self) -> dict[LineKey, Wait]:
        """All that is known; not to be changed."""
        return self._lines

    def begin(self) -> int:
        """Let another scheduler tell; return a number by which it ends.

        What an earlier one has told is forgotten, but not how long it has been so.
        """
        self._before, self._lines = {**self._before, **self._lines}, {}
        self._is_led = True
        self._schedulers += 1
        return self._schedulers

    def end(self, scheduler: int) -> None:
        """Note that a scheduler tells no more; without effect if another one has begun."""
        if scheduler == self._schedulers:
            self._is_led = False

    def tell(self, line: LineKey, reason: str, now_s: float) -> None:
        """Take in why a line waits; an empty reason: it does not any more."""
        if not reason:
            self._lines.pop(line, None)
            return
        known = self._lines.get(line) or self._before.pop(line, None)
        since = known.since_s if known is not None and known.code == code_of(reason) else now_s
        self._lines[line] = Wait(reason, since)

    def explain(self, job: Job) -> None:
        """Put the reason into what was read of a job, if it waits."""
        if job.state is JobState.RUNNABLE and job.run is None:
            need = (job.vcpus_milli, job.memory_mib, job.gpus)
            line = LineKey(job.key.namespace, job.job_queue, *need, job.share_identifier)
            wait = self._lines.get(line)
            if not self._is_led:
                job.status_reason = NO_SCHEDULER
            elif wait is not None:
                job.status_reason = wait.reason


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """An entry of a queue's `jobStateTimeLimitActions`, of which CANCEL is the only action."""

    reason: str
    """The code that a reason begins with."""
    seconds: int


LimitsOf = Callable[[QueueKey], Sequence[TimeLimit]]


def overdue(lines: Mapping[LineKey, Wait], limits_of: LimitsOf, now_s: float) -> Iterator[tuple[LineKey, TimeLimit]]:
    """Yield the lines of which some jobs may have waited for too long, and the limit."""
    for line, wait in lines.items():
        for limit in limits_of(QueueKey(line.namespace, line.job_queue)):
            if limit.reason == wait.code and now_s - wait.since_s >= limit.seconds:
                yield line, limit
                break


def code_of(reason: str) -> str:
    """Return the word that a reason begins with: AWS's code, if it has one."""
    return reason.partition(" ")[0]


def is_blocking(code: str) -> bool:
    """Tell whether a code is one of AWS's: the job waits for what only people can change."""
    return code.startswith(("CAPACITY:", "MISCONFIGURATION:")) or code == "ACTION_REQUIRED"
