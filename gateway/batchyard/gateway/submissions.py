"""Submissions that come at the same time, by whichever protocol and from whomever, go to the job store in one call.

The rule is that of the store's group commit: one goes at once, and what comes until it is on disk goes together in the
next. So whoever submits one job after the other waits for nothing but its own, and a thousand clients make a few calls.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from copy import copy
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio
import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import status_pb2

from batchyard.api.jobs.v1 import jobs_service_pb2
from batchyard.api.scheduler.v1.submissions_service_pb2 import SubmitJobCall, SubmitJobOutcome, SubmitTogetherRequest
from batchyard.api.scheduler.v1.submissions_service_pb2_grpc import SubmissionsServiceStub
from batchyard.domain.values import value_class
from batchyard.gateway.upstreams import UnaryCall, path_of
from batchyard.rpc.channel import InProcessChannel
from batchyard.rpc.errors import failure_with

if TYPE_CHECKING:
    from batchyard.api.scheduler.v1.submissions_service_pb2 import SubmitTogetherResponse
    from batchyard.api.scheduler.v1.submissions_service_pb2_grpc import SubmissionsServiceAsyncStub

    _Responses: TypeAlias = grpc.aio.UnaryStreamCall[SubmitTogetherRequest, SubmitTogetherResponse]

SUBMIT_JOB: Final = jobs_service_pb2.DESCRIPTOR.services_by_name["JobsService"].methods_by_name["SubmitJob"]

CALLS_MAX: Final = 500
BYTES_MAX: Final = 4 * 1024 * 1024
"""How many calls go together, and how many bytes of theirs, beside one that is larger."""


@value_class(frozen=True, slots=True)
class _Waiting:
    """A call that has no answer yet."""

    call: SubmitJobCall
    answer: asyncio.Future[bytes]
    deadline: asyncio.TimerHandle

    def settle(self, outcome: SubmitJobOutcome) -> None:
        """Give the caller the answer, or the failure, of its call."""
        if outcome.HasField("status"):
            self.fail(failure_with(status_pb2.Status.FromString(outcome.status)))
            return
        self.deadline.cancel()
        if not self.answer.done():
            self.answer.set_result(outcome.response)

    def fail(self, error: grpc.aio.AioRpcError) -> None:
        """Fail the call, unless it has its answer."""
        self.deadline.cancel()
        if not self.answer.done():
            self.answer.set_exception(error)


class _Together:
    """Calls that have gone to the job store in one."""

    def __init__(self, calls: Sequence[_Waiting], responses: "_Responses") -> None:
        self._calls = calls
        self._responses = responses

    async def hear(self) -> bool:
        """Take in the next response; return False at the end, when each call has its answer or has failed."""
        try:
            response: Any = await self._responses.read()
        except grpc.aio.AioRpcError as error:
            return self._end(error)
        if response is grpc.aio.EOF:
            return self._end(_failure(grpc.StatusCode.INTERNAL, "the job store does not say what has become of it."))
        for outcome in response.outcomes:
            self._calls[outcome.call].settle(outcome)
        return True

    async def hear_all(self) -> None:
        """Take in all that is left."""
        while await self.hear():
            pass

    def _end(self, error: grpc.aio.AioRpcError) -> bool:
        for each in self._calls:
            each.fail(copy(error))
        return False


class Submissions:
    """Calls SubmitJob as the stub of one method does, with messages as bytes."""

    def __init__(self, jobs: grpc.aio.Channel, *, deadline_s: float) -> None:
        """No call takes longer than `deadline_s`."""
        self._stub: SubmissionsServiceAsyncStub = SubmissionsServiceStub(jobs)
        self._deadline_s = deadline_s
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()

    def __call__(
        self, request: bytes, /, *, timeout: float | None, metadata: tuple[tuple[str, str], ...]
    ) -> Awaitable[bytes]:
        """Submit; the answer comes when it is on disk. Fails with AioRpcError, as a call of the method does."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        deadline = loop.call_later(self._deadline_s if timeout is None else timeout, _expire, answer)
        self._waiting.append(_Waiting(SubmitJobCall(metadata=dict(metadata), request=request), answer, deadline))
        self._wake.set()
        return answer

    async def run(self) -> None:
        """Pass on what is submitted, until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                await self._wake.wait()
                calls = self._next()
                if not calls:
                    continue
                request = SubmitTogetherRequest(calls=[each.call for each in calls])
                together = _Together(calls, self._stub.SubmitTogether(request, timeout=self._deadline_s))
                if await together.hear():
                    tasks.start_soon(together.hear_all)

    def _next(self) -> list[_Waiting]:
        # For whom nobody waits any more, by its deadline or because the client has gone, nothing is submitted.
        waiting = [each for each in self._waiting if not each.answer.done()]
        count = size = 0
        for each in waiting:
            size += len(each.call.request)
            if count and (count == CALLS_MAX or size > BYTES_MAX):
                break
            count += 1
        self._waiting = waiting[count:]
        if not self._waiting:
            self._wake.clear()
        return waiting[:count]


@asynccontextmanager
async def open_submissions(jobs: grpc.aio.Channel, *, deadline_s: float) -> AsyncIterator[UnaryCall]:
    """Yield what calls SubmitJob, for the length of the context; that is to last longer than the calls.

    Calls within the process go one by one: they cost less than being gathered, and the store sees at once that there
    are more.
    """
    if isinstance(jobs, InProcessChannel):
        yield jobs.unary_unary(path_of(SUBMIT_JOB))
        return
    submissions = Submissions(jobs, deadline_s=deadline_s)
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(submissions.run)
        try:
            yield submissions
        except Exception as error:
            failure = error  # to be raised as it is, and not as one of a group
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


def call_of(method: MethodDescriptor, channel: grpc.aio.Channel, submit: UnaryCall) -> UnaryCall:
    """Return what calls a method with one response: `submit` if that is SubmitJob."""
    return submit if method.full_name == SUBMIT_JOB.full_name else channel.unary_unary(path_of(method))


def _expire(answer: asyncio.Future[bytes]) -> None:
    if not answer.done():
        answer.set_exception(_failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))


def _failure(code: grpc.StatusCode, message: str) -> grpc.aio.AioRpcError:
    return failure_with(status_pb2.Status(code=code.value[0], message=message))
