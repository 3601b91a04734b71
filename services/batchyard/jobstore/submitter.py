"""Taking jobs in: one, or many that were sent in one call."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeVar

from batchyard.api.jobs.v1.jobs_service_pb2 import SubmitJobRequest, SubmitJobResponse
from batchyard.api.registry.v1.job_definition_pb2 import JobDefinition
from batchyard.domain.compat import Compat
from batchyard.domain.errors import BatchyardError, InvalidRequestError, UnavailableError
from batchyard.domain.faults import faults_of
from batchyard.domain.jobs import JobId, JobKey
from batchyard.domain.names import Caller, ResourceKind, name_in_reference
from batchyard.domain.values import value_class
from batchyard.jobstore.definitions import Definitions
from batchyard.jobstore.frames import Frames, Shape
from batchyard.jobstore.group import Group, Submission
from batchyard.jobstore.metrics import count_submission
from batchyard.jobstore.reading import Reading
from batchyard.jobstore.repeats import submit_once
from batchyard.jobstore.resources import ResourceCopies
from batchyard.jobstore.trace import trace_submission
from batchyard.jobstore.writer import Writer
from batchyard.rpc.validation import check_required
from batchyard.storage.job_reader import JobReader
from batchyard.storage.jobs import QueueCopy, RequestKey

PART: Final = 250
"""So many jobs of a call are prepared before the writer gets them, and others their turn."""

T = TypeVar("T")


@value_class(frozen=True, slots=True)
class _Prepared:
    """A job that is ready to be taken in, and the answer that it gets then."""

    submission: Submission
    answer: SubmitJobResponse
    key: RequestKey | None

    def take_in(self, group: Group) -> bytes | None:
        """Take the job in; return the answer of before if this is the repetition of a request, else None."""
        if self.key is None:
            group.submit(self.submission)
            return None
        answer = self.answer.SerializeToString()
        given = submit_once(group, self.submission, self.key, answer)
        return given if given != answer else None

    def answered(self, given: bytes | None) -> SubmitJobResponse:
        """Return the answer, once what `take_in` returned is on disk."""
        if given is not None:
            return SubmitJobResponse.FromString(given)
        submission = self.submission
        trace_submission(submission.job)
        count_submission(submission.job, submission.array_size or 1)
        return self.answer


class _Named(NamedTuple):
    """What a request names."""

    queue: QueueCopy
    definition: JobDefinition
    depends_on: Sequence[JobKey | None]
    faults: str | None


class Begun(NamedTuple):
    """A job that the writer has been given."""

    prepared: _Prepared
    taken_in: asyncio.Future[bytes | None]


class _Names:
    """What the names in one call stand for, each found once: what is found in its course is new enough for it."""

    def __init__(self, caller: Caller, copies: ResourceCopies, definitions: Definitions) -> None:
        self.caller = caller
        self._copies = copies
        self._definitions = definitions
        self._queues: dict[str, QueueCopy | BatchyardError] = {}
        self._found: dict[str, JobDefinition | BatchyardError] = {}

    async def queue(self, reference: str) -> QueueCopy:
        """Return the queue of a name or ARN; raise NotFoundError if there is none."""
        return await self._once(self._queues, reference, self._copies.queue)

    async def definition(self, reference: str) -> JobDefinition:
        """Return the definition of a reference; raise NotFoundError if there is none that is ACTIVE."""
        return await self._once(self._found, reference, self._definitions.find)

    async def _once(
        self, known: dict[str, T | BatchyardError], reference: str, find: Callable[[Caller, str], Awaitable[T]]
    ) -> T:
        found = known.get(reference)
        if found is None:
            try:
                found = await find(self.caller, reference)
            except UnavailableError:
                raise
            except BatchyardError as error:
                found = error
            known[reference] = found
        if isinstance(found, BatchyardError):
            raise found
        return found


class Submitter:
    """Takes jobs in: finds what they name, gives them their ids, and has them written down."""

    def __init__(
        self,
        *,
        writer: Writer,
        copies: ResourceCopies,
        definitions: Definitions,
        reading: Reading,
        next_job_id: Callable[[], JobId],
        compat: Compat,
        faults: bool = False,
    ) -> None:
        """With `faults`, jobs may ask for attempts that fail; see `domain.faults`."""
        self._writer = writer
        self._copies = copies
        self._definitions = definitions
        self._reading = reading
        self._next_job_id = next_job_id
        self._frames = Frames(compat)
        self._faults = faults

    async def submit(
        self, caller: Caller, request: SubmitJobRequest, key: RequestKey | None = None
    ) -> SubmitJobResponse:
        """Take a job in and return the answer once it is on disk.

        A request with a key that was answered before gets the same answer again, and has no other effect, whatever has
        become of what it names.
        """
        return await self._or_as_before(self._submitted(caller, request, key), key)

    async def _submitted(self, caller: Caller, request: SubmitJobRequest, key: RequestKey | None) -> SubmitJobResponse:
        prepared = await self._prepare(_Names(caller, self._copies, self._definitions), request, key)
        return prepared.answered(await self._writer.do(prepared.take_in, *prepared.submission.depends_on))

    def begin(self, caller: Caller, request: SubmitJobRequest, key: RequestKey | None) -> Begun | None:
        """Have a job taken in, if all that it names is at hand; otherwise return None, and nothing is done.

        Raises BatchyardError for some of the requests that are refused; `submit` knows if they were answered before.
        """
        if request.depends_on:
            return None
        shape, faults = self._checked(caller, request)
        queue = self._copies.queue_at_hand(caller, request.job_queue)
        definition = self._definitions.at_hand(caller, request.job_definition)
        if queue is None or definition is None:
            return None
        prepared = self._put_together(shape, request, key, _Named(queue, definition, (), faults))
        return Begun(prepared, self._writer.begin(prepared.take_in))

    async def finish(self, begun: Begun) -> SubmitJobResponse:
        """Return the answer of a submission that was begun, as `submit` does."""
        return await self._or_as_before(_taken_in(begun), begun.prepared.key)

    async def _or_as_before(self, answer: Awaitable[SubmitJobResponse], key: RequestKey | None) -> SubmitJobResponse:
        """Return an answer; if the request is refused, what it was answered before, if it was."""
        try:
            return await answer
        except UnavailableError:
            raise
        except BatchyardError:
            earlier = await self._answered_before(key)
            if earlier is None:
                raise
            return earlier

    async def submit_each(
        self, caller: Caller, requests: Sequence[SubmitJobRequest], keys: Sequence[RequestKey | None]
    ) -> list[SubmitJobResponse | BatchyardError]:
        """Take jobs in, in their order and each for itself; return for each its answer or why it was refused.

        Required members are checked here. Raises UnavailableError if it is not known of all what has become of them.
        """
        names = _Names(caller, self._copies, self._definitions)
        parts: list[asyncio.Task[list[SubmitJobResponse | BatchyardError]]] = []
        async with asyncio.TaskGroup() as tasks:
            for begin in range(0, len(requests), PART):
                part = slice(begin, begin + PART)
                prepared = [
                    await self._prepare_or_refuse(names, request, key)
                    for request, key in zip(requests[part], keys[part], strict=True)
                ]
                parts.append(tasks.create_task(self._take_in_each(prepared, keys[part])))
                await asyncio.sleep(0)
        return [outcome for part in parts for outcome in part.result()]

    async def _take_in_each(
        self, prepared: Sequence[_Prepared | BatchyardError], keys: Sequence[RequestKey | None]
    ) -> list[SubmitJobResponse | BatchyardError]:
        ready = [each for each in prepared if isinstance(each, _Prepared)]
        depends_on = [key for each in ready for key in each.submission.depends_on]
        given = iter(await self._writer.do_each([each.take_in for each in ready], *depends_on))
        outcomes: list[SubmitJobResponse | BatchyardError] = []
        for each, key in zip(prepared, keys, strict=True):
            taken_in = next(given) if isinstance(each, _Prepared) else each
            if isinstance(taken_in, BatchyardError):
                earlier = await self._answered_before(key)
                outcomes.append(taken_in if earlier is None else earlier)
            elif isinstance(each, _Prepared):
                outcomes.append(each.answered(taken_in))
        return outcomes

    async def _answered_before(self, key: RequestKey | None) -> SubmitJobResponse | None:
        """Return what the same request was answered before, if it was."""
        if key is None or (earlier := await self._reading.ask(lambda reader: reader.answer(key))) is None:
            return None
        return SubmitJobResponse.FromString(earlier)

    async def _prepare_or_refuse(
        self, names: _Names, request: SubmitJobRequest, key: RequestKey | None
    ) -> _Prepared | BatchyardError:
        try:
            check_required(request)
            return await self._prepare(names, request, key)
        except UnavailableError:
            raise
        except BatchyardError as error:
            return error

    async def _prepare(self, names: _Names, request: SubmitJobRequest, key: RequestKey | None) -> _Prepared:
        """Return what is to be stored; raise the error that the caller is to see."""
        caller = names.caller
        shape, faults = self._checked(caller, request)
        queue = await names.queue(request.job_queue)
        definition = await names.definition(request.job_definition)
        depends_on = [
            await self._dependency(caller, dependency.job_id, queue.key.name) if dependency.job_id else None
            for dependency in request.depends_on
        ]
        return self._put_together(shape, request, key, _Named(queue, definition, depends_on, faults))

    def _checked(self, caller: Caller, request: SubmitJobRequest) -> tuple[Shape, str | None]:
        """Return the shape of a request that is in order by itself, and the faults that its job asks for."""
        shape = self._frames.check(caller, request)
        return shape, faults_of(request.tags, enabled=self._faults) if request.tags else None

    def _put_together(
        self, shape: Shape, request: SubmitJobRequest, key: RequestKey | None, named: _Named
    ) -> _Prepared:
        frame = self._frames.frame(shape, request, named.queue, named.definition)
        submission = frame.submission(request, job_id=self._next_job_id(), depends_on=named.depends_on)
        job = submission.job
        job.faults = named.faults
        job_id = job.key.job_id
        job_arn = shape.caller.arn(ResourceKind.JOB, job_id)
        return _Prepared(submission, SubmitJobResponse(job_arn=job_arn, job_name=job.job_name, job_id=job_id), key)

    async def _dependency(self, caller: Caller, reference: str, job_queue: str) -> JobKey:
        """Return the job with this id or ARN or, if there is none, the newest one with this name."""
        is_arn = reference.startswith("arn:")
        job_id = name_in_reference(reference, ResourceKind.JOB, caller.namespace) if is_arn else reference
        key = JobKey(caller.namespace, JobId(job_id or ""))

        def find(reader: JobReader) -> JobKey | None:
            _, found = reader.jobs_at([key])
            if found or is_arn:
                return key if found else None
            return reader.newest_named(caller.namespace, reference, job_queue)

        found = await self._reading.ask(find)
        if found is None:
            raise InvalidRequestError(f"Job {reference} does not exist", field="dependsOn")
        return found


async def _taken_in(begun: Begun) -> SubmitJobResponse:
    return begun.prepared.answered(await begun.taken_in)
