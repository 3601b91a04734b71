"""A page of agents that stays open while agents come, die, come back and are drained, in a real browser."""

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import pytest
from playwright.sync_api import Browser, Page, Request, expect

from batchyard.api.operations.v1.agents_service_pb2 import DrainAgentRequest, ListAgentsRequest
from batchyard.api.operations.v1.agents_service_pb2_grpc import AgentsServiceStub
from support.browser import browser
from support.installation import ANY_PORTS, BatchyardProcess

__all__ = ["browser"]

READY: Final = re.compile(
    r"batchyard ready (http://127\.0\.0\.1:\d+) grpc://(127\.0\.0\.1:\d+) grpc://(127\.0\.0\.1:\d+)\n"
)
DEADLINE_MS: Final = 30_000


@dataclass(frozen=True, slots=True)
class World:
    """A control plane without an agent."""

    folder: Path
    url: str
    grpc_target: str
    agents_target: str

    def agent(self) -> BatchyardProcess:
        """Start the agent of this machine; it is the same one each time."""
        where = ("--scheduler", self.agents_target, "--logs", self.agents_target, "--data-dir", str(self.folder / "a"))
        capacity = ("--capacity", "vcpus=8,memory=16GiB")
        agent = BatchyardProcess(
            ["agent", *where, "--runtime", "process", "--stop-jobs", *capacity], log=self.folder / "agent.log"
        )
        agent.ready_line()
        return agent


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    arguments = ("--data-dir", str(tmp_path / "up"), *ANY_PORTS, "--no-agent", "--agent-port", "0")
    with closing(BatchyardProcess(["up", *arguments], log=tmp_path / "up.log")) as up:
        match = READY.fullmatch(up.ready_line())
        assert match, up.ready_line()
        yield World(tmp_path, match[1], match[2], match[3])


@pytest.fixture
def page(browser: Browser, world: World) -> Iterator[Page]:
    with closing(browser.new_context(base_url=world.url)) as context:
        context.set_default_timeout(DEADLINE_MS)
        yield context.new_page()


def test_agents_that_come_die_come_back_and_are_drained_show_by_themselves(page: Page, world: World) -> None:
    expect.set_options(timeout=DEADLINE_MS)
    page.goto("/agents")
    expect(page.locator("#live")).to_have_text("● live")
    expect(page.get_by_text("No agent has ever connected.")).to_be_visible()
    loads: list[str] = []
    page.on("request", lambda request: _note_load(request, loads))
    row = page.locator("tbody tr")
    state, lease = row.locator(".badge"), row.locator("[data-label='Lease']")

    with closing(world.agent()) as first:
        expect(state).to_have_text("ACTIVE")
        expect(lease).to_have_text("renewed")
        first.kill_group()
        expect(state).to_have_text("AWAY")
        expect(lease).to_have_text(re.compile(r"^lost in \d+ min \d+ s$"))
        told = lease.inner_text()
        expect(lease).not_to_have_text(told)  # it is counted down
    with closing(world.agent()), grpc.insecure_channel(world.grpc_target) as channel:
        expect(state).to_have_text("ACTIVE")
        agents = AgentsServiceStub(channel)
        (agent,) = agents.ListAgents(ListAgentsRequest()).agents
        agents.DrainAgent(DrainAgentRequest(agent_id=agent.agent_id))
        expect(state).to_have_text("DRAINING")
    assert loads == []


def _note_load(request: Request, loads: list[str]) -> None:
    """Note that the page was loaded anew, not brought up to date."""
    if request.is_navigation_request():
        loads.append(request.url)
