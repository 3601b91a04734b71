"""What jobs wrote of themselves, and what must hold of it. Pure but for reading the file.

A line is `start` or `end`, job id, number of the attempt, the run (its fence), and a time of CLOCK_BOOTTIME in seconds.
All processes run on one host, so that these times can be compared.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the history."""

    word: str
    job_id: str
    attempt: int
    fence: str
    at: float


def command(path: Path, seconds: float) -> list[str]:
    """Return a job's command: it appends its start and its end, each in one write."""
    now = 'read now _ < /proc/uptime; echo "{word} $AWS_BATCH_JOB_ID $AWS_BATCH_JOB_ATTEMPT $BATCHYARD_FENCE $now"'
    write = f"{now} >> {path}"
    return ["sh", "-c", f"{write.format(word='start')}; sleep {seconds}; {write.format(word='end')}"]


def read(path: Path) -> list[Line]:
    """Return all lines, in the order in which they were written."""
    if not path.exists():
        return []
    words = [line.split() for line in path.read_text().splitlines()]
    return [Line(word, job_id, int(attempt), fence, float(at)) for word, job_id, attempt, fence, at in words]


def violations(lines: Sequence[Line], dependencies: Mapping[str, str], ended: Mapping[str, str]) -> list[str]:
    """Return everything in which a history breaks the promises.

    `dependencies` names the job that a job depends on, `ended` the terminal state of every acknowledged job.
    """
    return [*_repeated(lines), *_overlapping(lines), *_overtaken(lines, dependencies), *_untold(lines, ended)]


def _repeated(lines: Iterable[Line]) -> Iterable[str]:
    seen: set[tuple[str, str]] = set()
    attempts: dict[tuple[str, int], str] = {}
    for line in lines:
        if line.word == "start":
            if (line.job_id, line.fence) in seen:
                yield f"I3: run {line.fence} of {line.job_id} was started twice"
            seen.add((line.job_id, line.fence))
            if attempts.setdefault((line.job_id, line.attempt), line.fence) != line.fence:
                yield f"I3: attempt {line.attempt} of {line.job_id} was started twice"


def _overlapping(lines: Iterable[Line]) -> Iterable[str]:
    """Two lines of a run with another run's line in between show that both lived at once."""
    spans: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, line in enumerate(lines):
        spans[line.job_id][line.fence].append(place)
    for job_id, runs in spans.items():
        places = sorted((found[0], found[-1], fence) for fence, found in runs.items())
        for (_, last, one), (first, _, other) in pairwise(places):
            if first < last:
                yield f"I4: runs {one} and {other} of {job_id} overlap"


def _overtaken(lines: Sequence[Line], dependencies: Mapping[str, str]) -> Iterable[str]:
    first_end: dict[str, int] = {}
    for place, line in enumerate(lines):
        if line.word == "end":
            first_end.setdefault(line.job_id, place)
        elif (parent := dependencies.get(line.job_id)) is not None and first_end.get(parent, place) >= place:
            yield f"I6: {line.job_id} started before the end of {parent}"


def _untold(lines: Sequence[Line], ended: Mapping[str, str]) -> Iterable[str]:
    completed = {line.job_id for line in lines if line.word == "end"}
    for job_id, status in ended.items():
        if status == "SUCCEEDED" and job_id not in completed:
            yield f"I8: {job_id} is said to have succeeded, and never came to its end"
