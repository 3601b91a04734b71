"""What the docker runtime says to a container engine, and how it reads the answers. Docker, or Podman in its place."""

import json
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiodocker
import aiohttp
import anyio
from aiodocker.containers import DockerContainer

from batchyard.agent.host import AgentStartError
from batchyard.agent.runtimes.environment import fence_text, job_variables
from batchyard.agent.state import Offer

MIB: Final = 1024 * 1024
ANSWER_PATIENCE_S: Final = 2.0

LABEL: Final = "batchyard."
RETRY_S: Final = 0.5
_FRAME_HEADER_BYTES: Final = 8

_SOCKETS: Final = ("/var/run/docker.sock", "/run/podman/podman.sock")

KILLED: Final = 137
"""Exit code of what SIGKILL has ended."""

_NO_CONNECTION: Final = 900
"""What the library has as the status of an answer that never came."""

ENGINE_ERRORS: Final = (aiodocker.DockerError, aiohttp.ClientError, OSError, TimeoutError)


class GoneError(Exception):
    """A container that the engine does not know any more."""


class UnansweredStartError(Exception):
    """A container that may run, or have run, although the engine knows nothing of it."""


class RefusedError(Exception):
    """A job that can't be started; the text is AWS's form of the container's reason."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose containers they are."""

    installation: str
    agent_id: str

    def labels(self) -> dict[str, str]:
        """Return the labels that all of them carry."""
        return {f"{LABEL}installation": self.installation, f"{LABEL}agent": self.agent_id}

    def label_filters(self) -> list[str]:
        """Return what the engine finds all of them by."""
        return [f"{name}={value}" for name, value in self.labels().items()]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a container ended."""

    exit_code: int
    out_of_memory: bool


def engine_url(docker_host: str | None) -> str | None:
    """Return where the engine is: as configured, as DOCKER_HOST says, or at a socket that exists; None: nowhere."""
    if url := docker_host or os.environ.get("DOCKER_HOST"):
        return url
    return next((f"unix://{path}" for path in _SOCKETS if Path(path).is_socket()), None)


async def engine_answers(docker_host: str | None) -> bool:
    """Tell whether a container engine answers."""
    url = engine_url(docker_host)
    if url is None:
        return False
    try:
        with anyio.fail_after(ANSWER_PATIENCE_S):
            async with aiodocker.Docker(url=url) as docker:
                await docker.version()
    except (*ENGINE_ERRORS, ValueError):
        return False
    return True


async def capacity_of_engine(docker_host: str | None) -> tuple[int, int]:
    """Return how many thousandths of a vCPU and how many MiB the engine's host has; raise AgentStartError."""
    url = await find_engine(docker_host)
    try:
        async with aiodocker.Docker(url=url) as docker:
            facts = await docker.system.info()
    except ENGINE_ERRORS as error:
        raise AgentStartError(
            f"the container engine at {url} does not say what its host has: {describe(error)}"
        ) from error
    return (int(facts["NCPU"]) * 1000, int(facts["MemTotal"]) // MIB)


async def find_engine(docker_host: str | None) -> str:
    """Return the address of the engine; raise AgentStartError if none answers."""
    url = engine_url(docker_host)
    if url is None or not await engine_answers(docker_host):
        raise AgentStartError(f"no container engine answers at {url or 'the usual sockets'}; is one running?")
    return url


def container_name(offer: Offer, owner: Owner) -> str:
    """Return the one name that a run's container can have: the engine makes none twice."""
    # Engines take no colon in a name.
    return f"by-{owner.installation}-{offer.job_id.replace(':', '.')}-{fence_text(offer)}"


def container_config(offer: Offer, owner: Owner, network: str | None) -> dict[str, Any]:
    """Return what the engine is to create; raise RefusedError for what is not honoured yet."""
    spec, container = offer.spec, offer.spec.container
    unsupported = [
        name for name, wanted in (("volumes", container.volumes), ("mountPoints", container.mount_points)) if wanted
    ]
    if unsupported:
        raise RefusedError(
            f"CannotCreateContainerError: the docker runtime does not honour {', '.join(unsupported)} yet"
        )
    host: dict[str, Any] = {
        "Memory": spec.memory_mib * MIB,
        "MemorySwap": spec.memory_mib * MIB,
        # A share, not a ceiling: 1024 a vCPU, as AWS gives.
        "CpuShares": max(2, spec.vcpus_milli * 1024 // 1000),
        "Ulimits": [
            {"Name": ulimit.name, "Soft": ulimit.soft_limit, "Hard": ulimit.hard_limit} for ulimit in container.ulimits
        ],
        "ReadonlyRootfs": container.readonly_root_filesystem,
        "Privileged": container.privileged,
    }
    if network is not None:
        host["NetworkMode"] = network
    if spec.gpus:
        host["DeviceRequests"] = [{"Count": spec.gpus, "Capabilities": [["gpu"]]}]
    config: dict[str, Any] = {
        "Image": container.image,
        "Env": [f"{name}={value}" for name, value in job_variables(offer, owner.agent_id).items()],
        "Labels": {
            **spec.container_tags,
            **owner.labels(),
            f"{LABEL}job": offer.job_id,
            f"{LABEL}fence": fence_text(offer),
        },
        "HostConfig": host,
    }
    if container.command:
        config["Cmd"] = list(container.command)
    if container.user:
        config["User"] = container.user
    return config


def is_away(error: Exception) -> bool:
    """Tell whether an error means that the engine gave no answer, and may give one later."""
    return not isinstance(error, aiodocker.DockerError) or error.status == _NO_CONNECTION


async def list_all(docker: aiodocker.Docker, owner: Owner) -> list[DockerContainer]:
    """Return the owner's containers, ended ones too; wait for an engine that is away."""
    while True:
        try:
            return await docker.containers.list(all=1, filters=json.dumps({"label": owner.label_filters()}))
        except ENGINE_ERRORS as error:
            if not is_away(error):
                raise
            await anyio.sleep(RETRY_S)


async def create(
    docker: aiodocker.Docker, offer: Offer, owner: Owner, network: str | None, may_go_on: Callable[[], bool]
) -> DockerContainer | None:
    """Create a run's container, pulling the image if need be; raise RefusedError if that can't be.

    Waits for an engine that is away as long as it may go on; then there is none.
    """
    config = container_config(offer, owner, network)
    name = container_name(offer, owner)
    while may_go_on():
        try:
            return await _create(docker, config, name)
        except ENGINE_ERRORS as error:
            if not is_away(error):
                raise RefusedError(f"CannotCreateContainerError: {describe(error)}") from error
        await anyio.sleep(RETRY_S)
    return None


async def _create(docker: aiodocker.Docker, config: dict[str, Any], name: str) -> DockerContainer:
    try:
        return await docker.containers.create(config, name=name)
    except aiodocker.DockerError as error:
        if error.status == HTTPStatus.CONFLICT and (found := await _made_before(docker, config, name)) is not None:
            return found
        if error.status != HTTPStatus.NOT_FOUND:
            raise
    await _pull(docker, config["Image"])
    return await docker.containers.create(config, name=name)


async def _made_before(docker: aiodocker.Docker, config: dict[str, Any], name: str) -> DockerContainer | None:
    """Return the container of this name if it is this run's, made by a call whose answer was lost."""
    container = await docker.containers.get(name)
    shown = await container.show()
    is_ours = config["Labels"].items() <= shown["Config"]["Labels"].items() and shown["State"]["Status"] == "created"
    return container if is_ours else None


async def _pull(docker: aiodocker.Docker, image: str) -> None:
    # Without a tag the engine would fetch all of them.
    has_version = "@" in image or ":" in image.rpartition("/")[2]
    try:
        await docker.images.pull(image if has_version else f"{image}:latest")
    except ENGINE_ERRORS as error:
        if is_away(error):
            raise
        raise RefusedError(f"CannotPullContainerError: {describe(error)}") from error


async def start(container: DockerContainer) -> None:
    """Start a container; raise RefusedError if it can't be, and UnansweredStartError if nobody can know.

    Called once for a container: an engine that was killed while it started one says that it is only created, and would
    run it again. If the engine goes away before it has answered, this waits for it.
    """
    try:
        await container.start()
    except ENGINE_ERRORS as error:
        if (await state_of(container))["Status"] != "created":
            return
        if is_away(error):
            raise UnansweredStartError from error
        raise RefusedError(f"CannotStartContainerError: {describe(error)}") from error


async def state_of(container: DockerContainer) -> Mapping[str, Any]:
    """Return the engine's view of a container; wait for an engine that is away. Raise GoneError if it has none."""
    while True:
        try:
            state: Mapping[str, Any] = (await container.show())["State"]
        except ENGINE_ERRORS as error:
            if isinstance(error, aiodocker.DockerError) and error.status == HTTPStatus.NOT_FOUND:
                raise GoneError from error
            await anyio.sleep(RETRY_S)
        else:
            return state


async def outcome_of(container: DockerContainer) -> Outcome | None:
    """Return how a container ended, or None if it has not; waits and raises as `state_of` does."""
    state = await state_of(container)
    if state["Status"] not in ("exited", "dead"):
        return None
    return Outcome(int(state["ExitCode"]), bool(state["OOMKilled"]))


async def signal(container: DockerContainer, name: str) -> None:
    """Send a signal to a container, if it runs and the engine answers."""
    with suppress(*ENGINE_ERRORS):
        await container.kill(signal=name)


async def remove(container: DockerContainer) -> None:
    """Remove a container, if the engine answers: what is left is swept up later."""
    with suppress(*ENGINE_ERRORS):
        await container.delete(force=True, v=True)


async def output_of(docker: aiodocker.Docker, container: DockerContainer) -> AsyncGenerator[bytes, None]:
    """Yield what a container has printed and will print, stdout and stderr as they came, until it has ended."""
    params = {"stdout": "1", "stderr": "1", "follow": "1"}
    # The library's own reader decodes text; what jobs print is bytes.
    query = docker._query(  # noqa: SLF001
        f"containers/{container.id}/logs", params=params, timeout=aiohttp.ClientTimeout(total=None)
    )
    # Its context leaves the connection open when it is left before the end.
    async with query as response, response:
        while True:
            try:
                header = await response.content.readexactly(_FRAME_HEADER_BYTES)
                yield await response.content.readexactly(int.from_bytes(header[4:], "big"))
            except EOFError:
                return


def describe(error: Exception) -> str:
    """Return what the engine said."""
    if isinstance(error, aiodocker.DockerError):
        return str(error.message)
    return str(error) or type(error).__name__
