"""An agent put together: its folder, its runtime, its session."""

import ctypes
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

import anyio
from anyio import to_thread

from batchyard.agent.capacity import capacity_of_host, check_capacity, offered_capacity
from batchyard.agent.host import (
    LOCK_PATIENCE_S,
    AgentStartError,
    IdentityKeeper,
    locked_folder,
)
from batchyard.agent.launcher.ledger import Need
from batchyard.agent.logs import LOG_BYTES_MAX, LOG_BYTES_MIN, LogTracker, UnshippedLogs, finished_logs
from batchyard.agent.policy import Policy
from batchyard.agent.runtimes import Runtime
from batchyard.agent.runtimes.guarded import engine_before
from batchyard.agent.runtimes.launched import ProcessSettings, open_process_runtime
from batchyard.agent.runtimes.secrets import NO_SECRETS, Secrets
from batchyard.agent.runtimes.settings import DockerSettings, PullSettings
from batchyard.agent.shift import HostFacts, Shift, end_everything
from batchyard.agent.shipping import expire_shipped, ship_logs
from batchyard.agent.talkback import TalkBack, TalkingBack
from batchyard.api.agent.v1.agent_session_service_pb2_grpc import AgentSessionServiceStub
from batchyard.api.agent.v1.log_ingest_service_pb2_grpc import LogIngestServiceStub
from batchyard.domain.clock import Clock
from batchyard.rpc.clock import SystemClock
from batchyard.rpc.connection import open_channel
from batchyard.rpc.tls import Tls
from batchyard.storage.log_files import LogFolder

LOCAL_SOCKET: Final = "unix:"
SOCKET_POLL_S: Final = 0.01

RuntimeName = Literal["docker", "process"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """How an agent runs."""

    folder: Path
    """What names the agent: its identity, its journal, its launcher. One agent at a time uses it."""
    scheduler: str
    """Address of the scheduler, as gRPC takes it: `host:port` or `unix:/path`."""
    logs: str | None = None
    """Address of the logs service to ship logs to. None: it reads the log folder in place."""
    log_folder: Path | None = None
    """Where jobs' output goes; default `logs` in the folder."""
    log_bytes_max: int = LOG_BYTES_MAX
    """How long the log of an attempt may become; of a longer one the middle is cut out."""
    tls: Tls | None = None
    """Its certificate, which names it; None: it names itself, which only a local scheduler believes."""
    runtime: Literal["auto", "docker", "process"] = "auto"
    capacity: str | None = None
    """What to offer in place of what the host has, as in `vcpus=64,memory=256GiB,gpus=1`."""
    reserve_vcpus: float = 0
    """vCPUs that are not offered."""
    reserve_mib: int | None = None
    """Memory that is not offered; default a tenth, at most 1 GiB."""
    policy: Policy = field(default=Policy())
    """What of its host jobs may have."""
    compute_environments: tuple[str, ...] = ()
    """Names of the compute environments that it serves; empty: all."""
    stop_jobs: bool = False
    """Whether running jobs end with the agent. Otherwise they go on, and are found again."""
    separate_launcher: bool = False
    """Whether it is left to `batchyard launcher` to start what outlives the agent."""
    parent_death: bool = False
    """Whether the agent stops when the process that started it dies."""
    docker_host: str | None = None
    """The container engine's socket, as in `unix:///var/run/docker.sock`; default DOCKER_HOST's meaning to Docker."""
    docker_network: str | None = None
    """Network of containers; None: the engine's default."""
    installation: str = "batchyard"
    """Name of the installation, in the names and labels of containers."""
    talk_back: TalkBack | None = None
    """What jobs are told of this installation."""
    lock_patience_s: float = LOCK_PATIENCE_S
    """How long to wait for another agent on the same folder to end."""
    cpu_hard_limit: bool = False
    """Whether a container gets no more CPU time than its vCPUs, also while others leave theirs."""
    pulls: PullSettings = field(default=PullSettings())
    """When images are fetched, and how long that may take."""
    secrets: Secrets = NO_SECRETS
    """What jobs may have as secrets."""
    stop_timeout_s: float | None = None
    """Between SIGTERM and SIGKILL; None: as the scheduler says, and at timeouts what AWS gives."""
    process: ProcessSettings = field(default=ProcessSettings())

    def problems(self) -> list[str]:
        """Return everything that is wrong with it."""
        found = []
        if not self.scheduler:
            found.append("scheduler: an address is required")
        if self.runtime not in ("auto", "docker", "process"):
            found.append(f"runtime: {self.runtime!r} is not auto, docker or process")
        if self.reserve_vcpus < 0 or (self.reserve_mib or 0) < 0:
            found.append("reserve_vcpus, reserve_mib: must not be negative")
        try:
            check_capacity(self.capacity or "")
        except ValueError as error:
            found.append(str(error))
        if self.log_bytes_max < LOG_BYTES_MIN:
            found.append(f"log_bytes_max: must be {LOG_BYTES_MIN} bytes (1 MiB) at least")
        if len(set(self.compute_environments)) != len(self.compute_environments) or "" in self.compute_environments:
            found.append("compute_environments: names must be different and not empty")
        return found


async def run_agent(config: AgentConfig, *, ready: Callable[[], None], clock: Clock | None = None) -> None:
    """Run jobs for the scheduler until cancelled; call `ready` at every welcome.

    When cancelled it leaves running jobs to go on, or ends them if `stop_jobs` says so. Raises AgentStartError, with
    every problem, if it can't start.
    """
    if problems := config.problems():
        raise AgentStartError("; ".join(problems))
    if config.parent_death:
        _stop_with_parent()
    if config.scheduler.startswith(LOCAL_SOCKET):
        await _until_there(anyio.Path(config.scheduler.removeprefix(LOCAL_SOCKET)))
    stopping = anyio.Event()

    async def notice_cancellation() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopping.set()

    failures: list[AgentStartError] = []
    async with locked_folder(config.folder, config.lock_patience_s), anyio.create_task_group() as outer:
        outer.start_soon(notice_cancellation)
        # The agent's own work ends in order, after it has seen to its jobs, and not wherever it happens to be.
        with anyio.CancelScope(shield=True):
            try:
                await _Agent(config, clock or SystemClock(), ready, stopping).run()
            except* AgentStartError as group:
                failures += _leaves(group)
        outer.cancel_scope.cancel()
    if failures:
        raise failures[0]


async def _until_there(socket: anyio.Path) -> None:
    """Wait for the socket of a scheduler of this machine, which may start this agent before it can serve it."""
    while not await socket.exists():  # noqa: ASYNC110 - it is another process that makes it
        await anyio.sleep(SOCKET_POLL_S)


class _Agent:
    def __init__(self, config: AgentConfig, clock: Clock, ready: Callable[[], None], stopping: anyio.Event) -> None:
        self._config = config
        self._clock = clock
        self._ready = ready
        self._stopping = stopping
        self._capacity: Need = (0, 0, 0)
        # Whole paths: the launcher, which opens the files, stands in another folder.
        self._logs = LogFolder((config.log_folder or config.folder / "logs").resolve())
        self._keeper = IdentityKeeper(config.folder, None if config.tls is None else config.tls.peer)

    async def run(self) -> None:
        """Open the runtime, and again whenever it is lost, until stopped."""
        config = self._config
        name = await self._choose_runtime()
        await self._end_other_runtime(name)
        self._capacity = await self._offered_capacity(name)
        unshipped: UnshippedLogs | None = None
        async with AsyncExitStack() as stack:
            channel = await stack.enter_async_context(open_channel(config.scheduler, config.tls))
            if config.logs is not None:
                logs_channel = await stack.enter_async_context(open_channel(config.logs, config.tls))
                shipping = await stack.enter_async_context(anyio.create_task_group())
                stack.callback(shipping.cancel_scope.cancel)
                stub = LogIngestServiceStub(logs_channel)
                unshipped = UnshippedLogs(await to_thread.run_sync(finished_logs, self._logs))
                shipping.start_soon(ship_logs, stub, self._logs, unshipped)
                shipping.start_soon(expire_shipped, stub, self._logs, self._clock)
            while not self._stopping.is_set():
                async with self._open_runtime(name) as runtime:
                    shift = Shift(
                        runtime if config.talk_back is None else TalkingBack(runtime, config.talk_back),
                        AgentSessionServiceStub(channel),
                        HostFacts(name, self._capacity, config.compute_environments),
                        identity=self._keeper,
                        tracker=LogTracker(
                            self._logs, self._clock, bytes_max=config.log_bytes_max, unshipped=unshipped
                        ),
                        clock=self._clock,
                        welcomed=self._ready,
                        stop_timeout_s=config.stop_timeout_s,
                    )
                    await shift.run(self._stopping, stop_jobs=config.stop_jobs)

    async def _choose_runtime(self) -> RuntimeName:
        if self._config.runtime == "process":
            return "process"
        # What speaks to engines takes as long to load as all the rest: not where there is none to speak to.
        from batchyard.agent.runtimes.address import find_engine, require_engine

        host, before = self._config.docker_host, engine_before(self._config.folder / "docker")
        match self._config.runtime:
            case "auto":
                url = await find_engine(host, before)
                _log.info("runtime: %s", f"docker, at {url}" if url else "process, as no container engine answers")
                return "docker" if url else "process"
            case "docker":
                # Before anything that ran elsewhere is ended.
                await require_engine(host, before)
                return "docker"

    async def _offered_capacity(self, name: RuntimeName) -> Need:
        config = self._config
        host = capacity_of_host()
        if name == "docker":
            from batchyard.agent.runtimes.address import capacity_of_engine, require_engine

            # Its containers are not in this process's cgroup, which may still be that of both.
            url = await require_engine(config.docker_host, engine_before(config.folder / "docker"))
            host = await capacity_of_engine(url, host)
        try:
            capacity = offered_capacity(
                config.capacity or "", host, reserve_vcpus=config.reserve_vcpus, reserve_mib=config.reserve_mib
            )
        except ValueError as error:
            raise AgentStartError(str(error)) from error
        _log.info("capacity: %g vCPUs, %d MiB, %d GPUs", capacity[0] / 1000, capacity[1], capacity[2])
        return capacity

    async def _end_other_runtime(self, name: RuntimeName) -> None:
        """End what the agent ran in another runtime before: a new incarnation begins only when all of that is dead."""
        before = self._keeper.identity.runtime
        if before == name or before not in ("docker", "process"):
            return
        _log.warning("the runtime was %s: what ran there is ended", before)
        async with self._open_runtime(cast("RuntimeName", before)) as runtime:
            await end_everything(runtime)

    @asynccontextmanager
    async def _open_runtime(self, name: RuntimeName) -> AsyncIterator[Runtime]:
        config = self._config
        agent_id = self._keeper.identity.agent_id
        if name == "docker":
            from batchyard.agent.runtimes.docker import open_docker_runtime

            async with open_docker_runtime(
                config.folder / "docker",
                agent_id=agent_id,
                capacity=self._capacity,
                logs=self._logs,
                settings=DockerSettings(
                    config.docker_host,
                    config.docker_network,
                    config.installation,
                    policy=config.policy.guarding(str(config.folder), str(config.log_folder or config.folder)),
                    is_cpu_limited=config.cpu_hard_limit,
                    secrets=config.secrets,
                    pulls=config.pulls,
                    log_bytes_max=config.log_bytes_max,
                    **self._more_settings(),
                ),
            ) as docker_runtime:
                yield docker_runtime
        else:
            async with open_process_runtime(
                config.folder / "launcher",
                agent_id=agent_id,
                capacity=self._capacity,
                logs=self._logs,
                settings=replace(config.process, secrets=config.secrets, **self._more_settings()),
            ) as process_runtime:
                yield process_runtime

    def _more_settings(self) -> dict[str, Any]:
        """Return what both runtimes are told in the same way."""
        config = self._config
        graces = {} if config.stop_timeout_s is None else {"timeout_grace_s": config.stop_timeout_s}
        return {**graces, "starter_folder": config.folder if config.separate_launcher else None}


def _leaves(group: ExceptionGroup[AgentStartError]) -> Iterator[AgentStartError]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _stop_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent dies; raise AgentStartError if it is dead already."""
    parent = os.getppid()
    set_parent_death_signal = 1
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise AgentStartError("the process that started the agent has died")
