"""SubmissionsService: what many clients submit at the same time, in one call of the gateway's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Final

import grpc.aio
from google.protobuf.message import DecodeError

from batchyard.api.jobs.v1.jobs_service_pb2 import DESCRIPTOR, SubmitJobRequest, SubmitJobResponse
from batchyard.api.scheduler.v1.submissions_service_pb2 import (
    SubmitJobCall,
    SubmitJobOutcome,
    SubmitTogetherRequest,
    SubmitTogetherResponse,
)
from batchyard.api.scheduler.v1.submissions_service_pb2_grpc import SubmissionsServiceServicer
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.names import Caller
from batchyard.jobstore.repeats import request_key
from batchyard.jobstore.submitter import Begun, Submitter
from batchyard.rpc.errors import status_of_failure
from batchyard.rpc.identity import caller_of, invocation_of
from batchyard.rpc.log_context import Request, begin_request
from batchyard.rpc.validation import check_required
from batchyard.storage.jobs import RequestKey

_PATH: Final = f"/{DESCRIPTOR.services_by_name['JobsService'].full_name}/SubmitJob"


class _Call:
    """A call of SubmitJob, with what a servicer is told of one."""

    def __init__(self, index: int, call: SubmitJobCall) -> None:
        self.index: Final = index
        self.course: Final = Request(context=self)
        self._call = call
        self._metadata = tuple(call.metadata.items())

    def invocation_metadata(self) -> Any:
        """Return the metadata of the call."""
        return self._metadata

    def begin(self, submitter: Submitter) -> Begun | None:
        """Begin to take the job in, if all that it names is at hand; raise BatchyardError if it cannot be."""
        return submitter.begin(*self._submission())

    async def submit(self, submitter: Submitter) -> SubmitJobResponse:
        """Take the job in and return the answer once it is on disk."""
        begin_request(self.course)
        return await submitter.submit(*self._submission())

    def _submission(self) -> tuple[Caller, SubmitJobRequest, RequestKey | None]:
        try:
            request = SubmitJobRequest.FromString(self._call.request)
        except DecodeError as error:
            raise InvalidRequestError(f"the request is no SubmitJobRequest: {error}") from error
        check_required(request)
        caller = caller_of(self)
        return caller, request, request_key(caller, invocation_of(self), "SubmitJob", request)


class SubmissionsServicer(SubmissionsServiceServicer):
    """Takes in together what comes together; a call for which something must be looked up holds up no other one."""

    def __init__(self, submitter: Submitter) -> None:
        self._submitter = submitter

    async def SubmitTogether(  # noqa: N802  # the name of the RPC
        self,
        request: SubmitTogetherRequest,
        context: grpc.aio.ServicerContext[SubmitTogetherRequest, SubmitTogetherResponse],
    ) -> AsyncIterator[SubmitTogetherResponse]:
        """Handle calls of SubmitJob, each for itself."""
        begun: list[tuple[_Call, Begun]] = []
        others: list[_Call] = []
        for index, each in enumerate(request.calls):
            call = _Call(index, each)
            begin_request(call.course)
            submission = self._begun(call)
            if submission is None:
                others.append(call)
            else:
                begun.append((call, submission))
        if not others:
            yield await self._finished(begun)
            return
        async with asyncio.TaskGroup() as tasks:
            alone = [tasks.create_task(_outcome(call, call.submit(self._submitter))) for call in others]
            yield await self._finished(begun)
            for outcome in asyncio.as_completed(alone):
                yield SubmitTogetherResponse(outcomes=[await outcome])

    async def _finished(self, begun: list[tuple[_Call, Begun]]) -> SubmitTogetherResponse:
        return SubmitTogetherResponse(
            outcomes=[await _outcome(call, self._submitter.finish(submission)) for call, submission in begun]
        )

    def _begun(self, call: _Call) -> Begun | None:
        try:
            return call.begin(self._submitter)
        except Exception:  # whatever it is, `submit` meets it again, and it is told then
            return None


async def _outcome(call: _Call, answer: Awaitable[SubmitJobResponse]) -> SubmitJobOutcome:
    try:
        return SubmitJobOutcome(call=call.index, response=(await answer).SerializeToString())
    except Exception as error:
        begin_request(call.course)
        return SubmitJobOutcome(call=call.index, status=status_of_failure(error, _PATH).SerializeToString())
