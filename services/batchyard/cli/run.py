"""`batchyard run -- CMD`: the command."""

import re
import sys
from functools import partial
from pathlib import Path

import anyio
import click
import grpc.aio

from batchyard.cli import clients, options
from batchyard.cli.brief import BriefCommand
from batchyard.cli.folder import DataFolder
from batchyard.cli.job_client import JobClient, JobRequest, follow, run_job
from batchyard.cli.logging import configure_logging
from batchyard.domain.names import Caller
from batchyard.rpc.tls import Tls


def _environment(_context: click.Context, _parameter: click.Parameter, assignments: tuple[str, ...]) -> dict[str, str]:
    environment = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not (name and separator):
            raise click.BadParameter(f"{assignment!r} is not NAME=VALUE")
        environment[name] = value
    return environment


def job_name_for(program: str) -> str:
    """Return the name of a program as a job name."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", Path(program).name).lstrip("-_")
    return name[:128] or "run"


async def _attend_to_job(caller: Caller, channel: grpc.aio.Channel, job_id: str, *, as_json: bool) -> int:
    client = JobClient(channel, caller)
    if not as_json:
        return await follow(client, job_id)
    from batchyard.cli.output import members_of, print_json
    from batchyard.cli.session import Session

    code = await follow(client, job_id, lambda line: click.echo(line.message, err=True))
    print_json({"jobs": [members_of(job) for job in await Session(channel, caller).describe([job_id])]})
    return code


async def _attend_to_array(caller: Caller, channel: grpc.aio.Channel, job_id: str, *, as_json: bool) -> int:
    from batchyard.cli.session import Session
    from batchyard.cli.wait import wait_and_tell

    return await wait_and_tell(Session(channel, caller), [job_id], as_json=as_json, timeout_s=None)


@click.command(cls=BriefCommand, context_settings={"allow_interspersed_args": False})
@options.option("--queue", default="default", help="Job queue.")
@options.option(
    "--array",
    type=click.IntRange(min=2),
    default=None,
    metavar="N",
    help="Run it N times, as an array job. Each has its AWS_BATCH_JOB_ARRAY_INDEX. Exits with 0 if all succeed.",
)
@options.option("--after", multiple=True, metavar="JOB", help="Wait for the success of this job; repeatable.")
@options.option("--name", default=None, help="Job name. Default: that of the program.")
@options.option("--image", default="busybox", help="Image in which the command runs. The process runtime ignores it.")
@options.option("--vcpus", type=click.IntRange(min=1), default=1, help="vCPUs to reserve.")
@options.option("--memory", type=click.IntRange(min=4), default=256, help="Memory limit in MiB.")
@options.option("--env", multiple=True, metavar="NAME=VALUE", callback=_environment, help="For the job; repeatable.")
@clients.server()
@clients.tls_of_client()
@options.output("json: print the job at its end, and its log to stderr.")
@options.account_and_region()
@options.logging()
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    *,
    endpoint: str | None,
    data_dir: Path,
    tls: Tls | None,
    queue: str,
    array: int | None,
    after: tuple[str, ...],
    name: str | None,
    image: str,
    vcpus: int,
    memory: int,
    env: dict[str, str],
    account: str,
    region: str,
    output: str,
    log_format: str,
    log_level: str,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND as a job: print what it prints, exit with its exit code. Ctrl-C terminates the job.

    With --array nothing is printed but how they ended, and on a terminal a bar: see `batchyard logs` for each child.
    With --output json there is one document on stdout at the end, as `batchyard describe --output json` prints it: the
    job, or the array with its statusSummary. The exit code is the same.
    """
    configure_logging(log_format, log_level)
    request = JobRequest(command, name or job_name_for(command[0]), queue, image, vcpus, memory, env, array, after)
    caller = clients.caller_for(account, region, tls)
    attend = partial(_attend_to_job if array is None else _attend_to_array, caller, as_json=output == "json")
    target = clients.target_of(endpoint, DataFolder(data_dir))
    with clients.talking_to(target, unread="nobody reads the output any more; the job goes on"):
        exit_code = anyio.run(run_job, target, caller, request, tls, attend)
    sys.exit(exit_code)
