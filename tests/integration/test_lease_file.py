"""The lease on disk: what its readers make of it, and that a full disk takes it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchyard.agent.launcher.leasefile import LeaseFile


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("kernel: nothing can be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_new_lease_is_over_and_a_written_one_is_read_by_others(tmp_path: Path) -> None:
    path = str(tmp_path / "lease")
    writer, reader = LeaseFile(path, "boot"), LeaseFile(path, "boot")
    assert reader.read() == 0.0
    for deadline in (12345.678901, 99999999.5, 1.25):
        writer.write(deadline)
        assert reader.read() == pytest.approx(deadline, abs=1e-6)
    assert LeaseFile(path, "another boot").read() == float("-inf")


@pytest.mark.parametrize("content", ["", "boot", "boot 00012.5", "boot 00012.5 00013.5\n", "boot 0001x.5 0001x.5\n"])
def test_half_a_lease_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "lease"
    lease = LeaseFile(str(path), "boot")
    path.write_text(content)
    assert lease.read() is None


def test_a_full_disk_takes_a_lease(small_disk: Path) -> None:
    lease = LeaseFile(str(small_disk / "lease"), "boot")
    with (small_disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        filler.writelines(bytes(4096) for _ in range(100))
    lease.write(12345.5)
    assert lease.read() == 12345.5
    lease.close()
