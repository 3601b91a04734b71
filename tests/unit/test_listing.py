"""ListJobs with a filter: what it asks for, and how it is found."""

import pytest
from google.protobuf.json_format import ParseDict

from batchyard.api.jobs.v1.jobs_service_pb2 import KeyValuesPair
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.lifecycle import JobState
from batchyard.jobstore.listing import filter_of
from batchyard.storage.listings import JobFilter, Pattern
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


def test_the_newest_job_of_a_name_is_that_of_the_same_queue_first() -> None:
    store = Store()
    first = store.submit("one")
    assert a_job("one").job_name == "name-of-one"
    assert store.reader.newest_named(NAMESPACE, "name-of-one", "queue") == first
    assert store.reader.newest_named(NAMESPACE, "name-of-one", "other") == first
    assert store.reader.newest_named(NAMESPACE, "NAME-of-one", "queue") is None
    assert store.reader.newest_named(NAMESPACE, "none", "queue") is None
