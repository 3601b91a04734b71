"""An engine that is not one: it speaks the API, runs containers as processes of this host, and fails when told to.

What it leaves out: images, file systems, namespaces, memory and CPU. Everything in it runs in the test's own loop.
"""

import asyncio
import json
import os
import pwd
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal

from aiohttp import web

Fault = Literal["refused", "unanswered", "error"]
"""Of a request: it never arrives; it has its effect and no answer; it is answered with an error."""

_STDOUT, _STDERR = 1, 2


@dataclass(slots=True)
class FakeContainer:
    """A container, and the process that it is."""

    name: str
    config: Mapping[str, Any]
    id: str = field(default_factory=lambda: token_hex(32))
    status: str = "created"
    exit_code: int = 0
    started_at: str = "0001-01-01T00:00:00Z"
    output: list[tuple[int, bytes]] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None
    watch: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """Wake up who waits for output or for the end."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def shown(self) -> dict[str, Any]:
        """Return what the API says of it."""
        state = {
            "Status": self.status,
            "ExitCode": self.exit_code,
            "OOMKilled": False,
            "StartedAt": self.started_at,
        }
        return {"Id": self.id, "Name": f"/{self.name}", "Config": self.config, "State": state}

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to the first process; SIGKILL takes all of them."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                os.kill(self.process.pid, number)


class FakeEngine:
    """The engine behind a socket."""

    def __init__(self, socket: Path) -> None:
        self.url = f"unix://{socket}"
        self.containers: dict[str, FakeContainer] = {}
        self.volumes: dict[str, Mapping[str, str]] = {}
        self.starts = Counter[str]()
        """How often a container was started, by its fence."""
        self.runtimes: dict[str, object] = {"runc": {}}
        """What it makes containers with, by name."""
        self.readers = 0
        """How many requests copy output just now."""
        self.forgets_to_end = False
        """Whether whoever follows the output of a container hears nothing of its end."""
        self._faults: list[tuple[str, re.Pattern[str], Fault]] = []

    def fail(self, method: str, path: str, fault: Fault, *, times: int = 1) -> None:
        """Fail the next requests of this method whose path holds this pattern."""
        self._faults += [(method, re.compile(path), fault)] * times

    @property
    def has_failed(self) -> bool:
        """Whether all that was to fail has."""
        return not self._faults

    def app(self) -> web.Application:
        """Return the API."""
        app = web.Application(middlewares=[self._with_faults])
        for method, path, handler in (
            ("GET", "/_ping", self._ping),
            ("GET", "/{v}/info", self._info),
            ("GET", "/{v}/containers/json", self._list),
            ("POST", "/{v}/containers/create", self._create),
            ("GET", "/{v}/containers/{id}/json", self._show),
            ("POST", "/{v}/containers/{id}/start", self._start),
            ("POST", "/{v}/containers/{id}/wait", self._wait),
            ("POST", "/{v}/containers/{id}/kill", self._kill),
            ("GET", "/{v}/containers/{id}/logs", self._logs),
            ("DELETE", "/{v}/containers/{id}", self._delete),
            # As the guard asks.
            ("GET", "/containers/json", self._list),
            ("POST", "/containers/{id}/kill", self._kill),
            ("DELETE", "/containers/{id}", self._delete),
            ("GET", "/{v}/volumes", self._list_volumes),
            ("POST", "/{v}/volumes/create", self._create_volume),
            ("GET", "/{v}/volumes/{name}", self._show_volume),
            ("DELETE", "/{v}/volumes/{name}", self._delete_volume),
        ):
            app.router.add_route(method, path, handler)
        return app

    async def close(self) -> None:
        """End all containers."""
        for container in self.containers.values():
            if container.watch is not None:
                container.kill(signal.SIGKILL)
                await container.watch

    # Faults

    @web.middleware
    async def _with_faults(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        fault = self._take_fault(request)
        if fault == "error":
            return _said(500, "the engine is out of order")
        if fault == "refused":
            _hang_up(request)
            return web.Response()
        response = await handler(request)
        if fault == "unanswered":
            _hang_up(request)
        return response

    def _take_fault(self, request: web.Request) -> Fault | None:
        for entry in self._faults:
            method, path, fault = entry
            if request.method == method and path.search(request.path):
                self._faults.remove(entry)
                return fault
        return None

    # Containers

    async def _ping(self, _request: web.Request) -> web.Response:
        return web.Response(text="OK", headers={"Api-Version": "1.41"})

    async def _info(self, _request: web.Request) -> web.Response:
        return web.json_response({"CgroupVersion": "1", "NCPU": 4, "MemTotal": 4 << 30, "Runtimes": self.runtimes})

    async def _list(self, request: web.Request) -> web.Response:
        labels = _wanted_labels(request)
        return web.json_response(
            [
                {"Id": found.id, "Names": [f"/{found.name}"], "Labels": found.config["Labels"], "State": found.status}
                for found in self.containers.values()
                if labels <= found.config["Labels"].items()
            ]
        )

    async def _create(self, request: web.Request) -> web.Response:
        name, config = request.query["name"], await request.json()
        if any(container.name == name for container in self.containers.values()):
            return _said(409, f"Conflict. The container name {name} is already in use")
        container = FakeContainer(name, config)
        self.containers[container.id] = container
        return web.json_response({"Id": container.id, "Warnings": []}, status=201)

    async def _show(self, request: web.Request) -> web.Response:
        return web.json_response(self._container(request).shown())

    async def _start(self, request: web.Request) -> web.Response:
        container = self._container(request)
        if container.status == "running":
            return web.Response(status=304)
        try:
            container.process = await _spawn(container.config)
        except ValueError as error:
            return _said(400, str(error))
        container.status, container.exit_code, container.output = "running", 0, []
        container.started_at = datetime.now(UTC).isoformat()
        self.starts[container.config["Labels"]["batchyard.fence"]] += 1
        container.watch = asyncio.create_task(_watch(container))
        return web.Response(status=204)

    async def _wait(self, request: web.Request) -> web.Response:
        container = self._container(request)
        while container.status == "running":
            await container.changed.wait()
        return web.json_response({"StatusCode": container.exit_code, "Error": None})

    async def _kill(self, request: web.Request) -> web.Response:
        container = self._container(request)
        if container.status != "running":
            return _said(409, "the container is not running")
        name = request.query["signal"].removeprefix("SIG")
        container.kill(signal.Signals[f"SIG{name}"])
        return web.Response(status=204)

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        container = self._container(request)
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(request)
        self.readers += 1
        try:
            await self._send_output(container, response, follow=request.query["follow"] == "1")
        finally:
            self.readers -= 1
        return response

    async def _send_output(self, container: FakeContainer, response: web.StreamResponse, *, follow: bool) -> None:
        sent = 0
        while True:
            for stream, data in container.output[sent:]:
                await response.write(bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data)
                sent += 1
            has_ended = container.status != "running" and not self.forgets_to_end
            if sent == len(container.output) and (has_ended or not follow):
                return
            await container.changed.wait()

    async def _delete(self, request: web.Request) -> web.Response:
        container = self._container(request)
        if container.watch is not None:
            # Once it has exited, its number may name any other process.
            if container.status == "running":
                container.kill(signal.SIGKILL)
            await container.watch
        self.containers.pop(container.id, None)
        return web.Response(status=204)

    def _container(self, request: web.Request) -> FakeContainer:
        wanted = request.match_info["id"]
        for container in self.containers.values():
            if wanted in (container.id, container.name):
                return container
        raise web.HTTPNotFound(
            text=json.dumps({"message": f"No such container: {wanted}"}), content_type="application/json"
        )

    # Volumes

    async def _list_volumes(self, request: web.Request) -> web.Response:
        labels = _wanted_labels(request)
        found = [{"Name": name, "Labels": own} for name, own in self.volumes.items() if labels <= own.items()]
        return web.json_response({"Volumes": found})

    async def _create_volume(self, request: web.Request) -> web.Response:
        config = await request.json()
        self.volumes.setdefault(config["Name"], config["Labels"])
        return web.json_response(config, status=201)

    async def _show_volume(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.volumes:
            return _said(404, f"no such volume: {name}")
        return web.json_response({"Name": name})

    async def _delete_volume(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        binds = [bind for found in self.containers.values() for bind in found.config["HostConfig"].get("Binds", ())]
        if any(bind.startswith(f"{name}:") for bind in binds):
            return _said(409, f"volume is in use: {name}")
        self.volumes.pop(name, None)
        return web.Response(status=204)


@asynccontextmanager
async def a_fake_engine() -> AsyncIterator[FakeEngine]:
    """Run one for the length of the context."""
    # A short path: the address of a unix socket holds no more than 108 bytes.
    with tempfile.TemporaryDirectory(prefix="by-") as folder:
        engine = FakeEngine(Path(folder, "s"))
        runner = web.AppRunner(engine.app(), shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.UnixSite(runner, Path(folder, "s")).start()
            yield engine
        finally:
            await engine.close()
            await runner.cleanup()


async def _spawn(config: Mapping[str, Any]) -> asyncio.subprocess.Process:
    """Start a container's process; raise ValueError, in the engine's words, if it can't be."""
    command = config.get("Cmd") or ["true"]
    environment = dict(pair.split("=", 1) for pair in config["Env"])
    environment.setdefault("PATH", os.defpath)
    program = shutil.which(command[0], path=environment["PATH"])
    if program is None:
        raise ValueError(f'exec: "{command[0]}": executable file not found in $PATH')
    user = config.get("User")
    if user is not None and user not in {entry.pw_name for entry in pwd.getpwall()}:
        raise ValueError(f"unable to find user {user}: no matching entries in passwd file")
    limits = [f"--{limit['Name']}={limit['Soft']}:{limit['Hard']}" for limit in config["HostConfig"].get("Ulimits", ())]
    prefix = ["prlimit", *limits] if limits else []
    return await asyncio.create_subprocess_exec(
        *prefix,
        program,
        *command[1:],
        env=environment,
        user=user,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


async def _watch(container: FakeContainer) -> None:
    process = container.process
    assert process is not None
    assert process.stdout is not None
    assert process.stderr is not None
    reading = [
        asyncio.create_task(_read(container, number, stream))
        for number, stream in ((_STDOUT, process.stdout), (_STDERR, process.stderr))
    ]
    code = await process.wait()
    # With the first process all others of a container die.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.gather(*reading)
    container.status, container.exit_code = "exited", code if code >= 0 else 128 - code
    container.tell()


async def _read(container: FakeContainer, number: int, stream: asyncio.StreamReader) -> None:
    while data := await stream.read(65536):
        container.output.append((number, data))
        container.tell()


def _wanted_labels(request: web.Request) -> set[tuple[str, str]]:
    labels = json.loads(request.query["filters"])["label"]
    return {(name, value) for name, _, value in (label.partition("=") for label in labels)}


def _said(status: int, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status)


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()
