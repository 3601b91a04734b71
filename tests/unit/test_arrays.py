from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.domain.arrays import (
    SIZE_MAX,
    Children,
    all_of,
    each,
    from_bytes,
    lowest,
    only,
    ranges,
    to_bytes,
)
from batchyard.domain.jobs import JobKey, array_and_index, child_key
from batchyard.domain.lifecycle import JobEvent, JobState
from support.jobs import a_key

SETS = st.sets(st.integers(min_value=0, max_value=SIZE_MAX - 1), max_size=40)


def indices(of: Sequence[int] | set[int]) -> int:
    return sum(only(index) for index in of)


def children(size: int = 4, *, sequential: bool = False, **sets: Sequence[int]) -> Children:
    given = {name: indices(members) for name, members in sets.items()}
    pending = all_of(size) & ~sum(given.values())
    return Children(size, sequential, False, 0, 0, **{"pending": pending, **given})


@given(SETS)
def test_sets_of_indices_are_read_back_in_order(members: set[int]) -> None:
    ordered = sorted(members)
    assert list(each(indices(members))) == ordered
    assert from_bytes(to_bytes(indices(members))) == indices(members)
    assert [index for first, last in ranges(indices(members)) for index in range(first, last + 1)] == ordered
    assert not members or lowest(indices(members)) == ordered[0]


def test_a_full_set_takes_as_many_bytes_as_it_has_bits_and_is_one_range() -> None:
    assert len(to_bytes(all_of(SIZE_MAX))) == SIZE_MAX // 8
    assert list(ranges(all_of(SIZE_MAX))) == [(0, SIZE_MAX - 1)]
    assert to_bytes(0) == b""


@pytest.mark.parametrize("job_id", ["a", "a:", "a:01", "a:-1", "a:10000", ":1", "a:1x", "a:٣"])
def test_only_an_id_with_an_index_behind_it_is_a_child(job_id: str) -> None:
    assert array_and_index(a_key(job_id)) is None


@pytest.mark.parametrize("index", [0, 7, 9999])
def test_a_child_is_found_by_the_key_that_is_made_for_it(index: int) -> None:
    key = child_key(a_key("array"), index)
    assert array_and_index(key) == (JobKey(key.namespace, a_key("array").job_id), index)


def test_children_without_dependencies_are_all_due() -> None:
    assert children().due([]) == (all_of(4), 0)


def test_a_paired_child_is_due_when_that_with_its_index_has_succeeded_in_every_other_array() -> None:
    first, second = children(succeeded=[0, 1], failed=[3]), children(succeeded=[1, 2], stopped=[0])
    assert children().due([first, second]) == (only(1), indices([0, 3]))


def test_the_next_of_sequential_children_is_due() -> None:
    assert children(sequential=True).due([]) == (only(0), 0)
    assert children(sequential=True, succeeded=[0, 1]).due([]) == (only(2), 0)


@pytest.mark.parametrize("how", ["failed", "stopped", "dependency_failed"])
def test_what_follows_a_failed_sequential_child_fails(how: str) -> None:
    assert children(5, sequential=True, succeeded=[0], **{how: [2]}).due([]) == (only(1), indices([3, 4]))


def test_a_sequential_child_whose_pair_failed_takes_the_later_ones_with_it() -> None:
    array, other = children(5, sequential=True, succeeded=[0]), children(5, succeeded=[0, 1, 3, 4], failed=[2])
    assert array.due([other]) == (only(1), indices([2, 3, 4]))


@given(st.integers(min_value=2, max_value=12), st.data())
def test_released_and_failed_children_are_apart_and_were_pending(size: int, data: st.DataObject) -> None:
    def array() -> Children:
        where = data.draw(
            st.lists(st.sampled_from(["pending", "succeeded", "failed", "stopped"]), min_size=size, max_size=size)
        )
        sets = {
            name: [index for index in range(size) if where[index] == name]
            for name in ("succeeded", "failed", "stopped")
        }
        return children(size, sequential=data.draw(st.booleans()), **sets)

    one, others = array(), [array() for _ in range(data.draw(st.integers(min_value=0, max_value=2)))]
    released, failed = one.due(others)
    assert not released & failed
    assert (released | failed) & ~one.pending == 0
    for index in each(released):
        assert all(other.succeeded >> index & 1 for other in others)
        assert not one.sequential or index == 0 or one.succeeded >> (index - 1) & 1


def test_the_summary_counts_every_child_once() -> None:
    array = children(10, succeeded=[0], failed=[1], stopped=[2], dependency_failed=[3], runnable=[4, 5])
    array.gets_row(4, JobState.RUNNABLE)
    array.row_moved(4, JobState.RUNNABLE, JobState.STARTING)
    summary = array.summary()
    assert summary == {
        JobState.SUBMITTED: 0,
        JobState.PENDING: 4,
        JobState.RUNNABLE: 1,
        JobState.STARTING: 1,
        JobState.RUNNING: 0,
        JobState.SUCCEEDED: 1,
        JobState.FAILED: 3,
    }
    assert [array.state_without_row(index) for index in (2, 3, 4, 5, 6)] == [
        JobState.FAILED,
        JobState.FAILED,
        None,
        JobState.RUNNABLE,
        JobState.PENDING,
    ]


def test_an_array_is_over_when_all_its_children_are() -> None:
    array = children(2)
    array.move(all_of(2), JobEvent.DEPENDENCIES_MET, JobState.RUNNABLE)
    array.move(only(1), JobEvent.CANCELLED, JobState.FAILED)
    assert not array.are_over
    array.gets_row(0, JobState.RUNNABLE)
    array.row_moved(0, JobState.RUNNABLE, JobState.SUCCEEDED)
    assert array.are_over
    assert not array.have_succeeded
