"""ListJobs with a filter: what it asks for, and how it is found."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from batchyard.api.jobs.v1.jobs_service_pb2 import KeyValuesPair
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.jobs import Job
from batchyard.domain.lifecycle import JobState
from batchyard.jobstore.group import Group, Submission
from batchyard.jobstore.listing import filter_of
from batchyard.storage.jobs import Changes, NewJob
from batchyard.storage.listings import JobFilter, LineKey, Pattern
from batchyard.storage.sqlite import listings
from support.jobs import NAMESPACE, QUEUE, Store, a_job

ARN = f"arn:aws:batch:eu-west-1:{NAMESPACE}:job-definition/"


def a_filter(name: str, *values: str) -> KeyValuesPair:
    return ParseDict({"name": name, "values": values}, KeyValuesPair())


@pytest.mark.parametrize(
    ("pair", "state", "expected"),
    [
        (a_filter("JOB_NAME", "a"), JobState.FAILED, JobFilter(names=(Pattern("a"),))),
        (a_filter("JOB_NAME", "a*", "B"), None, JobFilter(names=(Pattern("a", is_prefix=True), Pattern("B")))),
        (a_filter("JOB_NAME", "*"), None, JobFilter(names=(Pattern("", is_prefix=True),))),
        (a_filter("JOB_DEFINITION", "d"), None, JobFilter(definitions=(Pattern("d:", is_prefix=True),))),
        (a_filter("JOB_DEFINITION", "d*"), None, JobFilter(definitions=(Pattern("d", is_prefix=True),))),
        (a_filter("JOB_DEFINITION", "d:3"), None, JobFilter(definitions=(Pattern("d:3"),))),
        (a_filter("JOB_DEFINITION", f"{ARN}d:3"), None, JobFilter(definitions=(Pattern("d:3"),))),
        (a_filter("JOB_DEFINITION", f"{ARN}d"), None, JobFilter(definitions=(Pattern("d:", is_prefix=True),))),
        (a_filter("BEFORE_CREATED_AT", "1480460782010"), None, JobFilter(created_before=1480460782010)),
        (a_filter("AFTER_CREATED_AT", "0"), None, JobFilter(created_after=0)),
        (a_filter("SHARE_IDENTIFIER", "s"), JobState.FAILED, JobFilter(shares=("s",), state=JobState.FAILED)),
        (a_filter("SHARE_IDENTIFIER", "s"), None, JobFilter(shares=("s",))),
    ],
)
def test_a_filter_says_which_jobs_are_wanted(pair: KeyValuesPair, state: JobState | None, expected: JobFilter) -> None:
    assert filter_of([pair], state, NAMESPACE) == expected


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ([a_filter("JOB_NAME", "a")] * 2, "Only one filter can be used at a time."),
        ([a_filter("", "a")], "name is required. Valid filter names: [JOB_NAME, "),
        ([a_filter("job_name", "a")], "Filter name job_name is not valid. Valid filter names: [JOB_NAME, "),
        ([a_filter("JOB_NAME")], "Filter JOB_NAME needs values"),
        ([a_filter("JOB_NAME", "a", "")], "Filter JOB_NAME needs values"),
        ([a_filter("JOB_NAME", *["a"] * 101)], "can have at most 100 values"),
        ([a_filter("JOB_DEFINITION", f"{ARN}d:*")], "cannot have an ARN with an asterisk"),
        ([a_filter("BEFORE_CREATED_AT", "1", "2")], "can have only one value"),
        ([a_filter("BEFORE_CREATED_AT", "yesterday")], "needs milliseconds since the epoch, got yesterday."),
        ([a_filter("AFTER_CREATED_AT", "-1")], "needs milliseconds since the epoch, got -1."),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(filters: list[KeyValuesPair], text: str) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        filter_of(filters, None, NAMESPACE)
    assert text in refusal.value.message
    assert refusal.value.field == "filters"


@pytest.mark.parametrize(
    "wanted",
    [
        JobFilter(names=(Pattern("abc"), Pattern("x", is_prefix=True))),
        JobFilter(definitions=(Pattern("d:", is_prefix=True),)),
        JobFilter(shares=("s",), state=JobState.FAILED),
        JobFilter(created_before=5),
        JobFilter(created_after=5),
    ],
)
def test_no_listing_looks_at_jobs_that_no_index_leads_to(wanted: JobFilter) -> None:
    store, plans = Store(), []
    asked: list[str] = []
    store.connection.set_trace_callback(asked.append)
    listings.listed(store.connection, QUEUE.key, wanted, None, 100)
    store.connection.set_trace_callback(None)
    for query in asked:
        plans += [row[3] for row in store.connection.execute(f"EXPLAIN QUERY PLAN {query}")]
    steps = [step for step in plans if "jobs" in step]
    assert steps
    assert all("USING" in step and "INDEX" in step for step in steps), plans


def test_many_matches_are_looked_for_a_bounded_number_of_jobs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "MATCHES_MAX", 3)
    monkeypatch.setattr(listings, "SCANNED_MAX", 5)
    store = Store()
    for number in range(20):
        store.submit(f"{'even' if number % 2 == 0 else 'odd'}-{number:02}")
    wanted = JobFilter(names=(Pattern("NAME-OF-odd", is_prefix=True),))
    found, after, pages = [], None, 0
    while pages == 0 or after is not None:
        page = store.reader.filtered(QUEUE.key, wanted, after, 2)
        found += [job.job_name for job in page.jobs]
        after, pages = page.end, pages + 1
        assert len(page.jobs) <= 2
    assert found == [f"name-of-odd-{number:02}" for number in range(19, 0, -2)]
    rare = JobFilter(names=(Pattern("name-of-even-0", is_prefix=True),))
    monkeypatch.setattr(listings, "MATCHES_MAX", 0)
    assert store.reader.filtered(QUEUE.key, rare, None, 100).jobs == []
    assert store.reader.filtered(QUEUE.key, rare, None, 100).end is not None


def test_finding_few_costs_the_same_however_many_others_there_are() -> None:
    store = Store()
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    few = {
        "names": JobFilter(names=(Pattern("rare"),)),
        "definitions": JobFilter(definitions=(Pattern("rare:1"),)),
        "shares": JobFilter(shares=("rare",)),
        "states": JobFilter(names=(Pattern("n", is_prefix=True),), state=JobState.FAILED),
        "times": JobFilter(created_after=10**9),
    }

    def costs() -> dict[str, int]:
        nonlocal steps
        found = {}
        asked: dict[str, Callable[[], object]] = {
            name: partial(listings.listed, store.connection, QUEUE.key, wanted, None, 10)
            for name, wanted in few.items()
        }
        asked["newest"] = partial(store.reader.newest_named, NAMESPACE, "rare", "queue")
        asked["front"] = partial(store.reader.front, QUEUE.key, 5)
        asked["overdue"] = partial(store.reader.waiting, LineKey(NAMESPACE, "queue", 1000, 64, 0), 10**9, 5)
        for name, ask in asked.items():
            steps = 0
            store.connection.set_progress_handler(step, 10)
            ask()
            store.connection.set_progress_handler(None, 0)
            found[name] = steps
        return found

    sequence = 0

    def add(count: int) -> None:
        nonlocal sequence
        jobs = []
        for _ in range(count):
            sequence += 1
            state = JobState.RUNNABLE if sequence % 2 else JobState.PENDING
            jobs.append(replace(a_job(f"job-{sequence}"), sequence=sequence, state=state))
        new_jobs = [NewJob(job, b"", ()) for job in jobs]
        store.writer.apply(store.core.numbers.epoch, Changes(new_jobs=new_jobs))

    add(200)
    before = costs()
    add(6000)
    assert sequence > listings.MATCHES_MAX
    after = costs()
    # Only to find out that many match a name costs more, up to a bound.
    assert after.pop("states") <= before.pop("states") + 20 * listings.MATCHES_MAX / 10
    assert all(after[name] <= cost + 5 for name, cost in before.items()), (before, after)


def test_the_newest_job_of_a_name_is_that_of_the_same_queue_first() -> None:
    store = Store()
    first = store.submit("one")
    assert a_job("one").job_name == "name-of-one"
    assert store.reader.newest_named(NAMESPACE, "name-of-one", "queue") == first
    assert store.reader.newest_named(NAMESPACE, "name-of-one", "other") == first
    assert store.reader.newest_named(NAMESPACE, "NAME-of-one", "queue") is None
    assert store.reader.newest_named(NAMESPACE, "none", "queue") is None


NAMES = ("a", "A", "ab", "aB", "abc", "b", "_", "z")
DEFINITIONS = ("d:1", "d:2", "d:10", "da:1", "D:1")
SHARES = (None, None, "s", "t")


@pytest.fixture(scope="module")
def many() -> tuple[Store, list[Job]]:
    """A store of many jobs that differ in all that filters look at, and those jobs, newest first."""
    store, rng = Store(), random.Random(1)
    jobs = [
        replace(
            a_job(str(number)),
            job_name=rng.choice(NAMES),
            job_definition=f"{ARN}{rng.choice(DEFINITIONS)}",
            share_identifier=rng.choice(SHARES),
        )
        for number in range(200)
    ]
    for job in jobs:
        store.now += rng.choice((-1, 0, 0, 1, 2))
        store.do(partial(Group.submit, new=Submission(job, b"spec", ())))
        if rng.random() < 0.3:
            store.do(partial(Group.cancel, key=job.key, reason="enough"))
    stored = store.writer.jobs([job.key for job in jobs])
    return store, sorted(stored, key=lambda job: (job.created_at, job.sequence), reverse=True)


def patterns(texts: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[Pattern, ...]]:
    return st.lists(st.builds(Pattern, texts, st.booleans()), max_size=3).map(tuple)


times = st.none() | st.integers(990, 1300)
filters = (
    st.builds(
        JobFilter, names=patterns(st.sampled_from((*NAMES, "", "none"))), created_before=times, created_after=times
    )
    | st.builds(JobFilter, definitions=patterns(st.sampled_from((*DEFINITIONS, "d:", "d", ""))))
    | st.builds(
        JobFilter,
        shares=st.lists(st.sampled_from(("s", "t", "u")), max_size=2).map(tuple),
        state=st.none() | st.sampled_from((JobState.RUNNABLE, JobState.FAILED)),
    )
)


def lets_through(wanted: JobFilter, job: Job) -> bool:
    """Say what a filter means, in the plainest way."""

    def matches(text: str, choices: tuple[Pattern, ...]) -> bool:
        return not choices or any(
            text.startswith(choice.text) if choice.is_prefix else text == choice.text for choice in choices
        )

    names = tuple(Pattern(name.text.lower(), name.is_prefix) for name in wanted.names)
    return (
        matches(job.job_name.lower(), names)
        and matches(job.job_definition.rpartition("/")[2], wanted.definitions)
        and (not wanted.shares or job.share_identifier in wanted.shares)
        and (wanted.created_before is None or job.created_at < wanted.created_before)
        and (wanted.created_after is None or job.created_at > wanted.created_after)
        and (wanted.state is None or job.state is wanted.state)
    )


@given(filters, st.integers(1, 50), st.sampled_from((0, 5, 40, 5000)), st.sampled_from((1, 7, 60, 20_000)))
def test_the_pages_of_a_filtered_listing_hold_every_match_once_and_in_order(
    many: tuple[Store, list[Job]], wanted: JobFilter, limit: int, matches_max: int, scanned_max: int
) -> None:
    store, jobs = many
    found, after = [], None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listings, "MATCHES_MAX", matches_max)
        patch.setattr(listings, "SCANNED_MAX", scanned_max)
        while True:
            page = store.reader.filtered(QUEUE.key, wanted, after, limit)
            assert len(page.jobs) <= limit
            found += [job.sequence for job in page.jobs]
            if page.end is None:
                break
            after = page.end
    assert found == [job.sequence for job in jobs if lets_through(wanted, job)]
