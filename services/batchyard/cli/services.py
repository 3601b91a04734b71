"""The four inner services, each as a process of its own that others reach over gRPC."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, cast

import click

from batchyard.cli import options
from batchyard.cli.brief import BriefCommand
from batchyard.cli.folder import DataFolder
from batchyard.cli.logging import configure_logging
from batchyard.cli.monitoring import monitored
from batchyard.cli.serving import or_cannot_start, serve
from batchyard.cli.tls import refuse_open_door, tls_files
from batchyard.domain.compat import Compat
from batchyard.rpc import hosts
from batchyard.rpc.clock import SystemClock
from batchyard.rpc.connection import open_channel
from batchyard.rpc.peers import Role
from batchyard.rpc.server import Service, serve_grpc
from batchyard.rpc.tls import Tls


@dataclass(frozen=True, slots=True)
class OwnProcess:
    """How one service is served by a process that has no other."""

    host: str
    port: int
    monitoring_port: int | None
    tls: Tls | None
    """What it shows to others and asks of them, as a server and as a client; None: nobody is asked."""

    def serve(self, name: str, opening: AbstractAsyncContextManager[Sequence[Service]]) -> None:
        """Serve the service on its port until a signal, and what is to be known of it on another."""

        @asynccontextmanager
        async def on_port() -> AsyncIterator[str]:
            async with (
                or_cannot_start(opening) as services,
                or_cannot_start(
                    serve_grpc(services, address=hosts.authority(self.host, self.port), tls=self.tls)
                ) as bound,
                or_cannot_start(monitored(services, self.host, self.monitoring_port)) as monitoring,
            ):
                yield f"batchyard ready {name} grpc://{hosts.authority(self.host, bound)}{monitoring}"

        serve(on_port)


def own_process(port: int) -> options.Decorator:
    """Declare what every service has that runs alone; the command gets it as `process`, and its log is set up.

    The command ends with CannotStartError for an address that others can reach, unless the user has said that this is
    meant.
    """
    flags = options.all_of(
        options.listening(port), tls_files(Role.SERVICE), options.monitoring_port(), options.logging()
    )

    def decorate(command: options.Command) -> options.Command:
        @wraps(command)
        def with_process(
            *,
            host: str,
            grpc_port: int,
            insecure: bool,
            tls: Tls | None,
            monitoring_port: int | None,
            log_format: str,
            log_level: str,
            **values: Any,
        ) -> Any:
            configure_logging(log_format, log_level)
            refuse_open_door("--host", host, tls, insecure=insecure)
            return command(process=OwnProcess(host, grpc_port, monitoring_port, tls), **values)

        return flags(cast("options.Command", with_process))

    return decorate


@click.command(cls=BriefCommand)
@options.data_dir()
@options.peer("jobstore", options.JOBSTORE_PORT)
@options.durability()
@options.compat()
@own_process(options.REGISTRY_PORT)
def registry(*, data_dir: Path, process: OwnProcess, jobstore: str, durability: str, compat: Compat) -> None:
    """Serve compute environments, job queues and job definitions."""
    from batchyard.registry.app import open_registry

    folder = DataFolder(data_dir)

    @asynccontextmanager
    async def opening() -> AsyncIterator[Sequence[Service]]:
        async with (
            open_channel(jobstore, process.tls) as job_store,
            open_registry(
                database=folder.registry_database,
                job_store=job_store,
                clock=SystemClock(),
                durable=durability == "full",
                compat=compat,
            ) as services,
        ):
            yield services

    with folder.locked("registry"):
        process.serve("registry", opening())


@click.command(cls=BriefCommand)
@options.data_dir()
@options.peer("registry", options.REGISTRY_PORT)
@options.seconds(
    "--leader-lease", 10, "How long a scheduler may lead without hearing from here; a new one waits it out."
)
@options.durability()
@options.compat()
@options.job_retention()
@options.faults()
@own_process(options.JOBSTORE_PORT)
def jobstore(
    *,
    data_dir: Path,
    process: OwnProcess,
    registry: str,
    leader_lease: float,
    durability: str,
    compat: Compat,
    job_retention: float,
    faults: bool,
) -> None:
    """Serve the jobs: what is to run, and how it went."""
    from batchyard.jobstore.app import open_job_store

    folder = DataFolder(data_dir)

    @asynccontextmanager
    async def opening() -> AsyncIterator[Sequence[Service]]:
        async with (
            open_channel(registry, process.tls) as registry_channel,
            open_job_store(
                database=folder.job_database,
                registry=registry_channel,
                clock=SystemClock(),
                durable=durability == "full",
                compat=compat,
                leader_lease_s=leader_lease,
                faults=faults,
                retention_s=job_retention,
            ) as services,
        ):
            yield services

    with folder.locked("jobstore"):
        process.serve("jobstore", opening())


@click.command(cls=BriefCommand)
@options.peer("jobstore", options.JOBSTORE_PORT)
@options.peer("registry", options.REGISTRY_PORT)
@options.leases()
@options.compat()
@own_process(options.SCHEDULER_PORT)
def scheduler(
    *,
    process: OwnProcess,
    jobstore: str,
    registry: str,
    heartbeat_interval: float,
    suspicion: float,
    lease: float,
    kill_budget: float,
    compat: Compat,
) -> None:
    """Decide which job runs next, and on which agent."""
    from batchyard.scheduler.app import open_scheduler
    from batchyard.scheduler.config import SchedulerConfig

    try:
        config = SchedulerConfig(
            compat=compat,
            heartbeat_interval_s=heartbeat_interval,
            suspicion_s=suspicion,
            lease_s=lease,
            kill_budget_s=kill_budget,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error

    @asynccontextmanager
    async def opening() -> AsyncIterator[Sequence[Service]]:
        async with (
            open_channel(jobstore, process.tls) as job_store,
            open_channel(registry, process.tls) as registry_channel,
            open_scheduler(
                job_store=job_store,
                registry=registry_channel,
                clock=SystemClock(),
                config=config,
            ) as services,
        ):
            yield services

    process.serve("scheduler", opening())


@click.command(cls=BriefCommand)
@options.data_dir()
@options.peer("jobstore", options.JOBSTORE_PORT)
@options.further_option(
    "--log-limit",
    metavar="SIZE",
    default="512MiB",
    callback=options.bytes_of,
    help="How much is kept of the log of an attempt, whatever its agent allows; of more, the middle is cut out.",
)
@own_process(options.LOGS_PORT)
def logs(*, data_dir: Path, process: OwnProcess, jobstore: str, log_limit: int) -> None:
    """Keep and serve what jobs print, as long as the job store keeps the jobs."""
    from batchyard.logs.app import open_logs

    folder = DataFolder(data_dir)

    @asynccontextmanager
    async def opening() -> AsyncIterator[Sequence[Service]]:
        async with (
            open_channel(jobstore, process.tls) as job_store,
            open_logs(
                folder=folder.logs, clock=SystemClock(), job_store=job_store, log_bytes_max=log_limit
            ) as services,
        ):
            yield services

    with folder.locked("logs"):
        process.serve("logs", opening())
