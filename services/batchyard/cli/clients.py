"""What commands that call a server share: which server, and how its failures and the end of a reader are told."""

import io
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click
import grpc

from batchyard.cli import options
from batchyard.cli.folder import DataFolder, Endpoint
from batchyard.cli.serving import first_of
from batchyard.cli.tls import tls_files
from batchyard.domain.names import DEFAULT_NAMESPACE, Caller
from batchyard.rpc.peers import Role
from batchyard.rpc.tls import Tls

EXIT_UNREAD: Final = 128 + signal.SIGPIPE
"""When nobody reads the output any more, as a local command's."""

_ENDPOINT = re.compile(r"(?:grpc://)?([^/\s]+:[0-9]{1,5})/?")


def server() -> options.Decorator:
    """Declare which server is called: --endpoint and --data-dir."""
    return options.all_of(
        options.option(
            "--endpoint",
            metavar="grpc://HOST:PORT",
            callback=_endpoint,
            help="The server to call. Default: the `up` that runs on --data-dir.",
        ),
        options.data_dir("Data folder of the `up` to call."),
    )


def _endpoint(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    match = _ENDPOINT.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not grpc://HOST:PORT")
    return match[1]


def tls_of_client() -> options.Decorator:
    """Declare the flags of a client's certificate."""
    return tls_files(Role.CLIENT, Role.SERVICE)


def caller_for(account: str, region: str, tls: Tls | None) -> Caller:
    """Return for whom a command acts: for the account in its certificate, if there is one and no other was named."""
    if account == DEFAULT_NAMESPACE and tls is not None and tls.peer.account is not None:
        account = tls.peer.account
    return Caller(account, region)


def target_of(endpoint: str | None, folder: DataFolder) -> str:
    """Return the gRPC target: the one that was named, or that of the `up` that runs on the data folder."""
    if endpoint is not None:
        return endpoint
    running = Endpoint.read(folder.endpoint)
    if running is None:
        raise click.UsageError(
            f"no `batchyard up` runs on the data folder {folder.root}: start one, or name a server with --endpoint"
        )
    return running.grpc.removeprefix("grpc://")


@contextmanager
def talking_to(target: str, *, unread: str) -> Iterator[None]:
    """Print what a terminal has no characters for in another form; tell failures of the server in one line.

    When nobody reads the output any more it ends quietly, with `unread` on stderr.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    except Exception as error:
        if first_of(error, BrokenPipeError) is not None:
            # What is buffered has nowhere to go either, at the end of the interpreter.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            click.echo(f"batchyard: {unread}", err=True)
            sys.exit(EXIT_UNREAD)
        failure = first_of(error, grpc.aio.AioRpcError)
        if failure is None:
            raise
        text = failure.details() or failure.code().name
        if failure.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            text = f"the server at grpc://{target} does not answer: {text}"
        if failure.code() is grpc.StatusCode.UNIMPLEMENTED:
            text = f"the server at grpc://{target} is of an older version than this command: {text}"
        raise click.ClickException(text) from None
