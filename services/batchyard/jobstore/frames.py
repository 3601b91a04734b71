"""What requests of the same shape have in common, worked out once and remembered.

A frame follows from shape, caller, queue and definition alone, so it needs no proof that it is still true: it is used
for as long as it is asked for with the very same queue and definition that it was made from, and made anew for others.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from batchyard.api.jobs.v1.jobs_service_pb2 import SubmitJobRequest
from batchyard.api.registry.v1.job_definition_pb2 import JobDefinition
from batchyard.domain.compat import Compat
from batchyard.domain.names import Caller
from batchyard.jobstore.submission import Frame, check_own_members, check_request, frame_of, shape_of
from batchyard.storage.jobs import QueueCopy

FRAMES_MAX: Final = 256
FRAME_BYTES_MAX: Final = 8 * 1024


class Shape(NamedTuple):
    """A shape that has passed the checks, of one caller."""

    caller: Caller
    members: bytes


@dataclass(frozen=True, slots=True)
class _Known:
    queue: QueueCopy
    definition: JobDefinition
    frame: Frame


class Frames:
    """Checks requests, and gives the frames of their shapes."""

    def __init__(self, compat: Compat) -> None:
        self._compat = compat
        self._known: dict[Shape, _Known] = {}
        """The one that was made last comes last."""

    def check(self, caller: Caller, request: SubmitJobRequest) -> Shape:
        """Return the shape of a request that is in order by itself; raise InvalidRequestError for the first fault."""
        shape = Shape(caller, shape_of(request))
        if shape in self._known:
            check_own_members(request)
        else:
            check_request(request)
        return shape

    def frame(self, shape: Shape, request: SubmitJobRequest, queue: QueueCopy, definition: JobDefinition) -> Frame:
        """Return the frame of a request's shape; raise InvalidRequestError for what cannot be run like this."""
        known = self._known.get(shape)
        if known is not None and known.queue is queue and known.definition is definition:
            return known.frame
        frame = frame_of(request, caller=shape.caller, queue=queue, definition=definition, compat=self._compat)
        self._known.pop(shape, None)
        if len(shape.members) + len(frame.spec) <= FRAME_BYTES_MAX:
            self._known[shape] = _Known(queue, definition, frame)
            if len(self._known) > FRAMES_MAX:
                del self._known[next(iter(self._known))]
        return frame
