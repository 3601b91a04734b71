"""`batchyard gateway`: the entrance, as a process of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click

from batchyard.cli import options
from batchyard.cli.errors import CannotStartError
from batchyard.cli.logging import configure_logging
from batchyard.cli.serving import or_cannot_start, serve
from batchyard.cli.tls import tls_files
from batchyard.gateway.access_keys import AccessKeyFile, AccessKeysError
from batchyard.gateway.config import GatewayConfig, InvalidConfigError
from batchyard.rpc.connection import open_channel
from batchyard.rpc.peers import Role
from batchyard.rpc.tls import Tls


def gateway_config(
    host: str,
    port: int,
    grpc_port: int,
    account: str,
    region: str,
    allowed_host: tuple[str, ...],
    *,
    insecure: bool,
    access_keys: Path | None,
    clock_skew: float,
    tls: Tls | None,
    reuse_port: bool = False,
) -> GatewayConfig:
    """Return the configuration; raise CannotStartError with all that is wrong with it."""
    try:
        keys = None if access_keys is None else AccessKeyFile(access_keys)
        return GatewayConfig(
            *(host, port, grpc_port, account, region, allowed_host, insecure, reuse_port),
            access_keys=keys,
            clock_skew_s=clock_skew,
            tls=tls,
        )
    except (AccessKeysError, InvalidConfigError) as error:
        raise CannotStartError(str(error)) from error


@click.command()
@options.http_port()
@options.listening(options.GATEWAY_GRPC_PORT)
@options.allowed_host()
@options.option(
    "--reuse-port",
    is_flag=True,
    help="Share the ports with another gateway that has this flag: start a new one, then stop the old one.",
)
@options.account_and_region()
@options.signatures()
@tls_files(Role.SERVICE)
@options.peer("registry", options.REGISTRY_PORT)
@options.peer("jobstore", options.JOBSTORE_PORT)
@options.peer("scheduler", options.SCHEDULER_PORT)
@options.peer("logs", options.LOGS_PORT)
@options.logging()
def gateway(
    *,
    port: int,
    host: str,
    grpc_port: int,
    insecure: bool,
    allowed_host: tuple[str, ...],
    reuse_port: bool,
    account: str,
    region: str,
    access_keys: Path | None,
    clock_skew: float,
    tls: Tls | None,
    registry: str,
    jobstore: str,
    scheduler: str,
    logs: str,
    log_format: str,
    log_level: str,
) -> None:
    """Serve the AWS API over HTTP and the public services over gRPC."""
    configure_logging(log_format, log_level)
    config = gateway_config(
        *(host, port, grpc_port, account, region, allowed_host),
        insecure=insecure,
        access_keys=access_keys,
        clock_skew=clock_skew,
        tls=tls,
        reuse_port=reuse_port,
    )

    @asynccontextmanager
    async def on_ports() -> AsyncIterator[str]:
        # Not above: `up` reads its configuration here before it loads what serves it.
        from batchyard.gateway.app import open_gateway
        from batchyard.gateway.upstreams import Upstreams

        async with (
            open_channel(registry, tls) as to_registry,
            open_channel(jobstore, tls) as to_jobs,
            open_channel(scheduler, tls) as to_scheduler,
            open_channel(logs, tls) as to_logs,
            or_cannot_start(
                open_gateway(config=config, upstreams=Upstreams(to_registry, to_jobs, to_scheduler, to_logs))
            ) as addresses,
        ):
            yield f"batchyard ready gateway {addresses.grpc} {addresses.http}"

    serve(on_ports)
