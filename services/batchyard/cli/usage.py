"""`batchyard usage`: what jobs have held, by queue, share or tag."""

import re
import time

import click

from batchyard.api.operations.v1 import overview_service_pb2 as pb
from batchyard.cli import options
from batchyard.cli.brief import BriefCommand
from batchyard.cli.output import members_of, moment, print_json, print_table
from batchyard.cli.session import Server, Session, server_options

_TAG = re.compile(r"tag:(.+)", re.DOTALL)


def _grouping(_context: click.Context, _parameter: click.Parameter, value: str) -> pb.GetUsageRequest:
    match = _TAG.fullmatch(value)
    if match is not None:
        return pb.GetUsageRequest(grouping=pb.USAGE_GROUPING_TAG, tag=match[1])
    groupings = {"queue": pb.USAGE_GROUPING_JOB_QUEUE, "share": pb.USAGE_GROUPING_SHARE}
    if value not in groupings:
        raise click.BadParameter(f"{value!r} is not queue, share or tag:NAME")
    return pb.GetUsageRequest(grouping=groupings[value])


@click.command(cls=BriefCommand)
@options.option("--by", default="queue", metavar="queue|share|tag:NAME", callback=_grouping, help="What is added up.")
@options.option(
    "--since",
    metavar="TIME",
    default="7d",
    callback=options.seconds_of,
    help="How far to look back; as in 90s, 12h or 7d.",
)
@server_options()
def usage(*, server: Server, by: pb.GetUsageRequest, since: float) -> None:
    """Add up the vCPUs, the memory and the GPUs that jobs have held while they ran, in hours.

    Of jobs that are not kept any more (--job-retention) it knows nothing.
    """
    request = by
    request.begin = int((time.time() - since) * 1000)

    async def act(session: Session) -> None:
        answer = await session.call_patiently(session.overview.GetUsage, request)
        if server.as_json:
            print_json(members_of(answer))
        else:
            columns = ("GROUP", "ATTEMPTS#", "VCPU HOURS#", "GIB HOURS#", "GPU HOURS#")
            print_table(columns, [_row(group) for group in answer.usage])
            click.echo(f"From {moment(answer.begin)} to {moment(answer.end)}.", err=True)

    server.run(act)


def _row(group: pb.Usage) -> tuple[str, ...]:
    hours = (group.vcpu_hours, group.memory_gib_hours, group.gpu_hours)
    return (group.group or "(none)", str(group.attempts), *(f"{amount:.3f}" for amount in hours))
