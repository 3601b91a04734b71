import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.resources import files as resources
from pathlib import Path

import pytest

from batchyard.domain.names import ResourceKind
from batchyard.storage.registry import RegistryStore, RegistryWriter
from batchyard.storage.sqlite.database import connect
from batchyard.storage.sqlite.migrations import migrate
from batchyard.storage.sqlite.registry import SqliteRegistryStore, migrate_registry
from support.registry_store_contract import NAMESPACE, RegistryStoreContract, put, queue, write


class TestSqliteRegistryStore(RegistryStoreContract):
    @contextmanager
    def open(self) -> Iterator[RegistryStore]:
        with closing(connect(":memory:")) as connection:
            migrate_registry(connection)
            yield SqliteRegistryStore(connection)


@contextmanager
def opened(path: Path) -> Iterator[SqliteRegistryStore]:
    with closing(connect(path)) as connection:
        migrate_registry(connection)
        yield SqliteRegistryStore(connection)


def test_everything_is_there_after_opening_the_file_again(tmp_path: Path) -> None:
    with opened(tmp_path / "registry.db") as store:
        stored = write(store, lambda writer: writer.put(queue("a"), "UPDATING", b"x", before=b"y"))
        write(store, lambda writer: writer.next_number(NAMESPACE, "n"))
        write(store, lambda writer: writer.reserve_revision())
    with opened(tmp_path / "registry.db") as store:
        assert store.find(queue("a")) == stored
        assert store.undecided() == [stored]
        assert store.revision() == 2
        assert write(store, lambda writer: writer.next_number(NAMESPACE, "n")) == 2


def test_a_failure_of_the_engine_undoes_the_whole_group(tmp_path: Path) -> None:
    def fail(writer: RegistryWriter) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with opened(tmp_path / "registry.db") as store:
        with pytest.raises(sqlite3.OperationalError, match="disk"):
            store.apply([lambda writer: writer.put(queue("a"), "VALID", b""), fail], now_ms=0)
        assert store.find(queue("a")) is None
        assert put(store, queue("b")).revision == 1


def test_readers_see_only_what_is_committed(tmp_path: Path) -> None:
    seen_inside: list[object] = []
    with opened(tmp_path / "registry.db") as store, closing(connect(tmp_path / "registry.db")) as other:
        reader = SqliteRegistryStore(other)

        def work(writer: RegistryWriter) -> None:
            writer.put(queue("a"), "VALID", b"")
            seen_inside.append(reader.find(queue("a")))

        write(store, work)
        assert seen_inside == [None]
        assert reader.find(queue("a")) is not None


def test_what_queues_hold_on_to_outlives_the_second_migration(tmp_path: Path) -> None:
    files = sorted((Path(str(resources("batchyard.storage.sqlite"))) / "migrations" / "registry").iterdir())
    first = tmp_path / "first"
    first.mkdir()
    (first / files[0].name).write_text(files[0].read_text())
    with closing(connect(tmp_path / "registry.db")) as connection:
        migrate(connection, first)
        connection.execute("INSERT INTO queue_environment VALUES (?, 'e', 'q')", (NAMESPACE,))
        migrate_registry(connection)
        store = SqliteRegistryStore(connection)
        assert store.queues_using(NAMESPACE, (ResourceKind.COMPUTE_ENVIRONMENT, "e")) == ["q"]
        write(store, lambda writer: writer.put(queue("q"), "VALID", b""))
        assert store.queues_using(NAMESPACE, (ResourceKind.COMPUTE_ENVIRONMENT, "e")) == []
