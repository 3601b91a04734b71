"""The four inner services, each as a process of its own that others reach over gRPC."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import click

from batchyard.cli import options
from batchyard.cli.addresses import address, require_loopback_or_consent
from batchyard.cli.folder import DataFolder
from batchyard.cli.logging import configure_logging
from batchyard.cli.monitoring import monitored
from batchyard.cli.serving import or_cannot_start, serve
from batchyard.cli.tls import tls_files
from batchyard.domain.compat import Compat
from batchyard.rpc.clock import SystemClock
from batchyard.rpc.connection import open_channel
from batchyard.rpc.peers import Role
from batchyard.rpc.server import Service, serve_grpc
from batchyard.rpc.tls import Tls


@click.command()
@options.data_dir()
@options.listening(options.REGISTRY_PORT)
@tls_files(Role.SERVICE)
@options.peer("jobstore", options.JOBSTORE_PORT)
@options.durability()
@options.compat()
@options.monitoring_port()
@options.logging()
def registry(
    *,
    data_dir: Path,
    host: str,
    grpc_port: int,
    insecure: bool,
    tls: Tls | None,
    jobstore: str,
    durability: str,
    compat: Compat,
    monitoring_port: int | None,
    log_format: str,
    log_level: str,
) -> None:
    """Serve compute environments, job queues and job definitions."""
    from batchyard.registry.app import open_registry

    configure_logging(log_format, log_level)
    folder = DataFolder(data_dir)

    @asynccontextmanager
    async def opening() -> AsyncIterator[Sequence[Service]]:
        async with (
            open_channel(jobstore, tls) as job_store,
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
        _serve_alone("registry", opening(), host, grpc_port, monitoring_port, insecure=insecure, tls=tls)


@click.command()
@options.data_dir()
@options.listening(options.JOBSTORE_PORT)
@tls_files(Role.SERVICE)
@options.peer("registry", options.REGISTRY_PORT)
@options.seconds(
    "--leader-lease", 10, "How long a scheduler may lead without hearing from here; a new one waits it out."
)
@options.durability()
@options.compat()
@options.job_retention()
@options.faults()
@options.monitoring_port()
@options.logging()
def jobstore(
    *,
    data_dir: Path,
    host: str,
    grpc_port: int,
    insecure: bool,
    tls: Tls | None,
    registry: str,
    leader_lease: float,
    durability: str,
    compat: Compat,
    job_retention: float,
    faults: bool,
    monitoring_port: int | None,
    log_format: str,
    log_level: str,
) -> None:
    """Serve the jobs: what is to run, and how it went."""
    from batchyard.jobstore.app import open_job_store

    configure_logging(log_format, log_level)
    folder = DataFolder(data_dir)

    @asynccontextmanager
    async def opening() -> AsyncIterator[Sequence[Service]]:
        async with (
            open_channel(registry, tls) as registry_channel,
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
        _serve_alone("jobstore", opening(), host, grpc_port, monitoring_port, insecure=insecure, tls=tls)


@click.command()
@options.listening(options.SCHEDULER_PORT)
@tls_files(Role.SERVICE)
@options.peer("jobstore", options.JOBSTORE_PORT)
@options.peer("registry", options.REGISTRY_PORT)
@options.leases()
@options.compat()
@options.monitoring_port()
@options.logging()
def scheduler(
    *,
    host: str,
    grpc_port: int,
    insecure: bool,
    tls: Tls | None,
    jobstore: str,
    registry: str,
    heartbeat_interval: float,
    suspicion: float,
    lease: float,
    kill_budget: float,
    compat: Compat,
    monitoring_port: int | None,
    log_format: str,
    log_level: str,
) -> None:
    """Decide which job runs next, and on which agent."""
    from batchyard.scheduler.app import open_scheduler
    from batchyard.scheduler.config import SchedulerConfig

    configure_logging(log_format, log_level)
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
            open_channel(jobstore, tls) as job_store,
            open_channel(registry, tls) as registry_channel,
            open_scheduler(
                job_store=job_store,
                registry=registry_channel,
                clock=SystemClock(),
                config=config,
            ) as services,
        ):
            yield services

    _serve_alone("scheduler", opening(), host, grpc_port, monitoring_port, insecure=insecure, tls=tls)


@click.command()
@options.data_dir()
@options.listening(options.LOGS_PORT)
@tls_files(Role.SERVICE)
@options.peer("jobstore", options.JOBSTORE_PORT)
@options.monitoring_port()
@options.logging()
def logs(
    *,
    data_dir: Path,
    host: str,
    grpc_port: int,
    insecure: bool,
    tls: Tls | None,
    jobstore: str,
    monitoring_port: int | None,
    log_format: str,
    log_level: str,
) -> None:
    """Keep and serve what jobs print, as long as the job store keeps the jobs."""
    from batchyard.logs.app import open_logs

    configure_logging(log_format, log_level)
    folder = DataFolder(data_dir)

    @asynccontextmanager
    async def opening() -> AsyncIterator[Sequence[Service]]:
        async with (
            open_channel(jobstore, tls) as job_store,
            open_logs(folder=folder.logs, clock=SystemClock(), job_store=job_store) as services,
        ):
            yield services

    with folder.locked("logs"):
        _serve_alone("logs", opening(), host, grpc_port, monitoring_port, insecure=insecure, tls=tls)


def _serve_alone(
    name: str,
    opening: AbstractAsyncContextManager[Sequence[Service]],
    host: str,
    port: int,
    monitoring_port: int | None,
    *,
    insecure: bool,
    tls: Tls | None,
) -> None:
    """Serve one service on a TCP port until a signal, and what is to be known of it on another."""
    require_loopback_or_consent(host, authenticated=tls is not None, insecure=insecure)

    @asynccontextmanager
    async def on_port() -> AsyncIterator[str]:
        async with (
            or_cannot_start(opening) as services,
            or_cannot_start(serve_grpc(services, address=address(host, port), tls=tls)) as bound,
            or_cannot_start(monitored(services, host, monitoring_port)) as monitoring,
        ):
            yield f"batchyard ready {name} grpc://{address(host, bound)}{monitoring}"

    serve(on_port)
