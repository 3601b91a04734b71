"""Where a container engine is: as told, or at the sockets where one usually listens."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aiodocker
import aiohttp
import anyio

from batchyard.agent.host import AgentStartError
from batchyard.agent.launcher.ledger import Need
from batchyard.agent.runtimes.container import MIB
from batchyard.agent.runtimes.dialect import Dialect
from batchyard.agent.runtimes.engine import ENGINE_ERRORS, describe, ping

ANSWER_PATIENCE_S: Final = 2.0

_UNIX: Final = "unix://"


def engine_addresses(docker_host: str | None, before: str | None = None) -> Iterator[str]:
    """Yield where an engine may be, best first: as configured or as DOCKER_HOST says, else where there is a socket.

    Of several sockets that of the engine that was used before comes first: it has the agent's containers.
    """
    if url := docker_host or os.environ.get("DOCKER_HOST"):
        yield url
        return
    run, home = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}", os.path.expanduser("~")
    paths = (
        "/var/run/docker.sock",
        f"{run}/docker.sock",
        f"{home}/.docker/run/docker.sock",
        "/run/podman/podman.sock",
        f"{run}/podman/podman.sock",
    )
    found = [f"{_UNIX}{path}" for path in paths if Path(path).is_socket()]
    yield from sorted(found, key=lambda url: url != before)


async def find_engine(docker_host: str | None, before: str | None = None) -> str | None:
    """Return the address of the first engine that answers, or None."""
    for url in engine_addresses(docker_host, before):
        try:
            with anyio.fail_after(ANSWER_PATIENCE_S):
                async with open_engine(url):
                    pass
        except (*ENGINE_ERRORS, ValueError):
            continue
        return url
    return None


async def require_engine(docker_host: str | None, before: str | None = None) -> str:
    """Return the address of the engine; raise AgentStartError if none answers."""
    url = await find_engine(docker_host, before)
    if url is None:
        places = ", ".join(engine_addresses(docker_host, before)) or "the usual sockets"
        raise AgentStartError(f"no container engine answers at {places}; is one running?")
    return url


async def capacity_of_engine(url: str, host: Need) -> Need:
    """Return what containers of the engine may have of this host; raise AgentStartError if the engine does not say.

    Of its GPUs nothing, unless the engine has what gives them to containers.
    """
    try:
        async with open_engine(url) as docker:
            facts = await docker.system.info()
    except ENGINE_ERRORS as error:
        raise AgentStartError(
            f"the container engine at {url} does not say what its host has: {describe(error)}"
        ) from error
    gives_gpus = "nvidia" in (facts.get("Runtimes") or ())
    return (
        min(host[0], int(facts["NCPU"]) * 1000),
        min(host[1], int(facts["MemTotal"]) // MIB),
        host[2] if gives_gpus else 0,
    )


@asynccontextmanager
async def open_engine(url: str) -> AsyncIterator[aiodocker.Docker]:
    """Connect to an engine that answers; raise ValueError for an address of no known form, or one of ENGINE_ERRORS."""
    async with AsyncExitStack() as stack:
        session = None
        if url.startswith(_UNIX):
            # A connection for each running container, to copy its output: with a bound, what kills would wait too.
            connector = aiohttp.UnixConnector(url.removeprefix(_UNIX), limit=0)
            session = await stack.enter_async_context(
                aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout())
            )
        docker = await stack.enter_async_context(aiodocker.Docker(url=url, session=session))
        # The library would ask Podman for its version, which takes half a second.
        docker.api_version = f"v{(await ping(docker))['Api-Version']}"
        yield docker


async def dialect_of(docker: aiodocker.Docker) -> Dialect:
    """Ask an engine which it is."""
    is_podman = "Libpod-Api-Version" in await ping(docker)
    cgroup_version = (await docker.system.info()).get("CgroupVersion", "1")
    return Dialect(is_podman, str(cgroup_version))
