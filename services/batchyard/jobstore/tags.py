"""JobTagsService: the tags of jobs, as the registry asks for them.

A job's tags are in what was submitted until they are changed; from then on they are kept beside it, all of them.
"""

from typing import Any

import grpc.aio

from batchyard.api.agent.v1.run_pb2 import JobSpec
from batchyard.api.scheduler.v1.job_tags_service_pb2 import (
    ChangeJobTagsRequest,
    ChangeJobTagsResponse,
    ListJobTagsRequest,
    ListJobTagsResponse,
)
from batchyard.api.scheduler.v1.job_tags_service_pb2_grpc import JobTagsServiceServicer
from batchyard.domain.errors import NotFoundError
from batchyard.domain.jobs import JobId, JobKey
from batchyard.jobstore.reading import Reading
from batchyard.jobstore.views import tags_of
from batchyard.jobstore.writer import Writer

Context = grpc.aio.ServicerContext[Any, Any]


class JobTagsServicer(JobTagsServiceServicer):
    """Reads and changes tags."""

    def __init__(self, *, writer: Writer, reading: Reading) -> None:
        self._writer = writer
        self._reading = reading

    async def ListJobTags(self, request: ListJobTagsRequest, context: Context) -> ListJobTagsResponse:  # noqa: N802
        """Return the tags of a job."""
        key = JobKey(request.namespace, JobId(request.job_id))
        records = await self._reading.ask(lambda reader: reader.describe([key]))
        if not records:
            raise NotFoundError(f"Job {key.job_id} does not exist")
        return ListJobTagsResponse(tags=tags_of(records[0], JobSpec.FromString(records[0].spec)))

    async def ChangeJobTags(  # noqa: N802
        self, request: ChangeJobTagsRequest, context: Context
    ) -> ChangeJobTagsResponse:
        """Change the tags of a job; answered when it is on disk."""
        key = JobKey(request.namespace, JobId(request.job_id))
        await self._writer.do(lambda group: group.change_tags(key, request.set, request.removed), key)
        return ChangeJobTagsResponse()
