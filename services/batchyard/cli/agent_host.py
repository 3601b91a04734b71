"""The flags that say what a host offers to jobs: those of `batchyard agent`, and of `up` for its local agent."""

from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, Final, Literal, cast

import click

from batchyard.agent.capacity import check_capacity, parse_size
from batchyard.agent.policy import Policy
from batchyard.agent.runtimes.secrets import Secrets, parse_secrets
from batchyard.agent.runtimes.settings import PULL_TIMEOUT_S, PullPolicy, PullSettings
from batchyard.agent.talkback import TalkBack, TalkBackError, read_credentials
from batchyard.cli.options import Command, Decorator, all_of, further_option, option
from batchyard.domain.names import DEFAULT_NAMESPACE, DEFAULT_REGION

_ACCOUNT: Final = "account"
_NONE: Final = "none"


@dataclass(frozen=True, slots=True)
class HostOptions:
    """What `agent_host` declares, as given; each field has the name of its flag."""

    runtime: Literal["auto", "docker", "process"]
    capacity: str | None
    reserve_vcpus: float
    reserve_memory: str | None
    stop_jobs: bool
    allow_privileged: bool
    allow_host_path: tuple[str, ...]
    allow_device: tuple[str, ...]
    log_limit: str
    docker_network: str | None
    job_endpoint: str | None
    job_region: str
    job_credentials: str
    secret: tuple[str, ...]
    stop_timeout: float | None
    cpu_hard_limit: bool
    image_pull_policy: PullPolicy
    image_pull_timeout: float

    @property
    def reserve_mib(self) -> int | None:
        """Memory that is not offered, in MiB; None: what is usual."""
        return None if self.reserve_memory is None else parse_size(self.reserve_memory)

    @property
    def log_bytes_max(self) -> int:
        """How long the log of an attempt may become."""
        return (parse_size(self.log_limit) or 0) * 1024 * 1024

    def talk_back(self) -> TalkBack | None:
        """Return what jobs are told of this installation; raise UsageError if it cannot be."""
        if self.job_endpoint is None:
            return None
        try:
            if self.job_credentials in (_ACCOUNT, _NONE):
                return TalkBack(self.job_endpoint, self.job_region, has_credentials=self.job_credentials == _ACCOUNT)
            credentials = read_credentials(Path(self.job_credentials), DEFAULT_NAMESPACE)
            return TalkBack(self.job_endpoint, self.job_region, credentials=credentials)
        except TalkBackError as error:
            raise click.UsageError(str(error)) from error

    def policy(self, *guarded: Path) -> Policy:
        """Return what of the host jobs may have; these paths only if they are named themselves."""
        return Policy(self.allow_privileged, self.allow_host_path, self.allow_device).guarding(*map(str, guarded))

    @property
    def secrets(self) -> Secrets:
        """Return what jobs may have as secrets."""
        return parse_secrets(self.secret)

    @property
    def pulls(self) -> PullSettings:
        """Return when images are fetched."""
        return PullSettings(self.image_pull_policy, self.image_pull_timeout)

    def arguments(self) -> list[str]:
        """Return the arguments that give an agent the same."""
        found: list[str] = []
        for name in (each.name for each in fields(self)):
            flag, value = "--" + name.replace("_", "-"), getattr(self, name)
            if value is True:
                found.append(flag)
            elif value is not False and value is not None:
                found += [
                    part for each in (value if isinstance(value, tuple) else (value,)) for part in (flag, str(each))
                ]
        return found


def agent_host() -> Decorator:
    """Declare what a host offers to jobs; the command gets them as one argument, `host_options`."""
    path = click.Path(path_type=str)
    flags = all_of(
        option(
            "--runtime",
            type=click.Choice(["auto", "docker", "process"]),
            default="auto",
            help="auto: docker if its engine answers, else plain processes.",
        ),
        option(
            "--capacity",
            metavar="vcpus=N,memory=SIZE",
            default=None,
            callback=_capacity,
            help="What to offer to jobs, in place of what the host has; as in vcpus=64,memory=256GiB.",
        ),
        further_option(
            "--reserve-vcpus",
            type=click.FloatRange(min=0),
            metavar="N",
            default=0,
            help="vCPUs of the host that are not offered to jobs. A vCPU is a share and no ceiling: others get theirs.",
        ),
        further_option(
            "--reserve-memory",
            metavar="SIZE",
            default=None,
            callback=_size,
            show_default="a tenth, at most 1GiB",
            help="Memory of the host that is not offered to jobs; as in 512MiB or 2GiB.",
        ),
        option(
            "--stop-jobs", is_flag=True, help="End running jobs at SIGTERM. Default: they go on, and are found again."
        ),
        further_option(
            "--allow-privileged", is_flag=True, help="Let jobs be privileged: they have the whole host then."
        ),
        further_option(
            "--allow-host-path",
            type=path,
            multiple=True,
            callback=_absolute,
            help="Let jobs have this folder or file of the host, and what is below, as a volume; repeatable, in the"
            " variable separated by colons. The socket of the container engine is included only if named itself.",
        ),
        further_option(
            "--allow-device",
            type=path,
            multiple=True,
            callback=_absolute,
            help="Let jobs have this device of the host, or those in this folder; repeatable, in the variable separated"
            " by colons.",
        ),
        further_option(
            "--log-limit",
            metavar="SIZE",
            default="256MiB",
            callback=_size,
            help="How much is kept of what an attempt prints; of more, the middle is cut out.",
        ),
        further_option(
            "--docker-network",
            metavar="NETWORK",
            default=None,
            show_default="the engine's default",
            help="Network of containers: bridge, host, none, or one of the engine's own.",
        ),
        further_option(
            "--job-endpoint",
            metavar="URL",
            default=None,
            show_default="jobs are told nothing",
            help="Tell jobs that the AWS API is here, in AWS_ENDPOINT_URL_BATCH and its like, with a region and"
            " credentials. What a job sets by itself wins.",
        ),
        further_option("--job-region", metavar="REGION", default=DEFAULT_REGION, help="Region that jobs are told."),
        further_option(
            "--job-credentials",
            metavar="account|none|FILE",
            default=_ACCOUNT,
            help="account: jobs sign with their account as access key. FILE: with a key of their account from this"
            " file, which is like that of --access-keys.",
        ),
        further_option(
            "--secret",
            metavar="NAME=SOURCE",
            multiple=True,
            callback=_secrets,
            help="Let jobs have this secret, which they name in valueFrom; NAME=env:VARIABLE or NAME=file:PATH of the"
            " agent; repeatable, in the variable separated by white space.",
        ),
        further_option(
            "--stop-timeout",
            type=click.FloatRange(0),
            metavar="SECONDS",
            default=None,
            help="Between SIGTERM and SIGKILL of a job that is terminated or out of its time.  [default: 30]",
        ),
        further_option(
            "--cpu-hard-limit",
            is_flag=True,
            help="Give a container never more CPU time than its vCPUs. Default: as AWS, a share of what is there.",
        ),
        further_option(
            "--image-pull-policy",
            type=click.Choice(["missing", "always", "never"]),
            default="missing",
            help="missing: fetch images that are not on the host; always: look for a newer one each time.",
        ),
        further_option(
            "--image-pull-timeout",
            type=click.FloatRange(0, min_open=True),
            metavar="SECONDS",
            default=PULL_TIMEOUT_S,
            help="How long an image may take to come.",
        ),
    )

    def decorate(command: Command) -> Command:
        @wraps(command)
        def with_host(**values: Any) -> Any:
            host = HostOptions(**{each.name: values.pop(each.name) for each in fields(HostOptions)})
            return command(host_options=host, **values)

        return flags(cast("Command", with_host))

    return decorate


def _size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and parse_size(value) is None:
        raise click.BadParameter(f"{value!r} is not a size such as 512MiB or 2GiB")
    return value


def _absolute(_context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    for path in value:
        if not path.startswith("/"):
            raise click.BadParameter(f"{path!r} is not an absolute path", param=parameter)
    return value


def _secrets(_context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    try:
        parse_secrets(value)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from None
    return value


def _capacity(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    try:
        check_capacity(value or "")
    except ValueError as error:
        raise click.BadParameter(str(error).removeprefix("capacity: ")) from None
    return value
