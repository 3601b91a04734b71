"""All that waits: queues with their lines, which of them want to be looked at, and in what order.

The agenda is a heap. Queues go by rank and, among equals, by whose turn is longest ago; a line that room is held for
goes before the queues of its rank.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Final, TypeAlias

from batchyard.domain.arrays import only
from batchyard.domain.compat import Compat
from batchyard.domain.jobs import JobKey, array_and_index
from batchyard.domain.lines import FROM_THE_FIRST
from batchyard.scheduler.backfill import may_ever_take
from batchyard.scheduler.ceilings import lets_in
from batchyard.scheduler.environments import Environment, Environments
from batchyard.scheduler.fairshare import FairShare
from batchyard.scheduler.holds import Holds, is_behind
from batchyard.scheduler.hosts import Host
from batchyard.scheduler.lines import Arrays, Entry, Index, Line
from batchyard.scheduler.model import (
    NOTHING,
    JobQueue,
    LineKey,
    LineRequest,
    QueuedChildren,
    QueuedJob,
    ResourceKey,
    Resources,
    SchedulingPolicy,
    WaitingLine,
    WaitReason,
)
from batchyard.scheduler.parked import ParkedLines
from batchyard.scheduler.prospects import Prospects
from batchyard.scheduler.queues import Queue, Share
from batchyard.scheduler.reasons import is_ordinary

_FOR_HOLDER: Final = 0
_FOR_QUEUE: Final = 1

_AgendaItem: TypeAlias = tuple[int, int, int, int, Queue | Line]
"""Rank; holders before queues; a holder's place or a queue's turn; the order of pushing; whom to serve."""


class Waiting:
    """The jobs that wait, and the agenda of what to look at."""

    def __init__(
        self, environments: Environments, holds: Holds, compat: Compat, jobs_a_line: int | None = None
    ) -> None:
        """Know all jobs, or with `jobs_a_line` some more than so many of each line, and ask for others in time."""
        self._jobs_a_line = jobs_a_line
        self._short: dict[Line, None] = {}
        """Lines of which more must be known soon."""
        self._environments = environments
        self._holds = holds
        self._compat = compat
        self._queues: dict[ResourceKey, Queue] = {}
        self._queues_using: dict[ResourceKey, dict[ResourceKey, Queue]] = {}
        self._policies: dict[ResourceKey, FairShare] = {}
        self._jobs: dict[str, Index] = {}
        self._arrays: dict[str, Arrays] = {}
        self._parked = ParkedLines()
        self._agenda: list[_AgendaItem] = []
        self._pushes = 0
        self._serial = 0
        self._turn = 0
        self._roomier: dict[str, Host] = {}
        """Hosts that have more room than when lines were last looked at for them."""
        self._prospects: dict[Queue, Prospects] = {}
        """Parked lines for which there may be room by that."""
        self._withdrawn: dict[tuple[ResourceKey, str, Resources], WaitReason] = {}

    # Queues

    def put_queue(self, spec: JobQueue) -> Queue:
        """Take in a job queue, or what has changed of it, and have all of its lines looked at."""
        queue = self._queue(spec.key)
        self._change_spec(queue, spec)
        return queue

    def drop_queue(self, key: ResourceKey) -> None:
        """Forget a job queue; jobs that name it wait."""
        queue = self._queues.get(key)
        if queue is not None:
            self._change_spec(queue, None)
            self._tidy(queue)

    def environment_changed(self, key: ResourceKey) -> None:
        """Have all lines looked at whose jobs may run in an environment."""
        for queue in self._queues_using.get(key, {}).values():
            for line in queue.lines():
                self._wake(line)

    def put_policy(self, policy: SchedulingPolicy) -> list[Queue]:
        """Take in a scheduling policy, or what has changed of it; return the queues that have it."""
        self._policies[policy.key] = FairShare(policy)
        return self._policy_changed(policy.key)

    def drop_policy(self, key: ResourceKey) -> list[Queue]:
        """Forget a scheduling policy; return the queues that have it."""
        self._policies.pop(key, None)
        return self._policy_changed(key)

    def _policy_changed(self, key: ResourceKey) -> list[Queue]:
        queues = [queue for queue in self._queues.values() if queue.spec is not None and queue.spec.policy == key]
        for queue in queues:
            queue.set_fair_share(self._fair_share_of(queue))
            for line in queue.lines():
                self._wake(line)
        return queues

    def _fair_share_of(self, queue: Queue) -> FairShare | None:
        if queue.spec is None or queue.spec.policy is None:
            return None
        return self._policies.get(queue.spec.policy) or FairShare()

    def queue(self, key: ResourceKey) -> Queue | None:
        """Return a queue, or None if nothing is known of it."""
        return self._queues.get(key)

    def share(self, queue: ResourceKey, identifier: str) -> Share:
        """Return a share, which is made if it is not known."""
        return self._queue(queue).share(identifier)

    def tidy(self, share: Share) -> None:
        """Forget a share of which nothing waits and that uses nothing, and its queue if that was the last."""
        if not share.lines and share.use.is_nothing:
            share.queue.drop(share)
            self._tidy(share.queue)

    def _change_spec(self, queue: Queue, spec: JobQueue | None) -> None:
        for line in queue.lines():
            self._unpark(line)
        for name in queue.environments:
            self._queues_using[ResourceKey(queue.key.namespace, name)].pop(queue.key, None)
        queue.spec = spec
        for name in queue.environments:
            self._queues_using.setdefault(ResourceKey(queue.key.namespace, name), {})[queue.key] = queue
        if spec is not None:
            queue.rank = spec.priority if self._compat is Compat.SEED else -spec.priority
        queue.set_fair_share(self._fair_share_of(queue))
        queue.on_agenda = False
        for line in queue.lines():
            self._make_ready(line)

    def _queue(self, key: ResourceKey) -> Queue:
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(key)
        return queue

    def _tidy(self, queue: Queue) -> None:
        if queue.spec is None and not queue.shares:
            self._queues.pop(queue.key, None)

    # Jobs

    def add(self, job: QueuedJob) -> None:
        """Take in a job, or its newer version."""
        index = self._jobs.setdefault(job.key.namespace, {})
        key, order = job.line, job.order
        known = index.get(job.key.job_id)
        if known is not None:
            line = known[3]
            if known[0] == order and line.key == key:
                line.replace(job.key.job_id, order, job.version)
                return
            self._remove(known)
        line = self._line(key)
        if not line.add(job.key.job_id, order, job.version):
            return  # told again when those before it are known
        if self._jobs_a_line is not None:
            line.cut(self._jobs_a_line)
        self._has_grown(line, order)

    def add_part(self, part: WaitingLine) -> None:
        """Take in jobs that follow those that are known of a line."""
        line = self._line(part.line)
        line.asked = False
        if part.after == (FROM_THE_FIRST if line.known_to is None else line.known_to):
            line.extend(part.jobs, part.known_to)
            if line.is_over:
                self._drop_line(line)
                return
            self._has_grown(line, part.after + 1)
        self._ask_if_short(line)

    def take_requests(self) -> list[LineRequest]:
        """Return, once, of which lines more must be known."""
        short, self._short = self._short, {}
        requests = []
        for line in short:
            if self._jobs_a_line is not None and line.known_to is not None and line.is_short(self._jobs_a_line):
                line.asked = True
                requests.append(LineRequest(line.key, line.known_to, self._jobs_a_line))
        return requests

    def _ask_if_short(self, line: Line) -> None:
        """Have more asked for when half of what is wanted is left: so they are known before they are missed."""
        if self._jobs_a_line is not None and line.is_short((self._jobs_a_line + 1) // 2):
            self._short[line] = None

    def add_children(self, children: QueuedChildren) -> None:
        """Take in children of an array, in addition to those that wait already."""
        line = self._line(children.line)
        line.add_children(children)
        self._has_grown(line, children.order)

    def _has_grown(self, line: Line, order: int) -> None:
        if not line.parked:
            self._make_ready(line)
            return
        if line.starving:
            self._holds.invalidate()  # there may be a new head, which moves the line among the holders
        head = line.head()
        if self._holds.holders and head is not None and head[0] >= order:
            self._wake(line)  # the new head may go before a holder, other than the one before it

    def withdraw(self, key: JobKey) -> None:
        """Forget a job, if it waits; an array stands for all its children that have never been offered."""
        entry = self._jobs.get(key.namespace, {}).get(key.job_id)
        if entry is not None:
            self._remove(entry)
            return
        of_child = array_and_index(key)
        array_id = key.job_id if of_child is None else of_child[0].job_id
        array, line = self._arrays.get(key.namespace, {}).get(array_id, (None, None))
        if array is None or line is None:
            return
        line.discard_behind(array, array.behind if of_child is None else only(of_child[1]))
        if of_child is None and array.front_id is not None:
            self._remove(self._jobs[key.namespace][array.front_id])

    def take(self, line: Line) -> None:
        """Take out the head of the line that `Queue.next_ready` returned: it is being placed."""
        queue = line.queue
        line.share.unready(line)
        line.take()
        self._head_changed(line)
        if not is_ordinary(line.told):
            self._take_back_reason(line)
        if line.is_over:
            self._drop_line(line)
        else:
            self._make_ready(line)
            self._ask_if_short(line)
        self._turn += 1
        queue.turn = self._turn
        queue.on_agenda = False
        self.put_back(queue)

    def forget_jobs(self) -> None:
        """Forget all jobs."""
        for queue in list(self._queues.values()):
            queue.forget_jobs()
            self._tidy(queue)
        for environment in self._environments:
            environment.waiters.clear()
        self._short.clear()
        self._parked = ParkedLines()
        self._roomier.clear()
        self._prospects.clear()
        self._withdrawn.clear()
        self._jobs.clear()
        self._arrays.clear()
        self._agenda.clear()

    def holds(self, key: JobKey) -> bool:
        """Tell whether a job waits."""
        if key.job_id in self._jobs.get(key.namespace, {}):
            return True
        child = array_and_index(key)
        array, _ = self._arrays.get(key.namespace, {}).get(child[0].job_id, (None, None)) if child else (None, None)
        return child is not None and array is not None and bool(array.behind >> child[1] & 1)

    def sanity_check(self) -> None:
        """Assert that each waiting job stands in one line, and that each line is parked or wants to be looked at."""
        lines = [line for queue in self._queues.values() for line in queue.lines()]
        arrays = [array for arrays in self._arrays.values() for array, _ in arrays.values()]
        behind = sum(array.behind.bit_count() for array in arrays)
        assert sum(map(len, lines)) == sum(map(len, self._jobs.values())) + behind, "miscounted jobs"
        assert all(array.front is not None for array in arrays), "an array without a child in front"
        for line in lines:
            assert line.upcoming() is not None, "an empty line"
            assert line.parked or line.queue.on_agenda, "a line that nobody will look at"
            assert not line.parked or line.blocked_since is not None, "a parked line that was never looked at"
            assert line.parked or not self._parked.contains(line), "a line that is indexed as parked, and is not"

    def _line(self, key: LineKey) -> Line:
        queue = self._queue(key.queue)
        share = queue.share(key.share)
        line = share.lines.get(key[2:])
        if line is None:
            namespace = queue.key.namespace
            index, arrays = self._jobs.setdefault(namespace, {}), self._arrays.setdefault(namespace, {})
            self._serial += 1
            was_active = share.is_active
            line = Line(self._serial, share, key.need, key.time_limit_s, index, arrays)
            share.lines[key[2:]] = line
            if not was_active and queue.fair is not None and queue.fair.reserves:
                self._wake_all(queue)  # less is kept back for shares that are not active
        return line

    def _wake_all(self, queue: Queue) -> None:
        for line in list(queue.lines()):
            if line.parked:
                self._wake(line)

    def _remove(self, entry: Entry) -> None:
        line = entry[3]
        was_head = line.head() is entry
        line.discard(entry[1])
        if was_head:
            self._head_changed(line)
            self._wake(line)
        if line.is_over:
            self._drop_line(line)
        else:
            self._ask_if_short(line)

    def _drop_line(self, line: Line) -> None:
        self._take_back_reason(line)
        del line.share.lines[line.need, line.time_limit_s]
        self.tidy(line.share)

    def take_withdrawn_reasons(self) -> list[WaitReason]:
        """Return, once, the lines of which a reason was told that does not hold any more."""
        withdrawn, self._withdrawn = self._withdrawn, {}
        return list(withdrawn.values())

    def _take_back_reason(self, line: Line) -> None:
        if not line.told:
            return
        line.told = ""
        share = line.share
        if not any(other.told and other.need == line.need for other in share.lines.values()):
            reason = WaitReason(line.queue.key, line.need, "", share.identifier)
            self._withdrawn[line.queue.key, share.identifier, line.need] = reason

    def _head_changed(self, line: Line) -> None:
        line.blocked_since = None
        line.explained = False
        line.short_of_hosts = ()
        self._holds.relieve(line)

    # The agenda

    def agenda(self) -> Iterator[Queue | Line]:
        """Yield what is to be looked at: queues, and holders that were put on it; consumes the agenda."""
        while self._agenda:
            rank, _, order, _, item = heappop(self._agenda)
            if isinstance(item, Line):
                yield item
            elif item.on_agenda and rank == item.rank and order == item.turn:
                item.on_agenda = False
                yield item

    def put_holder_on_agenda(self, line: Line) -> None:
        """Have a line looked at before the queues of its rank."""
        head = line.head()
        if head is not None:
            self._push(line.queue.rank, _FOR_HOLDER, head[0], line)

    def put_back(self, queue: Queue) -> None:
        """Put a queue on the agenda if it is not there and any of its lines is to be looked at."""
        if not queue.on_agenda and (queue.has_ready or queue in self._prospects):
            queue.on_agenda = True
            self._push(queue.rank, _FOR_QUEUE, queue.turn, queue)

    def _push(self, rank: int, phase: int, order: int, item: Queue | Line) -> None:
        self._pushes += 1
        heappush(self._agenda, (rank, phase, order, self._pushes, item))

    # Parking and waking

    def parked(self) -> Iterator[Line]:
        """Yield the lines whose heads found no room."""
        return (line for queue in self._queues.values() for line in queue.lines() if line.parked)

    def park(self, line: Line, short_of_hosts: tuple[str, ...], short_of_ceiling: list[Environment]) -> None:
        """Look no more at the line that `Queue.next_ready` returned, until there is room of which it was short."""
        line.share.unready(line)
        line.parked = True
        line.short_of_hosts = short_of_hosts
        prospects = self._prospects.get(line.queue)
        if prospects is not None:
            prospects.shut(line, behind_holder=any(is_behind(line, holder) for holder in self._holds.holders))
        if short_of_hosts:
            self._parked.add(line)
        for environment in short_of_ceiling:
            environment.waiters[line] = None

    def host_has_room(self, host: Host) -> None:
        """Note that more could be placed on a host than before."""
        self._roomier[host.agent_id] = host

    def wake_for_hosts(self, now: float) -> None:
        """Have what could be placed on hosts that have more room than before come forward in its order."""
        roomier, self._roomier = self._roomier, {}
        for host in roomier.values():
            if not host.open:
                continue
            for line in self._holds.holders:
                if line.parked and line.need.fits_in(host.room) and _could_use(host, line):
                    self._wake(line)
            for need in self._parked.needs_fitting(host.room):
                for queue in list(self._parked.queues(need)):
                    if any(_could_use(host, line) for line in self._parked.lines(queue, need)):
                        self._prospects_of(queue).open(need)
                        self.put_back(queue)

    def _prospects_of(self, queue: Queue) -> Prospects:
        prospects = self._prospects.get(queue)
        if prospects is None:
            prospects = self._prospects[queue] = Prospects(queue)
        return prospects

    def next_ready(self, queue: Queue, now: float) -> tuple[Line, Entry] | None:
        """Return the line of a queue to be looked at first, and its head; None if there is none.

        See `Share.next_ready` for what may be in place of the head.
        """
        while True:
            ready = queue.next_ready(now)
            prospects = self._prospects.get(queue)
            first = prospects.first(now, self._parked) if prospects is not None else None
            if prospects is None or first is None:
                self._prospects.pop(queue, None)
                return ready
            if ready is not None and queue.key_of_ready(ready[0], ready[1][0], now) < first:
                return ready
            for line in prospects.take():
                self._wake(line)

    def next_ahead(self, holder: Line, now: float) -> tuple[Line, Entry] | None:
        """Return the line of a holder's share to be looked at first, and its head; None if there is none."""
        queue = holder.queue
        if queue.fair is None:
            return self.next_ready(queue, now)
        prospects = self._prospects.get(queue)
        if prospects is not None:
            for line in list(holder.share.lines.values()):
                if prospects.is_open(line):
                    self._wake(line)
        return holder.share.next_ready()

    def wake_line(self, key: LineKey) -> None:
        """Have a line looked at, if it waits for a host."""
        queue = self._queues.get(key.queue)
        share = queue.shares.get(key.share) if queue is not None else None
        line = share.lines.get(key[2:]) if share is not None else None
        if line is not None and line.parked and line.short_of_hosts:
            self._wake(line)

    def is_contested(self, host: Host, line: Line) -> bool:
        """Tell whether another line waits for room on a host before this one, so that it must not be filled up."""
        return any(
            other is not line and is_behind(line, other) and any(host.serves(name) for name in other.short_of_hosts)
            for other in self._parked.fitting(host.capacity or NOTHING)
        )

    def wake_for_ceiling(self, environment: Environment) -> None:
        """Have those lines looked at that an environment's ceiling would let through now."""
        for line in list(environment.waiters):
            if lets_in(environment, line):
                self._wake(line)

    def _wake(self, line: Line) -> None:
        self._unpark(line)
        self._make_ready(line)

    def _make_ready(self, line: Line) -> None:
        upcoming = line.upcoming()
        if upcoming is None:
            return
        line.queue.make_ready(line, upcoming[0])
        self.put_back(line.queue)
        self._holds.claim(line)

    def _unpark(self, line: Line) -> None:
        if not line.parked:
            return
        line.parked = False
        self._parked.discard(line)
        for name in line.queue.environments:
            environment = self._environments.get(ResourceKey(line.queue.key.namespace, name))
            if environment is not None:
                environment.waiters.pop(line, None)


def _could_use(host: Host, line: Line) -> bool:
    """Tell whether a line that is parked for want of a host may be placed on one that has room for it."""
    return any(host.serves(name) for name in line.short_of_hosts) and may_ever_take(host, line)
