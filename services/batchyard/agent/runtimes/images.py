"""The images of jobs: fetched as the agent's owner wants it, each once however many jobs wait for it."""

import aiodocker
import anyio
from anyio.abc import TaskGroup

from batchyard.agent.runtimes.container import RefusedError
from batchyard.agent.runtimes.engine import ENGINE_ERRORS, RETRY_S, describe, is_away, pull
from batchyard.agent.runtimes.settings import PullSettings


class _Pull:
    def __init__(self) -> None:
        self.is_over = anyio.Event()
        self.refusal = ""
        self.waiting = 0
        self.scope = anyio.CancelScope()


class Images:
    """Fetches images for many jobs at once."""

    def __init__(self, docker: aiodocker.Docker, tasks: TaskGroup, settings: PullSettings) -> None:
        self._docker = docker
        self._tasks = tasks
        self._settings = settings
        self._pulls: dict[str, _Pull] = {}

    async def before_creating(self, image: str) -> None:
        """Fetch the image if that is to be done for each job; raise RefusedError as `fetch` does."""
        if self._settings.policy == "always":
            await self._fetch(image)

    async def fetch_missing(self, image: str) -> None:
        """Fetch an image that the engine does not have.

        Raises RefusedError, with AWS's form of the reason, if it can't be had, takes too long, or is not to be fetched.
        An engine that is away is waited for. Who is cancelled here harms no other job that waits for the same image.
        """
        if self._settings.policy == "never":
            raise RefusedError(
                "CannotPullContainerError: the image is not on this host, and the agent fetches none"
                f" (--image-pull-policy never): {image}"
            )
        await self._fetch(image)

    async def _fetch(self, image: str) -> None:
        found = self._pulls.get(image)
        if found is None:
            found = self._pulls[image] = _Pull()
            self._tasks.start_soon(self._pull, image, found)
        found.waiting += 1
        try:
            await found.is_over.wait()
        finally:
            found.waiting -= 1
            if not found.waiting:
                found.scope.cancel()
                self._forget(image, found)
        if found.refusal:
            raise RefusedError(found.refusal)

    async def _pull(self, image: str, own: _Pull) -> None:
        with own.scope:
            own.refusal = await self._refusal(image)
        self._forget(image, own)
        own.is_over.set()

    def _forget(self, image: str, own: _Pull) -> None:
        if self._pulls.get(image) is own:
            del self._pulls[image]

    async def _refusal(self, image: str) -> str:
        """Fetch an image; return why it can't be had, or nothing."""
        with anyio.move_on_after(self._settings.timeout_s):
            while True:
                try:
                    await pull(self._docker, image)
                except ENGINE_ERRORS as error:
                    if not is_away(error):
                        return f"CannotPullContainerError: {describe(error)}"
                else:
                    return ""
                await anyio.sleep(RETRY_S)
        return (
            f"CannotPullContainerError: the image was not there after {self._settings.timeout_s:g} s"
            f" (--image-pull-timeout): {image}"
        )
