"""Forward migrations of a SQLite database: numbered files of SQL, each applied once, in its own transaction.

The files of one database lie in one folder and are named `NNNN_what_it_does.sql`, from 0001 without a gap. How many
have been applied is the database's `PRAGMA user_version`. A released file is never edited; a change is a new file.
The caller sees to it that only one process migrates a database at a time (one process owns a data folder).
"""

import re
import sqlite3
from contextlib import closing
from importlib.resources.abc import Traversable

_FILE_NAME = re.compile(r"(?P<number>[0-9]{4})_[a-z0-9_]+\.sql")


class MigrationError(Exception):
    """A database that cannot be brought to the version of this program."""


def migrate(connection: sqlite3.Connection, folder: Traversable) -> None:
    """Bring the database behind the connection to the newest version in the folder.

    The connection is in autocommit mode. A database that has been in use is copied to `NAME.schema-VERSION` beside it
    before it is changed. Raises MigrationError, and changes nothing, if the database was written by a newer version;
    raises sqlite3.Error, and leaves the database at the version before, if a file fails.
    """
    scripts = _scripts(folder)
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > len(scripts):
        raise MigrationError(
            f"{_file_of(connection)} was written by a newer version of Batchyard "
            f"(its schema is number {found}, this version knows {len(scripts)})"
        )
    if 0 < found < len(scripts):
        _back_up(connection, found)
    for number, script in enumerate(scripts[found:], start=found + 1):
        try:
            # executescript would commit a transaction begun outside of it, so the script brings its own.
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script.read_text(encoding='utf-8')}\nPRAGMA user_version={number};\nCOMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _scripts(folder: Traversable) -> list[Traversable]:
    numbered = sorted(
        (int(match["number"]), entry.name, entry)
        for entry in folder.iterdir()
        if (match := _FILE_NAME.fullmatch(entry.name))
    )
    if [number for number, _, _ in numbered] != list(range(1, len(numbered) + 1)):
        names = ", ".join(name for _, name, _ in numbered)
        raise MigrationError(f"migrations are not numbered from 0001 without a gap: {names}")
    return [entry for _, _, entry in numbered]


def _back_up(connection: sqlite3.Connection, version: int) -> None:
    """Copy a database that is about to be changed, to `NAME.schema-VERSION` beside it."""
    file = _file_of(connection)
    if file:
        with closing(sqlite3.connect(f"{file}.schema-{version}")) as copy:
            connection.backup(copy)


def _file_of(connection: sqlite3.Connection) -> str:
    """Return the path of the main database, for messages."""
    return next(str(path) for _, name, path in connection.execute("PRAGMA database_list") if name == "main")
