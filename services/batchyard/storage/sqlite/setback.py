"""Whether a job store is what it was when it stopped, or has been set back, by a restore or by a power cut.

A store that was set back may have forgotten runs that are alive. It says so until a scheduler has waited for their end.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return the name of this run of the kernel."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def begin(connection: sqlite3.Connection, *, durable: bool, boot: str) -> bool:
    """Begin to write, with commits that are synced one by one (`durable`) or not; return whether any may be lost.

    They may if the last writer did not sync its commits, nor stop in order, and the machine was started since. Must
    itself be synced.
    """
    cursor = connection.execute(
        "UPDATE store SET set_back = epoch + 1 WHERE unsynced_boot NOT IN ('', ?) RETURNING set_back", (boot,)
    )
    lost = bool(cursor.fetchall())
    connection.execute("UPDATE store SET unsynced_boot = ?", ("" if durable else boot,))
    return lost


@contextmanager
def synced(connection: sqlite3.Connection) -> Iterator[None]:
    """Sync the transactions within, and by that all before them. Not to be entered within one."""
    ((before,),) = connection.execute("PRAGMA synchronous").fetchall()
    connection.execute("PRAGMA synchronous=FULL")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA synchronous={int(before)}")


def end(connection: sqlite3.Connection) -> None:
    """Sync what is not synced: from now on a power cut takes nothing."""
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("UPDATE store SET unsynced_boot = ''")
