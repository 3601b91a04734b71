"""`batchyard gateway`: the entrance, as a process of its own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, cast

import click

from batchyard.cli import options
from batchyard.cli.brief import BriefCommand
from batchyard.cli.errors import CannotStartError
from batchyard.cli.logging import configure_logging
from batchyard.cli.serving import or_cannot_start, serve
from batchyard.cli.tls import tls_files
from batchyard.gateway.access_keys import AccessKeyFile, AccessKeysError
from batchyard.gateway.config import GatewayConfig, InvalidConfigError
from batchyard.rpc.connection import open_channel
from batchyard.rpc.peers import Role
from batchyard.rpc.tls import Tls


def entrance() -> options.Decorator:
    """Declare how clients reach a gateway and whom it lets in; the command gets it as `entrance`, a GatewayConfig.

    The command ends with CannotStartError, which tells all that is wrong with the flags.
    """
    flags = options.all_of(
        options.http_port(),
        options.listening(options.GATEWAY_GRPC_PORT),
        options.allowed_host(),
        options.account_and_region(),
        options.signatures(),
        tls_files(Role.SERVICE),
    )

    def decorate(command: options.Command) -> options.Command:
        @wraps(command)
        def with_entrance(
            *,
            host: str,
            port: int,
            grpc_port: int,
            insecure: bool,
            allowed_host: tuple[str, ...],
            account: str,
            region: str,
            access_keys: Path | None,
            clock_skew: float,
            tls: Tls | None,
            **values: Any,
        ) -> Any:
            with _wrong_flags_told():
                config = GatewayConfig(
                    host=host,
                    port=port,
                    grpc_port=grpc_port,
                    account=account,
                    region=region,
                    allowed_hosts=allowed_host,
                    insecure=insecure,
                    access_keys=None if access_keys is None else AccessKeyFile(access_keys),
                    clock_skew_s=clock_skew,
                    tls=tls,
                )
            return command(entrance=config, **values)

        return flags(cast("options.Command", with_entrance))

    return decorate


@contextmanager
def _wrong_flags_told() -> Iterator[None]:
    try:
        yield
    except (AccessKeysError, InvalidConfigError) as error:
        raise CannotStartError(str(error)) from error


@click.command(cls=BriefCommand)
@entrance()
@options.further_option(
    "--reuse-port",
    is_flag=True,
    help="Share the ports with another gateway that has this flag: start a new one, then stop the old one.",
)
@options.peer("registry", options.REGISTRY_PORT)
@options.peer("jobstore", options.JOBSTORE_PORT)
@options.peer("scheduler", options.SCHEDULER_PORT)
@options.peer("logs", options.LOGS_PORT)
@options.logging()
def gateway(
    *,
    entrance: GatewayConfig,
    reuse_port: bool,
    registry: str,
    jobstore: str,
    scheduler: str,
    logs: str,
    log_format: str,
    log_level: str,
) -> None:
    """Serve the AWS API over HTTP and the public services over gRPC."""
    configure_logging(log_format, log_level)
    with _wrong_flags_told():
        config = replace(entrance, reuse_port=reuse_port)

    @asynccontextmanager
    async def on_ports() -> AsyncIterator[str]:
        # Not above: `up` reads its configuration here before it loads what serves it.
        from batchyard.gateway.app import open_gateway
        from batchyard.gateway.upstreams import Upstreams

        async with (
            open_channel(registry, config.tls) as to_registry,
            open_channel(jobstore, config.tls) as to_jobs,
            open_channel(scheduler, config.tls) as to_scheduler,
            open_channel(logs, config.tls) as to_logs,
            or_cannot_start(
                open_gateway(config=config, upstreams=Upstreams(to_registry, to_jobs, to_scheduler, to_logs))
            ) as addresses,
        ):
            yield f"batchyard ready gateway {addresses.grpc} {addresses.http}"

    serve(on_ports)
