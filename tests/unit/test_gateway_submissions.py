"""Submissions that come while others are under way go together; what becomes of each is told to its caller alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import grpc
import grpc.aio
import pytest

from batchyard.api.scheduler.v1.submissions_service_pb2 import (
    SubmitJobOutcome,
    SubmitTogetherRequest,
    SubmitTogetherResponse,
)
from batchyard.api.scheduler.v1.submissions_service_pb2_grpc import (
    SubmissionsServiceServicer,
    add_SubmissionsServiceServicer_to_server,
)
from batchyard.domain.errors import NotFoundError
from batchyard.gateway import submissions
from batchyard.gateway.aws_errors import STATUS_DETAILS_KEY
from batchyard.gateway.submissions import Submissions, open_submissions
from batchyard.rpc.channel import InProcessChannel, InProcessServer
from batchyard.rpc.errors import error_from, status_of
from support.contexts import held_open, stopped

PATIENCE_S = 30.0


class Together:
    """A call that the job store got."""

    def __init__(self, request: SubmitTogetherRequest) -> None:
        self.requests = [call.request.decode() for call in request.calls]
        self.metadata = [dict(call.metadata) for call in request.calls]
        self.said: asyncio.Queue[SubmitTogetherResponse | grpc.StatusCode | None] = asyncio.Queue()

    def answer(self, *calls: int) -> None:
        """Tell the answers of calls, by index; of none as well."""
        outcomes = [SubmitJobOutcome(call=call, response=f"answer to {self.requests[call]}".encode()) for call in calls]
        self.said.put_nowait(SubmitTogetherResponse(outcomes=outcomes))

    def refuse(self, call: int, error: NotFoundError) -> None:
        """Tell that a call has failed."""
        outcome = SubmitJobOutcome(call=call, status=status_of(error).SerializeToString())
        self.said.put_nowait(SubmitTogetherResponse(outcomes=[outcome]))

    def end(self, code: grpc.StatusCode | None = None) -> None:
        """Say no more; with a code, fail."""
        self.said.put_nowait(code)


class JobStore(SubmissionsServiceServicer):
    """Hands out the calls that it gets."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[Together] = asyncio.Queue()

    async def SubmitTogether(  # noqa: N802  # the name of the RPC
        self, request: SubmitTogetherRequest, context: Any
    ) -> AsyncIterator[SubmitTogetherResponse]:
        together = Together(request)
        self.received.put_nowait(together)
        while isinstance(said := await together.said.get(), SubmitTogetherResponse):
            yield said
        if said is not None:
            await context.abort(said, "it has failed")

    async def next(self) -> Together:
        """Return the next call."""
        return await asyncio.wait_for(self.received.get(), PATIENCE_S)


@pytest.fixture
def store() -> JobStore:
    return JobStore()


@pytest.fixture
async def submit(store: JobStore) -> AsyncIterator[Submissions]:
    server = InProcessServer()
    add_SubmissionsServiceServicer_to_server(store, server)
    await server.start()
    async with held_open(running(Submissions(InProcessChannel(server), deadline_s=PATIENCE_S))) as passing_on:
        yield passing_on
    await stopped(server)


@asynccontextmanager
async def running(passing_on: Submissions) -> AsyncIterator[Submissions]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(passing_on.run)
        yield passing_on
        tasks.cancel_scope.cancel()


def begin(submit: Submissions, *requests: str, timeout_s: float | None = None) -> list[asyncio.Future[bytes]]:
    return [
        asyncio.ensure_future(submit(request.encode(), timeout=timeout_s, metadata=(("for", request),)))
        for request in requests
    ]


async def failure_of(answer: asyncio.Future[bytes]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await asyncio.wait_for(answer, PATIENCE_S)
    return failure.value


async def test_one_goes_at_once_and_what_comes_meanwhile_goes_together(store: JobStore, submit: Submissions) -> None:
    (first,) = begin(submit, "first")
    alone = await store.next()
    assert alone.requests == ["first"]
    others = begin(submit, "second", "third")
    await anyio.wait_all_tasks_blocked()
    assert store.received.empty()
    alone.answer(0)
    assert await first == b"answer to first"
    together = await store.next()
    assert together.requests == ["second", "third"]
    assert together.metadata == [{"for": "second"}, {"for": "third"}]
    together.answer(1, 0)
    assert await asyncio.gather(*others) == [b"answer to second", b"answer to third"]


async def test_what_takes_longer_holds_up_nothing(store: JobStore, submit: Submissions) -> None:
    (slow,) = begin(submit, "slow")
    looked_up = await store.next()
    looked_up.answer()
    for name in ("one", "another"):
        (swift,) = begin(submit, name)
        (await store.next()).answer(0)
        assert await swift == f"answer to {name}".encode()
    assert not slow.done()
    looked_up.answer(0)
    assert await slow == b"answer to slow"


async def test_a_refused_one_fails_alone_as_a_call_of_its_own_would(store: JobStore, submit: Submissions) -> None:
    begun = begin(submit, "opener")
    opener = await store.next()
    begun += begin(submit, "refused", "taken")
    opener.answer(0)
    together = await store.next()
    together.refuse(0, NotFoundError("JobQueue q not found.", field="jobQueue"))
    together.answer(1)
    failure = await failure_of(begun[1])
    assert (failure.code(), failure.details()) == (grpc.StatusCode.NOT_FOUND, "JobQueue q not found.")
    assert [key for key, _ in failure.trailing_metadata()] == [STATUS_DETAILS_KEY]
    error = error_from(failure)
    assert (type(error), error.field) == (NotFoundError, "jobQueue")
    assert await begun[2] == b"answer to taken"


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, None])
async def test_a_call_that_breaks_fails_those_of_whom_nothing_was_heard(
    store: JobStore, submit: Submissions, code: grpc.StatusCode | None
) -> None:
    begun = begin(submit, "opener")
    opener = await store.next()
    begun += begin(submit, "heard of", "not", "nor this")
    opener.answer(0)
    broken = await store.next()
    broken.answer(0)
    broken.end(code)
    assert await begun[1] == b"answer to heard of"
    failures = [await failure_of(each) for each in begun[2:]]
    assert {failure.code() for failure in failures} == {code or grpc.StatusCode.INTERNAL}
    assert failures[0] is not failures[1]
    (after,) = begin(submit, "after")
    (await store.next()).answer(0)
    assert await after == b"answer to after"


async def test_a_call_that_breaks_at_once_gives_way_to_the_next(store: JobStore, submit: Submissions) -> None:
    (first,) = begin(submit, "first")
    broken = await store.next()
    (second,) = begin(submit, "second")
    broken.end(grpc.StatusCode.UNAVAILABLE)
    assert (await failure_of(first)).code() is grpc.StatusCode.UNAVAILABLE
    (await store.next()).answer(0)
    assert await second == b"answer to second"


async def test_for_whom_nobody_waits_any_more_nothing_is_submitted(store: JobStore, submit: Submissions) -> None:
    begin(submit, "first")
    opener = await store.next()
    (late,) = begin(submit, "late", timeout_s=0.001)
    gone, patient = begin(submit, "gone", "patient")
    gone.cancel()
    assert (await failure_of(late)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    opener.answer(0)
    assert (await store.next()).requests == ["patient"]
    patient.cancel()


async def test_an_answer_that_comes_too_late_is_dropped(store: JobStore, submit: Submissions) -> None:
    (late,) = begin(submit, "late", timeout_s=0.001)
    together = await store.next()
    assert (await failure_of(late)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    together.answer(0)
    (after,) = begin(submit, "after")
    (await store.next()).answer(0)
    assert await after == b"answer to after"


async def test_no_call_gets_too_large(store: JobStore, submit: Submissions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "CALLS_MAX", 3)
    monkeypatch.setattr(submissions, "BYTES_MAX", 10)
    begun = begin(submit, "first")
    parts = [await store.next()]
    begun += begin(submit, "1", "2", "3", "4", "a long one that goes alone", "6", "seven was", "8")
    for _ in range(5):
        parts[-1].answer(*range(len(parts[-1].requests)))
        parts.append(await store.next())
    parts[-1].answer(0)
    assert [part.requests for part in parts[1:]] == [
        ["1", "2", "3"],
        ["4"],
        ["a long one that goes alone"],
        ["6", "seven was"],
        ["8"],
    ]
    assert await asyncio.gather(*begun)


async def test_within_a_process_each_goes_alone(store: JobStore) -> None:
    server = InProcessServer()
    async with open_submissions(InProcessChannel(server), deadline_s=PATIENCE_S) as submit:
        assert not isinstance(submit, Submissions)
    async with (
        grpc.aio.insecure_channel("127.0.0.1:1") as channel,
        open_submissions(channel, deadline_s=PATIENCE_S) as submit,
    ):
        assert isinstance(submit, Submissions)
