"""`batchyard logs`: what a job prints. Without a job, the service of this name."""

import sys
from typing import Any

import click

from batchyard.api.jobs.v1.jobs_pb2 import JobDetail
from batchyard.api.operations.v1.logs_service_pb2 import GetLogEventsRequest, LogEvent
from batchyard.cli import options
from batchyard.cli.brief import BriefCommand
from batchyard.cli.job_client import Follower, JobClient
from batchyard.cli.output import members_of
from batchyard.cli.session import Server, Session, job_argument, server_options, status_of


class PrintOrServe(BriefCommand):
    """A command that is another one, the service, when it is given no job."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Return the context of whichever command is meant."""
        if self._is_service(info_name, args, parent):
            from batchyard.cli.services import logs as service

            return service.make_context(info_name, args, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def _is_service(self, info_name: str | None, args: list[str], parent: click.Context | None) -> bool:
        context = click.Context(self, parent=parent, info_name=info_name)
        try:
            given, _, _ = self.make_parser(context).parse_args(list(args))
        except click.NoSuchOption:
            return True
        except click.UsageError:
            return False
        is_ours = isinstance(given.get("job"), str) or given.get("follow") is True
        return not is_ours and not {*context.help_option_names, "--help-all"} & set(args)


def _stream_of(job: JobDetail, attempt: int | None) -> str:
    """Return the log stream of an attempt, the latest if none is named; raise ClickException if there is none."""
    if job.array_properties.size:
        raise click.ClickException(
            f"{job.job_id} is an array job, and prints nothing itself: name a child, {job.job_id}:0"
        )
    if attempt is not None:
        if attempt > len(job.attempts):
            raise click.ClickException(f"{len(job.attempts)} attempts of job {job.job_id} have ended, not {attempt}")
        return job.attempts[attempt - 1].container.log_stream_name
    return job.container.log_stream_name


async def _print_now(session: Session, stream: str, tail: int | None, *, as_json: bool) -> None:
    request = GetLogEventsRequest(log_stream_name=stream, start_from_head=tail is None, limit=tail)
    while True:
        page = await session.call_patiently(session.logs.GetLogEvents, request)
        for event in page.events:
            _show(event, as_json=as_json)
        if tail is not None or page.next_forward_token == request.next_token:
            return
        request.next_token = page.next_forward_token


def _show(event: LogEvent, *, as_json: bool) -> None:
    if as_json:
        import msgspec

        sys.stdout.write(msgspec.json.encode(members_of(event)).decode() + "\n")
    else:
        sys.stdout.write(event.message + "\n")
    sys.stdout.flush()


@click.command(cls=PrintOrServe)
@options.option(
    "--follow", "-f", is_flag=True, help="Go on with what comes, over all attempts, until the job has ended."
)
@options.option("--attempt", type=click.IntRange(min=1), default=None, help="Of this attempt, which has ended; from 1.")
@options.option("--tail", type=click.IntRange(1, 10_000), default=None, metavar="LINES", help="Only the last lines.")
@server_options()
@job_argument(several=False)
def logs(*, server: Server, job: str, follow: bool, attempt: int | None, tail: int | None) -> None:
    """Print what JOB has printed: its latest attempt. With --output json, an object a line.

    Without JOB this is the service that keeps and serves what jobs print; `batchyard logs --host 127.0.0.1 ...`.
    """
    if follow and (attempt is not None or tail is not None):
        raise click.UsageError("--follow goes with neither --attempt nor --tail")

    async def act(session: Session) -> None:
        (found,) = await session.describe([job])
        stream = _stream_of(found, attempt)
        if follow:
            client = JobClient(session.channel, session.caller)
            show = (lambda event: _show(event, as_json=True)) if server.as_json else None
            await Follower(client, found.job_id, show).to_the_end()
        elif stream:
            await _print_now(session, stream, tail, as_json=server.as_json)
        else:
            click.echo(f"batchyard: job {found.job_id} is {status_of(found)} and has printed nothing", err=True)

    server.run(act)
