"""What SQLite makes of the job store's queries: none looks at all jobs of an installation, or of an account."""

import pytest

from batchyard.domain.jobs import child_key
from batchyard.domain.lifecycle import JobState
from batchyard.storage.listings import LineKey
from support.jobs import AGENT, NAMESPACE, QUEUE, Store

NEWEST = "ORDER BY sequence DESC LIMIT 1"
"""One step from the end of the table, which SQLite calls a scan."""

OF_ACTIVE_JOBS = ("jobs_waiting", "jobs_by_agent", "children_active")


@pytest.fixture
def queries() -> list[tuple[str, list[str]]]:
    """Return the queries of a store at work, each with the steps of its plan."""
    store = Store()
    seen: list[str] = []
    store.connection.set_trace_callback(seen.append)
    store.restart()
    store.register()
    store.submit("job")
    array = store.submit_array("array", 20, attempts=2)
    store.submit_array("paired", 20, paired_with=("array",), after=("job",))
    store.run_to_end(child_key(array, 0))
    store.run_to_end(child_key(array, 1), exit_code=1)
    store.do(lambda group: group.cancel(array, "enough"))
    store.do(lambda group: group.lose_agent(AGENT, 1))
    reader, writer = store.reader, store.writer
    for state in JobState:
        reader.page(QUEUE.key, state, None, 10)
        reader.children(array, state, -1, 10)
    reader.describe([array, child_key(array, 0), child_key(array, 9)])
    reader.front(QUEUE.key, 10)
    reader.waiting(LineKey(NAMESPACE, "queue", 1000, 128, 0), 9000, 10)
    reader.newest_named(NAMESPACE, "name-of-job", "queue")
    list(reader.snapshot(1).pages)
    reader.tallies()
    reader.counts(NAMESPACE)
    reader.held(NAMESPACE, 0, 10, 0, 9000)
    writer.has_unfinished_jobs(QUEUE.key)
    finished = writer.finished_jobs(9000, None, 10)
    writer.dependencies(finished, 10)
    writer.children_of(2, 10)
    store.connection.set_trace_callback(None)
    unlike = {query.partition(" VALUES ")[0]: query for query in seen if "jobs" in query}
    plans = []
    for query in unlike.values():
        if query.startswith(("SELECT", "UPDATE", "DELETE")):
            rows = store.connection.execute(f"EXPLAIN QUERY PLAN {query}")
            plans.append((query, [row[-1] for row in rows]))
    store.connection.close()
    return plans


def test_every_query_finds_its_jobs_by_an_index(queries: list[tuple[str, list[str]]]) -> None:
    slow = [
        (query, step)
        for query, plan in queries
        for step in plan
        if (step.startswith(("SCAN jobs", "SCAN j ")) and not any(index in step for index in OF_ACTIVE_JOBS))
        or (step.endswith("(namespace=?)") and not step.startswith("SEARCH q "))
    ]
    assert [found for found in slow if NEWEST not in found[0]] == []
    assert len(queries) > 30
