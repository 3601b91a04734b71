"""Which jobs of a queue a listing shows, and where in its order it stands."""

from dataclasses import dataclass
from typing import NamedTuple

from batchyard.domain.jobs import Job
from batchyard.domain.lifecycle import JobState


class Position(NamedTuple):
    """A place in the order of a filtered listing, which is by creation, newest first."""

    created_at: int
    """Milliseconds since the epoch."""
    sequence: int


class Pattern(NamedTuple):
    """What a text must be, or begin with."""

    text: str
    is_prefix: bool = False


class LineKey(NamedTuple):
    """Names the jobs of a queue's share that need the same."""

    namespace: str
    job_queue: str
    vcpus_milli: int
    memory_mib: int
    gpus: int
    share: str | None = None
    """None in a queue without fair share."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs of a queue to list: those that every member lets through."""

    names: tuple[Pattern, ...] = ()
    """Job names, of which one must match in any case; empty: all."""
    definitions: tuple[Pattern, ...] = ()
    """Job definitions as `name:revision`, of which one must match; empty: all."""
    shares: tuple[str, ...] = ()
    """Share identifiers, one of which it must have; empty: all."""
    created_before: int | None = None
    created_after: int | None = None
    state: JobState | None = None


@dataclass(frozen=True, slots=True)
class JobPage:
    """A page of a filtered listing."""

    jobs: list[Job]
    """Fewer than asked for if matches are rare among many jobs: a page looks at a bounded number of them."""
    end: Position | None
    """After which the next page begins; None: there is none."""
