"""Flags that several commands share. Each can also be set in the environment, as BATCHYARD_<FLAG>."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import click

from batchyard.agent.capacity import parse_size
from batchyard.cli.brief import FurtherOption
from batchyard.domain.compat import Compat
from batchyard.domain.names import DEFAULT_NAMESPACE, DEFAULT_REGION

Command = TypeVar("Command", bound=Callable[..., Any])


class Decorator(Protocol):
    """Adds flags to a command."""

    def __call__(self, command: Command, /) -> Command:
        """Return the command with the flags."""
        ...


HTTP_PORT: Final = 8080
GATEWAY_GRPC_PORT: Final = 8081
REGISTRY_PORT: Final = 8082
JOBSTORE_PORT: Final = 8083
SCHEDULER_PORT: Final = 8084
LOGS_PORT: Final = 8085


def option(flag: str, *letters: str, **attributes: Any) -> Decorator:
    """Declare a flag, with single letters for it, its environment variable, and the naming of both in the help text."""
    shown = {"show_envvar": True, "show_default": True, **attributes}
    return click.option(flag, *letters, envvar=variable_of(flag), **shown)


def further_option(flag: str, *letters: str, **attributes: Any) -> Decorator:
    """Declare a flag that most calls do without: it is named in the brief help, and explained by --help-all."""
    return option(flag, *letters, cls=FurtherOption, **attributes)


def variable_of(flag: str) -> str:
    """Return the name of a flag's environment variable."""
    return "BATCHYARD_" + flag.removeprefix("--").upper().replace("-", "_")


def all_of(*decorators: Decorator) -> Decorator:
    """Return what declares several flags."""

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def _user_state() -> Path:
    import platformdirs

    return platformdirs.user_state_path("batchyard")


def data_dir(help_text: str = "Folder of everything that must survive a restart.") -> Decorator:
    """Declare --data-dir."""
    return option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=_user_state,
        show_default="the user's state folder",
        help=help_text,
    )


def listening(grpc_port: int) -> Decorator:
    """Declare where a service listens for gRPC: --host, --grpc-port and --insecure."""
    return all_of(
        option(
            "--host",
            default="127.0.0.1",
            callback=lambda _context, _parameter, value: value.removeprefix("[").removesuffix("]"),
            help="Address to listen on.",
        ),
        option(
            "--grpc-port", type=click.IntRange(0, 65535), default=grpc_port, help="Port for gRPC; 0 is any free one."
        ),
        further_option(
            "--insecure", is_flag=True, help="Listen beyond loopback although requests are not authenticated."
        ),
    )


def monitoring_port() -> Decorator:
    """Declare --monitoring-port."""
    return further_option(
        "--monitoring-port",
        type=click.IntRange(0, 65535),
        default=None,
        help="Port of /healthz, /readyz and /metrics; 0 is any free one. None unless given.",
    )


def http_port() -> Decorator:
    """Declare --port."""
    return option(
        "--port", type=click.IntRange(0, 65535), default=HTTP_PORT, help="Port of the AWS API; 0 is any free one."
    )


def peer(service: str, port: int) -> Decorator:
    """Declare the flag that says where another service is."""
    return option(
        f"--{service}", metavar="HOST:PORT", default=f"127.0.0.1:{port}", help=f"Where the {service} service is."
    )


def seconds(flag: str, default: float, help_text: str, declare: Callable[..., Decorator] = option) -> Decorator:
    """Declare a flag that is a time in seconds."""
    allowed = click.FloatRange(min=0, min_open=True)
    return declare(flag, type=allowed, metavar="SECONDS", default=default, help=help_text)


def leases() -> Decorator:
    """Declare how long agents count as alive: --heartbeat-interval, --suspicion, --lease and --kill-budget."""
    return all_of(
        seconds("--heartbeat-interval", 5, "How often agents must be heard of.", further_option),
        seconds("--suspicion", 15, "How long an agent may be silent before it is offered nothing more."),
        seconds(
            "--lease",
            600,
            "How long an agent may run jobs after it was last heard of; then it ends them, and they count as lost.",
        ),
        seconds("--kill-budget", 15, "How long an agent has to end its jobs once its lease is over."),
    )


def durability() -> Decorator:
    """Declare --durability."""
    return further_option(
        "--durability",
        type=click.Choice(["full", "relaxed"]),
        default="full",
        help="full: what was acknowledged survives a power cut. relaxed: it survives a crash of Batchyard only.",
    )


_SECONDS_IN: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


def seconds_of(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    """Return the seconds of a time like 90, 90s, 30m, 12h or 7d."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", value)
    seconds = float(match[1]) * _SECONDS_IN[match[2]] if match else 0.0
    if not seconds:
        raise click.BadParameter(f"{value!r} is not a time of more than nothing, such as 90s, 30m, 12h or 7d")
    return seconds


def job_retention() -> Decorator:
    """Declare --job-retention."""
    return further_option(
        "--job-retention",
        metavar="TIME",
        default="7d",
        callback=seconds_of,
        help="How long jobs are kept once they have ended, with their attempts, events and logs; as in 90s, 12h or 7d.",
    )


def bytes_of(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    """Return the bytes of a size like 512MiB or 2GiB."""
    mib = parse_size(value)
    if not mib:
        raise click.BadParameter(f"{value!r} is not a size of 1MiB or more, such as 512MiB or 2GiB")
    return mib * 1024 * 1024


def faults() -> Decorator:
    """Declare --faults."""
    return further_option(
        "--faults",
        is_flag=True,
        help="For testing: let jobs ask, by the tag batchyard:fault, for attempts that fail without running.",
    )


def compat() -> Decorator:
    """Declare --compat."""
    return further_option(
        "--compat",
        type=click.Choice([profile.value for profile in Compat]),
        default=Compat.SEED.value,
        callback=lambda _context, _parameter, value: Compat(value),
        help="Whose meaning wins where the 2016 document and today's service differ. Queues: seed serves the lower "
        "priority number first, aws the higher one. See docs/compatibility.md for the others.",
    )


def account_and_region() -> Decorator:
    """Declare --account and --region."""
    return all_of(
        further_option(
            "--account",
            metavar="DIGITS",
            default=DEFAULT_NAMESPACE,
            help="Account of requests whose access key is not itself an account of 12 digits.",
        ),
        further_option("--region", default=DEFAULT_REGION, help="Region of requests that name none."),
    )


def signatures() -> Decorator:
    """Declare how signatures are verified: --access-keys and --clock-skew."""
    return all_of(
        further_option(
            "--access-keys",
            metavar="FILE",
            type=click.Path(dir_okay=False, path_type=Path),
            default=None,
            help="Access keys that may sign requests, in TOML; every signature is then verified. See docs/security.md.",
        ),
        seconds(
            "--clock-skew", 900, "How far apart the clocks of client and server may be, for signatures.", further_option
        ),
    )


def allowed_host() -> Decorator:
    """Declare --allowed-host."""
    return further_option(
        "--allowed-host",
        multiple=True,
        metavar="NAME",
        help="A further name under which clients may address this server; repeatable.",
    )


def output(
    help_text: str = "A table for people, or JSON in AWS's member names.", *, default: str = "table"
) -> Decorator:
    """Declare --output, which has the same values everywhere: BATCHYARD_OUTPUT is for all commands."""
    return option("--output", type=click.Choice(["table", "json"]), default=default, help=help_text)


def logging() -> Decorator:
    """Declare --log-format and --log-level."""
    return all_of(
        further_option(
            "--log-format", type=click.Choice(["text", "json"]), default="text", help="Form of the log on stderr."
        ),
        further_option(
            "--log-level",
            type=click.Choice(["debug", "info", "warning", "error"]),
            default="info",
            help="What is logged: this and above.",
        ),
    )
