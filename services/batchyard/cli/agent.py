"""`batchyard agent`: what runs jobs on this host."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import click

from batchyard.agent.app import AgentConfig, run_agent
from batchyard.agent.host import AgentStartError
from batchyard.cli import options
from batchyard.cli.agent_host import HostOptions, agent_host
from batchyard.cli.brief import BriefCommand
from batchyard.cli.errors import CannotStartError
from batchyard.cli.folder import DataFolder
from batchyard.cli.logging import configure_logging
from batchyard.cli.monitoring import monitored
from batchyard.cli.serving import or_cannot_start, serve
from batchyard.cli.tls import tls_files
from batchyard.rpc.peers import Role
from batchyard.rpc.tls import Tls


@asynccontextmanager
async def open_agent(config: AgentConfig, monitoring_host: str, monitoring_port: int | None) -> AsyncIterator[str]:
    """Run an agent for the length of the context, entered once the scheduler has welcomed it; yield its ready line."""
    welcomed = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(_run, config, welcomed)
        await welcomed.wait()
        async with or_cannot_start(monitored((), monitoring_host, monitoring_port)) as monitoring:
            yield f"batchyard ready agent grpc://{config.scheduler}{monitoring}"
        group.cancel_scope.cancel()


async def _run(config: AgentConfig, welcomed: anyio.Event) -> None:
    try:
        await run_agent(config, ready=welcomed.set)
    except AgentStartError as error:
        raise CannotStartError(str(error)) from error


@click.command(cls=BriefCommand)
@options.data_dir()
@options.peer("scheduler", options.SCHEDULER_PORT)
@options.peer("logs", options.LOGS_PORT)
@options.further_option(
    "--log-folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Folder that the logs service of this host reads in place; then nothing is sent to --logs.",
)
@options.option(
    "--compute-environment",
    multiple=True,
    metavar="NAME",
    help="Serve this compute environment only; repeatable. Default: all.",
)
@tls_files(Role.AGENT)
@agent_host()
@options.further_option(
    "--separate-launcher",
    is_flag=True,
    help="Leave it to `batchyard launcher` on the same data folder to start what is to outlive this agent.",
)
@options.further_option("--with-parent", is_flag=True, help="Stop when the process that started this one is gone.")
@options.further_option("--monitoring-host", default="127.0.0.1", help="Address for --monitoring-port.")
@options.monitoring_port()
@options.logging()
def agent(
    *,
    data_dir: Path,
    scheduler: str,
    logs: str,
    log_folder: Path | None,
    compute_environment: tuple[str, ...],
    host_options: HostOptions,
    tls: Tls | None,
    separate_launcher: bool,
    with_parent: bool,
    monitoring_host: str,
    monitoring_port: int | None,
    log_format: str,
    log_level: str,
) -> None:
    """Run jobs on this host.

    Prints `batchyard ready agent grpc://SCHEDULER` once the scheduler has welcomed it. Running jobs outlive a stop,
    unless --stop-jobs is given, and are found again at the next start on the same data folder.
    """
    configure_logging(log_format, log_level)
    folder = DataFolder(data_dir)
    folder.create()
    config = AgentConfig(
        folder=folder.agent,
        scheduler=scheduler,
        logs=None if log_folder else logs,
        log_folder=log_folder,
        tls=tls,
        runtime=host_options.runtime,
        capacity=host_options.capacity,
        reserve_vcpus=host_options.reserve_vcpus,
        reserve_mib=host_options.reserve_mib,
        policy=host_options.policy(data_dir),
        compute_environments=compute_environment,
        stop_jobs=host_options.stop_jobs,
        separate_launcher=separate_launcher,
        parent_death=with_parent,
        log_bytes_max=host_options.log_bytes_max,
        docker_network=host_options.docker_network,
        talk_back=host_options.talk_back(),
        cpu_hard_limit=host_options.cpu_hard_limit,
        pulls=host_options.pulls,
        secrets=host_options.secrets,
        stop_timeout_s=host_options.stop_timeout,
    )
    serve(partial(open_agent, config, monitoring_host, monitoring_port), with_parent=with_parent)
