"""Which agent a drain is for."""

import click
import pytest

from batchyard.api.operations.v1.agents_service_pb2 import AgentSummary
from batchyard.cli.drain import _found

AGENTS = [
    AgentSummary(agent_id="worker-1.0123456789ab", hostname="host-1"),
    AgentSummary(agent_id="worker-2.0123456789ab", hostname="host-2"),
    AgentSummary(agent_id="worker-2.ba9876543210", hostname="host-3"),
    AgentSummary(agent_id="worker-1-spare", hostname="host-3"),
]


@pytest.mark.parametrize(
    ("name", "agent_id"),
    [
        ("worker-1.0123456789ab", "worker-1.0123456789ab"),
        ("worker-1", "worker-1.0123456789ab"),
        ("host-2", "worker-2.0123456789ab"),
        ("worker-1-spare", "worker-1-spare"),
        ("unknown", "unknown"),
    ],
)
def test_an_agent_is_found_by_its_id_its_name_or_its_host(name: str, agent_id: str) -> None:
    assert _found(name, AGENTS) == agent_id


@pytest.mark.parametrize("name", ["worker-2", "host-3"])
def test_who_has_a_name_together_must_be_named_apart(name: str) -> None:
    with pytest.raises(click.UsageError, match="has several agents"):
        _found(name, AGENTS)
