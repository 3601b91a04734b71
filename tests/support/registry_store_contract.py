"""What every storage engine of the registry must do."""

import abc
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TypeVar, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchyard.domain.names import ResourceKind
from batchyard.storage.registry import (
    DELETED,
    Listing,
    Place,
    RegistryReader,
    RegistryStore,
    RegistryWriter,
    ResourceKey,
    StoredResource,
)

T = TypeVar("T")

NAMESPACE = "123456789012"
QUEUE = ResourceKind.JOB_QUEUE
DEFINITION = ResourceKind.JOB_DEFINITION
E = (ResourceKind.COMPUTE_ENVIRONMENT, "e")
F = (ResourceKind.SCHEDULING_POLICY, "f")
EVERY_KIND = frozenset(ResourceKind)


def queue(name: str, namespace: str = NAMESPACE) -> ResourceKey:
    return ResourceKey(QUEUE, namespace, name)


def definition(name: str, number: int) -> ResourceKey:
    return ResourceKey(DEFINITION, NAMESPACE, name, number)


def write(store: RegistryStore, work: Callable[[RegistryWriter], T]) -> T:
    """Apply one command; return what it returns, raise what it raises."""
    (outcome,) = store.apply([work], now_ms=0)
    if outcome.error is not None:
        raise outcome.error
    return cast("T", outcome.value)


def put(store: RegistryStore, key: ResourceKey, status: str = "VALID", body: bytes = b"") -> StoredResource:
    return write(store, lambda writer: writer.put(key, status, body))


def keys(resources: Iterable[StoredResource]) -> list[ResourceKey]:
    return [resource.key for resource in resources]


def every_page(reader: RegistryReader, listing: Listing, limit: int) -> Iterator[list[StoredResource]]:
    """Page through a listing; between two pages the test may change the store."""
    after, more = None, True
    while more:
        page = reader.page(listing, after, limit)
        more = page.more
        if page.resources:
            after = Place(page.resources[-1].key.name, page.resources[-1].key.number)
        yield list(page.resources)


class RegistryStoreContract(abc.ABC):
    @abc.abstractmethod
    def open(self) -> AbstractContextManager[RegistryStore]:
        """Open a new, empty store."""

    @pytest.fixture
    def store(self) -> Iterator[RegistryStore]:
        with self.open() as store:
            yield store

    # Changes

    def test_a_resource_is_found_as_it_was_put(self, store: RegistryStore) -> None:
        put_ = write(store, lambda writer: writer.put(queue("a"), "UPDATING", b"new", before=b"old"))
        assert put_ == StoredResource(queue("a"), "UPDATING", b"new", revision=1, before=b"old", created=1)
        assert store.find(queue("a")) == put_
        assert store.find(queue("b")) is None

    def test_a_change_replaces_the_resource_under_a_new_revision(self, store: RegistryStore) -> None:
        put(store, queue("a"), body=b"first")
        changed = put(store, queue("a"), "INVALID", b"second")
        assert store.find(queue("a")) == changed
        assert (changed.revision, changed.before) == (2, None)
        assert keys(store.changes(EVERY_KIND, 0, 10).resources) == [queue("a")]

    def test_a_name_that_is_used_again_is_of_another_resource(self, store: RegistryStore) -> None:
        changes = [put(store, queue("a"), status) for status in ("CREATING", "VALID", "DELETING", "VALID", "DELETED")]
        again = [put(store, queue("a"), status) for status in ("CREATING", "VALID")]
        assert [change.created for change in (*changes, *again)] == [1] * 5 + [6] * 2
        assert store.find(queue("a")) == again[-1]

    def test_kinds_and_namespaces_have_names_of_their_own(self, store: RegistryStore) -> None:
        same_name = [
            queue("a"),
            queue("a", "999999999999"),
            ResourceKey(ResourceKind.COMPUTE_ENVIRONMENT, NAMESPACE, "a"),
            definition("a", 1),
        ]
        for key in same_name:
            put(store, key, body=repr(key).encode())
        assert [store.find(key) for key in same_name] == [
            StoredResource(key, "VALID", repr(key).encode(), revision, created=revision)
            for revision, key in enumerate(same_name, start=1)
        ]

    def test_revisions_only_grow_and_a_reserved_one_is_never_stored(self, store: RegistryStore) -> None:
        assert store.revision() == 0
        put(store, queue("a"))
        assert write(store, lambda writer: writer.reserve_revision()) == 2
        assert put(store, queue("b")).revision == 3
        assert store.revision() == 3

    def test_numbers_of_a_name_start_at_one_and_never_repeat(self, store: RegistryStore) -> None:
        numbers = [write(store, lambda writer: writer.next_number(NAMESPACE, "a")) for _ in range(3)]
        assert numbers == [1, 2, 3]
        assert write(store, lambda writer: writer.next_number(NAMESPACE, "b")) == 1
        assert write(store, lambda writer: writer.next_number("999999999999", "a")) == 1

    def test_a_command_that_raises_has_no_effect_and_spares_the_others(self, store: RegistryStore) -> None:
        def fail(writer: RegistryWriter) -> None:
            writer.put(queue("b"), "VALID", b"", uses=[E])
            writer.next_number(NAMESPACE, "n")
            raise LookupError("no")

        commands = [lambda writer: writer.put(queue("a"), "VALID", b""), fail, lambda writer: writer.revision()]
        first, failed, last = store.apply(commands, now_ms=0)
        assert isinstance(failed.error, LookupError)
        assert (first.error, last.error) == (None, None)
        assert store.find(queue("a")) == first.value
        assert store.find(queue("b")) is None
        assert last.value == 1
        assert store.queues_using(NAMESPACE, E) == []
        assert write(store, lambda writer: writer.next_number(NAMESPACE, "n")) == 1

    def test_commands_see_what_those_before_them_did(self, store: RegistryStore) -> None:
        commands = [
            lambda writer: writer.put(queue("a"), "VALID", b"x"),
            lambda writer: writer.find(queue("a")),
        ]
        put_, found = store.apply(commands, now_ms=0)
        assert found.value == put_.value

    def test_what_is_undecided_is_listed_until_it_is_decided(self, store: RegistryStore) -> None:
        put(store, queue("a"))
        undecided = write(store, lambda writer: writer.put(queue("b"), "DELETING", b"", before=b"b"))
        assert store.undecided() == [undecided]
        put(store, queue("b"))
        assert store.undecided() == []

    def test_a_queue_holds_on_to_what_its_last_change_names(self, store: RegistryStore) -> None:
        write(store, lambda writer: writer.put(queue("b"), "VALID", b"", uses=[E, F]))
        write(store, lambda writer: writer.put(queue("a"), "VALID", b"", uses=[E]))
        assert store.queues_using(NAMESPACE, E) == ["a", "b"]
        write(store, lambda writer: writer.put(queue("b"), "VALID", b"", uses=[F]))
        assert store.queues_using(NAMESPACE, E) == ["a"]
        assert store.queues_using(NAMESPACE, F) == ["b"]
        assert store.queues_using("999999999999", E) == []

    def test_all_of_a_kind_in_a_status_are_found_in_every_namespace(self, store: RegistryStore) -> None:
        going = [put(store, queue("a"), "DELETING"), put(store, queue("a", "999999999999"), "DELETING")]
        put(store, queue("b"))
        put(store, ResourceKey(ResourceKind.COMPUTE_ENVIRONMENT, NAMESPACE, "a"), "DELETING")
        assert store.with_status(QUEUE, "DELETING") == going

    # Listings

    def test_a_listing_goes_by_name_and_then_newest_number_first(self, store: RegistryStore) -> None:
        for key in (definition("b", 1), definition("a", 1), definition("b", 10), definition("b", 2), queue("c")):
            put(store, key)
        (page,) = every_page(store, Listing(DEFINITION, NAMESPACE), limit=10)
        assert keys(page) == [definition("a", 1), definition("b", 10), definition("b", 2), definition("b", 1)]

    def test_a_listing_leaves_out_tombstones_and_other_namespaces(self, store: RegistryStore) -> None:
        put(store, queue("gone"), DELETED)
        put(store, queue("elsewhere", "999999999999"))
        put(store, queue("here"))
        (page,) = every_page(store, Listing(QUEUE, NAMESPACE), limit=10)
        assert keys(page) == [queue("here")]

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ({}, ["a:2", "a:1", "b:2", "b:1"]),
            ({"name": "a"}, ["a:2", "a:1"]),
            ({"status": "ACTIVE"}, ["a:2", "b:1"]),
            ({"name": "b", "status": "ACTIVE"}, ["b:1"]),
            ({"references": []}, []),
            ({"references": [("a", None), ("a", 2), ("b", 1), ("c", None), ("b", 7)]}, ["a:2", "a:1", "b:1"]),
            ({"references": [("a", None), ("b", 2)], "status": "INACTIVE"}, ["a:1", "b:2"]),
            ({"references": [("a", None)], "name": "b"}, []),
            ({"references": [("b", 2), ("a", 1)], "name": "b"}, ["b:2"]),
        ],
    )
    def test_every_filter_narrows(self, store: RegistryStore, filters: dict[str, object], found: list[str]) -> None:
        for name, number, status in (
            ("a", 1, "INACTIVE"),
            ("a", 2, "ACTIVE"),
            ("b", 1, "ACTIVE"),
            ("b", 2, "INACTIVE"),
        ):
            put(store, definition(name, number), status)
        listing = replace(Listing(DEFINITION, NAMESPACE), **filters)  # type: ignore[arg-type]
        for limit in (1, 2, 10):
            listed = [key for page in every_page(store, listing, limit) for key in keys(page)]
            assert [f"{key.name}:{key.number}" for key in listed] == found

    def test_a_full_last_page_says_that_nothing_follows(self, store: RegistryStore) -> None:
        for name in "abcd":
            put(store, queue(name))
        assert [len(page) for page in every_page(store, Listing(QUEUE, NAMESPACE), limit=2)] == [2, 2]

    def test_large_resources_make_short_pages(self, store: RegistryStore) -> None:
        for name in "abcde":
            put(store, queue(name), body=bytes(600 * 1024))
        pages = list(every_page(store, Listing(QUEUE, NAMESPACE), limit=100))
        assert [keys(page) for page in pages] == [
            [queue("a"), queue("b")],
            [queue("c"), queue("d")],
            [queue("e")],
        ]

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(data=st.data(), limit=st.integers(1, 4))
    def test_what_is_there_throughout_is_listed_exactly_once(self, data: st.DataObject, limit: int) -> None:
        names = [f"{letter}{digit}" for letter in "abc" for digit in "123"]
        steady = data.draw(st.sets(st.sampled_from(names)), "steady")
        passing = st.lists(st.sampled_from(sorted(set(names) - steady)) if steady != set(names) else st.nothing())
        with self.open() as store:
            for name in steady:
                put(store, queue(name))
            seen: list[str] = []
            for page in every_page(store, Listing(QUEUE, NAMESPACE), limit):
                seen += [resource.key.name for resource in page]
                for name in data.draw(passing, "come and go"):
                    there = store.find(queue(name))
                    put(store, queue(name), "VALID" if there is None or there.status == DELETED else DELETED)
        assert sorted(name for name in seen if name in steady) == sorted(steady)
        assert seen == sorted(set(seen))

    # Changes, for watches

    def test_changes_come_in_the_order_of_their_revisions_each_resource_once(self, store: RegistryStore) -> None:
        for name in ("a", "b", "c", "a"):
            put(store, queue(name))
        changes = store.changes(EVERY_KIND, 0, 10)
        assert [(resource.key.name, resource.revision) for resource in changes.resources] == [
            ("b", 2),
            ("c", 3),
            ("a", 4),
        ]
        assert changes.revision == 4

    def test_changes_go_on_from_a_revision(self, store: RegistryStore) -> None:
        for name in "abc":
            put(store, queue(name))
        first = store.changes(EVERY_KIND, 0, 2)
        assert (keys(first.resources), first.revision) == ([queue("a"), queue("b")], 2)
        second = store.changes(EVERY_KIND, first.revision, 2)
        assert (keys(second.resources), second.revision) == ([queue("c")], 3)
        last = store.changes(EVERY_KIND, second.revision, 2)
        assert (list(last.resources), last.revision) == ([], 3)

    def test_changes_of_other_kinds_are_passed_over(self, store: RegistryStore) -> None:
        put(store, queue("a"))
        put(store, definition("a", 1))
        changes = store.changes({QUEUE}, 0, 10)
        assert (keys(changes.resources), changes.revision) == ([queue("a")], 2)

    def test_tombstones_are_changes_unless_they_are_too_old(self, store: RegistryStore) -> None:
        put(store, queue("old"), DELETED)
        put(store, queue("new"), DELETED)
        assert keys(store.changes(EVERY_KIND, 0, 10).resources) == [queue("old"), queue("new")]
        assert keys(store.changes(EVERY_KIND, 0, 10, no_tombstones_until=1).resources) == [queue("new")]
