import errno
import os
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from batchyard.cli.main import main
from batchyard.storage.sqlite.backup import BackupError, read_backup, write_backup
from batchyard.storage.sqlite.database import connect
from batchyard.storage.sqlite.jobs import migrate_jobs
from support.jobs import Store


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """A folder with the two databases, one of them a job store that is in use."""
    folder = tmp_path / "data"
    folder.mkdir()
    with closing(connect(folder / "registry.db")) as registry:
        registry.execute("CREATE TABLE t (x INTEGER)")
    return folder


def databases(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in ("jobs.db", "registry.db")}


def test_a_backup_of_a_store_in_use_is_restored_as_it_was(installation: Path, tmp_path: Path) -> None:
    archive, restored = tmp_path / "backup.tar.gz", tmp_path / "restored"
    restored.mkdir()
    with closing(connect(installation / "jobs.db")) as connection:
        store = Store(connection)
        store.register()
        before = store.submit("before")
        store.offer(before)
        write_backup(archive, list(databases(installation).values()))
        after = store.submit("after")
    read_backup(archive, databases(restored))
    with closing(connect(restored / "jobs.db")) as connection:
        copy = Store(connection)
        assert copy.job(before).run is not None
        assert copy.writer.jobs([after]) == []


def test_no_fence_from_after_the_backup_is_used_again(installation: Path, tmp_path: Path) -> None:
    archive, restored = tmp_path / "backup.tar.gz", tmp_path / "restored"
    restored.mkdir()
    with closing(connect(installation / "jobs.db")) as connection:
        store = Store(connection)
        store.register()
        write_backup(archive, list(databases(installation).values()))
        for _ in range(3):
            store.restart()
        used = store.offer(store.submit()).fence
    read_backup(archive, databases(restored))
    with closing(connect(restored / "jobs.db")) as connection:
        copy = Store(connection)
        assert copy.offer(copy.submit()).fence > used


@pytest.mark.parametrize("agents_stopped", [False, True])
def test_a_restored_store_says_that_it_was_set_back_until_that_is_over(
    installation: Path, tmp_path: Path, agents_stopped: bool
) -> None:
    archive, restored = tmp_path / "backup.tar.gz", tmp_path / "restored"
    restored.mkdir()
    with closing(connect(installation / "jobs.db")) as connection:
        assert Store(connection).core.counters.set_back == 0
    write_backup(archive, list(databases(installation).values()))
    read_backup(archive, databases(restored), agents_stopped=agents_stopped)
    with closing(connect(restored / "jobs.db")) as connection:
        store = Store(connection)
        number = store.core.counters.set_back
        assert bool(number) == (not agents_stopped)
        assert number <= store.core.counters.epoch
        store.restart()
        assert store.core.counters.set_back == number
        store.do(lambda group: group.end_set_back(number - 1))
        store.restart()
        assert store.core.counters.set_back == number
        store.do(lambda group: group.end_set_back(number))
        store.restart()
        assert store.core.counters.set_back == 0


@pytest.mark.parametrize(("agents_stopped", "expected_ms"), [(False, 1800_500), (True, 0)])
def test_the_longest_lease_since_the_backup_is_said_by_who_restores_it(
    installation: Path, tmp_path: Path, agents_stopped: bool, expected_ms: int
) -> None:
    archive, restored = tmp_path / "backup.tar.gz", tmp_path / "restored"
    restored.mkdir()
    with closing(connect(installation / "jobs.db")) as connection:
        migrate_jobs(connection)
    write_backup(archive, list(databases(installation).values()))
    read_backup(archive, databases(restored), agents_stopped=agents_stopped, longest_lease_s=1800.5)
    with closing(connect(restored / "jobs.db")) as connection:
        store, said = Store(connection), list[int]()
        store.do(lambda group: said.append(group.set_back_lease_ms))
        assert said == [expected_ms]
        store.do(lambda group: group.end_set_back(store.core.counters.set_back))
        store.do(lambda group: said.append(group.set_back_lease_ms))
        store.restart()
        store.do(lambda group: said.append(group.set_back_lease_ms))
        assert said[1:] == [0, 0]


def test_nothing_is_restored_over_databases_that_are_there(installation: Path, tmp_path: Path) -> None:
    with closing(connect(installation / "jobs.db")) as connection:
        Store(connection)
    archive = tmp_path / "backup.tar.gz"
    write_backup(archive, list(databases(installation).values()))
    with pytest.raises(BackupError, match="is there already"):
        read_backup(archive, databases(installation))


def test_what_is_no_backup_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    restored = tmp_path / "restored"
    restored.mkdir()
    for content in (b"", b"not an archive"):
        (tmp_path / "archive").write_bytes(content)
        with pytest.raises(BackupError, match="is not a backup that can be read"):
            read_backup(tmp_path / "archive", databases(restored))
    assert list(restored.iterdir()) == []


def test_an_archive_that_lacks_a_database_is_refused(installation: Path, tmp_path: Path) -> None:
    restored, archive = tmp_path / "restored", tmp_path / "backup.tar.gz"
    restored.mkdir()
    write_backup(archive, [installation / "registry.db"])
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["manifest.json", "registry.db"]
    with pytest.raises(BackupError, match="not a backup that can be read"):
        read_backup(archive, databases(restored))
    assert list(restored.iterdir()) == []


def test_a_database_that_is_not_there_is_an_error_and_not_an_empty_backup(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        write_backup(tmp_path / "backup.tar.gz", [tmp_path / "jobs.db"])
    assert list(tmp_path.iterdir()) == []


def backed_up(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["backup", "--data-dir", str(folder), *arguments])


@pytest.fixture
def in_use(installation: Path) -> Path:
    with closing(connect(installation / "jobs.db")) as connection:
        migrate_jobs(connection)
    return installation


def test_a_file_that_is_there_is_replaced_by_a_backup_only_with_force(in_use: Path, tmp_path: Path) -> None:
    archive = tmp_path / "backup.tar.gz"
    archive.write_text("what I had")
    refused = backed_up(in_use, str(archive))
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == f"Error: {archive} is there already: name another file, or replace it with --force\n"
    assert archive.read_text() == "what I had"
    written = backed_up(in_use, "--force", str(archive))
    assert (written.exit_code, written.stderr) == (0, f"wrote {archive}\n")
    with tarfile.open(archive) as tar:
        assert tar.getnames() == ["manifest.json", "jobs.db", "registry.db"]


def test_a_backup_that_fails_leaves_what_was_there(
    in_use: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = tmp_path / "backups" / "backup.tar.gz"
    assert backed_up(in_use, str(archive)).stderr == f"Error: cannot write {archive}: No such file or directory\n"
    archive.parent.mkdir()
    archive.write_text("what I had")
    monkeypatch.setattr(os, "fsync", fails)
    failed = backed_up(in_use, "--force", str(archive))
    assert (failed.exit_code, failed.stderr) == (2, f"Error: cannot write {archive}: No space left on device\n")
    assert (list(archive.parent.iterdir()), archive.read_text()) == ([archive], "what I had")
