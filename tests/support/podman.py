"""A Podman of the tests' own, as an engine behind Docker's API."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.docker import can_have_own_engine, engine_answers, import_image, open_files_limit, unmount_below
from support.images import ImageRegistry, image_registry
from support.waiting import soon

__all__ = ["image_registry"]

HOW_TO_GET_ONE = (
    "needs Podman: apt-get install podman catatonit runc docker.io busybox-static, and run as root; or set PODMAN_HOST"
)

CONTAINERS = """
[containers]
default_ulimits = ["nofile={limit}:{limit}", "nproc=30000:30000"]
netns = "host"
"""
REGISTRIES = """
[[registry]]
location = "{host}"
insecure = true
"""


@pytest.fixture(scope="session")
def podman_host(image_registry: ImageRegistry) -> Iterator[str]:
    """Yield the address of a Podman that has the image; start one if this host lets us."""
    if url := os.environ.get("PODMAN_HOST"):
        import_image(url)
        yield url
    elif not can_have_own_engine() or not all(map(shutil.which, ("podman", "runc", "catatonit"))):
        pytest.skip(HOW_TO_GET_ONE)
    else:
        with a_podman(image_registry.host) as url:
            yield url


@contextmanager
def a_podman(registry: str) -> Iterator[str]:
    """Run a Podman of one's own, which has the image and trusts a registry, and leave nothing of it behind."""
    folder = Path(tempfile.mkdtemp(prefix="by-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "containers.conf").write_text(CONTAINERS.format(limit=open_files_limit()))
    (folder / "registries.conf").write_text(REGISTRIES.format(host=registry))
    url = f"unix://{folder}/s"
    command = [
        *("podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp"),
        *("--runtime", str(shutil.which("runc")), "--cgroup-manager", "cgroupfs", "--events-backend", "file"),
    ]
    environment = {
        **os.environ,
        "CONTAINERS_CONF": f"{folder}/containers.conf",
        "CONTAINERS_REGISTRIES_CONF": f"{folder}/registries.conf",
    }
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "system", "service", "-t", "0", url],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
            # Where its helpers leave notes.
            cwd=folder,
        )
    try:
        soon(lambda: process.poll() is not None or engine_answers(url), "Podman answers")
        if process.poll() is not None:
            pytest.fail(f"podman did not start: {(folder / 'log').read_text()[-2000:]}")
        import_image(url)
        yield url
    finally:
        subprocess.run([*command, "rm", "-fa", "-t", "0"], check=False, capture_output=True, env=environment)
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()
        unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)
