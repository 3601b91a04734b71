"""A container engine of the tests' own, with one image that no registry was asked for."""

import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from support.agent import soon

IMAGE = "bb:1"
"""Busybox and nothing else."""

HOW_TO_GET_ONE = (
    "needs a container engine: apt-get install docker.io busybox-static and run as root, or set DOCKER_HOST"
)


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """Yield the address of an engine that has the image; start one if this host lets us."""
    with ExitStack() as stack:
        url = os.environ.get("DOCKER_HOST")
        if not url:
            if os.geteuid() != 0 or shutil.which("dockerd") is None or shutil.which("docker") is None:
                pytest.skip(HOW_TO_GET_ONE)
            url = stack.enter_context(an_engine())
        if _busybox() is None:
            pytest.skip(HOW_TO_GET_ONE)
        _import_image(url)
        yield url


@contextmanager
def an_engine() -> Iterator[str]:
    """Run dockerd in a folder of its own, and leave nothing of it behind."""
    # A short path: the address of a unix socket holds no more than 108 bytes.
    folder = Path(tempfile.mkdtemp(prefix="by-", dir="/tmp"))
    folder.chmod(0o755)
    limit = open_files_limit()
    command = [
        *("dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false", "--live-restore"),
        *("-H", f"unix://{folder}/s", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"),
        *("-p", f"{folder}/pid", "--default-ulimit", f"nofile={limit}:{limit}"),
    ]
    with (folder / "log").open("wb") as log:
        engine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    url = f"unix://{folder}/s"
    try:
        soon(lambda: engine.poll() is not None or _answers(url), "the engine answers")
        if engine.poll() is not None:
            pytest.fail(f"dockerd did not start: {(folder / 'log').read_text()[-2000:]}")
        yield url
        containers = _docker(url, "ps", "-aq").stdout.decode().split()
        if containers:
            _docker(url, "rm", "-f", *containers)
    finally:
        engine.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            engine.wait(20)
        engine.kill()
        engine.wait()
        _unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)


def open_files_limit() -> int:
    """Return a limit of open files that even a host which can't raise its own can give to containers."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 20_000 if hard == resource.RLIM_INFINITY else min(20_000, hard)


def containers_of(url: str, agent_id: str) -> list[str]:
    """Return the ids of an agent's containers, ended ones included."""
    return _docker(url, "ps", "-aq", "--filter", f"label=batchyard.agent={agent_id}").stdout.decode().split()


def run_container(url: str, *arguments: str) -> str:
    """Start a container by hand; return its id."""
    return _docker(url, "run", "-d", "--network", "none", *arguments).stdout.decode().strip()


def _answers(url: str) -> bool:
    return _docker(url, "version", check=False).returncode == 0


def _docker(
    url: str, *arguments: str, check: bool = True, data: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["docker", "-H", url, *arguments], input=data, capture_output=True, check=check)


def _busybox() -> Path | None:
    """Return a busybox that needs no libraries, or None."""
    for path in (Path("/bin/busybox"), Path("/usr/bin/busybox"), Path("/bin/busybox-static")):
        if path.exists():
            return path
    return None


def _import_image(url: str) -> None:
    busybox = _busybox()
    assert busybox is not None
    applets = subprocess.run([busybox, "--list"], capture_output=True, check=True, text=True).stdout.split()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(busybox, "bin/busybox")
        for applet in applets:
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        for name, mode in (("tmp", 0o1777), ("etc", 0o755)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            tar.addfile(folder)
        for name, text in (
            ("etc/passwd", "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"),
            ("etc/group", "root:x:0:\nnobody:x:65534:\n"),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    _docker(url, "import", "-c", 'CMD ["/bin/sh"]', "-", IMAGE, data=archive.getvalue())


def _unmount_below(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(str(folder))), reverse=True):
        subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
