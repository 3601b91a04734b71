"""What holds for the tree as a whole: where packages lie, and what a wheel holds."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("services", "gateway", "protos")


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_the_namespace_package_has_no_init_file_in_any_root(root: str) -> None:
    assert (ROOT / root / "batchyard").is_dir()
    assert not (ROOT / root / "batchyard" / "__init__.py").exists()


def packages() -> list[Path]:
    roots = [ROOT / root / "batchyard" for root in SOURCE_ROOTS]
    return sorted(path for root in roots for path in root.iterdir() if path.is_dir() and path.name != "__pycache__")


@pytest.mark.parametrize("package", packages(), ids=lambda path: path.name)
def test_every_package_says_that_it_is_typed(package: Path) -> None:
    assert (package / "__init__.py").is_file()
    assert (package / "py.typed").is_file()


def test_a_wheel_holds_everything_that_runs_and_nothing_else(tmp_path: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-index"),
            *("--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("batchyard-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        entry_points = archive.read(next(name for name in held if name.endswith("entry_points.txt"))).decode()
    expected = {
        path.relative_to(ROOT / root).as_posix()
        for root in SOURCE_ROOTS
        for path in (ROOT / root).rglob("*")
        if path.is_file()
        and path.suffix in {".py", ".pyi", ".proto", ".sql", ".typed", ".html", ".css", ".js", ".svg", ".txt"}
    }
    assert held - {name for name in held if ".dist-info/" in name} == expected
    assert any(name.endswith(".sql") for name in expected)
    assert any(name.endswith("_pb2_grpc.pyi") for name in expected)
    assert any(name.endswith("/licenses/LICENSE") for name in held)
    assert "batchyard = batchyard.cli.main:main" in entry_points
