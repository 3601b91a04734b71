"""`batchyard wait`: until jobs have ended, with a bar over them and the children of arrays, and why they wait."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Final, Self

import anyio
import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from batchyard.api.jobs.v1.jobs_pb2 import JobDetail
from batchyard.cli import options
from batchyard.cli.brief import BriefCommand
from batchyard.cli.job_client import LOOK_WHY_IT_WAITS_S, WAITS, Patience
from batchyard.cli.output import STYLES, console_of, members_of, print_json, print_table, printable
from batchyard.cli.session import (
    ENDED,
    STATUS_NUMBERS,
    Server,
    Session,
    job_argument,
    server_options,
    status_of,
    unique,
)

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 1.0
EXIT_TIMEOUT: Final = 124
"""As `timeout` has it."""

_SHOWN: Final = ("RUNNING", "SUCCEEDED", "FAILED")
_RATE_OVER_S: Final = 30.0


def counts_of(jobs: Iterable[JobDetail]) -> Counter[str]:
    """Return how many jobs are in each status; in place of arrays, their children."""
    counts: Counter[str] = Counter()
    for job in jobs:
        if job.array_properties.size:
            counts.update(dict(job.array_properties.status_summary))
        else:
            counts[status_of(job)] += 1
    return counts


class Bar:
    """A bar on a terminal: how many have ended, how the rest stands, how fast it goes, and how long it will take."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            speed_estimate_period=_RATE_OVER_S,
        )
        self._task: TaskID = self._progress.add_task("", total=None, counts="", rate="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def show(self, counts: Mapping[str, int]) -> None:
        """Show how things stand."""
        waiting = sum(count for status, count in counts.items() if status not in _SHOWN)
        words = [f"{waiting} waiting"] * bool(waiting)
        words += [f"[{STYLES[status]}]{counts[status]} {status.lower()}[/]" for status in _SHOWN if counts.get(status)]
        speed = self._progress.tasks[0].speed
        self._progress.update(
            self._task,
            total=sum(counts.values()),
            completed=sum(counts.get(status, 0) for status in ENDED),
            counts=", ".join(words),
            rate=f"{speed:.1f}/s" if speed else "",
        )


class Reasons:
    """Says why jobs wait: each reason once, with the first of the jobs for which it is told."""

    def __init__(self, session: Session, console: Console) -> None:
        self._session = session
        self._console = console
        self._told: set[str] = set()
        self._begins_at = time.monotonic() + LOOK_WHY_IT_WAITS_S
        """Until then nothing is said: most jobs start sooner."""

    async def tell(self, jobs: Sequence[JobDetail], patience: Patience) -> None:
        """Say what is new."""
        if time.monotonic() < self._begins_at:
            return
        # Children start in the order of their indices: what the last one waits for, the others do.
        arrays = {
            f"{job.job_id}:{job.array_properties.size - 1}": job.job_id
            for job in jobs
            if job.array_properties.status_summary.get("RUNNABLE")
        }
        waiting: defaultdict[str, list[str]] = defaultdict(list)
        for job in (*jobs, *await self._session.describe(list(arrays), patience)):
            if job.status in WAITS and job.status_reason:
                waiting[job.status_reason].append(arrays.get(job.job_id, job.job_id))
        for reason, (first, *others) in waiting.items():
            if reason in self._told:
                continue
            self._told.add(reason)
            who = f"jobs {first} and {len(others)} more wait" if others else f"job {first} waits"
            self._console.print(Text(printable(f"batchyard: {who}: {reason}")), soft_wrap=True)


async def wait_for(
    session: Session, job_ids: Sequence[str], *, reasons: Reasons, bar: Bar | None, timeout_s: float | None
) -> list[JobDetail]:
    """Wait until all jobs have ended, or the time is over; return them as they are then."""
    patience, pause = Patience(), FIRST_PAUSE_S
    deadline = time.monotonic() + timeout_s if timeout_s is not None else None
    found: dict[str, JobDetail] = {}
    rest = list(job_ids)
    while True:
        found.update(zip(rest, await session.describe(rest, patience), strict=True))
        if bar is not None:
            bar.show(counts_of(found.values()))
        await reasons.tell([found[name] for name in rest], patience)
        rest = [name for name in rest if status_of(found[name]) not in ENDED]
        if not rest or (deadline is not None and time.monotonic() >= deadline):
            return [found[name] for name in job_ids]
        await anyio.sleep(pause if deadline is None else min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 1.5, LONGEST_PAUSE_S)


async def failed_children(session: Session, array: JobDetail) -> list[int]:
    """Return the indices of those children of an array that have failed."""
    from batchyard.api.operations.v1.overview_service_pb2 import DescribeArrayChildrenRequest

    request = DescribeArrayChildrenRequest(job_id=array.job_id)
    answer = await session.call_patiently(session.overview.DescribeArrayChildren, request)
    return [index for index, status in enumerate(answer.statuses) if status == STATUS_NUMBERS["FAILED"]]


async def wait_and_tell(session: Session, job_ids: Sequence[str], *, as_json: bool, timeout_s: float | None) -> int:
    """Wait for jobs with a bar, if somebody sees it; print how they ended; return what to exit with."""
    console = console_of(stderr=True)
    reasons = Reasons(session, console)
    with Bar(console) if console.is_terminal else nullcontext() as bar:
        ended = await wait_for(session, job_ids, reasons=reasons, bar=bar, timeout_s=timeout_s)
    if as_json:
        print_json({"jobs": [members_of(job) for job in ended]})
    else:
        rows = [(job.job_id, job.job_name, status_of(job), await _reason(session, job)) for job in ended]
        print_table(("JOB", "NAME", "STATUS", "REASON"), rows, whole=["JOB", "STATUS", "REASON"])
    statuses = {status_of(job) for job in ended}
    if statuses <= ENDED:
        return 0 if statuses == {"SUCCEEDED"} else 1
    click.echo(f"batchyard: not all have ended after {timeout_s:g} s", err=True)
    return EXIT_TIMEOUT


async def _reason(session: Session, job: JobDetail) -> str:
    if not (job.array_properties.size and status_of(job) == "FAILED"):
        return job.container.reason or job.status_reason
    indices = await failed_children(session, job)
    named = ", ".join(map(str, indices[:5]))
    more = f" and {len(indices) - 5} more" if len(indices) > 5 else ""
    return f"{job.status_reason}: {named}{more}" if indices else job.status_reason


@click.command(cls=BriefCommand)
@options.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=None,
    help=f"Wait no longer than that; then exit with {EXIT_TIMEOUT}.",
)
@server_options()
@job_argument(several=True)
def wait(*, server: Server, jobs: Sequence[str], timeout: float | None) -> None:
    """Wait until each JOB has ended; exit with 0 only if all have SUCCEEDED, else with 1. `-`: the ids on stdin.

    On a terminal a bar shows how many have ended; of an array, how many of its children. Why jobs wait is said on
    stderr, each reason once.
    """
    names = unique(jobs)

    async def act(session: Session) -> int:
        return await wait_and_tell(session, names, as_json=server.as_json, timeout_s=timeout)

    server.run(act)
