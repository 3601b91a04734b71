"""Copies of databases: consistent while others write, and put back so that nothing of before is taken for new."""

import json
import math
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from batchyard.storage.sqlite.jobs import migrate_jobs

FORMAT: Final = 1
_MANIFEST: Final = "manifest.json"


class BackupError(Exception):
    """A file that is no backup of ours, or a folder that cannot be restored into."""


def copy_database(source: Path, target: Path) -> None:
    """Copy a database that may be in use to a new file, as it is at one moment."""
    uri = f"{source.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as origin, closing(sqlite3.connect(target)) as copy:
        origin.backup(copy)


def write_backup(archive: Path, databases: Sequence[Path]) -> None:
    """Copy databases, in this order, into an archive; it appears under its name when it is whole and on disk."""
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".backup-") as folder:
        fresh = Path(folder)
        for database in databases:
            copy_database(database, fresh / database.name)
        manifest = {"format": FORMAT, "made_at_ms": time.time_ns() // 1_000_000}
        (fresh / _MANIFEST).write_text(json.dumps(manifest))
        with (fresh / "archive").open("wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz") as tar:
                for name in (_MANIFEST, *(database.name for database in databases)):
                    tar.add(fresh / name, arcname=name)
            file.flush()
            os.fsync(file.fileno())
        (fresh / "archive").replace(archive)


def read_backup(
    archive: Path, databases: Mapping[str, Path], *, agents_stopped: bool = False, longest_lease_s: float = 0
) -> None:
    """Put the databases of an archive, by name, where they belong; there must be none.

    Unless nothing runs any more (`agents_stopped`), the job store starts nothing for as long as what has been started
    since the backup may be alive: that is for the longest lease that it knows of, or `longest_lease_s` if that is more.
    Raises BackupError, with nothing written, if one is there already or the archive is not whole.
    """
    for target in databases.values():
        if target.exists():
            raise BackupError(f"{target} is there already: restore into an empty folder, or move it away")
    folder = next(iter(databases.values())).parent
    with tempfile.TemporaryDirectory(dir=folder, prefix=".restore-") as fresh:
        try:
            _extract(archive, Path(fresh), [_MANIFEST, *databases])
            manifest = json.loads((Path(fresh) / _MANIFEST).read_text())
            if manifest["format"] != FORMAT:
                raise BackupError(f"{archive} has format {manifest['format']}, this version reads {FORMAT}")
            _begin_anew(Path(fresh) / "jobs.db", agents_stopped=agents_stopped, longest_lease_s=longest_lease_s)
        except (tarfile.TarError, sqlite3.Error, OSError, EOFError, KeyError, ValueError) as error:
            raise BackupError(f"{archive} is not a backup that can be read: {error}") from error
        for name, target in databases.items():
            (Path(fresh) / name).replace(target)


def _extract(archive: Path, folder: Path, names: Sequence[str]) -> None:
    with tarfile.open(archive, "r:gz") as tar:
        for name in names:
            member = tar.extractfile(name)
            if member is None:
                raise BackupError(f"{name} in {archive} is not a file")
            with (folder / name).open("wb") as file:
                shutil.copyfileobj(member, file)
                os.fsync(file.fileno())


def _begin_anew(jobs: Path, *, agents_stopped: bool, longest_lease_s: float) -> None:
    """Raise the store's epoch beyond any that was ever used, so that no fence of the time after the backup repeats.

    Epochs count starts; no installation starts once a second, so the time in seconds is beyond them all, and beyond
    that of an earlier restore.
    """
    with closing(sqlite3.connect(jobs, isolation_level=None)) as connection:
        migrate_jobs(connection)
        connection.execute(
            "UPDATE store SET epoch = max(epoch + 1, :now), leader_id = '', unsynced_boot = '',"
            " set_back = CASE :stopped WHEN 1 THEN 0 ELSE max(epoch + 1, :now) END,"
            " set_back_lease_ms = CASE :stopped WHEN 1 THEN 0 ELSE :lease_ms END",
            {"now": int(time.time()), "stopped": agents_stopped, "lease_ms": math.ceil(longest_lease_s * 1000)},
        )
