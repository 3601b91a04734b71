from batchyard.jobstore.group import Submission
from batchyard.jobstore.repeats import submit_once
from batchyard.storage.jobs import ANSWERS_KEPT_MS, RequestKey
from support.jobs import Store, a_job


def submit(store: Store, name: str, key: bytes) -> bytes:
    submission = Submission(a_job(name), b"spec", ())
    result = store.group(lambda group: submit_once(group, submission, RequestKey(key), f"answer {name}".encode()))
    (answer,) = result.answers
    assert isinstance(answer, bytes)
    return answer


def kept(store: Store) -> int:
    return int(store.connection.execute("SELECT count(*) FROM answers").fetchone()[0])


def test_two_of_one_group_give_one_job_and_a_refused_one_leaves_the_answer_to_the_next() -> None:
    store = Store()
    bad, first, second = (
        Submission(a_job(name, queue=queue), b"spec", ())
        for name, queue in (("bad", "none"), ("first", "queue"), ("second", "queue"))
    )
    key = RequestKey(b"key")
    result = store.group(
        lambda group: submit_once(group, bad, key, b"bad"),
        lambda group: submit_once(group, first, key, b"first"),
        lambda group: submit_once(group, second, key, b"second"),
    )
    assert isinstance(result.answers[0], Exception)
    assert result.answers[1:] == [b"first", b"first"]
    assert [change.job_name for change in result.committed.changes] == ["name-of-first"]


def test_an_answer_is_kept_for_a_day_and_goes_when_others_come() -> None:
    store = Store()
    assert submit(store, "first", b"1") == b"answer first"
    store.now += ANSWERS_KEPT_MS
    assert submit(store, "again", b"1") == b"answer first"
    submit(store, "second", b"2")
    assert kept(store) == 2
    store.now += 1
    submit(store, "third", b"3")
    assert kept(store) == 2
    assert submit(store, "later", b"1") == b"answer later"
