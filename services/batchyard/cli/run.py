"""`batchyard run -- CMD`: the command."""

import io
import os
import re
import signal
import sys
from pathlib import Path
from typing import Final

import anyio
import click
import grpc

from batchyard.cli import options
from batchyard.cli.folder import DataFolder, Endpoint
from batchyard.cli.job_client import JobRequest, run_job
from batchyard.cli.logging import configure_logging
from batchyard.cli.serving import first_of
from batchyard.domain.names import Caller

EXIT_UNREAD: Final = 128 + signal.SIGPIPE
"""Of a run whose output nobody reads any more, as a local command's."""

_ENDPOINT = re.compile(r"(?:grpc://)?([^/\s]+:[0-9]{1,5})/?")


def _endpoint(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    match = _ENDPOINT.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not grpc://HOST:PORT")
    return match[1]


def _target(endpoint: str | None, folder: DataFolder) -> str:
    """Return the gRPC target: the one that was named, or that of the `up` that runs on the data folder."""
    if endpoint is not None:
        return endpoint
    running = Endpoint.read(folder.endpoint)
    if running is None:
        raise click.UsageError(
            f"no `batchyard up` runs on the data folder {folder.root}: start one, or name a server with --endpoint"
        )
    return running.grpc.removeprefix("grpc://")


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


@click.command(context_settings={"allow_interspersed_args": False})
@options.option(
    "--endpoint",
    metavar="grpc://HOST:PORT",
    callback=_endpoint,
    help="The server. Default: the `up` that runs on --data-dir.",
)
@options.data_dir()
@options.option("--queue", default="default", help="Job queue.")
@options.option("--name", default=None, help="Job name. Default: that of the program.")
@options.option("--image", default="busybox", help="Image in which the command runs; the process runtime ignores it.")
@options.option("--vcpus", type=click.IntRange(min=1), default=1, help="vCPUs to reserve.")
@options.option("--memory", type=click.IntRange(min=4), default=256, help="Memory limit in MiB.")
@options.option("--env", multiple=True, metavar="NAME=VALUE", callback=_environment, help="For the job; repeatable.")
@options.account_and_region()
@options.logging()
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    *,
    endpoint: str | None,
    data_dir: Path,
    queue: str,
    name: str | None,
    image: str,
    vcpus: int,
    memory: int,
    env: dict[str, str],
    account: str,
    region: str,
    log_format: str,
    log_level: str,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND as a job: print what it prints, exit with its exit code. Ctrl-C terminates the job."""
    configure_logging(log_format, log_level)
    request = JobRequest(command, name or job_name_for(command[0]), queue, image, vcpus, memory, env)
    target = _target(endpoint, DataFolder(data_dir))
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a job prints may be more than the terminal's encoding has.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        exit_code = anyio.run(run_job, target, Caller(account, region), request)
    except Exception as error:
        if first_of(error, BrokenPipeError) is not None:
            # What is buffered has nowhere to go either, at the end of the interpreter.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            click.echo("batchyard: nobody reads the output any more; the job goes on", err=True)
            sys.exit(EXIT_UNREAD)
        failure = first_of(error, grpc.aio.AioRpcError)
        if failure is None:
            raise
        text = failure.details() or failure.code().name
        if failure.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            text = f"the server at grpc://{target} does not answer: {text}"
        raise click.ClickException(text) from None
    sys.exit(exit_code)
