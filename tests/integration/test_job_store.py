import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.json_format import ParseDict

from batchyard.api.agent.v1.run_pb2 import RunEnd, RunState
from batchyard.api.jobs.v1 import jobs_service_pb2 as jobs
from batchyard.api.jobs.v1.jobs_pb2 import JobStatus
from batchyard.api.operations.v1 import job_operations_service_pb2 as operations
from batchyard.api.registry.v1 import registry_service_pb2 as registry
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from support.contexts import held_open
from support.control_plane import ControlPlane, a_submission, control_plane, with_lines
from support.waiting import PATIENCE_S, eventually

RUNNABLE = JobStatus.JOB_STATUS_RUNNABLE
FAILED = JobStatus.JOB_STATUS_FAILED
SUCCEEDED = JobStatus.JOB_STATUS_SUCCEEDED


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with held_open(control_plane(tmp_path)) as plane:
        await plane.make_queue()
        await plane.register()
        yield plane


async def refusal(call: object) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call  # type: ignore[misc]  # any call
    return f"{error.value.code().name}: {error.value.details()}"


async def snapshot(plane: ControlPlane) -> tuple[Any, wire.DispatchResponse]:
    """Come as another scheduler; return its call, and everything that it is told at first."""
    call: Any = plane.dispatch.Dispatch()
    await call.write(wire.DispatchRequest(hello=wire.SchedulerHello(scheduler_id="second")))
    seen = wire.DispatchResponse()
    while not seen.snapshot_complete:
        message: Any = await asyncio.wait_for(call.read(), PATIENCE_S)
        seen.MergeFrom(with_lines(message))
    return call, seen


async def following(watch: Any) -> operations.WatchJobsResponse:
    """Return the next message of a watch."""
    message: operations.WatchJobsResponse = await asyncio.wait_for(watch.read(), PATIENCE_S)
    return message


# Submitting and reading


async def test_a_submitted_job_can_be_described_at_once(plane: ControlPlane) -> None:
    answer = await plane.jobs.SubmitJob(a_submission("job", parameters={"a": "b"}, tags={"team": "x"}))
    job = await plane.job(answer.job_id)
    assert answer.job_arn == f"arn:aws:batch:us-east-1:123456789012:job/{answer.job_id}"
    assert (job.job_arn, job.job_name, job.status) == (answer.job_arn, "job", RUNNABLE)
    assert job.job_queue == "arn:aws:batch:us-east-1:123456789012:job-queue/queue"
    assert job.job_definition == "arn:aws:batch:us-east-1:123456789012:job-definition/definition:1"
    assert (dict(job.parameters), dict(job.tags)) == ({"a": "b"}, {"team": "x"})
    assert (job.container.image, job.container.vcpus, list(job.container.command)) == ("busybox", 1, ["true"])
    assert job.retry_strategy.attempts == 1
    assert job.created_at > 0
    assert job.status_reason == "Waiting for a scheduler: none is connected to the job store."
    for absent in ("started_at", "stopped_at", "timeout"):
        assert not job.HasField(absent), absent
    assert job.HasField("is_cancelled")


async def test_unknown_ids_are_left_out_and_the_order_is_as_asked(plane: ControlPlane) -> None:
    first, second = await plane.submit("first"), await plane.submit("second")
    wanted = [second, "unknown", first, f"arn:aws:batch:us-east-1:123456789012:job/{second}"]
    answer = await plane.jobs.DescribeJobs(jobs.DescribeJobsRequest(jobs=wanted))
    assert [job.job_id for job in answer.jobs] == [second, first]
    empty = jobs.DescribeJobsRequest(cleared_members=["jobs"])
    assert not (await plane.jobs.DescribeJobs(empty)).jobs


async def test_more_than_100_ids_are_refused(plane: ControlPlane) -> None:
    call = plane.jobs.DescribeJobs(jobs.DescribeJobsRequest(jobs=["x"] * 101))
    assert await refusal(call) == "INVALID_ARGUMENT: Maximum number of jobs supported is 100."


async def test_a_job_of_another_account_is_not_seen(plane: ControlPlane) -> None:
    job_id = await plane.submit()
    other = (("batchyard-namespace", "210987654321"),)
    answer = await plane.jobs.DescribeJobs(jobs.DescribeJobsRequest(jobs=[job_id]), metadata=other)
    assert not answer.jobs
    await plane.jobs.CancelJob(jobs.CancelJobRequest(job_id=job_id, reason="mine"), metadata=other)
    assert (await plane.job(job_id)).status == RUNNABLE


@pytest.mark.parametrize(
    "reference",
    ["definition", "definition:1", "arn:aws:batch:us-east-1:123456789012:job-definition/definition:1"],
)
async def test_a_definition_is_found_by_every_form_of_reference(plane: ControlPlane, reference: str) -> None:
    job = await plane.job(await plane.submit(jobDefinition=reference))
    assert job.job_definition.endswith("/definition:1")


async def test_a_bare_name_means_the_newest_active_revision(plane: ControlPlane) -> None:
    await plane.register()
    newest = await plane.register()
    assert (await plane.job(await plane.submit())).job_definition == newest
    await plane.registry.DeregisterJobDefinition(registry.DeregisterJobDefinitionRequest(job_definition="definition:3"))
    assert (await plane.job(await plane.submit())).job_definition.endswith(":2")


async def test_a_deregistered_revision_is_refused_at_once(plane: ControlPlane) -> None:
    await plane.submit(jobDefinition="definition:1")
    await plane.registry.DeregisterJobDefinition(registry.DeregisterJobDefinitionRequest(job_definition="definition:1"))
    text = "NOT_FOUND: JobDefinition name {} does not exist or is not in ACTIVE status"
    for reference in ("definition:1", "definition"):
        call = plane.jobs.SubmitJob(a_submission(jobDefinition=reference))
        assert await refusal(call) == text.format(reference)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"jobQueue": "nowhere"}, "NOT_FOUND: JobQueue nowhere not found."),
        (
            {"jobQueue": "arn:aws:batch:us-east-1:210987654321:job-queue/queue"},
            "NOT_FOUND: JobQueue arn:aws:batch:us-east-1:210987654321:job-queue/queue not found.",
        ),
        ({"jobDefinition": "definition:9"}, "NOT_FOUND: JobDefinition definition:9 not found."),
        ({"dependsOn": [{"jobId": "nobody"}]}, "INVALID_ARGUMENT: Job nobody does not exist"),
        ({"jobName": ""}, "INVALID_ARGUMENT: jobName is required."),
    ],
)
async def test_what_a_submission_names_must_exist(plane: ControlPlane, members: dict[str, Any], text: str) -> None:
    assert await refusal(plane.jobs.SubmitJob(a_submission(**members))) == text


async def test_a_disabled_queue_takes_no_submissions_from_the_moment_it_is_answered(plane: ControlPlane) -> None:
    await plane.submit()
    for state, expected in (
        ("DISABLED", "FAILED_PRECONDITION: JobQueue queue is not in ENABLED state"),
        ("ENABLED", ""),
    ):
        await plane.registry.UpdateJobQueue(
            ParseDict({"jobQueue": "queue", "state": f"RESOURCE_STATE_{state}"}, registry.UpdateJobQueueRequest())
        )
        if expected:
            assert await refusal(plane.jobs.SubmitJob(a_submission())) == expected
        else:
            assert await plane.submit()


async def test_a_queue_with_unfinished_jobs_is_not_deleted(plane: ControlPlane) -> None:
    job_id = await plane.submit()
    await plane.registry.UpdateJobQueue(
        ParseDict({"jobQueue": "queue", "state": "RESOURCE_STATE_DISABLED"}, registry.UpdateJobQueueRequest())
    )
    delete = registry.DeleteJobQueueRequest(job_queue="queue")
    text = "FAILED_PRECONDITION: Cannot delete, job queue has jobs that have not completed"
    assert await refusal(plane.registry.DeleteJobQueue(delete)) == text
    await plane.jobs.CancelJob(jobs.CancelJobRequest(job_id=job_id, reason="enough"))
    await plane.registry.DeleteJobQueue(delete)
    assert await refusal(plane.jobs.SubmitJob(a_submission())) == "NOT_FOUND: JobQueue queue not found."
    assert (await plane.job(job_id)).status == FAILED


async def test_a_name_in_depends_on_means_the_newest_job_of_that_name(plane: ControlPlane) -> None:
    await plane.submit("twin")
    newest = await plane.submit("twin")
    job = await plane.job(await plane.submit("last", dependsOn=[{"jobId": "twin"}]))
    assert [dependency.job_id for dependency in job.depends_on] == [newest]
    assert job.status == JobStatus.JOB_STATUS_PENDING


async def test_listing_pages_through_one_state_newest_first(plane: ControlPlane) -> None:
    ids = [await plane.submit(f"job-{number}") for number in range(5)]
    await plane.jobs.CancelJob(jobs.CancelJobRequest(job_id=ids[2], reason="enough"))
    request = jobs.ListJobsRequest(job_queue="queue", job_status=RUNNABLE, max_results=3)
    first = await plane.jobs.ListJobs(request)
    request.next_token = first.next_token
    late = await plane.submit("late")
    second = await plane.jobs.ListJobs(request)
    seen = [job.job_id for page in (first, second) for job in page.job_summary_list]
    assert seen == [ids[4], ids[3], ids[1], ids[0]]
    assert late not in seen
    assert not second.HasField("next_token")
    request.job_status = FAILED
    assert await refusal(plane.jobs.ListJobs(request)) == "INVALID_ARGUMENT: nextToken is not valid for this request."


async def test_listing_without_a_status_shows_running_jobs_and_an_unknown_queue_is_refused(plane: ControlPlane) -> None:
    await plane.submit()
    assert not (await plane.jobs.ListJobs(jobs.ListJobsRequest(job_queue="queue"))).job_summary_list
    call = plane.jobs.ListJobs(jobs.ListJobsRequest(job_queue="nowhere"))
    assert await refusal(call) == "NOT_FOUND: nowhere does not exist"


async def test_a_batch_of_submissions_answers_each_in_its_place(plane: ControlPlane) -> None:
    batch = [
        a_submission("good"),
        a_submission("bad", jobQueue="nowhere"),
        a_submission("better"),
        a_submission("worse", jobDefinition=""),
    ]
    answer = await plane.operations.SubmitJobs(operations.SubmitJobsRequest(jobs=batch))
    assert [result.submitted.job_name for result in answer.results] == ["good", "", "better", ""]
    assert [result.error for result in answer.results] == [
        *("", "JobQueue nowhere not found."),
        *("", "jobDefinition is required."),
    ]


async def test_a_large_batch_is_taken_in_in_its_order_whatever_is_refused(plane: ControlPlane) -> None:
    first = await plane.submit("first")
    batch = [a_submission(f"job-{number}") for number in range(600)]
    batch[3] = a_submission("waits", dependsOn=[{"jobId": first}])
    batch[400] = a_submission("pairs", arrayProperties={"size": 3}, dependsOn=[{"jobId": first, "type": "N_TO_N"}])
    batch[599] = a_submission("no-job", dependsOn=[{"jobId": "nobody"}])
    answer = await plane.operations.SubmitJobs(operations.SubmitJobsRequest(jobs=batch))
    errors = {place: result.error for place, result in enumerate(answer.results) if result.error}
    assert sorted(errors) == [400, 599]
    assert "N_TO_N" in errors[400]
    assert errors[599] == "Job nobody does not exist"
    taken_in = [result.submitted for result in answer.results if not result.error]
    ids = [submitted.job_id for submitted in taken_in]
    assert ids == sorted(set(ids))
    assert [submitted.job_name for submitted in taken_in] == [job.job_name for job in batch[:400] + batch[401:599]]
    assert (await plane.job(ids[3])).status == JobStatus.JOB_STATUS_PENDING
    listed = await plane.jobs.ListJobs(
        jobs.ListJobsRequest(job_queue="queue", job_status=JobStatus.JOB_STATUS_RUNNABLE, max_results=3)
    )
    assert [summary.job_name for summary in listed.job_summary_list] == ["job-598", "job-597", "job-596"]


async def test_submissions_that_arrive_together_keep_their_order(plane: ControlPlane) -> None:
    batch = [a_submission(f"job-{number}") for number in range(50)]
    answer = await plane.operations.SubmitJobs(operations.SubmitJobsRequest(jobs=batch))
    ids = [result.submitted.job_id for result in answer.results]
    assert ids == sorted(ids)
    async with plane.scheduler() as scheduler:
        await scheduler.register()
        late = await plane.submit("late")
        seen = await scheduler.until(lambda seen: seen.runnable)
        assert [queued.job.job_id for queued in seen.runnable] == [late]


# The scheduler's stream


async def test_a_scheduler_gets_what_waits_and_what_comes(plane: ControlPlane) -> None:
    before = await plane.submit("before")
    call, seen = await snapshot(plane)
    assert [queued.job.job_id for queued in seen.runnable] == [before]
    call.cancel()
    async with plane.scheduler() as scheduler:
        after = await plane.submit("after")
        seen = await scheduler.until(lambda seen: seen.runnable)
        assert [queued.job.job_id for queued in seen.runnable] == [after]
        (queued,) = seen.runnable
        assert (queued.job_queue, queued.vcpus_milli, queued.memory_mib, queued.gpus) == ("queue", 1000, 16, 0)


async def test_a_job_runs_from_offer_to_end(plane: ControlPlane) -> None:
    async with plane.scheduler() as scheduler:
        await scheduler.register()
        job_id = await plane.submit()
        seen = await scheduler.until(lambda seen: seen.runnable)
        offer = await scheduler.offer(seen.runnable[0])
        assert (await plane.job(job_id)).status == RUNNABLE
        await scheduler.report(offer, RunState.RUN_STATE_STARTED, started_ago_ms=0)
        job = await plane.job(job_id)
        assert job.status == JobStatus.JOB_STATUS_RUNNING
        assert job.container.log_stream_name == offer.log_stream_name
        assert job.container.log_stream_name.startswith("definition/default/")
        seen = await scheduler.report(
            offer, RunState.RUN_STATE_DONE, started_ago_ms=1, ended_ago_ms=0, exit_code=0, end=RunEnd.RUN_END_EXITED
        )
        assert [run.fence for run in seen.ended] == [offer.fence]
        job = await plane.job(job_id)
        assert (job.status, job.container.exit_code) == (SUCCEEDED, 0)
        assert job.container.HasField("exit_code")
        assert job.created_at <= job.started_at <= job.stopped_at
        (attempt,) = job.attempts
        assert attempt.container.log_stream_name == offer.log_stream_name


async def test_a_new_scheduler_is_told_what_is_held_and_the_old_one_is_dismissed(plane: ControlPlane) -> None:
    async with plane.scheduler("first") as first:
        await first.register()
        await plane.submit()
        offer = await first.offer((await first.until(lambda seen: seen.runnable)).runnable[0])
        waiting = await plane.submit("waiting")
        call, seen = await snapshot(plane)
        assert [agent.agent_id for agent in seen.agents] == ["agent"]
        assert [run.offer for run in seen.held] == [offer]
        assert [queued.job.job_id for queued in seen.runnable] == [waiting]
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await first.until(lambda _: False)
        assert error.value.code() is grpc.StatusCode.ABORTED
        call.cancel()


async def test_another_scheduler_is_welcomed_when_the_leaders_lease_is_over(tmp_path: Path) -> None:
    async with control_plane(tmp_path, leader_lease_s=0.5) as plane, plane.scheduler("first") as first:
        call: Any = plane.dispatch.Dispatch()
        await call.write(wire.DispatchRequest(hello=wire.SchedulerHello(scheduler_id="second")))
        await first.send(heartbeat=1)
        seen = await first.until(lambda seen: seen.heartbeat)
        assert seen.heartbeat == 1
        assert (await asyncio.wait_for(call.read(), PATIENCE_S)).welcome.leader_epoch == 2
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await first.until(lambda _: False)
        assert error.value.code() is grpc.StatusCode.ABORTED
        call.cancel()


async def test_offers_go_by_what_the_registry_says_of_the_environment(plane: ControlPlane) -> None:
    async def put(state: str) -> None:
        request = {"computeEnvironment": "queue", "state": f"RESOURCE_STATE_{state}"}
        await plane.registry.UpdateComputeEnvironment(ParseDict(request, registry.UpdateComputeEnvironmentRequest()))
        # To look for an unknown queue the store reads all that the registry has to say.
        await refusal(plane.jobs.SubmitJob(a_submission(jobQueue="unknown")))

    async with plane.scheduler() as scheduler:
        await plane.submit()
        (queued,) = (await scheduler.until(lambda seen: seen.runnable)).runnable
        await scheduler.register()
        await put("DISABLED")
        outcome = await scheduler.propose(queued)
        assert outcome.refused == "compute environment queue is not ENABLED and VALID"
        assert outcome.refusal == wire.OFFER_REFUSAL_ENVIRONMENT
        await put("ENABLED")
        assert (await scheduler.propose(queued)).offer.attempt == 1


async def test_a_scheduler_that_resigns_is_followed_at_once(tmp_path: Path) -> None:
    async with control_plane(tmp_path, leader_lease_s=1000) as plane, plane.scheduler("first") as first:
        await first.send(resign=True)
        call, seen = await snapshot(plane)
        assert seen.welcome.leader_epoch == 2
        call.cancel()


async def test_one_that_waits_already_follows_at_once_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with control_plane(tmp_path, leader_lease_s=1000) as plane, plane.scheduler("first") as first:
        follower = asyncio.create_task(snapshot(plane))
        await eventually(lambda: "scheduler second waits" in caplog.text, "the second waits")
        await first.send(resign=True)
        call, seen = await follower
        assert seen.welcome.leader_epoch == 2
        call.cancel()


async def test_a_scheduler_that_leads_comes_back_at_once_even_to_a_store_that_was_restarted(tmp_path: Path) -> None:
    async with control_plane(tmp_path, leader_lease_s=1000) as plane, plane.scheduler("same"):
        pass
    async with control_plane(tmp_path, leader_lease_s=1000) as plane, plane.scheduler("same"):
        pass


async def test_cancelling_an_offered_job_is_answered_when_its_agent_has_given_it_back(plane: ControlPlane) -> None:
    async with plane.scheduler() as scheduler:
        await scheduler.register()
        job_id = await plane.submit()
        offer = await scheduler.offer((await scheduler.until(lambda seen: seen.runnable)).runnable[0])
        cancel = asyncio.ensure_future(plane.jobs.CancelJob(jobs.CancelJobRequest(job_id=job_id, reason="enough")))
        seen = await scheduler.until(lambda seen: seen.demands)
        assert [(demand.fence, demand.kill) for demand in seen.demands] == [(offer.fence, False)]
        assert not cancel.done()
        await scheduler.report(offer, RunState.RUN_STATE_REVOKED)
        await cancel
        job = await plane.job(job_id)
        assert (job.status, job.status_reason, job.is_cancelled) == (FAILED, "enough", True)


async def test_a_demand_that_was_not_met_is_in_the_next_snapshot(plane: ControlPlane) -> None:
    async with plane.scheduler() as scheduler:
        await scheduler.register()
        job_id = await plane.submit()
        offer = await scheduler.offer((await scheduler.until(lambda seen: seen.runnable)).runnable[0])
        await scheduler.report(offer, RunState.RUN_STATE_STARTED, started_ago_ms=0)
        await plane.jobs.TerminateJob(jobs.TerminateJobRequest(job_id=job_id, reason="stop"))
    call, seen = await snapshot(plane)
    assert [(demand.fence, demand.kill) for demand in seen.demands] == [(offer.fence, True)]
    call.cancel()


async def test_several_jobs_are_cancelled_in_one_call(plane: ControlPlane) -> None:
    ids = [await plane.submit(f"job-{number}") for number in range(3)]
    await plane.jobs.CancelJob(jobs.CancelJobRequest(job_id=f"{ids[0]}, {ids[1]}\n{ids[2]}", reason="enough"))
    for job_id in ids:
        assert (await plane.job(job_id)).status == FAILED


async def test_a_reason_that_is_too_long_is_refused(plane: ControlPlane) -> None:
    call = plane.jobs.CancelJob(jobs.CancelJobRequest(job_id="x", reason="r" * 1025))
    assert await refusal(call) == "INVALID_ARGUMENT: reason must not exceed 1024 characters"


async def test_a_hundred_jobs_can_be_described_at_once_however_large_they_are(plane: ControlPlane) -> None:
    await plane.register("large", environment=[{"name": "A", "value": "x" * 23_000}])
    overrides = {"environment": [{"name": "B", "value": "y" * 29_000}]}
    ids = [await plane.submit(jobDefinition="large", containerOverrides=overrides) for _ in range(100)]
    described = await plane.jobs.DescribeJobs(jobs.DescribeJobsRequest(jobs=ids))
    assert [job.job_id for job in described.jobs] == ids


# Watches


async def test_a_watch_shows_every_change_once_and_can_be_resumed(plane: ControlPlane) -> None:
    watch = plane.operations.WatchJobs(operations.WatchJobsRequest())
    start = (await following(watch)).revision
    ids = [await plane.submit(f"job-{number}") for number in range(3)]
    await plane.jobs.CancelJob(jobs.CancelJobRequest(job_id=ids[0], reason="enough"))
    expected = [(job_id, RUNNABLE) for job_id in ids] + [(ids[0], FAILED)]
    for after in (None, start):
        if after is not None:
            watch = plane.operations.WatchJobs(operations.WatchJobsRequest(after_revision=after))
        seen: list[tuple[str, int]] = []
        revisions = []
        while len(seen) < len(expected):
            message = await following(watch)
            revisions.append(message.revision)
            seen += [(change.job_id, change.status) for change in message.changes]
        assert seen == expected
        assert revisions == sorted(set(revisions))
        watch.cancel()


async def test_a_watch_of_one_job_begins_with_what_it_is(plane: ControlPlane) -> None:
    job_id, other = await plane.submit("job"), await plane.submit("other")
    watch = plane.operations.WatchJobs(operations.WatchJobsRequest(job_ids=[job_id]))
    first = await following(watch)
    assert [(change.job_id, change.status) for change in first.changes] == [(job_id, RUNNABLE)]
    for stopped in (other, job_id):
        await plane.jobs.CancelJob(jobs.CancelJobRequest(job_id=stopped, reason="enough"))
    second = await following(watch)
    assert [(change.job_id, change.status_reason) for change in second.changes] == [(job_id, "enough")]
    watch.cancel()


async def test_a_watch_reaches_back_over_a_restart(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as plane:
        await plane.make_queue()
        await plane.register()
        job_id = await plane.submit()
    async with control_plane(tmp_path) as plane:
        watch = plane.operations.WatchJobs(operations.WatchJobsRequest(after_revision=0))
        message = await following(watch)
        assert [change.job_id for change in message.changes] == [job_id]
        assert await plane.submit() > job_id
        message = await following(watch)
        assert len(message.changes) == 1
        watch.cancel()


async def test_a_watch_from_a_revision_that_the_store_never_reached_is_refused(plane: ControlPlane) -> None:
    watch = plane.operations.WatchJobs(operations.WatchJobsRequest(after_revision=1_000_000))
    with pytest.raises(grpc.aio.AioRpcError, match="is ahead of this job store") as refused:
        await following(watch)
    assert refused.value.code() is grpc.StatusCode.OUT_OF_RANGE


# Trouble


async def test_a_failed_commit_is_answered_as_unknown_and_the_store_serves_again(
    plane: ControlPlane, tmp_path: Path
) -> None:
    database = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    database.execute("CREATE TRIGGER full BEFORE INSERT ON specs BEGIN SELECT RAISE(FAIL, 'disk full'); END")
    assert (await refusal(plane.jobs.SubmitJob(a_submission()))).endswith("; whether this was done is not known")
    database.execute("DROP TRIGGER full")
    database.close()
    assert (await plane.job(await plane.submit_when_it_serves())).status == RUNNABLE
