"""`batchyard drain`: take a host out of use without harm to its jobs."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anyio
import click
import grpc.aio

from batchyard.api.operations.v1.agents_service_pb2 import (
    AgentSummary,
    DrainAgentRequest,
    ListAgentsRequest,
    ResumeAgentRequest,
    WatchAgentsRequest,
)
from batchyard.cli import clients, options
from batchyard.cli.brief import BriefCommand
from batchyard.cli.folder import DataFolder
from batchyard.cli.job_client import Patience
from batchyard.cli.logging import configure_logging
from batchyard.cli.output import members_of, print_json
from batchyard.cli.session import Session
from batchyard.domain.names import DEFAULT_NAMESPACE, DEFAULT_REGION
from batchyard.rpc.connection import open_channel
from batchyard.rpc.tls import Tls


async def drain_agent(
    target: str, name: str, tls: Tls | None, *, limit_s: int | None, resume: bool, wait: bool
) -> AgentSummary:
    """Drain or resume an agent, named by its id or its host; if asked to, wait until its host can be taken away.

    Returns the agent as it was then.
    """
    async with open_channel(target, tls) as channel:
        session = Session(channel, clients.caller_for(DEFAULT_NAMESPACE, DEFAULT_REGION, tls))
        agent_id = _found(name, await _agents(session))
        if resume:
            agent = (await session.call(session.agents.ResumeAgent, ResumeAgentRequest(agent_id=agent_id))).agent
            click.echo(f"agent {agent_id} takes jobs again", err=True)
            return agent
        request = DrainAgentRequest(agent_id=agent_id, limit_seconds=limit_s)
        agent = (await session.call(session.agents.DrainAgent, request)).agent
        click.echo(f"agent {agent_id} is DRAINING, {_what_runs(agent)}", err=True)
        return await _until_free(session, agent) if wait else agent


async def _until_free(session: Session, agent: AgentSummary) -> AgentSummary:
    """Say what is left on a drained agent whenever that changes, until nothing is; return it as it is then."""
    patience = Patience()
    while _is_needed(agent):
        watch = session.agents.WatchAgents(WatchAgentsRequest(), metadata=session.metadata)
        try:
            async for response in watch:
                patience.renew()
                found = next((each for each in response.agents if each.agent_id == agent.agent_id), None)
                if agent.agent_id in response.gone_agent_ids or (found is not None and found.status != "DRAINING"):
                    raise click.ClickException(f"agent {agent.agent_id} is not drained any more")
                if found is None:
                    continue
                if _what_runs(found) != _what_runs(agent):
                    click.echo(f"agent {agent.agent_id} is DRAINING, {_what_runs(found)}", err=True)
                agent = found
                if not _is_needed(agent):
                    break
        except grpc.aio.AioRpcError as error:
            await patience.wait_or_raise(error)
        finally:
            watch.cancel()
    return agent


def _is_needed(agent: AgentSummary) -> bool:
    return bool(agent.runs or agent.unshipped_logs)


async def _agents(session: Session) -> Sequence[AgentSummary]:
    return (await session.call_patiently(session.agents.ListAgents, ListAgentsRequest())).agents


def _found(name: str, agents: Sequence[AgentSummary]) -> str:
    """Return the id of the agent of this id or, if there is none, of the one with this name or on this host."""
    if any(agent.agent_id == name for agent in agents):
        return name
    on_host = [agent.agent_id for agent in agents if agent.hostname == name or agent.agent_id.startswith(f"{name}.")]
    if len(on_host) > 1:
        raise click.UsageError(f"{name} has several agents, name one of them: {', '.join(on_host)}")
    return on_host[0] if on_host else name


def _what_runs(agent: AgentSummary) -> str:
    if not agent.runs and agent.unshipped_logs:
        return f"nothing runs on it, and {agent.unshipped_logs} logs are still on their way"
    if not agent.runs:
        return "nothing runs on it"
    named = ", ".join(agent.job_ids[:3])
    more = agent.runs - len(agent.job_ids[:3])
    return f"{agent.runs} on it: {named}{f' and {more} more' if more > 0 else ''}"


@click.command(cls=BriefCommand)
@options.option(
    "--limit",
    type=click.IntRange(min=0),
    default=None,
    metavar="SECONDS",
    help="End what still runs after so long, as if the host were gone. Default: jobs may take as long as they like.",
)
@options.option(
    "--wait", is_flag=True, help="Return only when nothing runs on it any more, and all its logs are held elsewhere."
)
@options.option("--resume", is_flag=True, help="Let it take jobs again.")
@clients.server()
@clients.tls_of_client()
@options.output()
@options.logging()
@click.argument("agent")
def drain(
    *,
    endpoint: str | None,
    data_dir: Path,
    tls: Tls | None,
    limit: int | None,
    wait: bool,
    resume: bool,
    output: str,
    log_format: str,
    log_level: str,
    agent: str,
) -> None:
    """Have AGENT, an agent's id, its name or that of its host, take no more jobs.

    What it was offered and has not begun is placed elsewhere. It stays so, over restarts of everything, until --resume.
    """
    configure_logging(log_format, log_level)
    if resume and (wait or limit is not None):
        raise click.UsageError("--resume goes with neither --limit nor --wait")
    target = clients.target_of(endpoint, DataFolder(data_dir))
    with clients.talking_to(target, unread="nobody reads the output any more; the agent is drained"):
        try:
            act = partial(drain_agent, target, agent, tls, limit_s=limit, resume=resume, wait=wait)
            summary = anyio.run(act)
            if output == "json":
                print_json(members_of(summary))
        except KeyboardInterrupt:
            click.echo("batchyard: the agent stays drained; it takes jobs again with --resume", err=True)
            raise
