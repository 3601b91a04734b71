"""What an image of Batchyard is built from on a machine without registries: this interpreter, and what is installed."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement

from support.docker import busybox_archive

BASE_IMAGE: Final = "python-of-this-machine:1"
_LIBRARY: Final = re.compile(r"(/\S+) \(0x")
_LEFT_OUT: Final = frozenset(
    {
        *("__pycache__", "test", "tests", "site-packages", "dist-packages", "ensurepip"),
        *("idlelib", "lib2to3", "pydoc_data", "tkinter", "turtledemo"),
    }
)
_NOT_OF_A_WHEEL: Final = frozenset({"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json"})


def import_base_image(url: str, folder: Path) -> str:
    """Give an engine an image with this interpreter, its pip and a shell, at the same places; return its name."""
    archive = folder / "base.tar"
    archive.write_bytes(busybox_archive())
    with tarfile.open(archive, "a") as tar:
        for path in sorted(_files()):
            # Not as a link: what it leads to may have another name there.
            tar.add(path.resolve(), str(path).lstrip("/"), recursive=False, filter=_readable)
        # Where every interpreter looks: of its folder for packages each distribution has its own idea.
        library = sysconfig.get_path("stdlib").lstrip("/")
        with zipfile.ZipFile(_bundled_pip()) as pip:
            for name in pip.namelist():
                entry = tarfile.TarInfo(f"{library}/{name}")
                entry.size = pip.getinfo(name).file_size
                tar.addfile(entry, pip.open(name))
    places = f"{sys.base_prefix}/bin:/bin"
    with archive.open("rb") as data:
        subprocess.run(
            ["docker", "-H", url, "import", "-c", f"ENV PATH={places}", "-", BASE_IMAGE],
            stdin=data,
            capture_output=True,
            check=True,
        )
    archive.unlink()
    return BASE_IMAGE


def _bundled_pip() -> Path:
    """Return the wheel of the pip that new virtual environments get; Debian keeps it elsewhere."""
    folders = (Path(sysconfig.get_path("stdlib")) / "ensurepip" / "_bundled", Path("/usr/share/python-wheels"))
    return next(path for folder in folders for path in folder.glob("pip-*.whl"))


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.mode |= 0o444
    return entry


def _files() -> set[Path]:
    program = Path(sys.base_prefix) / "bin" / "python3"
    found = {program, *_files_below(Path(sysconfig.get_path("stdlib")))}
    packages = Path(pytest.__file__).parents[1]
    extensions = [path for path in found | set(packages.rglob("*.so")) if path.suffix == ".so"]
    return found | set(_libraries([program, *extensions], packages))


def _files_below(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        yield from (Path(where, name) for name in files if not name.endswith(".a"))


def _libraries(users: Iterable[Path], packages: Path) -> Iterator[Path]:
    """Yield the shared libraries that these files need, their own packages' left out."""
    said = subprocess.run(["ldd", *map(str, users)], capture_output=True, text=True, check=False).stdout
    for name in set(_LIBRARY.findall(said)):
        if not Path(name).is_relative_to(packages):
            yield Path(os.path.normpath(name))


def write_wheels(folder: Path, *names: str) -> None:
    """Make wheels of what is installed: these distributions and all that they require."""
    folder.mkdir()
    waiting, done = [Requirement(name) for name in names], set[str]()
    while waiting:
        requirement = waiting.pop()
        if requirement.name.lower() in done or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        done.add(requirement.name.lower())
        found = distribution(requirement.name)
        waiting += map(Requirement, found.requires or ())
        if found.name != "batchyard":
            _write_wheel(folder, found)


def _write_wheel(folder: Path, found: Distribution) -> None:
    tag = re.findall(r"^Tag: (\S+)", found.read_text("WHEEL") or "", re.MULTILINE)[-1]
    name = re.sub(r"[-_.]+", "_", found.name)
    info = f"{name}-{found.version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{found.version}-{tag}.whl", "w") as wheel:
        written = []
        for file in found.files or ():
            parts = file.parts
            if parts[0] == ".." or "__pycache__" in parts or file.name in _NOT_OF_A_WHEEL:
                continue
            where = "/".join((info, *parts[1:]) if parts[0].endswith(".dist-info") else parts)
            wheel.write(str(file.locate()), where)
            written.append(f"{where},,\n")
        wheel.writestr(f"{info}/RECORD", "".join([*written, f"{info}/RECORD,,\n"]))


def copy_sources(repository: Path, context: Path) -> None:
    """Copy what .dockerignore lets into an image."""
    context.mkdir()
    for name in ("services", "gateway", "protos", "deploy"):
        shutil.copytree(repository / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".dockerignore"):
        shutil.copy(repository / name, context)


def build(url: str, context: Path, command: str, name: str, **arguments: str) -> None:
    """Build an image as people do, but without a network and under this name."""
    given = " ".join(f"--build-arg={argument}={value}" for argument, value in arguments.items())
    assert "docker build" in command
    assert " --tag=batchyard " in command
    command = command.replace("docker build", f"docker build --network=none {given}").replace(
        "=batchyard ", f"={name} "
    )
    done = subprocess.run(
        ["sh", "-e", "-c", command],
        cwd=context,
        env={**os.environ, "DOCKER_HOST": url, "DOCKER_BUILDKIT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
