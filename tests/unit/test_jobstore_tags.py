"""Tags of jobs, in the core and in its storage."""

from collections.abc import Mapping

import pytest

from batchyard.api.agent.v1.run_pb2 import JobSpec
from batchyard.domain.errors import InvalidRequestError, NotFoundError
from batchyard.domain.jobs import JobKey
from batchyard.jobstore.group import Group, Submission
from batchyard.jobstore.views import tags_of
from batchyard.storage.jobs import Changes, Removal
from support.jobs import Store, a_job, a_key


@pytest.fixture
def store() -> Store:
    return Store()


def a_submission(name: str = "job", **tags: str) -> Submission:
    return Submission(a_job(name), JobSpec(tags=tags).SerializeToString(), ())


def tags(store: Store, key: JobKey) -> Mapping[str, str]:
    (record,) = store.reader.describe([key])
    return tags_of(record, JobSpec.FromString(record.spec))


def test_tags_are_as_submitted_until_they_are_changed(store: Store) -> None:
    store.do(lambda group: group.submit(a_submission(kept="1", changed="1", gone="1")))
    assert tags(store, a_key("job")) == {"kept": "1", "changed": "1", "gone": "1"}
    store.do(lambda group: group.change_tags(a_key("job"), {"changed": "2", "new": ""}, ["gone", "never there"]))
    assert tags(store, a_key("job")) == {"kept": "1", "changed": "2", "new": ""}
    store.do(lambda group: group.change_tags(a_key("job"), {}, ["kept", "changed", "new"]))
    assert tags(store, a_key("job")) == {}
    store.do(lambda group: group.change_tags(a_key("job"), {"a": "b"}, []))
    assert tags(store, a_key("job")) == {"a": "b"}


def test_changes_of_one_group_follow_each_other_and_its_submissions(store: Store) -> None:
    store.group(
        lambda group: group.submit(a_submission(a="1")),
        lambda group: group.change_tags(a_key("job"), {"b": "1"}, ["a"]),
        lambda group: group.change_tags(a_key("job"), {"c": "1"}, []),
    )
    assert tags(store, a_key("job")) == {"b": "1", "c": "1"}


def test_a_job_that_is_over_can_be_tagged(store: Store) -> None:
    store.do(lambda group: group.submit(a_submission()))
    store.do(lambda group: group.cancel(a_key("job"), "no"))
    store.do(lambda group: group.change_tags(a_key("job"), {"a": "b"}, []))
    assert tags(store, a_key("job")) == {"a": "b"}


def test_refuses_an_unknown_job_and_too_many_tags(store: Store) -> None:
    def too_many(group: Group) -> None:
        group.change_tags(a_key("job"), {str(number): "" for number in range(50)}, [])

    store.do(lambda group: group.submit(a_submission(a="b")))
    with pytest.raises(InvalidRequestError, match="Number of tags must not exceed 50"):
        store.do(too_many)
    with pytest.raises(NotFoundError):
        store.do(lambda group: group.change_tags(a_key("another"), {"a": "b"}, []))
    assert tags(store, a_key("job")) == {"a": "b"}


def test_tags_go_with_their_job(store: Store) -> None:
    store.do(lambda group: group.submit(a_submission()))
    store.do(lambda group: group.change_tags(a_key("job"), {"a": "b"}, []))
    sequence = store.job(a_key("job")).sequence
    store.writer.apply(store.core.numbers.epoch, Changes(removal=Removal(jobs=[sequence])))
    assert store.writer.changed_tags(sequence) is None
