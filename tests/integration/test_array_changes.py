"""Arrays on the watches: many children that move at once, told compactly or one by one."""

from pathlib import Path

from batchyard.api.jobs.v1.jobs_pb2 import JobStatus
from batchyard.api.jobs.v1.jobs_service_pb2 import CancelJobRequest
from batchyard.api.operations.v1.job_operations_service_pb2 import (
    WatchJobEventsRequest,
    WatchJobsRequest,
)
from support.control_plane import ControlPlane, control_plane

SIZE = 300


async def cancelled_array(plane: ControlPlane) -> str:
    """Submit an array and cancel it; return its id."""
    await plane.make_queue()
    await plane.register()
    job_id = await plane.submit(arrayProperties={"size": SIZE})
    await plane.jobs.CancelJob(CancelJobRequest(job_id=job_id, reason="enough"))
    return job_id


def name(status: JobStatus.ValueType) -> str:
    return JobStatus.Name(status).removeprefix("JOB_STATUS_")


async def test_a_watch_tells_of_children_that_move_at_once_in_ranges(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as plane:
        job_id = await cancelled_array(plane)
        told: list[tuple[str, str, list[tuple[int, int]]]] = []
        async for response in plane.operations.WatchJobs(WatchJobsRequest(after_revision=0)):
            for change in response.changes:
                spans = [(span.first, span.last) for span in change.children]
                told.append((change.job_id, name(change.status), spans))
            if told[-1][1:] == ("FAILED", []):
                break
    assert told == [
        (job_id, "PENDING", []),
        (job_id, "RUNNABLE", [(0, SIZE - 1)]),
        (job_id, "FAILED", [(0, SIZE - 1)]),
        (job_id, "FAILED", []),
    ]


async def test_a_watch_that_names_a_child_tells_of_that_alone(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as plane:
        child = f"{await cancelled_array(plane)}:7"
        told = []
        async for response in plane.operations.WatchJobs(WatchJobsRequest(job_ids=[child], after_revision=0)):
            told += [(change.job_id, name(change.status), change.status_reason) for change in response.changes]
            if told[-1][1] == "FAILED":
                break
        first = await anext(aiter(plane.operations.WatchJobs(WatchJobsRequest(job_ids=[child]))))
    assert told == [(child, "RUNNABLE", ""), (child, "FAILED", "enough")]
    assert [(change.job_id, name(change.status)) for change in first.changes] == [(child, "FAILED")]


async def test_every_child_has_its_own_events_which_can_be_read_on_from_any(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as plane:
        job_id = await cancelled_array(plane)
        request = WatchJobEventsRequest(until_caught_up=True, from_oldest=True)
        responses = [response async for response in plane.operations.WatchJobEvents(request)]
        events = [event for response in responses for event in response.events]
        cut = next(response for response in responses if response.HasField("index"))
        read = sum(len(response.events) for response in responses[: responses.index(cut) + 1])
        rest = WatchJobEventsRequest(until_caught_up=True, after_revision=cut.revision, after_index=cut.index)
        later = [event async for response in plane.operations.WatchJobEvents(rest) for event in response.events]
    ended = [event.detail for event in events if name(event.detail.status) == "FAILED"]
    assert [detail.job_id for detail in ended] == [*(f"{job_id}:{index}" for index in range(SIZE)), job_id]
    assert {(detail.status_reason, detail.is_cancelled) for detail in ended} == {("enough", True)}
    assert [detail.array_properties.index for detail in ended[:-1]] == list(range(SIZE))
    assert len({event.id for event in events}) == len(events) == 2 * SIZE + 2
    assert [event.id for event in later] == [event.id for event in events[read:]]
