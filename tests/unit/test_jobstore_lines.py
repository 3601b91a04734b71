"""What the scheduler is told of long lines, and when."""

from collections.abc import Iterator

import pytest

from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.jobs import child_key
from batchyard.jobstore.convert import JOBS_A_LINE_MAX, effect_messages, jobs_a_line, line_name_of
from batchyard.jobstore.effects import Committed, Effects
from batchyard.jobstore.feed import Subscription
from batchyard.jobstore.offers import Proposal
from batchyard.storage.lines import LineName
from support.jobs import AGENT, NAMESPACE, Store, a_key

LINE = LineName(NAMESPACE, "queue", None, 1000, 128, 0, None)


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.connection.close()


def told(committed: Committed) -> list[list[str]]:
    return [list(part.job_ids) for part in committed.effects.lines]


def test_a_line_is_told_as_the_group_leaves_it(store: Store) -> None:
    keys = [store.submit(f"job-{number}") for number in range(5)]
    store.register()
    taken = Proposal(keys[1], store.job(keys[1]).version, AGENT, 1, "environment")
    result = store.group(
        lambda group: group.tell_line(LINE, -1, 3),
        lambda group: group.cancel(keys[0], "enough"),
        lambda group: group.offer(taken),
        lambda group: group.tell_line(LINE, store.job(keys[3]).sequence, 3),
    )
    assert told(result.committed) == [["job-2", "job-3", "job-4"], ["job-4"]]
    assert [part.more for part in result.committed.effects.lines] == [False, False]


def test_to_ask_for_a_line_writes_nothing(store: Store) -> None:
    store.submit()
    committed = store.do(lambda group: group.tell_line(LINE, -1, 3))
    assert not committed.written
    assert told(committed) == [["job"]]


def test_a_child_that_is_tried_again_stands_in_its_line(store: Store) -> None:
    array = store.submit_array(size=3, attempts=2)
    store.submit("later")
    store.register()
    store.run_to_end(child_key(array, 1), exit_code=1)
    committed = store.do(lambda group: group.tell_line(LINE, -1, 5))
    assert told(committed) == [["array:1", "later"]]


def test_a_line_is_told_before_all_else_of_later_commits(store: Store) -> None:
    """What a later commit says of a job is not undone by an earlier state of its line."""
    subscription = Subscription()
    subscription.begin_after(0)
    for name in ("first", "second"):
        store.submit(name)
    subscription.push(store.do(lambda group: group.tell_line(LINE, -1, 5)))
    subscription.push(store.do(lambda group: group.cancel(a_key("first"), "enough")))
    effects, _ = subscription.take_now()
    (message,) = effect_messages(effects, 0)
    assert [list(part.job_ids) for part in message.lines] == [["first", "second"]]
    assert [ref.job_id for ref in message.withdrawn] == ["first"]


def test_long_parts_of_lines_are_cut_into_messages(store: Store) -> None:
    for number in range(40):
        store.submit(f"job-{number}-{'x' * 40}")
    (part,) = store.do(lambda group: group.tell_line(LINE, -1, 100)).effects.lines
    part.job_ids, part.places, part.versions = part.job_ids * 100, part.places * 100, part.versions * 100
    messages = list(effect_messages(Effects(lines=[part] * 20), 0))
    assert sum(len(message.lines) for message in messages) == 20
    assert all(message.ByteSize() < 2 * 1024 * 1024 for message in messages)


def test_who_wants_to_know_all_of_a_line_is_told_what_goes_into_a_message() -> None:
    assert [jobs_a_line(wanted) for wanted in (0, 1, 2000, 1_000_000, -1)] == [
        *(JOBS_A_LINE_MAX, 1, 2000),
        *(JOBS_A_LINE_MAX, JOBS_A_LINE_MAX),
    ]


def test_the_name_of_a_line_without_share_and_time_limit_is_that_of_the_store() -> None:
    message = wire.LineRef(namespace=NAMESPACE, job_queue="queue", vcpus_milli=1000, memory_mib=128)
    assert line_name_of(message) == LINE
