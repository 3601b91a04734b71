"""What the docker runtime says to a container engine, and how it reads the answers."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

import aiodocker
import aiohttp
import anyio
from aiodocker.containers import DockerContainer
from aiodocker.jsonstream import json_stream_list

from batchyard.agent.runtimes.container import Owner, Plan, RefusedError

RETRY_S: Final = 0.5

_NO_CONNECTION: Final = 900
"""What the library has as the status of an answer that never came."""

ENGINE_ERRORS: Final = (aiodocker.DockerError, aiohttp.ClientError, OSError, TimeoutError)


class GoneError(Exception):
    """A container that the engine does not know any more."""


class MissingImageError(Exception):
    """A container whose image the engine does not have."""


class UnansweredStartError(Exception):
    """A container that may run, or have run, although the engine knows nothing of it."""


def is_away(error: Exception) -> bool:
    """Tell whether an error means that the engine gave no answer, and may give one later."""
    return not isinstance(error, aiodocker.DockerError) or error.status == _NO_CONNECTION


async def ping(docker: aiodocker.Docker) -> Mapping[str, str]:
    """Return the headers in which an engine says who it is."""
    async with docker._query("_ping", versioned_api=False) as response:  # noqa: SLF001 - the library has no ping
        await response.read()
        return response.headers


async def pull(docker: aiodocker.Docker, image: str) -> None:
    """Fetch an image, that of its tag "latest" if it names none. Cancelled, it is not fetched any further."""
    has_version = "@" in image or ":" in image.rpartition("/")[2]
    params = {"fromImage": image if has_version else f"{image}:latest"}
    query = docker._query(  # noqa: SLF001 - its own way to pull leaves the connection open when it is cancelled
        "images/create", "POST", params=params, timeout=aiohttp.ClientTimeout()
    )
    async with query as response, response:
        await json_stream_list(response)


async def list_all(docker: aiodocker.Docker, owner: Owner) -> list[DockerContainer]:
    """Return the owner's containers, ended ones too; wait for an engine that is away."""
    while True:
        try:
            return await docker.containers.list(all=1, filters={"label": owner.label_filters()})
        except ENGINE_ERRORS as error:
            if not is_away(error):
                raise
            await anyio.sleep(RETRY_S)


async def list_volumes(docker: aiodocker.Docker, owner: Owner) -> dict[str, Mapping[str, str]]:
    """Return the names of the owner's volumes, with their labels."""
    found = await _volumes(docker).list(filters={"label": owner.label_filters()})
    return {volume["Name"]: volume["Labels"] for volume in found["Volumes"] or ()}


async def create(docker: aiodocker.Docker, plan: Plan, may_go_on: Callable[[], bool]) -> DockerContainer | None:
    """Create a run's container and its volumes; raise RefusedError if that can't be, MissingImageError for its image.

    Waits for an engine that is away as long as it may go on; then there is none.
    """
    while may_go_on():
        try:
            for name, labels in plan.volumes.items():
                await _volumes(docker).create({"Name": name, "Labels": labels})
            return await _create(docker, plan)
        except ENGINE_ERRORS as error:
            if not is_away(error):
                raise RefusedError(f"CannotCreateContainerError: {describe(error)}") from error
        await anyio.sleep(RETRY_S)
    return None


async def _create(docker: aiodocker.Docker, plan: Plan) -> DockerContainer:
    try:
        return await docker.containers.create(plan.config, name=plan.name)
    except aiodocker.DockerError as error:
        # Docker answers with a conflict, Podman with any error.
        if not is_away(error) and (found := await _made_before(docker, plan)) is not None:
            return found
        if error.status == HTTPStatus.NOT_FOUND:
            raise MissingImageError from error
        raise


async def _made_before(docker: aiodocker.Docker, plan: Plan) -> DockerContainer | None:
    """Return the container of this name if it is this run's, made by a call whose answer was lost."""
    try:
        container = await docker.containers.get(plan.name)
        shown = await container.show()
    except aiodocker.DockerError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise
    is_ours = plan.config["Labels"].items() <= shown["Config"]["Labels"].items()
    return container if is_ours and shown["State"]["Status"] == "created" else None


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


async def wait(docker: aiodocker.Docker, container: DockerContainer) -> None:
    """Return when a container has ended."""
    query = docker._query(  # noqa: SLF001 - its own way leaves the connection open when it is cancelled
        f"containers/{container.id}/wait", "POST", timeout=aiohttp.ClientTimeout()
    )
    async with query as response, response:
        await response.read()


async def signal(container: DockerContainer, name: str) -> bool:
    """Send a signal to a container, if it runs; return whether the engine has done so, or has none to send it to."""
    try:
        await container.kill(signal=name)
    except ENGINE_ERRORS as error:
        return isinstance(error, aiodocker.DockerError) and error.status < HTTPStatus.INTERNAL_SERVER_ERROR
    return True


async def remove(container: DockerContainer) -> None:
    """Remove a container, if the engine answers: what is left is swept up later."""
    with suppress(*ENGINE_ERRORS):
        await container.delete(force=True, v=True)


async def remove_volume(docker: aiodocker.Docker, name: str) -> None:
    """Remove a volume, if the engine answers and no container has it: what is left is swept up later."""
    with suppress(*ENGINE_ERRORS):
        volume = await _volumes(docker).get(name)
        await volume.delete()


def _volumes(docker: aiodocker.Docker) -> Any:
    # The library has no types for these.
    return docker.volumes


def describe(error: Exception) -> str:
    """Return what the engine said."""
    if isinstance(error, aiodocker.DockerError):
        return str(error.message)
    return str(error) or type(error).__name__
