"""What comes together is taken in as calls of SubmitJob would be, each for itself."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import status_pb2

from batchyard.api.jobs.v1.jobs_service_pb2 import SubmitJobRequest, SubmitJobResponse
from batchyard.api.registry.v1.registry_service_pb2 import UpdateJobQueueRequest
from batchyard.api.registry.v1.resource_state_pb2 import RESOURCE_STATE_DISABLED
from batchyard.api.scheduler.v1.submissions_service_pb2 import (
    SubmitJobCall,
    SubmitTogetherRequest,
    SubmitTogetherResponse,
)
from batchyard.api.scheduler.v1.submissions_service_pb2_grpc import SubmissionsServiceStub
from batchyard.gateway.aws_errors import STATUS_DETAILS_KEY
from batchyard.jobstore.definitions import Definitions
from batchyard.jobstore.group import Group, Submission
from batchyard.rpc.identity import INVOCATION_KEY, NAMESPACE_KEY
from batchyard.rpc.log_context import REQUEST_ID_KEY
from support.contexts import held_open
from support.control_plane import ControlPlane, a_submission, control_plane

PATIENCE_S = 30.0


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with held_open(control_plane(tmp_path, durable=False)) as plane:
        await plane.make_queue()
        await plane.register()
        yield plane


def a_call(name: str = "job", metadata: dict[str, str] | None = None, **members: Any) -> SubmitJobCall:
    return SubmitJobCall(metadata=metadata or {}, request=a_submission(name, **members).SerializeToString())


async def messages(plane: ControlPlane, *calls: SubmitJobCall) -> list[SubmitTogetherResponse]:
    stub = SubmissionsServiceStub(plane.channel)
    return [response async for response in stub.SubmitTogether(SubmitTogetherRequest(calls=calls), timeout=PATIENCE_S)]


async def outcomes(plane: ControlPlane, *calls: SubmitJobCall) -> list[SubmitJobResponse | status_pb2.Status]:
    """Return what became of calls, in their order; each must be told of once."""
    told = [outcome for response in await messages(plane, *calls) for outcome in response.outcomes]
    assert sorted(outcome.call for outcome in told) == list(range(len(calls)))
    return [
        SubmitJobResponse.FromString(outcome.response)
        if outcome.HasField("response")
        else status_pb2.Status.FromString(outcome.status)
        for outcome in sorted(told, key=lambda outcome: outcome.call)
    ]


async def submitted(plane: ControlPlane, *calls: SubmitJobCall) -> list[str]:
    """Submit what is taken in; return the ids."""
    ids = []
    for outcome in await outcomes(plane, *calls):
        assert isinstance(outcome, SubmitJobResponse), outcome
        ids.append(outcome.job_id)
    return ids


async def test_all_are_taken_in_and_answered_as_alone(plane: ControlPlane) -> None:
    alone = await plane.jobs.SubmitJob(SubmitJobRequest.FromString(a_call("alone").request))
    first, second = await outcomes(plane, a_call("first"), a_call("second"))
    assert isinstance(first, SubmitJobResponse)
    assert isinstance(second, SubmitJobResponse)
    assert first.job_arn == alone.job_arn.replace(alone.job_id, first.job_id)
    jobs = [await plane.job(each.job_id) for each in (alone, first, second)]
    assert [job.job_name for job in jobs] == ["alone", "first", "second"]
    assert len({job.job_id for job in jobs}) == 3
    assert {(job.status, job.job_definition, job.container.command[0]) for job in jobs} == {
        (jobs[0].status, jobs[0].job_definition, jobs[0].container.command[0])
    }


REFUSED = {
    "no name": a_call(""),
    "a bad name": a_call("a b"),
    "no queue": a_call(jobQueue=""),
    "an unknown queue": a_call(jobQueue="nowhere"),
    "an unknown definition": a_call(jobDefinition="nothing"),
    "an unknown revision": a_call(jobDefinition="definition:99"),
    "an unknown dependency": a_call(dependsOn=[{"jobId": "nobody"}]),
    "a bad size": a_call(arrayProperties={"size": 1}),
}


@pytest.mark.parametrize("reason", REFUSED)
async def test_each_is_refused_as_alone_and_by_itself(plane: ControlPlane, reason: str) -> None:
    refused = REFUSED[reason]
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await plane.jobs.SubmitJob(SubmitJobRequest.FromString(refused.request))
    alone = dict(failure.value.trailing_metadata() or ())[STATUS_DETAILS_KEY]
    before, outcome, after = await outcomes(plane, a_call("before"), refused, a_call("after"))
    assert isinstance(before, SubmitJobResponse)
    assert isinstance(after, SubmitJobResponse)
    assert outcome == status_pb2.Status.FromString(bytes(alone))


async def test_what_is_no_request_is_refused_by_itself(plane: ControlPlane) -> None:
    garbage, taken = await outcomes(plane, SubmitJobCall(request=b"\xff\xff"), a_call())
    assert isinstance(garbage, status_pb2.Status)
    assert isinstance(taken, SubmitJobResponse)
    assert garbage.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "SubmitJobRequest" in garbage.message


async def test_a_repeated_request_makes_one_job_however_it_comes(plane: ControlPlane) -> None:
    call = a_call(metadata={INVOCATION_KEY: "the-same"})
    first, second = await submitted(plane, call, call)
    (third,) = await submitted(plane, call)
    alone = await plane.jobs.SubmitJob(
        SubmitJobRequest.FromString(call.request), metadata=((INVOCATION_KEY, "the-same"),)
    )
    assert {first, second, third, alone.job_id} == {first}
    other, without = await submitted(plane, a_call(metadata={INVOCATION_KEY: "another"}), a_call())
    assert len({first, other, without}) == 3


async def test_a_repeated_request_is_answered_as_before_though_its_queue_is_closed(plane: ControlPlane) -> None:
    call = a_call(metadata={INVOCATION_KEY: "once"})
    (job_id,) = await submitted(plane, call)
    await plane.registry.UpdateJobQueue(UpdateJobQueueRequest(job_queue="queue", state=RESOURCE_STATE_DISABLED))
    again, other = await outcomes(plane, call, a_call())
    assert isinstance(again, SubmitJobResponse)
    assert again.job_id == job_id
    assert isinstance(other, status_pb2.Status)


async def test_each_acts_for_its_own_account(plane: ControlPlane) -> None:
    own, foreign = await outcomes(plane, a_call(), a_call(metadata={NAMESPACE_KEY: "111122223333"}))
    assert isinstance(own, SubmitJobResponse)
    assert isinstance(foreign, status_pb2.Status)
    assert foreign.code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_a_job_that_waits_for_others_can_come_with_them(plane: ControlPlane) -> None:
    (first,) = await submitted(plane, a_call("first"))
    dependent, other = await submitted(plane, a_call(dependsOn=[{"jobId": first}]), a_call("other"))
    assert [each.job_id for each in (await plane.job(dependent)).depends_on] == [first]
    assert (await plane.job(other)).job_name == "other"


async def test_what_must_be_looked_up_holds_up_no_other(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    found = asyncio.Event()
    find = Definitions.find

    async def find_later(self: Definitions, *names: Any) -> Any:
        await found.wait()
        return await find(self, *names)

    await submitted(plane, a_call())
    monkeypatch.setattr(Definitions, "find", find_later)
    calls = [a_call("slow", jobDefinition="definition:1"), a_call("swift")]
    call = SubmissionsServiceStub(plane.channel).SubmitTogether(SubmitTogetherRequest(calls=calls), timeout=PATIENCE_S)
    first = await call.read()
    assert isinstance(first, SubmitTogetherResponse)
    assert [outcome.call for outcome in first.outcomes] == [1]
    found.set()
    second = await call.read()
    assert isinstance(second, SubmitTogetherResponse)
    assert [outcome.call for outcome in second.outcomes] == [0]
    assert await call.read() is grpc.aio.EOF


async def test_with_nothing_at_hand_a_response_comes_at_once_all_the_same(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def find_never(self: Definitions, *names: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Definitions, "find", find_never)
    request = SubmitTogetherRequest(calls=[a_call(jobDefinition="definition:1")])
    call = SubmissionsServiceStub(plane.channel).SubmitTogether(request, timeout=PATIENCE_S)
    assert await call.read() == SubmitTogetherResponse()
    call.cancel()


async def test_a_defect_met_by_one_is_told_to_its_caller_alone(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await submitted(plane, a_call())
    submit = Group.submit

    def broken(self: Group, new: Submission) -> None:
        if new.job.job_name == "broken":
            raise ZeroDivisionError("of ours")
        submit(self, new)

    monkeypatch.setattr(Group, "submit", broken)
    before, outcome, after = await outcomes(
        plane, a_call("before"), a_call("broken", {REQUEST_ID_KEY: "the-id-of-it"}), a_call("after")
    )
    assert isinstance(before, SubmitJobResponse)
    assert isinstance(after, SubmitJobResponse)
    assert isinstance(outcome, status_pb2.Status)
    assert (outcome.code, outcome.message) == (13, "Internal error, request id the-id-of-it")
    assert any("ZeroDivisionError" in str(record.exc_info) for record in caplog.records)
