"""`batchyard up`: the control plane in one process, and one local agent as its child."""

import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio.abc
import click

from batchyard.cli import options
from batchyard.cli.agent_host import HostOptions, agent_host
from batchyard.cli.brief import BriefCommand
from batchyard.cli.folder import DataFolder, Endpoint
from batchyard.cli.gateway import entrance
from batchyard.cli.logging import configure_logging
from batchyard.cli.processes import started, supervised
from batchyard.cli.serving import or_cannot_start, serve
from batchyard.cli.tls import TLS_VARIABLES, refuse_open_door
from batchyard.domain.compat import Compat
from batchyard.domain.names import Caller
from batchyard.rpc import hosts
from batchyard.rpc.clock import SystemClock
from batchyard.rpc.peers import Role

if TYPE_CHECKING:
    from batchyard.gateway.config import GatewayConfig
    from batchyard.rpc.server import InProcessEndpoint, Service

_log = logging.getLogger(__name__)

SOCKET_PATH_BYTES_MAX: Final = 100
"""The kernel takes 107 bytes of path for a Unix socket; gRPC appends to it."""


DRAIN_S: Final = 1.0
"""How long calls between the services may take at the end. Those from outside have ended before."""


@dataclass(frozen=True, slots=True)
class UpConfig:
    """What `up` is told."""

    folder: DataFolder
    gateway: "GatewayConfig"
    compat: Compat
    durable: bool
    job_retention_s: float
    faults: bool
    bare: bool
    """Create no default resources."""
    agent_arguments: Sequence[str] | None
    """Flags of the local agent; None for no agent."""
    agent_host: str = "127.0.0.1"
    """Address for agents that are started apart."""
    agent_port: int | None = None
    """Port for them; None: there are none."""
    log_bytes_max: int = 0
    """How much is kept of a log that such an agent ships, if that is more than usual."""


@dataclass(frozen=True, slots=True)
class _Agent:
    """The local agent, as it is started before there is anything to serve it."""

    target: str
    command: Sequence[str]
    process: anyio.abc.Process


@asynccontextmanager
async def open_installation(config: UpConfig) -> AsyncIterator[str]:
    """Start everything, from the inside out; yield the ready line. The entrance is the first thing that closes."""
    async with AsyncExitStack() as running:
        # First of all the agent, which takes as long to load as all that follows here.
        agent = await running.enter_async_context(_early_agent(config)) if config.agent_arguments is not None else None
        from batchyard.cli.defaults import create_defaults_once
        from batchyard.gateway.app import open_gateway
        from batchyard.gateway.upstreams import Upstreams
        from batchyard.rpc.server import InProcessEndpoint, serve_grpc

        inside = InProcessEndpoint()
        await running.enter_async_context(inside.serve(drain_s=DRAIN_S))
        services = await _open_services(config, inside, running)
        for_agents = [service for service in services if Role.AGENT in service.callers]
        apart = ""
        if config.agent_port is not None:
            where = hosts.authority(config.agent_host, config.agent_port)
            bound = await running.enter_async_context(
                or_cannot_start(serve_grpc(for_agents, address=where, tls=config.gateway.tls))
            )
            apart = f" grpc://{hosts.authority(config.agent_host, bound)}"
        if not config.bare:
            caller = Caller(config.gateway.account, config.gateway.region)
            await create_defaults_once(inside.channel, caller, config.folder.defaults_made)
        if agent is not None:
            await running.enter_async_context(serve_grpc(for_agents, address=agent.target))
            await running.enter_async_context(supervised(agent.command, _agent_environment(), agent.process))
        upstreams = Upstreams(inside.channel, inside.channel, inside.channel, inside.channel)
        addresses = await running.enter_async_context(
            or_cannot_start(open_gateway(config=config.gateway, upstreams=upstreams))
        )
        Endpoint(addresses.http, addresses.grpc).write(config.folder.endpoint)
        running.callback(config.folder.endpoint.unlink, missing_ok=True)
        yield f"batchyard ready {addresses.http} {addresses.grpc}{apart}"


async def _open_services(config: UpConfig, inside: "InProcessEndpoint", running: AsyncExitStack) -> "Sequence[Service]":
    """Open the four services in the order in which they need each other; return all that they serve."""
    from batchyard.jobstore.app import open_job_store
    from batchyard.logs.app import open_logs
    from batchyard.logs.intake import LOG_BYTES_MAX
    from batchyard.registry.app import open_registry
    from batchyard.scheduler.app import open_scheduler
    from batchyard.scheduler.config import SchedulerConfig

    clock, channel = SystemClock(), inside.channel
    openings = (
        open_registry(
            database=config.folder.registry_database,
            job_store=channel,
            clock=clock,
            durable=config.durable,
            compat=config.compat,
        ),
        open_job_store(
            database=config.folder.job_database,
            registry=channel,
            clock=clock,
            durable=config.durable,
            compat=config.compat,
            leader_lease_s=None,
            faults=config.faults,
            retention_s=config.job_retention_s,
        ),
        open_logs(
            folder=config.folder.logs,
            clock=clock,
            job_store=channel,
            log_bytes_max=max(config.log_bytes_max, LOG_BYTES_MAX),
        ),
        open_scheduler(job_store=channel, registry=channel, clock=clock, config=SchedulerConfig(compat=config.compat)),
    )
    found: list[Service] = []
    for opening in openings:
        services = await running.enter_async_context(or_cannot_start(opening))
        inside.add(services)
        found += services
    return found


@asynccontextmanager
async def _early_agent(config: UpConfig) -> AsyncIterator[_Agent]:
    """Start the local agent, which waits for the socket that is to serve it: one that no other user can reach."""
    with tempfile.TemporaryDirectory(prefix="batchyard-") as short:
        path = config.folder.root.resolve() / "agent.sock"
        if len(bytes(path)) > SOCKET_PATH_BYTES_MAX:
            path = Path(short) / "agent.sock"
        path.unlink(missing_ok=True)
        target = f"unix:{path}"
        command = _agent_command(config, target)
        async with started(command, _agent_environment()) as process:
            yield _Agent(target, command, process)


def _agent_environment() -> Mapping[str, str]:
    """Return this process's environment without its certificate: the local agent comes by a socket, and needs none."""
    return {name: value for name, value in os.environ.items() if name not in TLS_VARIABLES}


def _agent_command(config: UpConfig, target: str) -> Sequence[str]:
    assert config.agent_arguments is not None
    return [
        *(sys.executable, "-m", "batchyard.cli", "agent", "--with-parent"),
        *("--scheduler", target, "--data-dir", str(config.folder.root), "--log-folder", str(config.folder.logs)),
        *config.agent_arguments,
    ]


@click.command(cls=BriefCommand)
@options.data_dir()
@entrance()
@agent_host()
@options.compat()
@options.durability()
@options.job_retention()
@options.faults()
@options.option("--no-agent", is_flag=True, help="Start no local agent.")
@options.further_option(
    "--agent-port",
    type=click.IntRange(0, 65535),
    default=None,
    help="Port for agents that are started apart, here or on other hosts; 0 is any free one. None unless given.",
)
@options.further_option(
    "--agent-host",
    metavar="ADDRESS",
    default=None,
    show_default="that of --host",
    help="Address for --agent-port, if clients are to reach this host by another one, or not at all.",
)
@options.further_option("--bare", is_flag=True, help="Create no default compute environment and job queue.")
@options.logging()
def up(
    *,
    data_dir: Path,
    entrance: "GatewayConfig",
    host_options: HostOptions,
    compat: Compat,
    durability: str,
    job_retention: float,
    faults: bool,
    no_agent: bool,
    agent_port: int | None,
    agent_host: str | None,
    bare: bool,
    log_format: str,
    log_level: str,
) -> None:
    """Start everything here: the control plane in this process, and one local agent.

    Prints `batchyard ready http://HOST:PORT grpc://HOST:PORT` once it can accept and run jobs. Running jobs outlive a
    stop, unless --stop-jobs is given, and are found again at the next start.
    """
    configure_logging(log_format, log_level)
    # Refused here, as the agent would be started again and again.
    host_options.talk_back()
    if agent_host is not None:
        if agent_port is None:
            raise click.UsageError("--agent-host is for --agent-port, which is missing")
        refuse_open_door("--agent-host", agent_host, entrance.tls, insecure=entrance.insecure)
    agent_arguments = [*host_options.arguments(), "--log-format", log_format, "--log-level", log_level]
    config = UpConfig(
        folder=DataFolder(data_dir),
        gateway=entrance,
        compat=compat,
        durable=durability == "full",
        job_retention_s=job_retention,
        faults=faults,
        bare=bare,
        agent_arguments=None if no_agent else agent_arguments,
        agent_host=agent_host or entrance.host,
        agent_port=agent_port,
        log_bytes_max=2 * host_options.log_bytes_max,
    )
    with config.folder.locked("registry", "jobstore", "logs"):
        serve(lambda: open_installation(config))
