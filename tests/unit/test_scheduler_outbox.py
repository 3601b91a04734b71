import anyio
import pytest

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import run_pb2
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.errors import SupersededError
from batchyard.domain.jobs import Fence
from batchyard.scheduler.leases import Incarnation
from batchyard.scheduler.model import Offer, ResourceKey, Resources, WaitReason
from batchyard.scheduler.outbox import (
    ENTRIES_A_MESSAGE,
    OFFERED_BYTES_A_MESSAGE,
    AgentOutbox,
    Outbox,
    StoreOutbox,
)
from support.scheduler import job_key

AGENT = Incarnation("agent", 1)


async def nothing_to_take(outbox: Outbox[session_pb2.ConnectResponse] | Outbox[wire.DispatchRequest]) -> bool:
    with anyio.move_on_after(0):
        await outbox.take()
        return False
    return True


def a_report(number: int, state: run_pb2.RunState.ValueType = run_pb2.RUN_STATE_STARTED) -> run_pb2.RunReport:
    return run_pb2.RunReport(fence=run_pb2.Fence(epoch=1, number=number), state=state)


async def test_what_a_slow_agent_has_not_read_is_merged() -> None:
    outbox = AgentOutbox()
    outbox.answer(1)
    outbox.answer(2)
    outbox.offer(run_pb2.RunOffer(fence=run_pb2.Fence(epoch=1, number=1)))
    outbox.offer(run_pb2.RunOffer(fence=run_pb2.Fence(epoch=1, number=1)))
    outbox.acknowledge(Fence(1, 7))
    outbox.disown(Fence(1, 8))
    message = await outbox.take()
    assert message.heartbeat == 2
    assert len(message.offers) == 1
    assert [fence.number for fence in message.acknowledged] == [7]
    assert [fence.number for fence in message.stale] == [8]
    assert await nothing_to_take(outbox)


async def test_a_demand_to_kill_stands_above_one_to_give_back() -> None:
    outbox = AgentOutbox()
    outbox.demand(Fence(1, 1), kill=True, kill_grace_ms=5)
    outbox.demand(Fence(1, 1), kill=False, kill_grace_ms=5)
    message = await outbox.take()
    assert [kill.grace_ms for kill in message.kills] == [5]
    assert not message.revocations


async def test_offers_are_cut_into_messages_far_below_the_limit_and_none_is_lost() -> None:
    outbox = AgentOutbox()
    spec = bytes(OFFERED_BYTES_A_MESSAGE // 3)
    for number in range(10):
        outbox.offer(run_pb2.RunOffer(fence=run_pb2.Fence(epoch=1, number=number), job_spec=spec))
    numbers: list[int] = []
    while not await nothing_to_take_yet(outbox, numbers):
        pass
    assert numbers == list(range(10))


async def nothing_to_take_yet(outbox: AgentOutbox, numbers: list[int]) -> bool:
    """Take one message and note its offers; return whether there was none."""
    with anyio.move_on_after(0):
        message = await outbox.take()
        assert message.ByteSize() < 2 * OFFERED_BYTES_A_MESSAGE
        numbers.extend(offer.fence.number for offer in message.offers)
        return False
    return True


async def test_what_was_to_be_said_of_a_run_that_ended_is_not_said() -> None:
    outbox = AgentOutbox()
    outbox.offer(run_pb2.RunOffer(fence=run_pb2.Fence(epoch=1, number=1)))
    outbox.demand(Fence(1, 1), kill=True, kill_grace_ms=5)
    outbox.run_ended(Fence(1, 1))
    assert await nothing_to_take(outbox)


async def test_a_closed_outbox_raises_its_first_error_to_the_sender_that_waits() -> None:
    outbox = AgentOutbox()
    caught: list[Exception] = []

    async def send() -> None:
        try:
            await outbox.take()
        except SupersededError as error:
            caught.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await anyio.lowlevel.checkpoint()
        outbox.close(SupersededError("first"))
        outbox.close(SupersededError("second"))
    assert [str(error) for error in caught] == ["first"]
    with pytest.raises(SupersededError):
        await outbox.take()


async def test_the_store_is_told_the_latest_report_of_each_run_by_agent() -> None:
    outbox = StoreOutbox()
    outbox.report(AGENT, Fence(1, 1), a_report(1, run_pb2.RUN_STATE_CLAIMED))
    outbox.report(AGENT, Fence(1, 1), a_report(1, run_pb2.RUN_STATE_DONE))
    outbox.report(AGENT, Fence(1, 2), a_report(2))
    outbox.report(Incarnation("other", 5), Fence(1, 3), a_report(3))
    message = await outbox.take()
    sent = {
        (sender.agent_id, sender.incarnation): [(report.fence.number, report.state) for report in sender.reports]
        for sender in message.reports
    }
    assert sent == {
        ("agent", 1): [(1, run_pb2.RUN_STATE_DONE), (2, run_pb2.RUN_STATE_STARTED)],
        ("other", 5): [(3, run_pb2.RUN_STATE_STARTED)],
    }


async def test_losses_go_before_registrations() -> None:
    outbox = StoreOutbox()
    outbox.register(wire.AgentRegistration(agent_id="agent", incarnation=1))
    outbox.lose(AGENT)
    first, second = await outbox.take(), await outbox.take()
    assert first.lost_agents
    assert not first.registrations
    assert second.registrations


async def test_long_lists_are_cut_and_none_of_them_is_lost() -> None:
    outbox = StoreOutbox()
    count = ENTRIES_A_MESSAGE + 1
    outbox.propose(Offer(job_key(f"job-{number}"), 1, "agent", 1, "default") for number in range(count))
    queue = ResourceKey("123456789012", "queue")
    outbox.explain(WaitReason(queue, Resources(number, 0, 0), "why") for number in range(count))
    first, second = await outbox.take(), await outbox.take()
    assert (len(first.proposals), len(second.proposals)) == (ENTRIES_A_MESSAGE, 1)
    assert (len(first.wait_reasons), len(second.wait_reasons)) == (ENTRIES_A_MESSAGE, 1)
    assert await nothing_to_take(outbox)
