"""A systemd of the tests' own: PID 1 of its own namespaces, on this machine's files, of which it changes none."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Final

import pytest

from support.waiting import soon

HOW_TO_GET_ONE: Final = "needs systemd: apt-get install systemd and run as root"
NOT_ALLOWED: Final = "kernel: namespaces with mounts and cgroups of their own are not to be had here"
_SYSTEMD: Final = Path("/lib/systemd/systemd")
_UNSHARED: Final = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "--uts", "--ipc")
_COMMAND_TIMEOUT_S: Final = 300
_REPOSITORY: Final = Path(__file__).parents[2]

# What is written to is covered by what is in memory. Of systemd's own units there are the targets that services wait
# for, and nothing behind them: what this machine does at its start is none of a test's business.
_BOOT: Final = r"""
set -eu
upper=$1 python=$2 packages=$3 repository=$4 units=/run/targets
mount -t tmpfs tmpfs "$upper"
for folder in etc opt var; do
    mkdir -p "$upper/$folder" "$upper/$folder.work"
    mount -t overlay overlay -o "lowerdir=/$folder,upperdir=$upper/$folder,workdir=$upper/$folder.work" "/$folder"
done
mount -t tmpfs tmpfs /run
# Only in the overlay. What this machine has there may be links to its own programs.
rm -rf /opt/batchyard /opt/python /opt/packages /opt/repository /etc/batchyard
mkdir -p "$units/service.d" /run/said /opt/python /opt/packages /opt/repository /opt/batchyard/bin
for target in sysinit basic shutdown multi-user; do echo "[Unit]" >"$units/$target.target"; done
printf '[Service]\nStandardOutput=append:/run/said/%%N\nStandardError=inherit\n' >"$units/service.d/said.conf"
mount --bind "$python" /opt/python
mount --bind "$packages" /opt/packages
mount --bind "$repository" /opt/repository
cat >/opt/batchyard/bin/python <<'END'
#!/bin/sh
export PYTHONPATH=/opt/repository/services:/opt/repository/gateway:/opt/repository/protos:/opt/packages
export LD_LIBRARY_PATH=/opt/python/lib PYTHONDONTWRITEBYTECODE=1
exec /opt/python/bin/python3 "$@"
END
printf '#!/bin/sh\nexec /opt/batchyard/bin/python -m batchyard.cli "$@"\n' >/opt/batchyard/bin/batchyard
chmod 755 /opt/batchyard/bin/*
exec env -i PATH="$PATH" LANG=C.UTF-8 container=test SYSTEMD_UNIT_PATH="/etc/systemd/system:$units" \
    SYSTEMD_GENERATOR_PATH=/nonexistent "$5" --system --unit=multi-user.target
"""


class Systemd:
    """A booted systemd, and commands beside it."""

    def __init__(self, upper: Path, process: subprocess.Popen[bytes], init: int) -> None:
        self._process = process
        self._upper = upper
        self.init = init
        """PID 1, as this machine numbers it."""

    def run(self, script: str, *, check: bool = True) -> str:
        """Run lines of shell as root of that machine, in the repository; return what they print."""
        beside = ("nsenter", "--target", str(self.init), "--mount", "--pid", "--uts", "--ipc", "--net")
        done = subprocess.run(
            [*beside, "sh", "-e", "-c", f"cd /opt/repository\n{script}"],
            env={"PATH": f"/opt/batchyard/bin:{os.environ['PATH']}", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        assert not check or done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}\n{self.said()}"
        return done.stdout

    def said(self) -> str:
        """Return what all services have said."""
        return subprocess.run(
            ["nsenter", "--target", str(self.init), "--mount", "sh", "-c", "tail -n 40 /run/said/* 2>&1"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    def property_of(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run(f"systemctl show --value --property={name} {unit}").strip()

    def is_up(self) -> bool:
        """Tell whether it has reached its target."""
        return "running" in self.run("systemctl is-system-running || true", check=False)

    def close(self) -> None:
        """End it, and with it everything in its namespaces."""
        self._process.kill()
        self._process.wait()


@contextmanager
def a_systemd(beside: Systemd | None = None) -> Iterator[Systemd]:
    """Boot a systemd for the length of the context; skip where this machine has none, or does not let us.

    It has a network of its own, unless it is to be one machine more on that of another.
    """
    if not _SYSTEMD.exists() or os.geteuid() != 0:
        pytest.skip(HOW_TO_GET_ONE)
    if not _is_allowed():
        pytest.skip(NOT_ALLOWED)
    upper = Path(tempfile.mkdtemp(prefix="by-", dir="/tmp"))
    cgroups = _make_cgroups(upper.name)
    try:
        with (upper / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *(() if beside is None else ("nsenter", f"--net=/proc/{beside.init}/ns/net", "--")),
                    *(*_UNSHARED, *(("--net",) if beside is None else ())),
                    *("--propagation", "private", "sh", "-c", _BOOT, "sh", str(upper), sys.base_prefix),
                    *(str(Path(pytest.__file__).parents[1]), str(_REPOSITORY), str(_SYSTEMD)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=lambda: _enter(cgroups),
            )
        try:
            yield _booted(upper, process)
        finally:
            process.kill()
            process.wait()
    finally:
        for folder in cgroups:
            soon(partial(_removed, folder), f"{folder} is removed")
        shutil.rmtree(upper, ignore_errors=True)


@cache
def _is_allowed() -> bool:
    """Tell whether we may do here what booting takes: in a container root often may not."""
    mounts = 'mount -t tmpfs tmpfs "$1" && mkdir "$1/up" "$1/work" && mount -t overlay overlay -o "$2" /opt'
    with tempfile.TemporaryDirectory(prefix="by-", dir="/tmp") as folder:
        overlay = f"lowerdir=/opt,upperdir={folder}/up,workdir={folder}/work"
        command = [*_UNSHARED, "--net", "--propagation", "private", "sh", "-c", mounts, "sh", folder, overlay]
        if subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
            return False
    try:
        cgroups = _make_cgroups(f"by-probe-{os.getpid()}")
    except OSError:
        return False
    return all(map(_removed, cgroups))


def _booted(upper: Path, process: subprocess.Popen[bytes]) -> Systemd:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def is_booting() -> bool:
        assert process.poll() is None, f"systemd did not start: {(upper / 'log').read_text()}"
        return any(_name_of(pid) == "systemd" for pid in children.read_text().split())

    soon(is_booting, "systemd is PID 1")
    systemd = Systemd(upper, process, int(children.read_text().split()[0]))
    soon(systemd.is_up, "systemd has started")
    return systemd


def _name_of(pid: str) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _make_cgroups(name: str) -> list[Path]:
    """Make a cgroup in each hierarchy, below our own, for systemd to be the root of its tree."""
    mounts = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2":
            mounts[""] = where
        elif kind == "cgroup":
            mounts |= dict.fromkeys(options.split(","), where)
    paths = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    # Where systemd finds itself in its own hierarchy, there it is in all of them.
    path = paths.get("name=systemd", paths.get("", "/")).rstrip("/")
    places = {where for names, where in mounts.items() if names in paths and names != "cpuset"}
    made = [Path(f"{where}{path}/{name}") for where in sorted(places)]
    for folder in made:
        folder.mkdir(parents=True)
    return made


def _enter(cgroups: list[Path]) -> None:
    for folder in cgroups:
        (folder / "cgroup.procs").write_text("0")


def _removed(folder: Path) -> bool:
    """Remove a tree of cgroups, once all that was in it is dead."""
    for path, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            os.rmdir(path)
    return not folder.exists()
