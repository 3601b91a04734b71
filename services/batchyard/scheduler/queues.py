"""Job queues and their shares: which line of a queue comes next.

A queue without fair share has one share, in which jobs go in the order of submission. With it the share that stands
lowest goes first (see `fairshare`), and within it the job with the highest scheduling priority.
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from batchyard.domain.jobs import JobId
from batchyard.scheduler.fairshare import WEIGHT_DEFAULT, WINDOW_MIN_S, FairShare, Use
from batchyard.scheduler.lines import Entry, Line
from batchyard.scheduler.model import JobQueue, ResourceKey, Resources

Shape = tuple[Resources, int | None]
"""What the jobs of a line need, and after how long an attempt of them is ended."""


Key = tuple[float, str, int]
"""Places lines in the order of their queue: how their share stands, which it is, and their heads' place in it."""


class Share:
    """A share of a queue: its lines, and what it uses."""

    __slots__ = ("_ready", "identifier", "lines", "queue", "use", "weight")

    def __init__(self, queue: "Queue", identifier: str) -> None:
        self.queue = queue
        self.identifier = identifier
        self.lines: dict[Shape, Line] = {}
        fair = queue.fair
        self.use = Use(fair.window_s if fair is not None else WINDOW_MIN_S)
        self.weight = fair.weight_of(identifier) if fair is not None else WEIGHT_DEFAULT
        self._ready: list[tuple[int, int, Line]] = []

    @property
    def is_active(self) -> bool:
        """Whether jobs of it wait or run."""
        return bool(self.lines) or self.use.held > 0

    def standing(self, now: float) -> float:
        """Return the number by which shares are ordered: the lowest goes first."""
        return self.weight * self.use.standing(now)

    def make_ready(self, line: Line, order: int) -> None:
        """Have a line looked at; `order` is that of its head."""
        line.parked = False
        if line.ready_as is None or order < line.ready_as:
            line.ready_as = order
            heappush(self._ready, (order, line.serial, line))

    def next_ready(self) -> tuple[Line, Entry] | None:
        """Return the ready line whose head goes first, and that head; None if no line is ready.

        In place of the head it may be where the jobs of a line begin that are not known: one of them may go first.
        """
        while self._ready:
            order, _, line = self._ready[0]
            expected = line.ready_as == order
            head = line.upcoming() if expected else None
            if head is not None and head[0] == order:
                return line, head
            heappop(self._ready)
            if expected:
                line.ready_as = None
                if head is not None:
                    self.make_ready(line, head[0])
        return None

    def unready(self, line: Line) -> None:
        """Have a line not looked at; it must be the one that `next_ready` has just returned."""
        heappop(self._ready)
        line.ready_as = None

    def first(self, limit: int) -> tuple[list[tuple[JobId, int]], bool]:
        """Return the first waiting jobs of all lines, each with the vCPUs that it needs, in order.

        Also whether there are no others that are not known.
        """
        found = [(*job, line) for line in self.lines.values() for job in line.first(limit)]
        found.sort(key=lambda job: (job[0], job[2].serial))
        known_to = min((line.known_to for line in self.lines.values() if line.known_to is not None), default=None)
        jobs = [
            (job_id, line.need.vcpus_milli) for order, job_id, line in found if known_to is None or order <= known_to
        ]
        return jobs[:limit], known_to is None


class Queue:
    """A job queue, its shares and their lines."""

    __slots__ = (
        "_picked_at",
        "_picks",
        "_ready",
        "fair",
        "key",
        "on_agenda",
        "rank",
        "shares",
        "spec",
        "turn",
        "used_milli",
    )

    def __init__(self, key: ResourceKey) -> None:
        self.key = key
        self.spec: JobQueue | None = None
        """None: jobs name a queue that is not known, or not any more."""
        self.fair: FairShare | None = None
        """How its shares divide what it can use; None: it has no fair share."""
        self.rank = 0
        """Queues of a lower rank go first."""
        self.turn = 0
        """When the queue last placed a job; among equals the lowest goes first."""
        self.on_agenda = False
        self.shares: dict[str, Share] = {}
        self.used_milli: dict[str, int] = {}
        """vCPUs that its jobs hold, by compute environment."""
        self._ready: dict[str, Share] = {}
        """Shares that may have a line to be looked at."""
        self._picks: list[tuple[float, str]] = []
        """A heap of those shares as they stood at one time."""
        self._picked_at: float | None = None

    @property
    def environments(self) -> tuple[str, ...]:
        """Names of its compute environments, in order."""
        return () if self.spec is None else self.spec.environments

    def lines(self) -> Iterator[Line]:
        """Yield the lines of all shares."""
        return (line for share in self.shares.values() for line in share.lines.values())

    @property
    def has_lines(self) -> bool:
        """Whether jobs wait."""
        return any(share.lines for share in self.shares.values())

    def active_shares(self) -> int:
        """Return how many shares have jobs that wait or run."""
        return sum(share.is_active for share in self.shares.values())

    def set_fair_share(self, fair: FairShare | None) -> None:
        """Have shares divided by a policy, or by none, from now on; what they have used is kept."""
        self.fair = fair
        self._picked_at = None
        for share in self.shares.values():
            share.weight = fair.weight_of(share.identifier) if fair is not None else WEIGHT_DEFAULT

    def charge(self, environment: str, vcpus_milli: int) -> None:
        """Count what its jobs hold in a compute environment; a negative number gives it back."""
        used = self.used_milli.get(environment, 0) + vcpus_milli
        if used:
            self.used_milli[environment] = used
        else:
            self.used_milli.pop(environment, None)

    def share(self, identifier: str) -> Share:
        """Return a share, which is made if it is not known."""
        share = self.shares.get(identifier)
        if share is None:
            share = self.shares[identifier] = Share(self, identifier)
        return share

    def drop(self, share: Share) -> None:
        """Forget a share, of which nothing waits and nothing is held."""
        if self.shares.get(share.identifier) is share:
            del self.shares[share.identifier]
            self._ready.pop(share.identifier, None)

    def forget_jobs(self) -> None:
        """Forget all shares, with their lines and what they use."""
        self.shares.clear()
        self.used_milli.clear()
        self._ready.clear()
        self._picked_at = None
        self.on_agenda = False

    def make_ready(self, line: Line, order: int) -> None:
        """Have a line looked at; `order` is that of its head."""
        share = line.share
        share.make_ready(line, order)
        if share.identifier not in self._ready:
            self._ready[share.identifier] = share
            self._picked_at = None

    @property
    def has_ready(self) -> bool:
        """Whether any line is to be looked at."""
        while self._ready:
            identifier, share = next(iter(self._ready.items()))
            if share.next_ready() is not None:
                return True
            del self._ready[identifier]
        return False

    def next_ready(self, now: float) -> tuple[Line, Entry] | None:
        """Return the line to be looked at first, and its head; None if no line is ready."""
        while self._ready:
            share = self._first_share(now)
            ready = share.next_ready()
            if ready is not None:
                return ready
            del self._ready[share.identifier]
        return None

    def _first_share(self, now: float) -> Share:
        """Return the ready share that stands lowest, of equal ones that of the lesser name; there must be one."""
        if len(self._ready) == 1:
            return next(iter(self._ready.values()))
        if self._picked_at != now:
            self._picked_at = now
            self._picks = [(share.standing(now), identifier) for identifier, share in self._ready.items()]
            heapify(self._picks)
        while True:
            standing, identifier = self._picks[0]
            share = self._ready.get(identifier)
            if share is not None and share.standing(now) == standing:
                return share
            heappop(self._picks)
            if share is not None:
                heappush(self._picks, (share.standing(now), identifier))

    def key_of(self, line: Line, now: float) -> Key:
        """Return the place of a parked line; with fair share, that of its share, in which lines come together."""
        if self.fair is not None:
            share = line.share
            return (share.standing(now), share.identifier, -1)
        head = line.head()
        return (0.0, "", head[0] if head is not None else 0)

    def key_of_ready(self, line: Line, order: int, now: float) -> Key:
        """Return the place of a line that is to be looked at."""
        return (line.share.standing(now), line.share.identifier, order) if self.fair is not None else (0.0, "", order)

    def front(self, now: float, limit: int) -> list[JobId]:
        """Return the first waiting jobs, in the order in which they would be placed if there were room for all."""
        firsts = {share: share.first(limit) for share in self.shares.values() if share.lines}
        waiting = {share: iter(jobs) for share, (jobs, _) in firsts.items()}
        standings = [(share.standing(now), share.identifier, share) for share in waiting]
        heapify(standings)
        found: list[JobId] = []
        while standings and len(found) < limit:
            standing, identifier, share = heappop(standings)
            job = next(waiting[share], None)
            if job is not None:
                found.append(job[0])
                heappush(standings, (standing + share.weight * job[1] * share.use.window_s, identifier, share))
            elif not firsts[share][1]:
                break  # who would be next is not known
        return found
