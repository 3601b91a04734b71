"""AWS's events of jobs, watched: what is in them, in which order, and from where on."""

from pathlib import Path
from typing import Any

import anyio
import grpc.aio
import pytest

from batchyard.api.agent.v1.run_pb2 import RunEnd, RunState
from batchyard.api.jobs.v1.jobs_pb2 import JobStatus
from batchyard.api.jobs.v1.jobs_service_pb2 import CancelJobRequest
from batchyard.api.operations.v1.job_operations_service_pb2 import (
    JobChange,
    JobStateChangeEvent,
    WatchJobEventsRequest,
    WatchJobEventsResponse,
    WatchJobsRequest,
)
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.jobstore import blocked, events
from support.contexts import held_open
from support.control_plane import ControlPlane, Scheduler, control_plane

NAMESPACE = "123456789012"


async def run_job(plane: ControlPlane, scheduler: Scheduler, *exit_codes: int, **members: Any) -> str:
    """Submit a job and let its attempts end with these codes; return its id."""
    job_id = await plane.submit(retryStrategy={"attempts": len(exit_codes)}, **members)
    for exit_code in exit_codes:
        (queued,) = (await scheduler.until(lambda seen: seen.runnable)).runnable
        offer = await scheduler.offer(queued)
        await scheduler.report(offer, RunState.RUN_STATE_CLAIMED)
        await scheduler.report(offer, RunState.RUN_STATE_STARTED, started_ago_ms=0)
        done = {"started_ago_ms": 0, "ended_ago_ms": 0, "exit_code": exit_code, "end": RunEnd.RUN_END_EXITED}
        answer = await scheduler.report(offer, RunState.RUN_STATE_DONE, **done)
        scheduler.seen.runnable.extend(answer.runnable)
    return job_id


async def watch(plane: ControlPlane, **members: Any) -> list[WatchJobEventsResponse]:
    """Return all that there is."""
    request = WatchJobEventsRequest(until_caught_up=True, **members)
    return [response async for response in plane.operations.WatchJobEvents(request)]


async def all_events(plane: ControlPlane, **members: Any) -> list[JobStateChangeEvent]:
    responses = await watch(plane, **({"from_oldest": True} | members))
    return [event for response in responses for event in response.events]


def states(found: list[JobStateChangeEvent]) -> list[str]:
    return [JobStatus.Name(event.detail.status).removeprefix("JOB_STATUS_") for event in found]


async def test_every_change_is_an_event_with_the_job_as_it_was_then(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as plane:
        await plane.make_queue()
        definition = await plane.register()
        async with plane.scheduler() as scheduler:
            await scheduler.register()
            job_id = await run_job(plane, scheduler, 3, 0, tags={"team": "a"})
        found = await all_events(plane)
        described = await plane.job(job_id)
    assert states(found) == ["RUNNABLE", *("STARTING", "RUNNING", "RUNNABLE"), *("STARTING", "RUNNING", "SUCCEEDED")]
    assert len({event.id for event in found}) == len(found)
    arn = f"arn:aws:batch:us-east-1:{NAMESPACE}:job/{job_id}"
    for event in found:
        assert (event.version, event.detail_type, event.source) == ("0", "Batch Job State Change", "aws.batch")
        assert (event.account, event.region, list(event.resources)) == (NAMESPACE, "us-east-1", [arn])
        assert event.time.endswith("Z")
        assert (event.detail.job_arn, event.detail.job_definition) == (arn, definition)
        assert dict(event.detail.tags) == {"team": "a"}
    assert [len(event.detail.attempts) for event in found] == [0, 0, 0, 1, 1, 1, 2]
    assert [event.detail.HasField("started_at") for event in found] == [False, False, *[True] * 5]
    assert [event.detail.container.HasField("log_stream_name") for event in found] == [
        *(False, False, True, True),
        *(False, True, True),
    ]
    codes = [
        event.detail.container.exit_code if event.detail.container.HasField("exit_code") else None for event in found
    ]
    assert codes == [None, None, None, 3, None, None, 0]
    assert found[-1].detail == described


async def test_a_watch_goes_on_from_any_place_without_gap_or_repetition_also_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One event a message, so that there are places within commits.
    monkeypatch.setattr(events, "MESSAGE_BYTES", 1)
    async with control_plane(tmp_path) as plane:
        await plane.make_queue()
        await plane.register()
        first = await plane.submit("first")
        await plane.submit("second", dependsOn=[{"jobId": first}])
        # Its end fails the second one too, in the same commit.
        await plane.jobs.CancelJob(CancelJobRequest(job_id=first, reason="enough"))
        before = await watch(plane, from_oldest=True)
    async with control_plane(tmp_path) as plane:
        whole = await all_events(plane)
        assert states(whole) == ["RUNNABLE", "PENDING", "FAILED", "FAILED"]
        assert [event for response in before for event in response.events] == whole
        assert any(response.HasField("index") for response in before)
        seen = 0
        for response in before:
            place: dict[str, Any] = {"after_revision": response.revision}
            if response.HasField("index"):
                place["after_index"] = response.index
            seen += len(response.events)
            assert await all_events(plane, from_oldest=False, **place) == whole[seen:]


async def test_a_watch_without_a_place_begins_now_and_follows_what_comes(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as plane:
        await plane.make_queue()
        await plane.register()
        await plane.submit("before")
        call = plane.operations.WatchJobEvents(WatchJobEventsRequest())
        responses = aiter(call)
        begin = await anext(responses)
        assert (list(begin.events), begin.HasField("revision")) == ([], True)
        job_id = await plane.submit("after")
        with anyio.fail_after(60):
            response = await anext(responses)
        assert [event.detail.job_id for event in response.events] == [job_id]
        call.cancel()
        assert states(await all_events(plane, after_revision=begin.revision)) == ["RUNNABLE"]


async def test_the_server_sends_what_is_asked_for_alone(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as plane:
        await plane.make_queue()
        await plane.make_queue("other")
        await plane.register()
        first = await plane.submit("first")
        second = await plane.submit("second", jobQueue="other")
        await plane.jobs.CancelJob(CancelJobRequest(job_id=first, reason="enough"))

        async def seen(**members: Any) -> list[tuple[str, str]]:
            found = await all_events(plane, **members)
            return list(zip([event.detail.job_id for event in found], states(found), strict=True))

        assert await seen(jobs=[first]) == [(first, "RUNNABLE"), (first, "FAILED")]
        assert await seen(jobs=[f"arn:aws:batch:us-east-1:{NAMESPACE}:job/{second}"]) == [(second, "RUNNABLE")]
        assert await seen(job_queues=["other"]) == [(second, "RUNNABLE")]
        assert await seen(statuses=[JobStatus.JOB_STATUS_FAILED]) == [(first, "FAILED")]
        assert await seen(jobs=[second], statuses=[JobStatus.JOB_STATUS_FAILED]) == []
        assert await seen(jobs=["arn:aws:batch:us-east-1:999999999999:job/x"]) == []


async def test_each_child_of_an_array_has_events_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MESSAGE_BYTES", 1)
    async with control_plane(tmp_path) as plane:
        await plane.make_queue()
        await plane.register()
        array = await plane.submit("array", arrayProperties={"size": 3})
        other = await plane.submit("other")
        await plane.jobs.CancelJob(CancelJobRequest(job_id=array, reason="enough"))
        found = await all_events(plane)
        whole = list(zip([event.detail.job_id for event in found], states(found), strict=True))
        children = [f"{array}:{index}" for index in range(3)]
        assert sorted(whole) == sorted(
            [(array, "PENDING"), (array, "FAILED"), (other, "RUNNABLE")]
            + [(child, state) for child in children for state in ("RUNNABLE", "FAILED")]
        )
        assert found[-1].resources == [f"arn:aws:batch:us-east-1:{NAMESPACE}:job/{array}"]
        # Children as they were after the commit of the event, not as they are by now.
        summaries = [
            {state: count for state, count in event.detail.array_properties.status_summary.items() if count}
            for event in found
            if event.detail.job_id == array
        ]
        assert summaries == [{"RUNNABLE": 3}, {"FAILED": 3}]
        of_child = await all_events(plane, jobs=[children[1]])
        assert [event.detail.array_properties.index for event in of_child] == [1, 1]
        assert [(event.detail.job_id) for event in await all_events(plane, jobs=[array])] == [
            job_id for job_id, _ in whole if job_id != other
        ]
        seen = 0
        for response in await watch(plane, from_oldest=True):
            seen += len(response.events)
            place: dict[str, Any] = {"after_revision": response.revision}
            if response.HasField("index"):
                place["after_index"] = response.index
            assert await all_events(plane, from_oldest=False, **place) == found[seen:]


async def test_the_first_job_of_a_queue_that_waits_for_people_is_an_event_once_for_each_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocked, "CHECK_EVERY_S", 0.02)
    async with held_open(control_plane(tmp_path)) as plane, plane.scheduler() as scheduler:
        await plane.make_queue()
        await plane.register()
        large = await plane.submit("large", containerOverrides={"vcpus": 100})
        small = await plane.submit("small")
        queued = (await scheduler.until(lambda seen: len(seen.runnable) == 2)).runnable

        async def tell(reason: str, waiting: wire.QueuedJob) -> None:
            wait = wire.WaitReason(
                namespace=NAMESPACE,
                job_queue="queue",
                vcpus_milli=waiting.vcpus_milli,
                memory_mib=waiting.memory_mib,
                reason=reason,
            )
            await scheduler.send(wait_reasons=[wait])

        first = "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - too much."
        second = "ACTION_REQUIRED - CE(s) associated with the job queue are invalid."
        with anyio.fail_after(60):
            responses = aiter(plane.operations.WatchJobEvents(WatchJobEventsRequest()))
            await anext(responses)
            # What waits behind the first one, or for room alone, blocks nothing.
            await tell(second, queued[1])
            await tell("Waiting for room.", queued[0])
            await tell(first, queued[0])
            found = list((await anext(responses)).events)
            await tell(f"{first} And more words.", queued[0])
            await tell(second, queued[0])
            found += (await anext(responses)).events
            await plane.jobs.CancelJob(CancelJobRequest(job_id=large, reason="enough"))
            while len(found) < 4:
                found += (await anext(responses)).events
        arns = [f"arn:aws:batch:us-east-1:{NAMESPACE}:job/{job_id}" for job_id in (large, large, large, small)]
        queue = f"arn:aws:batch:us-east-1:{NAMESPACE}:job-queue/queue"
        kept = await all_events(plane)
        assert kept[2:] == found
        assert [(event.detail_type, list(event.resources), event.detail.status_reason) for event in found] == [
            ("Batch Job Queue Blocked", [arns[0], queue], first),
            ("Batch Job Queue Blocked", [arns[1], queue], second),
            ("Batch Job State Change", [arns[2]], "enough"),
            ("Batch Job Queue Blocked", [arns[3], queue], second),
        ]
        assert states(found) == ["RUNNABLE", "RUNNABLE", "FAILED", "RUNNABLE"]
        assert len({event.id for event in kept}) == len(kept)
        # It is no change of state: what asks for those does not see it.
        assert states(await all_events(plane, statuses=[JobStatus.JOB_STATUS_RUNNABLE])) == ["RUNNABLE", "RUNNABLE"]
        watch_jobs = aiter(plane.operations.WatchJobs(WatchJobsRequest(after_revision=0)))
        changes: list[JobChange] = []
        with anyio.fail_after(60):
            while len(changes) < 3:
                changes += (await anext(watch_jobs)).changes
        assert [change.job_id for change in changes] == [large, small, large]


async def test_a_reader_that_wants_nothing_of_what_comes_is_told_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SILENT_REVISIONS_MAX", 3)
    async with control_plane(tmp_path) as plane:
        await plane.make_queue()
        await plane.register()
        responses = aiter(plane.operations.WatchJobEvents(WatchJobEventsRequest(job_queues=["other"])))
        begin = await anext(responses)
        for _ in range(4):
            await plane.submit()
        with anyio.fail_after(60):
            response = await anext(responses)
        assert response.revision >= begin.revision + 3
        assert not response.events


async def test_large_events_come_in_messages_of_bounded_size(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as plane:
        await plane.make_queue()
        await plane.register()
        text = "x" * 25_000
        for _ in range(120):
            await plane.submit(containerOverrides={"command": [text]})
        responses = await watch(plane, from_oldest=True)
    assert sum(len(response.events) for response in responses) == 120
    assert max(response.ByteSize() for response in responses) < 2 * events.MESSAGE_BYTES
    assert len(responses) > 3


async def test_a_slow_reader_holds_up_nobody_and_little_is_made_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    make = events.event_of

    def counted(*arguments: Any) -> JobStateChangeEvent:
        nonlocal made
        made += 1
        return make(*arguments)

    monkeypatch.setattr(events, "event_of", counted)
    monkeypatch.setattr(events, "EVENTS_A_READ", 5)
    async with control_plane(tmp_path) as plane:
        await plane.make_queue()
        await plane.register()
        responses = aiter(plane.operations.WatchJobEvents(WatchJobEventsRequest()))
        await anext(responses)
        job_ids = [await plane.submit() for _ in range(400)]
        assert made < 200
        seen: list[str] = []
        with anyio.fail_after(60):
            while len(seen) < len(job_ids):
                seen += [event.detail.job_id for event in (await anext(responses)).events]
        assert seen == job_ids


async def test_events_that_are_not_kept_any_more_are_refused_and_the_rest_is_there(tmp_path: Path) -> None:
    async with control_plane(tmp_path, retention_s=0.5) as plane:
        await plane.make_queue()
        await plane.register()
        old = await plane.submit("old")
        await plane.jobs.CancelJob(CancelJobRequest(job_id=old, reason="enough"))
        await plane.until_gone(old)
        with pytest.raises(grpc.aio.AioRpcError, match="no longer kept") as caught:
            await watch(plane, after_revision=0)
        assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
        assert await all_events(plane) == []


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"after_index": 1}, "after_index needs after_revision"),
        ({"statuses": [0]}, "a status must not be unspecified"),
        ({"jobs": [""]}, "an empty name in jobs"),
        ({"after_revision": 1 << 40}, "is ahead of this job store"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(tmp_path: Path, members: Any, text: str) -> None:
    async with control_plane(tmp_path) as plane:
        with pytest.raises(grpc.aio.AioRpcError, match=text):
            await watch(plane, **members)
