"""`batchyard cancel` and `terminate`: end jobs before their time."""

from collections.abc import Sequence
from typing import Any, Final

import click

from batchyard.api.jobs.v1.jobs_service_pb2 import CancelJobsRequest, TerminateJobsRequest
from batchyard.cli import options
from batchyard.cli.brief import BriefCommand
from batchyard.cli.output import print_json
from batchyard.cli.session import Server, Session, job_argument, server_options, unique

JOBS_A_CALL: Final = 50


async def _stop(session: Session, jobs: Sequence[str], reason: str, *, terminate: bool) -> tuple[list[str], list[Any]]:
    """Stop jobs; return those for which it was accepted, and the errors of the others."""
    stopped: list[str] = []
    errors: list[Any] = []
    for start in range(0, len(jobs), JOBS_A_CALL):
        part = jobs[start : start + JOBS_A_CALL]
        if terminate:
            ended = await session.call(session.jobs.TerminateJobs, TerminateJobsRequest(jobs=part, reason=reason))
            stopped += ended.successful
            errors += ended.errors
        else:
            cancelled = await session.call(session.jobs.CancelJobs, CancelJobsRequest(jobs=part, reason=reason))
            stopped += cancelled.successful
            errors += cancelled.errors
    return stopped, errors


def _end(server: Server, jobs: Sequence[str], reason: str, *, terminate: bool) -> None:
    names = unique(jobs)

    async def act(session: Session) -> int:
        stopped, errors = await _stop(session, names, reason, terminate=terminate)
        if server.as_json:
            told = [{"job": error.job, "code": error.code, "message": error.message} for error in errors]
            print_json({"successful": stopped, "errors": told})
        else:
            for job in stopped:
                click.echo(job)
            for error in errors:
                click.echo(f"batchyard: {error.job!r}: {error.message}", err=True)
        return 1 if errors else 0

    server.run(act)


@click.command(cls=BriefCommand)
@options.option("--reason", default="Cancelled by the user", help="The jobs' status reason.")
@server_options()
@job_argument(several=True)
def cancel(*, server: Server, jobs: Sequence[str], reason: str) -> None:
    """Cancel each JOB that has not begun; what runs goes on. `-`: the ids on stdin.

    Prints the ids for which it was accepted: those of jobs that are over, or that nobody knows, too.
    """
    _end(server, jobs, reason, terminate=False)


@click.command(cls=BriefCommand)
@options.option("--reason", default="Terminated by the user", help="The jobs' status reason.")
@server_options()
@job_argument(several=True)
def terminate(*, server: Server, jobs: Sequence[str], reason: str) -> None:
    """End each JOB in whatever status: SIGTERM, and after 30 s SIGKILL. `-`: the ids on stdin.

    Prints the ids for which it was accepted. A job has ended only when its processes have: see `batchyard wait`.
    """
    _end(server, jobs, reason, terminate=True)
