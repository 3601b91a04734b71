"""The data folder on a real disk: who holds it, and what it says to others."""

import os
import stat
from pathlib import Path

import pytest

from batchyard.cli.errors import CannotStartError
from batchyard.cli.folder import DataFolder, Endpoint


def test_is_made_for_its_owner_only(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "a" / "b")
    with folder.locked("registry"):
        assert stat.S_IMODE(folder.root.stat().st_mode) == 0o700


def test_a_second_holder_of_one_service_is_told_who_has_it(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    with (
        folder.locked("registry", "jobstore"),
        pytest.raises(CannotStartError) as caught,
        folder.locked("logs", "jobstore"),
    ):
        pytest.fail("held twice")
    assert str(tmp_path) in caught.value.message
    assert f"process {os.getpid()} runs its jobstore" in caught.value.message


def test_a_refused_holder_leaves_nothing_held(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    with folder.locked("jobstore"):
        with pytest.raises(CannotStartError), folder.locked("logs", "jobstore"):
            pytest.fail("held twice")
        with folder.locked("logs"):
            pass


def test_is_free_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with DataFolder(tmp_path).locked("registry"):
            pass


def test_a_folder_that_cannot_be_made_is_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotStartError, match="file/data"):
        DataFolder(tmp_path / "file" / "data").create()


def test_a_folder_that_cannot_be_written_is_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "registry.lock").mkdir()
    expected = f"cannot write to the data folder {tmp_path}: Is a directory"
    with pytest.raises(CannotStartError, match=expected), DataFolder(tmp_path).locked("registry"):
        pytest.fail("held")


def test_an_endpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = DataFolder(tmp_path).endpoint
    assert Endpoint.read(path) is None
    for port in (1, 2):
        endpoint = Endpoint(http=f"http://127.0.0.1:{port}", grpc=f"grpc://127.0.0.1:{port}")
        endpoint.write(path)
        assert Endpoint.read(path) == endpoint
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"http": "http://127.0.0.1:1"}', "null", "\udcff"])
def test_a_damaged_endpoint_is_told_with_what_to_do(tmp_path: Path, content: str) -> None:
    path = DataFolder(tmp_path).endpoint
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(CannotStartError, match=rf"{path} is damaged: .* --endpoint"):
        Endpoint.read(path)
