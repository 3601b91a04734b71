"""`batchyard agent`: what runs jobs on this host."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import click

from batchyard.agent.app import AgentConfig, run_agent
from batchyard.cli import options
from batchyard.cli.logging import configure_logging
from batchyard.cli.processes import stop_with_parent
from batchyard.cli.serving import serve


@asynccontextmanager
async def open_agent(config: AgentConfig, *, with_parent: bool) -> AsyncIterator[str]:
    """Run an agent for the length of the context, entered once the scheduler has welcomed it; yield its ready line."""
    welcomed = anyio.Event()
    async with anyio.create_task_group() as group:
        if with_parent:
            group.start_soon(stop_with_parent)
        group.start_soon(partial(run_agent, config, ready=welcomed.set))
        await welcomed.wait()
        yield f"batchyard ready agent grpc://{config.scheduler}"
        group.cancel_scope.cancel()
