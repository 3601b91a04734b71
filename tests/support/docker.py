"""A container engine of the tests' own, with one image that no registry was asked for."""

import asyncio
import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from support.agent import is_running
from support.waiting import soon

IMAGE = "bb:1"
"""Busybox and nothing else."""

HOW_TO_GET_ONE = (
    "needs a container engine: apt-get install docker.io busybox-static and run as root, or set DOCKER_HOST"
)


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    """Yield the address of an engine that has the image; start one if this host lets us."""
    url = os.environ.get("DOCKER_HOST")
    if url and _busybox() is not None:
        import_image(url)
        yield url
    elif url or not can_have_own_engine():
        pytest.skip(HOW_TO_GET_ONE)
    else:
        with an_engine() as engine:
            yield engine.url


class OwnEngine:
    """A dockerd in a folder of its own, which can be killed and started again."""

    def __init__(self) -> None:
        # A short path: the address of a unix socket holds no more than 108 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="by-", dir="/tmp"))
        self._folder.chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._folder}/s"

    def start(self, *, live_restore: bool = True) -> None:
        """Start it, and wait until it answers; without `live_restore` it kills the containers that it finds."""
        folder, limit = self._folder, open_files_limit()
        command = [
            *("dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false", *["--live-restore"] * live_restore),
            *("-H", self.url, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"),
            *("-p", f"{folder}/pid", "--default-ulimit", f"nofile={limit}:{limit}"),
        ]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._process = process
        soon(lambda: process.poll() is not None or engine_answers(self.url), "the engine answers")
        if process.poll() is not None:
            pytest.fail(f"dockerd did not start: {(folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """Kill it, and the containerd that it started; containers go on."""
        assert self._process is not None
        helper = self._folder / "exec" / "containerd" / "containerd.pid"
        containerd = int(helper.read_text())
        self._process.kill()
        self._process.wait()
        os.kill(containerd, signal.SIGKILL)
        soon(lambda: not is_running(containerd), "containerd is dead")
        for left in (helper, self._folder / "pid", self._folder / "s"):
            left.unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop it in order; containers go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self._process.kill()
        self._process.wait()

    def containers(self) -> list[str]:
        """Return the ids of all containers, ended ones included."""
        return _docker(self.url, "ps", "-aq", check=False).stdout.decode().split()

    def close(self) -> None:
        """End it, and leave nothing of it behind."""
        if self._process is not None:
            if self._process.poll() is None and (containers := self.containers()):
                _docker(self.url, "rm", "-f", *containers, check=False)
            self.stop()
        unmount_below(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)


def can_have_own_engine() -> bool:
    """Tell whether this host lets us start an engine of our own."""
    return os.geteuid() == 0 and all(map(shutil.which, ("dockerd", "docker"))) and _busybox() is not None


@contextmanager
def an_engine() -> Iterator[OwnEngine]:
    """Run an engine of one's own, which has the image, and leave nothing of it behind."""
    engine = OwnEngine()
    try:
        engine.start()
        import_image(engine.url)
        yield engine
    finally:
        engine.close()


class EngineThatStartsNothing:
    """A way to an engine, on which every start of a container is cut off before it arrives; it counts what is asked."""

    def __init__(self, url: str, socket: Path) -> None:
        self._path = url.removeprefix("unix://")
        self.url = f"unix://{socket}"
        self.starts = 0
        self.listings = 0

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass a connection on."""
        engine_reader, engine_writer = await asyncio.open_unix_connection(self._path)
        with suppress(OSError):
            await asyncio.gather(self._ask(reader, engine_writer), _copy(engine_reader, writer))
        for side in (engine_writer, writer):
            side.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            request_line = data.partition(b"\r\n")[0]
            if request_line.startswith(b"POST ") and b"/start" in request_line:
                self.starts += 1
                break
            self.listings += request_line.startswith(b"GET ") and b"/containers/json" in request_line
            writer.write(data)
            await writer.drain()
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def engine_that_starts_nothing(url: str) -> AsyncIterator[EngineThatStartsNothing]:
    """Stand before an engine."""
    # Not in a test's own folder: the address of a socket holds no more than 108 bytes.
    with tempfile.TemporaryDirectory(prefix="by-") as folder:
        way = EngineThatStartsNothing(url, Path(folder, "engine"))
        server = await asyncio.start_unix_server(way.relay, Path(folder, "engine"))
        try:
            yield way
        finally:
            server.close()


def open_files_limit() -> int:
    """Return a limit of open files that even a host which can't raise its own can give to containers."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 20_000 if hard == resource.RLIM_INFINITY else min(20_000, hard)


def containers_of(url: str, agent_id: str) -> list[str]:
    """Return the ids of an agent's containers, ended ones included."""
    return _docker(url, "ps", "-aq", "--filter", f"label=batchyard.agent={agent_id}").stdout.decode().split()


def volumes_of(url: str, agent_id: str) -> list[str]:
    """Return the names of an agent's volumes."""
    return _docker(url, "volume", "ls", "-q", "--filter", f"label=batchyard.agent={agent_id}").stdout.decode().split()


def create_volume(url: str, *arguments: str) -> None:
    """Create a volume by hand."""
    _docker(url, "volume", "create", *arguments)


def networks_of(url: str) -> set[str]:
    """Return the ids of all networks."""
    return set(_docker(url, "network", "ls", "-q", "--no-trunc").stdout.decode().split())


def all_volumes_of(url: str) -> set[str]:
    """Return the names of all volumes, also of those that carry no label."""
    return set(_docker(url, "volume", "ls", "-q").stdout.decode().split())


def tag_image(url: str, image: str, name: str) -> None:
    """Give an image one name more."""
    _docker(url, "tag", image, name)


def remove_image(url: str, image: str) -> None:
    """Have an engine know an image no more."""
    _docker(url, "rmi", "-f", image, check=False)


def state_of(url: str, container: str) -> str:
    """Return what the engine calls the state of a container; empty if it has none of that id."""
    shown = _docker(url, "inspect", "-f", "{{.State.Status}}", container, check=False)
    return shown.stdout.decode().strip()


def pid_of(url: str, container: str) -> int:
    """Return the first process of a running container, as this host numbers it."""
    return int(_docker(url, "inspect", "-f", "{{.State.Pid}}", container).stdout)


def label_of(url: str, container: str, label: str) -> str:
    """Return a label of a container."""
    form = f'{{{{index .Config.Labels "{label}"}}}}'
    return _docker(url, "inspect", "-f", form, container).stdout.decode().strip()


def name_of(url: str, container: str) -> str:
    """Return the name of a container."""
    return _docker(url, "inspect", "-f", "{{.Name}}", container).stdout.decode().strip().removeprefix("/")


def run_inside(url: str, container: str, *command: str) -> None:
    """Run a command in a running container."""
    _docker(url, "exec", container, *command)


def create_container(url: str, *arguments: str) -> str:
    """Create a container by hand, without starting it; return its id."""
    return _docker(url, "create", "--network", "none", *arguments).stdout.decode().strip()


def run_container(url: str, *arguments: str) -> str:
    """Start a container by hand; return its id."""
    return _docker(url, "run", "-d", "--network", "none", *arguments).stdout.decode().strip()


def engine_answers(url: str) -> bool:
    """Tell whether an engine answers."""
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


def busybox_archive() -> bytes:
    """Return the files of the image, as a tar."""
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
    return archive.getvalue()


def import_image(url: str) -> None:
    """Give an engine the image."""
    _docker(url, "import", "-c", 'CMD ["/bin/sh"]', "-", IMAGE, data=busybox_archive())


def unmount_below(folder: Path) -> None:
    """Undo what an engine has mounted in its folder."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(str(folder))), reverse=True):
        subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
