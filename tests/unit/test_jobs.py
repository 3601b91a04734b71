import random
import uuid

from hypothesis import given
from hypothesis import strategies as st

from batchyard.domain.jobs import JobId, job_ids


@given(st.lists(st.integers(0, 2**48 - 1), min_size=1, max_size=50), st.integers())
def test_job_ids_grow_whatever_the_clock_does(times: list[int], seed: int) -> None:
    clock = iter(times)
    make = job_ids(None, lambda: next(clock), random.Random(seed).getrandbits)
    ids = [make() for _ in times]
    assert ids == sorted(set(ids))
    assert all(uuid.UUID(job_id).version == 7 and uuid.UUID(job_id).variant == uuid.RFC_4122 for job_id in ids)


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1), st.integers())
def test_job_ids_go_on_from_the_last_one_of_an_earlier_start(before: int, after: int, seed: int) -> None:
    bits = random.Random(seed).getrandbits
    last = job_ids(None, lambda: before, bits)()
    assert job_ids(last, lambda: after, bits)() > last


def test_a_job_id_tells_the_time_of_its_making() -> None:
    make = job_ids(None, lambda: 0x0123_4567_89AB, lambda _: 0)
    assert make() == JobId("01234567-89ab-7000-8000-000000000000")
