"""Lines of which the planner knows the beginning alone: it places the same jobs in the same order as if it knew all."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from batchyard.domain.jobs import Fence, JobId, JobKey
from batchyard.scheduler.model import LineRequest, Offer, QueuedJob, ResourceKey, WaitingLine
from batchyard.scheduler.planner import Planner
from support.scheduler import (
    NAMESPACE,
    a_job,
    a_policy,
    a_queue,
    an_agent,
    an_array,
    an_environment,
    job_key,
    need,
)

QUEUE = ResourceKey(NAMESPACE, "default")


@dataclass
class Store:
    """The job store, as far as lines go: all jobs that wait, and a planner that is told of them."""

    planner: Planner
    waiting: dict[JobKey, QueuedJob] = field(default_factory=dict)
    proposed: list[Offer] = field(default_factory=list)
    requests: list[LineRequest] = field(default_factory=list)
    running: list[Fence] = field(default_factory=list)
    placed: list[str] = field(default_factory=list)
    fences: int = 0

    def queue(self, job: QueuedJob) -> None:
        """Take a job in and tell the planner, as the store does of each."""
        self.waiting[job.key] = job
        self.planner.queue_job(job)

    def withdraw(self, key: JobKey) -> None:
        """Have a job cancelled, unless it has gone."""
        if self.waiting.pop(key, None) is not None:
            self.planner.withdraw_job(key)

    def part(self, request: LineRequest) -> WaitingLine:
        """Return what a line has after a place."""
        jobs = sorted(
            (job.order, job.key.job_id, job.version)
            for job in self.waiting.values()
            if job.line == request.line and job.order > request.after
        )
        told = tuple(jobs[: request.limit])
        return WaitingLine(request.line, request.after, told, told[-1][0] if len(jobs) > len(told) else None)

    def begin(self, jobs_a_line: int) -> None:
        """Tell the planner, which knows nothing, of the first jobs of all lines."""
        for line in dict.fromkeys(job.line for job in self.waiting.values()):
            self.planner.queue_part(self.part(LineRequest(line, -1, jobs_a_line)))
            self.planner.sanity_check()

    def plan(self, now: float = 0.0) -> list[str]:
        """Have one plan made; return what it places."""
        plan = self.planner.plan(now)
        self.planner.sanity_check()
        self.proposed += plan.offers
        self.requests += plan.line_requests
        placed: list[str] = [offer.job.job_id for offer in plan.offers]
        self.placed += placed
        return placed

    def answer_requests(self) -> bool:
        """Tell what was asked for; return whether anything was."""
        requests, self.requests = self.requests, []
        for request in requests:
            self.planner.queue_part(self.part(request))
            self.planner.sanity_check()
        return bool(requests)

    def decide(self, refuses: Callable[[Offer], bool] = lambda _: False) -> None:
        """Accept what is proposed, or refuse it."""
        proposed, self.proposed = self.proposed, []
        for offer in proposed:
            job = self.waiting.get(offer.job)
            if job is None or refuses(offer):
                self.planner.offer_refused(offer.job)
                if job is not None:
                    self.waiting[offer.job] = replace(job, version=job.version + 1)
                    self.planner.queue_job(self.waiting[offer.job])
            else:
                del self.waiting[offer.job]
                self.fences += 1
                fence = Fence(1, self.fences)
                self.running.append(fence)
                self.planner.offer_accepted(offer.job, fence)

    def end(self, number: int) -> None:
        """Have one of the runs end."""
        if self.running:
            self.planner.run_ended(self.running.pop(number % len(self.running)))

    def settle(self, now: float) -> None:
        """Plan and answer until there is nothing more to be done."""
        self.plan(now)
        while self.answer_requests():
            self.plan(now)


def a_planner(jobs_a_line: int | None, *, vcpus: float = 4, policy: bool = False) -> Planner:
    planner = Planner(starvation_bound_s=1e9, jobs_a_line=jobs_a_line)
    if policy:
        planner.put_policy(a_policy(weights={"b": 0.5}))
    planner.put_queue(a_queue(policy="policy" if policy else None))
    planner.put_environment(an_environment())
    planner.agent_joined(an_agent(vcpus=vcpus))
    return planner


def a_store(jobs_a_line: int | None, *, vcpus: float = 4, policy: bool = False) -> Store:
    return Store(a_planner(jobs_a_line, vcpus=vcpus, policy=policy))


def drain(store: Store) -> list[str]:
    """Run everything, one job after the other."""
    for _ in range(1000):
        store.settle(0)
        store.decide()
        if not store.running and not store.waiting:
            return store.placed
        store.end(0)
    raise AssertionError("it does not come to its end")


def test_a_line_is_placed_to_its_end_though_only_its_beginning_is_known_at_a_time() -> None:
    store = a_store(3, vcpus=2)
    for number in range(50):
        store.queue(a_job(f"job-{number}", sequence=number))
    known = sum(map(store.planner._waiting.holds, store.waiting))
    assert known <= 6
    assert drain(store) == [f"job-{number}" for number in range(50)]


def test_after_a_start_only_the_beginning_is_told_and_more_is_asked_for_in_time() -> None:
    store = a_store(4, vcpus=2)
    store.waiting = {job_key(f"job-{number}"): a_job(f"job-{number}", sequence=number) for number in range(30)}
    store.begin(4)
    assert store.plan() == ["job-0", "job-1"]
    assert store.requests == []
    store.decide()
    store.end(0)
    assert store.plan() == ["job-2"]
    # One of four is left: what follows is asked for before it is missed.
    (request,) = store.requests
    assert (request.after, request.limit) == (3, 4)
    store.decide()
    store.end(0)
    assert store.plan() == ["job-3"]
    assert len(store.requests) == 1  # and it is not asked for again
    store.decide()
    assert drain(store) == [f"job-{number}" for number in range(30)]


def test_nothing_is_placed_before_what_is_not_known_yet() -> None:
    store = a_store(1, vcpus=8)
    for number in range(4):
        store.queue(a_job(f"small-{number}", sequence=number))
    store.queue(a_job("large", sequence=10, vcpus=2))
    # Which of the small ones is next is not known: the large one would fit, but comes after them.
    placed = store.plan()
    assert placed == ["small-0"]
    assert store.plan() == []
    store.settle(0)
    assert store.placed == ["small-0", "small-1", "small-2", "small-3", "large"]


def test_a_lower_queue_waits_for_what_is_not_known_of_a_higher_one() -> None:
    store = a_store(1, vcpus=8)
    store.planner.put_queue(a_queue("low", priority=9))
    for number in range(3):
        store.queue(a_job(f"job-{number}", sequence=number))
    store.queue(a_job("low", sequence=10, queue="low"))
    assert store.plan() == ["job-0"]
    assert store.plan() == []
    store.settle(0)
    assert store.placed == ["job-0", "job-1", "job-2", "low"]


def test_a_line_that_does_not_fit_does_not_keep_others_from_passing() -> None:
    store = a_store(1, vcpus=2)
    for number in range(5):
        store.queue(a_job(f"wide-{number}", sequence=number, vcpus=3))
    store.queue(a_job("small", sequence=10))
    store.settle(0)
    assert store.placed == ["small"]


def test_a_higher_priority_goes_before_what_is_known_and_what_is_not() -> None:
    store = a_store(1, vcpus=1, policy=True)
    for number in range(6):
        store.queue(a_job(f"job-{number}", sequence=number, share="a"))
    store.settle(0)
    store.decide()
    store.queue(a_job("urgent", sequence=9, share="a", priority=5))
    store.queue(a_job("late", sequence=10, share="a"))
    assert drain(store) == ["job-0", "urgent", *(f"job-{number}" for number in range(1, 6)), "late"]


def test_children_of_arrays_stay_in_their_place_behind_what_is_not_known() -> None:
    store = a_store(1, vcpus=1)
    for number in range(4):
        store.queue(a_job(f"job-{number}", sequence=number))
    array = an_array("array", range(3), sequence=10)
    store.planner.queue_children(array)
    last = a_job("last", sequence=20)
    store.queue(last)
    found = []
    for _ in range(8):
        store.settle(0)
        for offer in store.proposed:
            store.waiting.setdefault(offer.job, a_job(offer.job.job_id, sequence=0))
        store.decide()
        store.end(0)
        found = store.placed
    assert found == ["job-0", "job-1", "job-2", "job-3", "array:0", "array:1", "array:2", "last"]


def test_a_child_of_an_array_is_not_placed_before_what_is_not_known_and_comes_earlier() -> None:
    store = a_store(1, vcpus=8)
    for number in range(4):
        store.queue(a_job(f"job-{number}", sequence=number))
    store.planner.queue_children(an_array("array", range(2), sequence=10))
    assert store.plan() == ["job-0"]
    assert store.plan() == []
    store.settle(0)
    assert store.placed == ["job-0", "job-1", "job-2", "job-3", "array:0", "array:1"]


def test_a_job_that_is_proposed_and_told_again_with_its_line_does_not_wait_beside() -> None:
    store = a_store(1, vcpus=8, policy=True)
    store.queue(a_job("early", sequence=0, share="a"))
    assert store.plan() == ["early"]
    # Of these, which go before it, so many come that it is behind what is known of the line.
    for number in range(1, 4):
        store.queue(a_job(f"urgent-{number}", sequence=number, share="a", priority=5))
    store.settle(0)
    assert store.placed == ["early", "urgent-1", "urgent-2", "urgent-3"]
    store.decide(lambda offer: offer.job.job_id == "early")
    assert list(store.waiting) == [job_key("early")]
    assert drain(store)[-1] == "early"
    assert store.waiting == {}


def test_all_that_is_known_may_be_cancelled() -> None:
    store = a_store(2, vcpus=1)
    for number in range(12):
        store.queue(a_job(f"job-{number}", sequence=number))
    for number in range(9):
        store.withdraw(job_key(f"job-{number}"))
    assert drain(store) == ["job-9", "job-10", "job-11"]


def test_a_line_whose_rest_is_cancelled_before_it_is_told_is_over() -> None:
    store = a_store(1, vcpus=1)
    for number in range(5):
        store.queue(a_job(f"job-{number}", sequence=number))
    store.plan()
    store.decide()
    for number in range(1, 5):
        store.withdraw(job_key(f"job-{number}"))
    store.settle(0)
    queue = store.planner._waiting.queue(QUEUE)
    assert queue is not None
    assert not queue.has_lines


def test_an_answer_that_does_not_follow_on_what_is_known_any_more_is_asked_for_anew() -> None:
    store = a_store(2, vcpus=1, policy=True)
    for number in range(10):
        store.queue(a_job(f"job-{number}", sequence=number, share="a"))
    for number in range(2):
        store.withdraw(job_key(f"job-{number}"))
    assert store.plan() == []
    (request,) = store.requests
    answer = store.part(request)
    # While the answer is under way so many of a higher priority come that less is known of the line than before.
    for number in range(20, 30):
        store.queue(a_job(f"job-{number}", sequence=number, share="a", priority=1))
    store.planner.queue_part(answer)
    store.planner.sanity_check()
    store.requests = []
    store.decide()
    assert drain(store) == [f"job-{number}" for number in (*range(20, 30), *range(2, 10))]


def test_the_front_of_a_queue_ends_where_it_is_not_known() -> None:
    store = a_store(2, vcpus=0.5)
    for number in range(10):
        store.queue(a_job(f"job-{number}", sequence=number))
    store.queue(a_job("wide", sequence=5, vcpus=2))
    known = [f"job-{number}" for number in range(4)]
    front = store.planner.front(QUEUE, 0, 100)
    assert front == [JobId(name) for name in known][: len(front)]
    assert front
    assert JobId("wide") not in front


events = st.lists(
    st.one_of(
        st.tuples(st.just("queue"), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("queue"), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("withdraw"), st.integers(0, 50), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("decide"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("answer"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


def happen(store: Store, event: tuple[str, int, int], sequence: int, *, policy: bool, needs: int = 4) -> None:
    kind, a, b = event
    if kind == "queue":
        share, priority = ("ab"[b % 2], b // 2) if policy else ("", 0)
        limit = [None, 60, 70][b % 3]
        job = a_job(f"job-{sequence}", sequence=sequence, vcpus=1 + a % needs, share=share, priority=priority)
        store.queue(replace(job, time_limit_s=limit))
    elif kind == "withdraw":
        store.withdraw(job_key(f"job-{a}"))
    elif kind == "end":
        store.end(a)
    elif kind == "decide":
        store.decide(lambda offer: a == 0 and int(offer.job.job_id.rpartition("-")[2]) % 2 == 0)


@settings(max_examples=150, deadline=None)
@given(jobs_a_line=st.integers(1, 4), policy=st.booleans(), history=events, begin_anew=st.booleans())
def test_what_is_placed_is_the_same_as_if_all_were_known(
    jobs_a_line: int, policy: bool, history: list[tuple[str, int, int]], begin_anew: bool
) -> None:
    stores = [a_store(limit, policy=policy) for limit in (None, jobs_a_line)]
    for sequence, event in enumerate(history):
        for store in stores:
            happen(store, event, sequence, policy=policy)
            store.settle(0)
            store.planner.sanity_check()
        assert stores[0].placed == stores[1].placed
    if begin_anew:
        # Another scheduler takes over.
        for store, limit in zip(stores, (1000, jobs_a_line), strict=True):
            store.decide()
            store.planner = a_planner(None if limit == 1000 else limit, policy=policy)
            store.running.clear()
            store.begin(limit)
    for store in stores:
        drain(store)
        assert store.waiting == {}
    assert stores[0].placed == stores[1].placed


@settings(max_examples=150, deadline=None)
@given(jobs_a_line=st.integers(1, 3), history=events)
def test_no_job_is_placed_before_one_that_came_earlier_and_would_fit_however_late_the_answers_are(
    jobs_a_line: int, history: list[tuple[str, int, int]]
) -> None:
    store = a_store(jobs_a_line)
    for sequence, event in enumerate(history):
        if event[0] == "answer":
            store.answer_requests()
        else:
            happen(store, event, sequence, policy=False)
        room = need(4, 4096).minus(store.planner.use_of("agent").used)
        waiting = {key: job for key, job in store.waiting.items() if all(offer.job != key for offer in store.proposed)}
        for job_id in store.plan():
            placed = waiting.pop(job_key(job_id))
            passed = [job for job in waiting.values() if job.sequence < placed.sequence and job.need.fits_in(room)]
            assert passed == []
            room = room.minus(placed.need)
    assert len(drain(store)) >= len(store.running)
    assert store.waiting == {}
