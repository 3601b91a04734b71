"""The scheduler's services between fake neighbours, over either transport.

What a unit test of the planner cannot show: the order of messages on the streams, and what survives their loss.
"""

import asyncio
from collections.abc import AsyncIterator

import anyio
import grpc
import grpc.aio
import pytest

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import run_pb2
from batchyard.api.operations.v1.agents_service_pb2 import (
    AgentSummary,
    DrainAgentRequest,
    ListAgentsRequest,
    ResumeAgentRequest,
)
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.clock import CLOCK_MARGIN
from batchyard.domain.errors import HistoryGoneError, StaleIncarnationError, SupersededError
from batchyard.rpc.errors import error_from
from batchyard.rpc.identity import NAMESPACE_KEY
from batchyard.scheduler.app import open_scheduler
from batchyard.scheduler.config import SchedulerConfig
from support.contexts import held_open
from support.scheduler_world import (
    FakeJobStore,
    FakeRegistry,
    Transport,
    VirtualClock,
    World,
    a_fence,
    a_held_run,
    a_queue_change,
    a_queued_job,
    a_ref,
    a_registration,
    a_report,
    a_world,
    an_environment_change,
    an_offer,
    in_process,
    neighbours,
    over_a_socket,
)

CLAIMED = run_pb2.RUN_STATE_CLAIMED
STARTED = run_pb2.RUN_STATE_STARTED
DONE = run_pb2.RUN_STATE_DONE


@pytest.fixture(params=[in_process, over_a_socket])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with held_open(a_world(request.param)) as world:
        yield world


def live(incarnation: int = 1) -> list[wire.LiveAgent]:
    return [wire.LiveAgent(agent_id="agent", incarnation=incarnation)]


def outcome(state: run_pb2.RunState.ValueType, *, number: int = 1, stale: bool = False) -> list[wire.ReportOutcome]:
    return [wire.ReportOutcome(agent_id="agent", incarnation=1, fence=a_fence(number), state=state, stale=stale)]


@pytest.mark.parametrize("transport", [in_process, over_a_socket])
async def test_a_scheduler_that_is_stopped_says_that_it_leads_no_more(transport: Transport) -> None:
    store = FakeJobStore()
    async with held_open(transport(neighbours(store, FakeRegistry()))) as upstream:
        scheduler = open_scheduler(
            job_store=upstream, registry=upstream, clock=VirtualClock(), config=SchedulerConfig()
        )
        async with held_open(scheduler):
            stream = await store.stream()
            stream.send(welcome=wire.SchedulerWelcome(leader_epoch=1, store_epoch=1), snapshot_complete=True)
            heard = asyncio.create_task(stream.until(lambda seen: seen.resign))
        assert (await heard).resign


class TestOffers:
    async def test_a_queued_job_is_proposed_and_offered_to_the_agent(self, world: World) -> None:
        stream = await world.leading()
        agent = await world.joined(stream)
        stream.send(runnable=[a_queued_job(version=7)])
        proposal = await stream.accept_proposal()
        assert (proposal.job.job_id, proposal.version) == ("job", 7)
        assert (proposal.agent_id, proposal.incarnation, proposal.compute_environment) == ("agent", 1, "default")
        assert (await agent.until(lambda seen: seen.offers)).offers[0] == an_offer()

    async def test_a_refused_proposal_gives_its_room_back_and_the_job_is_proposed_in_its_new_version(
        self, world: World
    ) -> None:
        stream = await world.leading()
        await world.joined(stream, a_registration(vcpus=1))
        stream.send(runnable=[a_queued_job(version=1)])
        await stream.until(lambda seen: seen.proposals)
        refusal = wire.OfferOutcome(job=a_ref("job"), agent_id="agent", incarnation=1, refused="the job has changed")
        stream.send(offers=[refusal], runnable=[a_queued_job(version=2)])
        (proposal,) = (await stream.until(lambda seen: seen.proposals)).proposals
        assert proposal.version == 2

    async def test_the_room_of_an_ended_run_goes_to_the_next_job(self, world: World) -> None:
        stream = await world.leading()
        await world.joined(stream, a_registration(vcpus=1))
        stream.send(runnable=[a_queued_job("first", sequence=1), a_queued_job("second", sequence=2)])
        assert (await stream.accept_proposal()).job.job_id == "first"
        stream.send(ended=[wire.EndedRun(agent_id="agent", fence=a_fence(1), ran_for_ms=1)])
        assert (await stream.accept_proposal(2)).job.job_id == "second"

    async def test_a_run_that_ended_before_its_offer_was_told_holds_no_room_and_is_not_offered(
        self, world: World
    ) -> None:
        stream = await world.leading()
        agent = await world.joined(stream, a_registration(vcpus=1))
        stream.send(runnable=[a_queued_job("first", sequence=1), a_queued_job("second", sequence=2)])
        await stream.until(lambda seen: seen.proposals)
        stream.send(ended=[wire.EndedRun(agent_id="agent", fence=a_fence(1))])
        stream.send(offers=[wire.OfferOutcome(job=a_ref("first"), agent_id="agent", incarnation=1, offer=an_offer(1))])
        await stream.accept_proposal(2)
        assert [offer.fence.number for offer in (await agent.until(lambda seen: seen.offers)).offers] == [2]

    async def test_jobs_are_not_placed_before_the_snapshot_is_complete(self, world: World) -> None:
        stream = await world.store.stream()
        stream.send(welcome=wire.SchedulerWelcome(leader_epoch=1, store_epoch=1))
        await world.agent(a_registration(vcpus=1))
        stream.send(agents=live(), runnable=[a_queued_job("waiting")])
        stream.send(held=[a_held_run("running", state=STARTED)])
        stream.send(snapshot_complete=True)
        await stream.accept_registration()
        stream.send(ended=[wire.EndedRun(agent_id="agent", fence=a_fence(1))])
        seen = await stream.until(lambda seen: seen.proposals)
        assert [proposal.job.job_id for proposal in seen.proposals] == ["waiting"]


class TestDemands:
    async def test_a_demand_to_give_back_is_a_revocation_and_one_to_kill_has_a_grace_of_30_s(
        self, world: World
    ) -> None:
        stream = await world.leading(
            agents=live(), held=[a_held_run("one", number=1), a_held_run("two", number=2, state=STARTED)]
        )
        agent = await world.joined(stream)
        stream.send(
            demands=[
                wire.RunDemand(agent_id="agent", incarnation=1, fence=a_fence(1)),
                wire.RunDemand(agent_id="agent", incarnation=1, fence=a_fence(2), kill=True),
            ]
        )
        seen = await agent.until(lambda seen: seen.revocations and seen.kills)
        assert list(seen.revocations) == [a_fence(1)]
        assert list(seen.kills) == [session_pb2.Kill(fence=a_fence(2), grace_ms=30_000)]

    async def test_a_reconnected_agent_gets_its_offers_and_demands_again_until_they_are_done(
        self, world: World
    ) -> None:
        stream = await world.leading(
            agents=live(),
            held=[a_held_run("one", number=1), a_held_run("two", number=2), a_held_run("three", number=3)],
            demands=[wire.RunDemand(agent_id="agent", incarnation=1, fence=a_fence(2), kill=True)],
        )
        first = await world.joined(stream, a_registration(vcpus=4))
        await first.send(reports=[a_report(CLAIMED, number=3, job_id="three")])
        await stream.until(lambda seen: seen.reports)
        stream.send(reports=outcome(CLAIMED, number=3))
        first.leave()
        second = await world.agent(a_registration(vcpus=4))
        await stream.accept_registration()
        seen = await second.until(lambda seen: seen.offers and seen.kills)
        assert [offer.fence.number for offer in seen.offers] == [1, 2]
        assert [kill.fence.number for kill in seen.kills] == [2]

    async def test_a_demand_about_a_run_that_has_ended_is_not_passed_on(self, world: World) -> None:
        stream = await world.leading(agents=live(), held=[a_held_run()])
        first = await world.joined(stream)
        stream.send(
            demands=[wire.RunDemand(agent_id="agent", incarnation=1, fence=a_fence(1))],
            ended=[wire.EndedRun(agent_id="agent", fence=a_fence(1))],
        )
        first.leave()
        second = await world.agent()
        await stream.accept_registration()
        seen = await second.until(lambda seen: seen.HasField("welcome") and seen.heartbeat)
        assert not seen.revocations
        assert not seen.offers


class TestReports:
    async def test_reports_reach_the_store_and_their_ends_are_acknowledged(self, world: World) -> None:
        stream = await world.leading(agents=live(), held=[a_held_run()])
        agent = await world.joined(stream)
        done = a_report(DONE, exit_code=3, started_ago_ms=5, ended_ago_ms=0)
        await agent.send(reports=[done])
        (sender,) = (await stream.until(lambda seen: seen.reports)).reports
        assert (sender.agent_id, sender.incarnation, list(sender.reports)) == ("agent", 1, [done])
        stream.send(reports=outcome(DONE))
        assert list((await agent.until(lambda seen: seen.acknowledged)).acknowledged) == [a_fence()]

    async def test_a_stale_report_makes_the_agent_kill_the_run(self, world: World) -> None:
        stream = await world.leading()
        agent = await world.joined(stream)
        await agent.send(reports=[a_report(STARTED)])
        await stream.until(lambda seen: seen.reports)
        stream.send(reports=outcome(STARTED, stale=True))
        assert list((await agent.until(lambda seen: seen.stale)).stale) == [a_fence()]

    async def test_runs_in_a_registration_are_reported_once_the_agent_is_accepted(self, world: World) -> None:
        stream = await world.leading(agents=live(), held=[a_held_run(state=CLAIMED)])
        report = a_report(STARTED, started_ago_ms=1)
        await world.agent(a_registration(runs=[report], claimed_before=[a_fence(9)]))
        registration = await stream.accept_registration()
        assert list(registration.known) == [a_fence()]
        assert list(registration.claimed_before) == [a_fence(9)]
        seen = await stream.until(lambda seen: seen.reports)
        assert list(seen.reports[0].reports) == [report]


class TestSessions:
    async def test_a_welcome_names_the_interval_and_the_lease_and_answers_the_first_heartbeat(
        self, world: World
    ) -> None:
        stream = await world.leading()
        agent = await world.agent(heartbeat=4)
        await stream.accept_registration()
        seen = await agent.welcomed()
        epochs = {"store_epoch": 1, "leader_epoch": 1}
        assert seen.welcome == session_pb2.Welcome(heartbeat_interval_ms=5000, lease_ms=600_000, **epochs)
        assert seen.heartbeat == 4

    async def test_an_agent_that_the_store_refuses_is_told_that_its_incarnation_is_over(self, world: World) -> None:
        stream = await world.leading()
        agent = await world.agent()
        await stream.until(lambda seen: seen.registrations)
        stream.send(registered=[wire.AgentRegistered(agent_id="agent", incarnation=1, accepted=False)])
        error = await agent.ending()
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert isinstance(error_from(error), StaleIncarnationError)

    async def test_an_earlier_incarnation_does_not_replace_the_session_of_a_later_one(self, world: World) -> None:
        stream = await world.leading()
        later = await world.joined(stream, a_registration(incarnation=2))
        earlier = await world.agent(a_registration(incarnation=1))
        assert isinstance(error_from(await earlier.ending()), StaleIncarnationError)
        await later.send(heartbeat=2)
        assert (await later.until(lambda seen: seen.heartbeat == 2)).heartbeat == 2

    async def test_a_second_session_of_an_agent_replaces_the_first(self, world: World) -> None:
        stream = await world.leading()
        first = await world.joined(stream)
        second = await world.joined(stream)
        error = await first.ending()
        assert error.code() is grpc.StatusCode.ABORTED
        assert isinstance(error_from(error), SupersededError)
        stream.send(runnable=[a_queued_job()])
        await stream.accept_proposal()
        assert (await second.until(lambda seen: seen.offers)).offers[0] == an_offer()

    async def test_a_stream_that_does_not_begin_with_a_registration_is_refused(self, world: World) -> None:
        call = world.sessions.Connect()
        await call.write(session_pb2.ConnectRequest(heartbeat=1))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    async def test_an_agent_that_left_is_offered_nothing_until_it_is_back(self, world: World) -> None:
        stream = await world.leading()
        other = await world.joined(stream, a_registration("other", vcpus=1))
        agent = await world.joined(stream, a_registration("agent", vcpus=8))
        agent.leave()
        await _until_connected(world, {"agent": False, "other": True})
        stream.send(runnable=[a_queued_job("one", sequence=1), a_queued_job("two", sequence=2)])
        assert (await stream.accept_proposal()).agent_id == "other"
        await other.until(lambda seen: seen.offers)
        await world.joined(stream, a_registration("agent", vcpus=8))
        assert (await stream.accept_proposal(2)).agent_id == "agent"


class TestDrains:
    async def test_an_agent_is_drained_and_resumed_through_the_store(self, world: World) -> None:
        running = a_held_run("running", number=2, state=STARTED)
        stream = await world.leading(agents=live(), held=[a_held_run("offered"), running])
        agent = await world.joined(stream, a_registration(vcpus=8))
        async with anyio.create_task_group() as tasks:
            answers: list[AgentSummary] = []

            async def drain() -> None:
                answers.append((await world.agents.DrainAgent(DrainAgentRequest(agent_id="agent"))).agent)

            tasks.start_soon(drain)
            (asked,) = (await stream.until(lambda seen: seen.drains)).drains
            assert answers == []
            stream.send(drains=[asked])
            assert list((await agent.until(lambda seen: seen.revocations)).revocations) == [a_fence(1)]
        (answer,) = answers
        assert (answer.status, answer.runs, sorted(answer.job_ids)) == ("DRAINING", 2, ["offered", "running"])
        (listed,) = (await world.agents.ListAgents(ListAgentsRequest())).agents
        assert listed == answer
        async with anyio.create_task_group() as tasks:

            async def resume() -> None:
                await world.agents.ResumeAgent(ResumeAgentRequest(agent_id="agent"))

            tasks.start_soon(resume)
            (asked,) = (await stream.until(lambda seen: seen.drains)).drains
            stream.send(drains=[asked])
        (listed,) = (await world.agents.ListAgents(ListAgentsRequest())).agents
        assert (listed.status, list(listed.job_ids)) == ("ACTIVE", [])

    async def test_a_drained_agent_is_listed_also_when_it_is_away(self, world: World) -> None:
        await world.joined(await world.leading(drains=[wire.AgentDrain(agent_id="away", draining=True)]))
        agents = (await world.agents.ListAgents(ListAgentsRequest())).agents
        told = [(agent.agent_id, agent.status, agent.connected) for agent in agents]
        assert told == [("agent", "ACTIVE", True), ("away", "DRAINING", False)]

    @pytest.mark.parametrize(
        ("request_", "text"),
        [
            (DrainAgentRequest(agent_id="agent", limit_seconds=-1), "limitSeconds must be at least 0, not -1."),
            (DrainAgentRequest(), "agentId is required."),
        ],
    )
    async def test_what_cannot_be_is_refused(self, world: World, request_: DrainAgentRequest, text: str) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await world.agents.DrainAgent(request_)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert text in (error.value.details() or "")

    async def test_without_a_job_store_nothing_is_drained(self, world: World) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await world.agents.DrainAgent(DrainAgentRequest(agent_id="agent"))
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


class TestLeases:
    async def test_heartbeats_are_answered(self, world: World) -> None:
        stream = await world.leading()
        agent = await world.joined(stream)
        await agent.send(heartbeat=2)
        assert (await agent.until(lambda seen: seen.heartbeat)).heartbeat == 2

    async def test_an_agent_whose_lease_is_over_is_reported_lost_and_its_session_ends(self, world: World) -> None:
        stream = await world.leading()
        agent = await world.joined(stream)
        world.clock.monotonic += (600 + 15) * CLOCK_MARGIN + 1
        stream.send(withdrawn=[a_ref("nothing")])
        (lost,) = (await stream.until(lambda seen: seen.lost_agents)).lost_agents
        assert (lost.agent_id, lost.incarnation) == ("agent", 1)
        assert isinstance(error_from(await agent.ending()), StaleIncarnationError)

    async def test_an_agent_of_the_snapshot_that_never_connects_is_lost_after_a_full_lease(self, world: World) -> None:
        stream = await world.leading(agents=live())
        stream.send(withdrawn=[a_ref("nothing")])
        await _until_connected(world, {"agent": False})
        world.clock.monotonic += 600
        stream.send(runnable=[a_queued_job()])
        await world.joined(stream, a_registration("other"))
        assert not (await stream.until(lambda seen: seen.proposals)).lost_agents
        world.clock.monotonic += 60
        stream.send(withdrawn=[a_ref("nothing")])
        assert (await stream.until(lambda seen: seen.lost_agents)).lost_agents[0].agent_id == "agent"

    async def test_a_silent_agent_is_offered_nothing_until_it_is_heard_again(self, world: World) -> None:
        stream = await world.leading()
        silent = await world.joined(stream, a_registration("silent", vcpus=1))
        heard = await world.joined(stream, a_registration("heard", vcpus=8))
        world.clock.monotonic += 14
        await heard.send(heartbeat=2)
        await heard.until(lambda seen: seen.heartbeat)
        world.clock.monotonic += 2
        stream.send(runnable=[a_queued_job("one", sequence=1)])
        assert (await stream.accept_proposal(1)).agent_id == "heard"
        await silent.send(heartbeat=2)
        await silent.until(lambda seen: seen.heartbeat)
        stream.send(runnable=[a_queued_job("two", sequence=2)])
        assert (await stream.accept_proposal(2)).agent_id == "silent"


class TestLossOfTheJobStore:
    async def test_what_was_under_way_is_taken_up_again_from_the_snapshot(self, world: World) -> None:
        stream = await world.leading(agents=live(), held=[a_held_run("done", number=1, state=STARTED)])
        agent = await world.joined(stream)
        stream.send(runnable=[a_queued_job("offered", sequence=2)])
        await stream.until(lambda seen: seen.proposals)
        await agent.send(reports=[a_report(DONE, number=1, job_id="done", started_ago_ms=100, ended_ago_ms=10)])
        await stream.until(lambda seen: seen.reports)
        stream.break_off()

        world.clock.monotonic += 2
        stream = await world.leading(
            agents=live(),
            held=[a_held_run("done", number=1, state=STARTED), a_held_run("offered", number=2)],
            runnable=[a_queued_job("waiting", sequence=3)],
        )
        assert (await agent.until(lambda seen: seen.offers)).offers[0] == an_offer(2)
        seen = await stream.until(lambda seen: seen.reports)
        assert not seen.proposals
        (report,) = seen.reports[0].reports
        assert (report.started_ago_ms, report.ended_ago_ms) == (2100, 2010)
        stream.send(reports=outcome(DONE), ended=[wire.EndedRun(agent_id="agent", fence=a_fence(1))])
        assert (await stream.accept_proposal(3)).job.job_id == "waiting"
        assert list((await agent.until(lambda seen: seen.acknowledged)).acknowledged) == [a_fence(1)]

    async def test_heartbeats_wait_for_their_answer_until_the_scheduler_leads_again(self, world: World) -> None:
        stream = await world.leading()
        agent = await world.joined(stream)
        stream.break_off()
        stream = await world.store.stream()
        await agent.send(heartbeat=2, reports=[a_report(STARTED)])
        stream.snapshot(agents=live())
        await agent.until(lambda seen: seen.heartbeat == 2)
        seen = await stream.until(lambda seen: seen.reports)
        assert seen.reports[0].reports[0].state == STARTED

    async def test_an_agent_that_came_while_the_store_was_away_is_let_in_afterwards(self, world: World) -> None:
        agent = await world.agent()
        stream = await world.leading()
        await stream.accept_registration()
        assert (await agent.welcomed()).heartbeat == 1

    async def test_a_session_that_the_store_does_not_know_registers_again_with_all_its_runs(self, world: World) -> None:
        stream = await world.leading(agents=live(), held=[a_held_run(state=CLAIMED)])
        agent = await world.joined(stream)
        await agent.send(reports=[a_report(STARTED)])
        await stream.until(lambda seen: seen.reports)
        stream.send(reports=outcome(STARTED), runnable=[a_queued_job("next", sequence=2)])
        await stream.accept_proposal(2)
        await agent.until(lambda seen: seen.offers)
        stream.break_off()
        stream = await world.leading(runnable=[a_queued_job("next", sequence=2)])
        registration = await stream.accept_registration()
        assert list(registration.known) == [a_fence(1)]
        assert (await stream.accept_proposal(3)).job.job_id == "next"


class TestWaitReasons:
    async def test_a_job_that_waits_for_long_has_its_reason_told(self, world: World) -> None:
        stream = await world.leading(runnable=[a_queued_job("wide", vcpus=64)])
        await world.joined(stream)
        world.clock.monotonic += 2
        stream.send(withdrawn=[a_ref("nothing")])
        (reason,) = (await stream.until(lambda seen: seen.wait_reasons)).wait_reasons
        assert (reason.job_queue, reason.vcpus_milli) == ("default", 64_000)
        assert reason.reason.startswith("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - ")


class TestResources:
    async def test_a_watch_goes_on_from_where_it_broke_off(self, world: World) -> None:
        assert (await world.registry.watched()).after_revision == 0
        world.registry.change(an_environment_change("more", revision=5))
        world.registry.break_off()
        assert (await world.registry.watched()).after_revision == 5

    async def test_a_watch_whose_history_is_gone_begins_anew_and_drops_what_is_gone(self, world: World) -> None:
        stream = await world.leading()
        await world.joined(stream)
        await world.registry.watched()
        world.registry.changes = [an_environment_change(revision=1), a_queue_change("other", revision=3)]
        world.registry.error = HistoryGoneError("too far back")
        world.registry.break_off()
        assert (await world.registry.watched()).after_revision == 2
        assert (await world.registry.watched()).after_revision == 0
        world.registry.break_off()
        assert (await world.registry.watched()).after_revision == 3
        gone, other = a_queued_job("gone", sequence=1), a_queued_job("other", sequence=2)
        other.job_queue = "other"
        stream.send(runnable=[gone, other])
        seen = await stream.until(lambda seen: seen.proposals)
        assert [proposal.job.job_id for proposal in seen.proposals] == ["other"]

    async def test_a_disabled_environment_gets_no_jobs_until_it_is_enabled(self, world: World) -> None:
        stream = await world.leading()
        await world.joined(stream)
        await world.registry.watched()
        arn = "arn:aws:batch:us-east-1:123456789012:compute-environment/disabled"
        order = [{"order": 1, "computeEnvironment": arn}]
        world.registry.change(an_environment_change("disabled", revision=3, state="RESOURCE_STATE_DISABLED"))
        world.registry.change(a_queue_change("closed", revision=4, computeEnvironmentOrder=order))
        world.registry.break_off()
        await world.registry.watched()
        closed, other = a_queued_job("closed", sequence=1), a_queued_job("other", sequence=2)
        closed.job_queue = "closed"
        stream.send(runnable=[closed, other])
        assert (await stream.accept_proposal(1)).job.job_id == "other"
        world.registry.change(an_environment_change("disabled", revision=5))
        assert (await stream.accept_proposal(2)).job.job_id == "closed"


async def test_agents_are_listed_with_what_they_have_and_what_is_taken(world: World) -> None:
    stream = await world.leading(
        agents=[*live(), wire.LiveAgent(agent_id="absent", incarnation=3)], held=[a_held_run(state=STARTED)]
    )
    await world.joined(stream, a_registration(compute_environments=["default"]))
    absent, agent = (await world.agents.ListAgents(ListAgentsRequest())).agents
    assert (absent.agent_id, absent.connected, absent.runs) == ("absent", False, 0)
    assert (agent.agent_id, agent.connected, agent.hostname, agent.runtime) == ("agent", True, "host", "process")
    assert (agent.vcpus_milli, agent.memory_mib, agent.gpus) == (2000, 4096, 0)
    assert (agent.vcpus_milli_used, agent.memory_mib_used, agent.runs) == (1000, 128, 1)
    assert list(agent.compute_environments) == ["default"]


async def test_jobs_of_other_accounts_are_counted_and_not_named_to_who_asks_for_its_own(world: World) -> None:
    stream = await world.leading(agents=live(), held=[a_held_run(state=STARTED)])
    await world.joined(stream)
    request = ListAgentsRequest(include_jobs=True, only_own_jobs=True)
    for account, named in ((a_ref("job").namespace, 1), ("999999999999", 0)):
        (listed,) = (await world.agents.ListAgents(request, metadata=((NAMESPACE_KEY, account),))).agents
        assert (listed.runs, len(listed.job_ids)) == (1, named)


async def test_an_agent_is_listed_with_the_logs_that_are_on_its_host_alone(world: World) -> None:
    agent = await world.joined(await world.leading(agents=live()))
    for heartbeat, unshipped in ((2, 3), (3, 0)):
        await agent.send(heartbeat=heartbeat, unshipped_logs=unshipped)
        await agent.until(lambda seen, heartbeat=heartbeat: seen.heartbeat == heartbeat)  # type: ignore[misc]
        (listed,) = (await world.agents.ListAgents(ListAgentsRequest())).agents
        assert listed.unshipped_logs == unshipped


async def _until_connected(world: World, expected: dict[str, bool]) -> None:
    """Wait until the agents are listed as expected; the list is asked for again after each other event."""
    while True:
        answer = await world.agents.ListAgents(ListAgentsRequest())
        if {agent.agent_id: agent.connected for agent in answer.agents} == expected:
            return
