"""A request that is sent again, as AWS's SDKs do when an answer is lost, is carried out once."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc.aio
import pytest

from batchyard.api.jobs.v1 import jobs_service_pb2 as jobs
from batchyard.api.jobs.v1.jobs_pb2 import JobStatus
from batchyard.api.operations.v1 import job_operations_service_pb2 as operations
from batchyard.api.registry.v1 import registry_service_pb2 as registry
from batchyard.api.registry.v1.resource_state_pb2 import ResourceState
from batchyard.rpc.identity import CREDENTIAL_KEY, INVOCATION_KEY, NAMESPACE_KEY
from support.contexts import held_open
from support.control_plane import ControlPlane, a_submission, control_plane


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with held_open(control_plane(tmp_path)) as plane:
        await plane.make_queue()
        await plane.register()
        yield plane


def metadata(invocation_id: str = "one", *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return ((INVOCATION_KEY, invocation_id), *more)


async def runnable_jobs(plane: ControlPlane) -> Sequence[str]:
    request = jobs.ListJobsRequest(job_queue="queue", job_status=JobStatus.JOB_STATUS_RUNNABLE)
    return [job.job_id for job in (await plane.jobs.ListJobs(request)).job_summary_list]


async def test_the_same_request_again_gives_the_same_job(plane: ControlPlane) -> None:
    answers = [await plane.jobs.SubmitJob(a_submission(tags={"a": "1", "b": "2"}), metadata=metadata()) for _ in "12"]
    again = await plane.jobs.SubmitJob(a_submission(tags={"b": "2", "a": "1"}), metadata=metadata())
    assert answers == [again, again]
    assert await runnable_jobs(plane) == [again.job_id]


@pytest.mark.parametrize(
    ("request_", "more"),
    [
        (a_submission("other"), metadata()),
        (a_submission(), metadata("two")),
        (a_submission(), metadata("one", (CREDENTIAL_KEY, "another"))),
        (a_submission(), ()),
        (a_submission(), metadata("not one, but two")),
    ],
    ids=["body", "invocation", "credential", "none", "malformed"],
)
async def test_another_request_gives_another_job(
    plane: ControlPlane, request_: jobs.SubmitJobRequest, more: Sequence[tuple[str, str]]
) -> None:
    first = await plane.jobs.SubmitJob(a_submission(), metadata=metadata())
    second = await plane.jobs.SubmitJob(request_, metadata=tuple(more))
    assert first.job_id != second.job_id
    assert set(await runnable_jobs(plane)) == {first.job_id, second.job_id}


async def test_another_accounts_request_is_another_one(plane: ControlPlane) -> None:
    await plane.jobs.SubmitJob(a_submission(), metadata=metadata())
    with pytest.raises(grpc.aio.AioRpcError, match=r"JobQueue queue not found\."):
        await plane.jobs.SubmitJob(a_submission(), metadata=metadata("one", (NAMESPACE_KEY, "210987654321")))


async def test_repetitions_in_one_commit_give_one_job(plane: ControlPlane) -> None:
    answers = await asyncio.gather(
        *(plane.jobs.SubmitJob(a_submission(), metadata=metadata(name)) for name in "aabbabab" * 20)
    )
    assert len({answer.job_id for answer in answers}) == 2
    assert len(await runnable_jobs(plane)) == 2


async def test_a_repetition_after_a_restart_gives_the_same_job(tmp_path: Path) -> None:
    async with held_open(control_plane(tmp_path)) as plane:
        await plane.make_queue()
        await plane.register()
        first = await plane.jobs.SubmitJob(a_submission(), metadata=metadata())
    async with held_open(control_plane(tmp_path)) as plane:
        assert await plane.jobs.SubmitJob(a_submission(), metadata=metadata()) == first
        assert await runnable_jobs(plane) == [first.job_id]


async def test_a_repetition_is_answered_whatever_has_become_of_what_it_names(plane: ControlPlane) -> None:
    first = await plane.jobs.SubmitJob(a_submission(), metadata=metadata())
    await plane.registry.UpdateJobQueue(
        registry.UpdateJobQueueRequest(job_queue="queue", state=ResourceState.RESOURCE_STATE_DISABLED)
    )
    await plane.registry.DeregisterJobDefinition(registry.DeregisterJobDefinitionRequest(job_definition="definition:1"))
    assert await plane.jobs.SubmitJob(a_submission(), metadata=metadata()) == first
    for invocation_id in ("two", "two"):
        with pytest.raises(grpc.aio.AioRpcError, match="definition"):
            await plane.jobs.SubmitJob(a_submission(), metadata=metadata(invocation_id))


async def test_what_was_refused_may_succeed_when_it_is_sent_again(plane: ControlPlane) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="does not exist"):
        await plane.jobs.SubmitJob(a_submission(jobDefinition="later"), metadata=metadata())
    await plane.register("later")
    assert (await plane.jobs.SubmitJob(a_submission(jobDefinition="later"), metadata=metadata())).job_id


async def test_a_batch_again_gives_the_same_jobs_though_its_requests_are_alike(plane: ControlPlane) -> None:
    request = operations.SubmitJobsRequest(jobs=[a_submission(), a_submission(), a_submission(jobDefinition="none")])
    first = await plane.operations.SubmitJobs(request, metadata=metadata())
    assert await plane.operations.SubmitJobs(request, metadata=metadata()) == first
    ids = [result.submitted.job_id for result in first.results[:2]]
    assert sorted(await runnable_jobs(plane)) == sorted(ids)
    assert first.results[2].error
    await plane.registry.DeregisterJobDefinition(registry.DeregisterJobDefinitionRequest(job_definition="definition:1"))
    assert await plane.operations.SubmitJobs(request, metadata=metadata()) == first
