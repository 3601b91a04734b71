"""The registry's storage on SQLite."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from importlib.resources import files
from itertools import islice
from typing import Final

from batchyard.domain.names import ResourceKind
from batchyard.storage.registry import (
    DELETED,
    Changes,
    Command,
    Listing,
    Outcome,
    Page,
    Place,
    ResourceKey,
    StoredResource,
    Use,
)
from batchyard.storage.sqlite.migrations import migrate

PAGE_BYTES_MAX: Final = 1024 * 1024
"""A page ends after the resource that reaches this size, so that it fits into one gRPC message."""

_COLUMNS: Final = "revision, kind, namespace, name, number, status, body, before, created"

_FIND: Final = f"SELECT {_COLUMNS} FROM resource WHERE kind = ? AND namespace = ? AND name = ? AND number = ?"  # noqa: S608

_LIST: Final = f"""
SELECT {_COLUMNS} FROM resource
WHERE kind = :kind AND namespace = :namespace AND name >= :name_min AND name <= :name_max
  AND (name > :after_name OR number < :after_number)
  AND status <> '{DELETED}' AND (:status IS NULL OR status = :status)
ORDER BY name, number DESC LIMIT :limit
"""  # noqa: S608

_LIST_REFERENCED: Final = f"""
SELECT {_COLUMNS} FROM resource
WHERE revision IN (
    SELECT named.revision
    FROM json_each(:references) AS reference CROSS JOIN resource AS named
    WHERE named.kind = :kind AND named.namespace = :namespace AND named.name = reference.value ->> 0
      AND named.number = reference.value ->> 1
    UNION ALL
    SELECT named.revision
    FROM json_each(:references) AS reference CROSS JOIN resource AS named
    WHERE named.kind = :kind AND named.namespace = :namespace AND named.name = reference.value ->> 0
      AND reference.value ->> 1 IS NULL
  )
  AND name >= :name_min AND name <= :name_max
  AND (name > :after_name OR number < :after_number)
  AND status <> '{DELETED}' AND (:status IS NULL OR status = :status)
ORDER BY name, number DESC LIMIT :limit
"""  # noqa: S608

_CHANGES: Final = f"""
SELECT {_COLUMNS} FROM resource
WHERE revision > :after AND kind IN (SELECT value FROM json_each(:kinds))
  AND (status <> '{DELETED}' OR revision > :no_tombstones_until)
ORDER BY revision LIMIT :limit
"""  # noqa: S608

_UNDECIDED: Final = f"SELECT {_COLUMNS} FROM resource WHERE before IS NOT NULL ORDER BY revision"  # noqa: S608

_WITH_STATUS: Final = f"SELECT {_COLUMNS} FROM resource WHERE kind = ? AND status = ? ORDER BY revision"  # noqa: S608

# Above every name: names are ASCII.
_NAME_MAX: Final = "\x7f"
# Above every number, at which a listing begins.
_NUMBER_MAX: Final = 2**62

_Row = tuple[int, str, str, str, int, str, bytes, bytes | None, int]


def migrate_registry(connection: sqlite3.Connection) -> None:
    """Bring a registry's database to the schema that this module speaks."""
    migrate(connection, files("batchyard.storage.sqlite") / "migrations" / "registry")


class SqliteRegistryReader:
    """Reads on a connection of their own, or inside a writer's transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def revision(self) -> int:
        """Return the newest revision, 0 before the first."""
        return int(self._connection.execute("SELECT revision FROM revision_counter").fetchone()[0])

    def find(self, key: ResourceKey) -> StoredResource | None:
        """Return a resource or its tombstone."""
        row = self._connection.execute(_FIND, (key.kind, key.namespace, key.name, key.number)).fetchone()
        return None if row is None else _resource(row)

    def page(self, listing: Listing, after: Place | None, limit: int) -> Page:
        """Return the next resources of a listing."""
        after = after or Place("", _NUMBER_MAX)
        statement = _LIST if listing.references is None else _LIST_REFERENCED
        cursor = self._connection.execute(
            statement,
            {
                "kind": listing.kind,
                "namespace": listing.namespace,
                "references": json.dumps(list(listing.references or ())),
                "name_min": max(after.name, listing.name or ""),
                "name_max": listing.name or _NAME_MAX,
                "after_name": after.name,
                "after_number": after.number,
                "status": listing.status,
                "limit": limit + 1,
            },
        )
        resources, more = _cut(cursor, limit)
        return Page(resources, more)

    def changes(
        self, kinds: Collection[ResourceKind], after_revision: int, limit: int, *, no_tombstones_until: int = 0
    ) -> Changes:
        """Return the next resources that have changed after a revision."""
        # First the counter, then the rows: without a transaction around both, a commit in between only adds rows
        # beyond the counter, which are then sent now and not again.
        newest = self.revision()
        cursor = self._connection.execute(
            _CHANGES,
            {
                "after": after_revision,
                "kinds": json.dumps(sorted(kinds)),
                "no_tombstones_until": no_tombstones_until,
                "limit": limit + 1,
            },
        )
        resources, more = _cut(cursor, limit)
        seen = resources[-1].revision if resources else after_revision
        return Changes(resources, seen if more else max(newest, seen))

    def queues_using(self, namespace: str, used: Use) -> Sequence[str]:
        """Return the names of the job queues that hold on to a resource."""
        rows = self._connection.execute(
            "SELECT job_queue FROM queue_use WHERE namespace = ? AND kind = ? AND name = ? ORDER BY job_queue",
            (namespace, *used),
        )
        return [name for (name,) in rows]

    def with_status(self, kind: ResourceKind, status: str) -> Sequence[StoredResource]:
        """Return all resources of a kind in a status."""
        return [_resource(row) for row in self._connection.execute(_WITH_STATUS, (kind, status))]

    def undecided(self) -> Sequence[StoredResource]:
        """Return all resources with a `before`."""
        return [_resource(row) for row in self._connection.execute(_UNDECIDED)]


class SqliteRegistryWriter(SqliteRegistryReader):
    """Reads and writes inside a transaction that `SqliteRegistryStore.apply` has begun."""

    def __init__(self, connection: sqlite3.Connection, now_ms: int) -> None:
        super().__init__(connection)
        self._now_ms = now_ms

    def put(
        self,
        key: ResourceKey,
        status: str,
        body: bytes,
        *,
        before: bytes | None = None,
        uses: Collection[Use] = (),
    ) -> StoredResource:
        """Store a resource, new or changed, under the next revision."""
        revision = self.reserve_revision()
        created = self._connection.execute(
            "INSERT INTO resource (revision, kind, namespace, name, number, status, changed_at, body, before, created)"  # noqa: S608
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (kind, namespace, name, number) DO UPDATE SET"
            f" created = iif(status = '{DELETED}', excluded.created, created),"
            " revision = excluded.revision, status = excluded.status, changed_at = excluded.changed_at,"
            " body = excluded.body, before = excluded.before RETURNING created",
            (revision, key.kind, key.namespace, key.name, key.number, status, self._now_ms, body, before, revision),
        ).fetchall()[0][0]
        if key.kind is ResourceKind.JOB_QUEUE:
            self._hold(key, uses)
        return StoredResource(key, status, body, revision, before, created)

    def next_number(self, namespace: str, name: str) -> int:
        """Take the next revision of a job definition's name."""
        row = self._connection.execute(
            "INSERT INTO job_definition_number VALUES (?, ?, 1)"
            " ON CONFLICT (namespace, name) DO UPDATE SET number = number + 1 RETURNING number",
            (namespace, name),
        ).fetchone()
        return int(row[0])

    def reserve_revision(self) -> int:
        """Take a revision that no stored change will have."""
        row = self._connection.execute(
            "UPDATE revision_counter SET revision = revision + 1 RETURNING revision"
        ).fetchone()
        return int(row[0])

    def _hold(self, queue: ResourceKey, uses: Collection[Use]) -> None:
        self._connection.execute(
            "DELETE FROM queue_use WHERE namespace = ? AND job_queue = ?", (queue.namespace, queue.name)
        )
        self._connection.executemany(
            "INSERT INTO queue_use (namespace, kind, name, job_queue) VALUES (?, ?, ?, ?)",
            [(queue.namespace, kind, name, queue.name) for kind, name in uses],
        )


class SqliteRegistryStore(SqliteRegistryReader):
    """The one writer of a registry's database."""

    def apply(self, commands: Sequence[Command], now_ms: int) -> Sequence[Outcome]:
        """Run commands in one transaction, each in a savepoint, and commit."""
        writer = SqliteRegistryWriter(self._connection, now_ms)
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            outcomes = [self._apply_one(writer, command) for command in commands]
            self._connection.execute("COMMIT")
        except BaseException:
            # Some errors, a full disk among them, have rolled back already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        return outcomes

    def _apply_one(self, writer: SqliteRegistryWriter, command: Command) -> Outcome:
        self._connection.execute("SAVEPOINT command")
        try:
            outcome = Outcome(value=command(writer))
        except sqlite3.Error:
            # The engine itself fails: the state of the transaction is unknown, so all of it goes.
            raise
        except Exception as error:
            self._connection.execute("ROLLBACK TO command")
            outcome = Outcome(error=error)
        self._connection.execute("RELEASE command")
        return outcome


def _cut(rows: Iterable[_Row], limit: int) -> tuple[list[StoredResource], bool]:
    """Return as many rows as make a page, and whether more follow; `rows` go beyond the limit if more follow."""
    remaining = iter(rows)
    resources: list[StoredResource] = []
    size = 0
    for row in islice(remaining, limit):
        resources.append(_resource(row))
        size += len(resources[-1].body)
        if size >= PAGE_BYTES_MAX:
            break
    return resources, next(remaining, None) is not None


def _resource(row: _Row) -> StoredResource:
    revision, kind, namespace, name, number, status, body, before, created = row
    key = ResourceKey(ResourceKind(kind), namespace, name, number)
    return StoredResource(key, status, body, revision, before, created)
