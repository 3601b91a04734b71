"""The docker runtime: one container per run, found again by its labels when the agent comes back.

It keeps the same ledger and journal as the launcher. A container that has exited would run again if it were started
again, so the journal alone decides: what it says is claimed is never started, only looked after.
"""

import json
import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiodocker
import anyio
from aiodocker.containers import DockerContainer
from anyio import to_thread
from anyio.abc import TaskGroup

from batchyard.agent.host import AgentStartError
from batchyard.agent.launcher import wire
from batchyard.agent.launcher.journal import Journal, JournalError
from batchyard.agent.launcher.ledger import Fence, Ledger, Need, Run, RunEnd, RunState
from batchyard.agent.launcher.processes import OUT_OF_MEMORY
from batchyard.agent.runtimes import engine
from batchyard.agent.runtimes.attendance import Attendance
from batchyard.agent.runtimes.process import TIMEOUT_GRACE_S
from batchyard.agent.state import Offer, Orders, RunRecord, record_of
from batchyard.storage.log_files import LogFolder

STARTS_AT_ONCE: Final = 4
"""More would not be faster: the engine itself is the narrow place."""
GUARD_INTERVAL_S: Final = 1.0
DISK_RETRY_S: Final = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """How containers are run."""

    docker_host: str | None = None
    """The engine's address; None: DOCKER_HOST, or the usual socket."""
    network: str | None = None
    """None: the engine's default."""
    installation: str = "batchyard"
    timeout_grace_s: float = TIMEOUT_GRACE_S
    """Between SIGTERM and SIGKILL when a job runs out of its time."""


class DockerRuntime:
    """Runs jobs as containers."""

    def __init__(
        self,
        docker: aiodocker.Docker,
        folder: Path,
        journal: Journal,
        tasks: TaskGroup,
        *,
        owner: engine.Owner,
        capacity: Need,
        logs: LogFolder,
        settings: DockerSettings,
    ) -> None:
        self._docker = docker
        self._lease_file = folder / "lease.json"
        self._journal = journal
        self._tasks = tasks
        self._owner = owner
        self._logs = logs
        self._settings = settings
        self._ledger = Ledger()
        self._ledger.set_capacity(capacity)
        self._attended: dict[Fence, Attendance] = {}
        self._starting = anyio.Semaphore(STARTS_AT_ONCE)
        self._writing = anyio.Lock()
        self._something_new = anyio.Event()
        self._may_start = anyio.Event()
        self._is_first = True
        self._boot_id = wire.boot_id()
        self._claimed_before: list[Fence] = []

    @property
    def instance(self) -> str:
        """Name of this boot: containers live on while the kernel does."""
        return f"docker {self._boot_id}"

    @property
    def claimed_before(self) -> Sequence[Fence]:
        """Fences that were claimed before the last boot and whose end nobody saw."""
        return self._claimed_before

    async def carry_out(self, orders: Orders) -> None:
        """Take orders."""
        for offer in orders.offers:
            self._ledger.offer(Run(offer.fence, offer.need, _about(offer), offer))
        for fence in orders.revocations:
            self._ledger.revoke(fence)
        for fence, grace_s in orders.kills:
            if attendance := self._attended.get(fence):
                attendance.stop(RunEnd.STOPPED, grace_s)
            else:
                self._ledger.revoke(fence)
        forgotten = [fence for fence in orders.forgotten if self._ledger.forget(fence)]
        if forgotten:
            await self._note(partial(self._journal.forget, forgotten))
            if self._journal.is_worth_compacting():
                await self._note(partial(self._journal.compact, self._ledger, {}))
        self._tell()
        self._may_start.set()

    async def renew_lease(self, deadline: float, start_margin_s: float) -> None:
        """Allow runs up to the deadline, also across a restart of the agent."""
        self._ledger.renew_lease(deadline, start_margin_s)
        lease = {"boot_id": self._boot_id, "deadline": self._ledger.lease_deadline}
        try:
            await to_thread.run_sync(_replace_file, self._lease_file, json.dumps(lease))
        except OSError as error:
            # An agent that comes back then finds an earlier deadline: containers may end too soon, and never too late.
            _log.warning("the lease can't be written down: %s", error)
        self._may_start.set()

    async def changes(self) -> Sequence[RunRecord]:
        """Wait for news of runs."""
        if self._is_first:
            self._is_first = False
            self._ledger.take_changes()
            return [record_of(run) for run in self._ledger.runs.values()]
        while not (changed := self._ledger.take_changes()):
            await self._something_new.wait()
            self._something_new = anyio.Event()
        return [record_of(run) for run in changed]

    async def release(self) -> None:
        """Do nothing: containers have no helper of ours."""

    # Beginning

    async def take_over(self) -> None:
        """Take up the containers of the journal, remove those of nobody, and begin to look after runs."""
        history = self._journal.history
        self._ledger.restore(history.runs.values(), history.forgotten, history.floor)
        if history.boot_id == self._boot_id:
            self._ledger.renew_lease(_lease_deadline(self._lease_file, self._boot_id), 0)
        containers = await self._find_containers()
        for run in self._ledger.active():
            container = containers.get(_fence_text(run))
            if container is None or history.boot_id != self._boot_id:
                await self._lose(run, history.boot_id)
            elif await self._adopt(run, container):
                del containers[_fence_text(run)]
        for container in containers.values():
            await engine.remove(container)
        self._tasks.start_soon(self._start_ready)
        self._tasks.start_soon(self._guard_lease)

    async def _find_containers(self) -> dict[str, DockerContainer]:
        labels = [f"{name}={value}" for name, value in self._owner.labels().items()]
        found = await self._docker.containers.list(all=1, filters=json.dumps({"label": labels}))
        return {container["Labels"][f"{engine.LABEL}fence"]: container for container in found}

    async def _lose(self, run: Run, boot_id: str) -> None:
        if boot_id != self._boot_id:
            self._claimed_before.append(run.fence)
            run.started = None if run.started is None else wire.now()
        await self._finish(run, RunEnd.LOST, reason="The container is gone")

    async def _adopt(self, run: Run, container: DockerContainer) -> bool:
        """Look after a container that an earlier agent started; return False if it never was started."""
        state = await engine.state_of(container)
        if state["Status"] == "created":
            await self._finish(run, RunEnd.LOST, reason="The agent died before the container was started")
            return False
        if run.state is RunState.CLAIMED:
            self._ledger.start(run, wire.now() - _seconds_since(state["StartedAt"]))
        self._tasks.start_soon(self._attend, self._take_place(run), container)
        return True

    # Runs

    async def _start_ready(self) -> None:
        while True:
            await self._may_start.wait()
            self._may_start = anyio.Event()
            runs = self._ledger.startable(wire.now())
            if runs and await self._note(partial(self._journal.claim, runs)):
                # One that was given back meanwhile is not claimed, whatever the journal says.
                runs = [run for run in runs if run.state is RunState.OFFERED]
                self._ledger.claim(runs)
                for run in runs:
                    self._tasks.start_soon(self._start, self._take_place(run))
            elif runs:
                await anyio.sleep(DISK_RETRY_S)
                self._may_start.set()
            self._tell()

    def _take_place(self, run: Run) -> Attendance:
        timeout = run.about.get("timeout_s")
        attendance = Attendance(
            run,
            timeout_s=float(timeout) if timeout else None,
            timeout_grace_s=self._settings.timeout_grace_s,
        )
        self._attended[run.fence] = attendance
        return attendance

    async def _start(self, attendance: Attendance) -> None:
        run, container, is_started = attendance.run, None, False
        assert isinstance(run.order, Offer)
        failure = ""
        try:
            self._check_log_name(run.order)
            async with self._starting:
                if attendance.stopped is None:
                    container = await engine.create(self._docker, run.order, self._owner, self._settings.network)
                if container is not None and attendance.stopped is None:
                    await engine.start(container)
                    is_started = True
        except engine.RefusedError as error:
            failure = str(error)
        except engine.GoneError:
            failure = "CannotStartContainerError: the container is gone"
        if container is not None and is_started:
            self._ledger.start(run, wire.now())
            self._tell()
            await self._note(partial(self._journal.start, [(run, 0)]))
            await self._attend(attendance, container)
            return
        if failure:
            await self._end(attendance, RunEnd.START_FAILED, reason=failure)
        else:
            await self._end(attendance, attendance.stopped or RunEnd.STOPPED)
        if container is not None:
            await engine.remove(container)

    def _check_log_name(self, offer: Offer) -> None:
        try:
            self._logs.path(offer.spec.namespace, offer.log_stream_name)
        except ValueError as error:
            raise engine.RefusedError(f"CannotCreateContainerError: {error}") from error

    async def _attend(self, attendance: Attendance, container: DockerContainer) -> None:
        about = attendance.run.about
        make_log = partial(self._logs.create, about["namespace"], about["log_stream_name"])
        outcome = await attendance.attend(self._docker, container, make_log)
        end = attendance.stopped or RunEnd.EXITED
        if outcome is None:
            await self._end(attendance, RunEnd.LOST, reason="The container is gone")
        elif end is RunEnd.LOST:
            await self._end(attendance, RunEnd.LOST)
        else:
            out_of_memory = end is RunEnd.EXITED and outcome.out_of_memory and outcome.exit_code != 0
            await self._end(attendance, end, exit_code=outcome.exit_code, reason=OUT_OF_MEMORY if out_of_memory else "")
        await engine.remove(container)

    async def _guard_lease(self) -> None:
        """End everything once the lease is over: from then on others may run the same jobs."""
        guarded = math.nan
        while True:
            deadline = self._ledger.lease_deadline
            left_s = deadline - wire.now()
            if left_s <= 0 and deadline != guarded:
                guarded = deadline
                self._ledger.revoke_waiting()
                for attendance in self._attended.values():
                    attendance.stop(RunEnd.LOST, 0)
                self._tell()
            await anyio.sleep(min(GUARD_INTERVAL_S, left_s) if left_s > 0 else GUARD_INTERVAL_S)

    async def _end(
        self, attendance: Attendance, end: RunEnd, *, exit_code: int | None = None, reason: str = ""
    ) -> None:
        await self._finish(attendance.run, end, exit_code=exit_code, reason=reason)
        del self._attended[attendance.run.fence]

    async def _finish(self, run: Run, end: RunEnd, *, exit_code: int | None = None, reason: str = "") -> None:
        """Record an end. It is in the journal when this returns, and the container may be removed."""
        self._ledger.finish(run, wire.now(), end, exit_code=exit_code, reason=reason)
        self._tell()
        self._may_start.set()
        await self._note(partial(self._journal.finish, [run]))

    async def _note(self, write: Callable[[], None]) -> bool:
        """Write to the journal; return whether that succeeded."""
        try:
            async with self._writing:
                await to_thread.run_sync(write)
        except OSError as error:
            _log.warning("the journal can't be written: %s", error)
            return False
        return True

    def _tell(self) -> None:
        self._something_new.set()


@asynccontextmanager
async def open_docker_runtime(
    folder: Path, *, agent_id: str, capacity: Need, logs: LogFolder, settings: DockerSettings = DockerSettings()
) -> AsyncIterator[DockerRuntime]:
    """Run containers for the length of the context; on leaving they go on, for the next to find.

    Raises AgentStartError if no engine answers or the journal is damaged.
    """
    url = await engine.find_engine(settings.docker_host)
    await to_thread.run_sync(partial(folder.mkdir, mode=0o700, parents=True, exist_ok=True))
    try:
        journal = Journal(str(folder / "journal"), wire.boot_id())
    except JournalError as error:
        raise AgentStartError(str(error)) from error
    try:
        async with aiodocker.Docker(url=url) as docker, anyio.create_task_group() as tasks:
            runtime = DockerRuntime(
                docker,
                folder,
                journal,
                tasks,
                owner=engine.Owner(settings.installation, agent_id),
                capacity=capacity,
                logs=logs,
                settings=settings,
            )
            await runtime.take_over()
            yield runtime
            tasks.cancel_scope.cancel()
    finally:
        journal.close()


def _replace_file(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.rename(path)


def _lease_deadline(path: Path, boot_id: str) -> float:
    try:
        lease: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return -math.inf
    return float(lease["deadline"]) if lease["boot_id"] == boot_id else -math.inf


def _about(offer: Offer) -> dict[str, str]:
    about = offer.about
    if offer.spec.timeout.HasField("attempt_duration_seconds"):
        about["timeout_s"] = str(offer.spec.timeout.attempt_duration_seconds)
    return about


def _fence_text(run: Run) -> str:
    return f"{run.fence[0]}-{run.fence[1]}"


def _seconds_since(moment: str) -> float:
    """Return how long ago the engine's moment (RFC 3339, in nanoseconds) was, on the wall clock."""
    started = datetime.fromisoformat(moment[:19] + "+00:00")
    return max(0.0, datetime.now(started.tzinfo).timestamp() - started.timestamp())
