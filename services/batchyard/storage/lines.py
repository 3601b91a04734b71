"""Lines of RUNNABLE jobs without an offer, as the job store keeps them for the scheduler."""

from dataclasses import dataclass
from typing import NamedTuple

from batchyard.domain.jobs import JobId


class LineName(NamedTuple):
    """Names the jobs of a queue that are alike in all that placing depends on."""

    namespace: str
    job_queue: str
    share: str | None
    """None in a queue without fair share."""
    vcpus_milli: int
    memory_mib: int
    gpus: int
    time_limit_s: int | None
    """Rounded, see `domain.lines`; None: an attempt may take as long as it likes."""


@dataclass(slots=True)
class LinePart:
    """Jobs of a line that follow one after the other."""

    line: LineName
    after: int
    """The place after which they come."""
    job_ids: list[JobId]
    places: list[int]
    """Of each of them, see `domain.lines`."""
    versions: list[int]
    more: bool
    """Whether others follow."""
