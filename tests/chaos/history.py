"""What jobs wrote of themselves, and what must hold of it. Pure but for reading the file.

A line is `start` or `end`, job id, number of the attempt, the run (its fence), and a time of CLOCK_BOOTTIME in seconds.
All processes run on one host, so that these times can be compared.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

WORDS: Final = 5
"""Of a line."""
CLOCK_STEP_S: Final = 0.02
"""Jobs read the time in hundredths of a second."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the history."""

    word: str
    job_id: str
    attempt: int
    fence: str
    at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """A job as it was seen at its end."""

    status: str
    attempts: int
    seen_at: float
    """When, for the first time."""


def command(path: Path | None, seconds: float, exit_code: int = 0) -> list[str]:
    """Return a job's command: it appends its start and its end, each in one write; without a file it prints them."""
    now = 'read now _ < /proc/uptime; echo "{word} $AWS_BATCH_JOB_ID $AWS_BATCH_JOB_ATTEMPT $BATCHYARD_FENCE $now"'
    write = f"{now} >> {path}" if path else now
    start, end = write.format(word="start"), write.format(word="end")
    return ["sh", "-c", f"{start}; sleep {seconds}; {end}; exit {exit_code}"]


def read(path: Path) -> list[Line]:
    """Return all lines of a file, in the order in which they were written."""
    return parsed(path.read_text().splitlines()) if path.exists() else []


def parsed(lines: Iterable[str]) -> list[Line]:
    """Return lines as what they say, without those of which a part is missing."""
    words = [words for line in lines if len(words := line.split()) == WORDS]
    return [Line(word, job_id, int(attempt), fence, float(at)) for word, job_id, attempt, fence, at in words]


def is_complete(lines: Sequence[str]) -> bool:
    """Tell whether a run that came to its end has printed both its lines."""
    return [line.split()[0] for line in lines] == ["start", "end"]


def damaged_logs(logs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what is wrong with the logs of attempts, by job id and number, of jobs that print what others write."""
    found = []
    for name, lines in logs.items():
        job_id, number = name.split()
        if any(line.job_id != job_id or line.attempt != int(number) for line in parsed(lines)):
            found.append(f"I8: the log of attempt {number} of {job_id} is another one's: {lines}")
        if len(set(lines)) != len(lines) or any(len(line.split()) != WORDS for line in lines):
            found.append(f"I8: the log of attempt {number} of {job_id} is damaged: {lines}")
    return found


def violations(
    lines: Sequence[Line],
    dependencies: Mapping[str, str],
    ended: Mapping[str, Ended],
    silenced: Collection[str] = (),
) -> list[str]:
    """Return everything in which a history breaks the promises.

    `dependencies` names the job that a job depends on, `ended` is of every job that clients saw at its end. Of the
    `silenced` jobs lines may be missing.
    """
    return [
        *_repeated(lines),
        *_overlapping(lines),
        *_overtaken(lines, {child: parent for child, parent in dependencies.items() if parent not in silenced}),
        *_untold(lines, {job_id: job for job_id, job in ended.items() if job_id not in silenced}),
        *_unknown(lines, ended),
        *_belated(lines, ended),
    ]


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


def _untold(lines: Sequence[Line], ended: Mapping[str, Ended]) -> Iterable[str]:
    completed = {line.job_id for line in lines if line.word == "end"}
    for job_id, job in ended.items():
        if job.status == "SUCCEEDED" and job_id not in completed:
            yield f"I8: {job_id} is said to have succeeded, and never came to its end"


def _unknown(lines: Sequence[Line], ended: Mapping[str, Ended]) -> Iterable[str]:
    """Every run that wrote a line is one of its job's attempts. So what was stopped before its first never began."""
    runs: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        runs[line.job_id].add(line.fence)
    for job_id, fences in runs.items():
        if (job := ended.get(job_id)) is not None and len(fences) > job.attempts:
            yield f"I9: {job_id} ended as {job.status} after {job.attempts} attempts, and ran {len(fences)} times"


def _belated(lines: Sequence[Line], ended: Mapping[str, Ended]) -> Iterable[str]:
    for line in lines:
        if (job := ended.get(line.job_id)) is not None and line.at > job.seen_at + CLOCK_STEP_S:
            yield f"I8: {line.job_id} was {job.status}, and its run {line.fence} wrote {line.word} later"
