"""The docker runtime: one container per run, found again by its labels when the agent comes back.

It keeps the same ledger and journal as the launcher. A container that has exited would run again if it were started
again, so the journal alone decides: what it says is claimed is never started, only looked after. A guard, which is a
process of its own, ends containers when the lease is over and this one is stopped or dead; see `launcher.guard`.
"""

import logging
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError
from typing import Final

import aiodocker
import anyio
from aiodocker.containers import DockerContainer
from anyio import to_thread
from anyio.abc import TaskGroup

from batchyard.agent.host import LOCK_PATIENCE_S, AgentStartError, locked_folder
from batchyard.agent.launcher import wire
from batchyard.agent.launcher.ledger import Fence, Ledger, Need, Run, RunEnd, RunState
from batchyard.agent.logs import log_group_of
from batchyard.agent.runtimes import engine
from batchyard.agent.runtimes.address import dialect_of, open_engine, require_engine
from batchyard.agent.runtimes.attendance import Attendance
from batchyard.agent.runtimes.container import LABEL, Given, Owner, Plan, RefusedError, gpus_of, plan_of
from batchyard.agent.runtimes.dialect import KILLED, Dialect
from batchyard.agent.runtimes.guarded import GuardedFolder, engine_before
from batchyard.agent.runtimes.images import Images
from batchyard.agent.runtimes.journalling import JournalWriter, open_journal
from batchyard.agent.runtimes.output import ContainerLog
from batchyard.agent.runtimes.settings import DockerSettings
from batchyard.agent.state import Offer, Orders, RunRecord, record_of
from batchyard.rpc.log_context import about_job
from batchyard.storage.log_files import LogFolder

STARTS_AT_ONCE: Final = 4
"""More would not be faster: the engine itself is the narrow place."""
GUARD_INTERVAL_S: Final = 1.0
SWEEP_INTERVAL_S: Final = 5.0
DISK_RETRY_S: Final = 1.0

_log = logging.getLogger(__name__)


class DockerRuntime:
    """Runs jobs as containers."""

    def __init__(
        self,
        docker: aiodocker.Docker,
        dialect: Dialect,
        guarded: GuardedFolder,
        journal: JournalWriter,
        tasks: TaskGroup,
        *,
        owner: Owner,
        capacity: Need,
        logs: LogFolder,
        settings: DockerSettings,
    ) -> None:
        self._docker = docker
        self._dialect = dialect
        self._images = Images(docker, tasks, settings.pulls)
        self._guarded = guarded
        self._journal = journal
        self._tasks = tasks
        self._owner = owner
        self._logs = logs
        self._settings = settings
        self._ledger = Ledger()
        self._ledger.set_capacity(capacity)
        self._gpus = range(capacity[2])
        self._attended: dict[Fence, Attendance] = {}
        self._starting = anyio.Semaphore(STARTS_AT_ONCE)
        self._something_new = anyio.Event()
        self._start_due = anyio.Event()
        self._is_guarded = True
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
            await self._journal.forget(forgotten, self._ledger)
        self._tell()
        self._start_due.set()

    async def renew_lease(self, deadline: float, start_margin_s: float) -> None:
        """Allow runs up to the deadline, also across a restart of the agent."""
        self._ledger.renew_lease(deadline, start_margin_s)
        try:
            await to_thread.run_sync(self._guarded.lease.write, self._ledger.lease_deadline)
        except OSError as error:
            # The guard, and an agent that comes back, know an earlier deadline: too soon an end, and never too late.
            _log.warning("the lease can't be written down: %s", error)
        self._start_due.set()

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
        """Leave the guard to end what still runs, if anything does."""
        with suppress(OSError):
            await to_thread.run_sync(self._guarded.lease.write, 0.0)

    # Beginning

    async def take_over(self) -> None:
        """Take up the containers of the journal, remove those of nobody, and begin to look after runs."""
        history = self._journal.history
        self._ledger.restore(history.runs.values(), history.forgotten, history.floor)
        if history.boot_id == self._boot_id:
            self._ledger.renew_lease(self._guarded.lease.read() or -math.inf, 0)
        containers = await self._find_containers()
        for run in self._ledger.active():
            container = containers.get(_fence_text(run))
            if history.has_never_started(run, self._boot_id):
                # Its container, if there is one, is nobody's.
                await self._finish(run, RunEnd.NEVER_STARTED, reason="The agent died before the container was started")
            elif container is None or history.boot_id != self._boot_id:
                await self._lose(run, history.boot_id)
            elif await self._adopt(run, container):
                del containers[_fence_text(run)]
        adopted = {attendance.container for attendance in self._attended.values()}
        for container in containers.values():
            await engine.remove(container)
        for name in self._guarded.known() - adopted:
            self._guarded.cannot_run(name)
        with suppress(*engine.ENGINE_ERRORS):
            await self._remove_volumes_of_nobody()
        self._tasks.start_soon(self._start_ready)
        self._tasks.start_soon(self._guard_lease)
        self._tasks.start_soon(self._keep_guard)
        self._tasks.start_soon(self._sweep)

    async def _find_containers(self) -> dict[str, DockerContainer]:
        found = await engine.list_all(self._docker, self._owner)
        return {container["Labels"][f"{LABEL}fence"]: container for container in found}

    async def _lose(self, run: Run, boot_id: str) -> None:
        if boot_id != self._boot_id:
            self._claimed_before.append(run.fence)
            run.started = None if run.started is None else wire.now()
        await self._finish(run, RunEnd.LOST, reason="The container is gone")

    async def _adopt(self, run: Run, container: DockerContainer) -> bool:
        """Look after a container that an earlier agent started; return False if it never was, or is gone."""
        # Read first: the library knows the container otherwise once it has asked for its state.
        gpus = gpus_of(container["Labels"])
        try:
            state = await engine.state_of(container)
        except engine.GoneError:
            await self._finish(run, RunEnd.LOST, reason="The container is gone")
            return False
        if state["Status"] == "created":
            await self._guarded.kill(container.id)
            await self._finish(run, RunEnd.LOST, reason="The agent died while it started the container")
            return False
        if run.state is RunState.CLAIMED:
            self._ledger.start(run, wire.now() - _seconds_since(state["StartedAt"]))
        attendance = self._take_place(run)
        attendance.container = container.id
        attendance.gpus = gpus
        if self._is_lease_over():
            attendance.stop(RunEnd.LOST, 0)
        self._tasks.start_soon(self._attend_adopted, attendance, container)
        return True

    # Runs

    async def _start_ready(self) -> None:
        while True:
            await self._start_due.wait()
            self._start_due = anyio.Event()
            runs = self._ledger.startable(wire.now()) if self._is_guarded else []
            if runs and await self._journal.claim(runs):
                # One that was given back meanwhile is not claimed, whatever the journal says.
                runs = [run for run in runs if run.state is RunState.OFFERED]
                self._ledger.claim(runs)
                for run in runs:
                    self._tasks.start_soon(self._start, self._take_place(run))
            elif runs:
                await anyio.sleep(DISK_RETRY_S)
                self._start_due.set()
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
        with _about_job(attendance.run):
            await self._start_and_attend(attendance)

    async def _start_and_attend(self, attendance: Attendance) -> None:
        run, container = attendance.run, None
        try:
            container, is_started = await self._create_and_start(attendance)
        except RefusedError as error:
            await self._end(attendance, RunEnd.START_FAILED, reason=str(error))
        except engine.GoneError:
            if self._may_start(attendance):
                reason = "CannotStartContainerError: the container is gone"
                await self._end(attendance, RunEnd.START_FAILED, reason=reason)
            else:
                await self._end(attendance, attendance.stopped or RunEnd.STOPPED)
        except engine.UnansweredStartError:
            await self._guarded.kill(attendance.container)
            reason = "The container engine went away while it started the container"
            await self._end(attendance, RunEnd.LOST, reason=reason)
        else:
            if container is not None and is_started:
                self._ledger.start(run, wire.now())
                self._tell()
                await self._journal.start(run)
                await self._attend(attendance, container)
                return
            if container is not None:
                # Before anybody hears that it will never start.
                await engine.remove(container)
            await self._end(attendance, attendance.stopped or RunEnd.STOPPED)
        await self._remove(attendance.container, attendance.volumes)

    async def _create_and_start(self, attendance: Attendance) -> tuple[DockerContainer | None, bool]:
        """Return a run's container, and whether it was started: neither need be, once the run is told to end."""
        offer = attendance.run.order
        assert isinstance(offer, Offer)
        image = offer.spec.container.image
        await self._prepare_log(offer)
        attendance.gpus = self._free_gpus(offer.spec.gpus)
        # On a thread: it looks at files, which can be far away.
        plan = await to_thread.run_sync(self._plan, offer, attendance.gpus)
        attendance.volumes = list(plan.volumes)
        await attendance.unless_stopped(partial(self._images.before_creating, image))
        try:
            return await self._start_once(attendance, plan)
        except engine.MissingImageError:
            await attendance.unless_stopped(partial(self._images.fetch_missing, image))
        try:
            return await self._start_once(attendance, plan)
        except engine.MissingImageError as error:
            raise RefusedError(f"CannotPullContainerError: the image is gone again: {image}") from error

    def _plan(self, offer: Offer, gpus: Sequence[int]) -> Plan:
        settings = self._settings
        if reason := settings.policy.refusal(offer.spec.container):
            raise RefusedError(f"CannotCreateContainerError: {reason}")
        given = Given(settings.network, settings.is_cpu_limited, settings.secrets, gpus, settings.log_bytes_max)
        plan = plan_of(offer, self._owner, given)
        return replace(plan, config=self._dialect.adapted(plan.config))

    def _free_gpus(self, count: int) -> Sequence[int]:
        """Return devices that no run has; there are as many, as the room for the run is taken already."""
        taken = {number for attendance in self._attended.values() for number in attendance.gpus}
        found = [number for number in self._gpus if number not in taken][:count]
        assert len(found) == count, f"{count} GPUs are asked for where {len(found)} are free"
        return found

    async def _start_once(self, attendance: Attendance, plan: Plan) -> tuple[DockerContainer | None, bool]:
        # Never held while an image is on its way.
        async with self._starting:
            container = await engine.create(self._docker, plan, lambda: self._may_start(attendance))
            return container, container is not None and await self._start_container(attendance, container)

    async def _start_container(self, attendance: Attendance, container: DockerContainer) -> bool:
        attendance.container = container.id
        # However long the disk takes: the guard must know it first, and whoever reads the journal after a crash.
        while self._may_start(attendance) and not await self._mark(attendance):  # noqa: ASYNC110
            await anyio.sleep(DISK_RETRY_S)
        await to_thread.run_sync(self._make_log, attendance.run)
        if not self._may_start(attendance):
            return False
        await engine.start(container)
        return True

    def _make_log(self, run: Run) -> None:
        """Make the log of a run: one that runs has a log that can be read, if the disk can be written."""
        with suppress(OSError):
            self._logs.create(run.about["namespace"], run.about["log_stream_name"])

    async def _mark(self, attendance: Attendance) -> bool:
        return self._guarded.may_run(attendance.container) and await self._journal.begin(attendance.run)

    async def _remove(self, container: str, volumes: Sequence[str] = ()) -> None:
        """Remove a container, if there is one, and volumes."""
        if container:
            await engine.remove(self._docker.containers.container(container))
            self._guarded.cannot_run(container)
        for name in volumes:
            await engine.remove_volume(self._docker, name)

    def _may_start(self, attendance: Attendance) -> bool:
        """Tell whether a claimed run may start still: making its container can take long."""
        if self._is_lease_over():
            attendance.stop(RunEnd.LOST, 0)
        return attendance.stopped is None

    def _is_lease_over(self) -> bool:
        return wire.now() >= self._ledger.lease_deadline

    async def _prepare_log(self, offer: Offer) -> None:
        name = (offer.spec.namespace, offer.log_stream_name)
        try:
            await to_thread.run_sync(self._logs.set_group, *name, log_group_of(offer.spec))
        except (ValueError, OSError) as error:
            raise RefusedError(f"CannotCreateContainerError: {error}") from error

    async def _attend_adopted(self, attendance: Attendance, container: DockerContainer) -> None:
        with _about_job(attendance.run):
            await self._attend(attendance, container)

    async def _attend(self, attendance: Attendance, container: DockerContainer) -> None:
        about = attendance.run.about
        log = ContainerLog(self._logs, (about["namespace"], about["log_stream_name"]))
        outcome = await attendance.attend(self._docker, container, self._dialect, log)
        end = attendance.stopped or RunEnd.EXITED
        if outcome is None:
            await self._end(attendance, RunEnd.LOST, reason="The container is gone")
        elif end is RunEnd.LOST and outcome.exit_code == KILLED:
            await self._end(attendance, RunEnd.LOST)
        else:
            # One that was to be killed for its lease may have ended by itself before.
            end = RunEnd.EXITED if end is RunEnd.LOST else end
            reason = outcome.out_of_memory if end is RunEnd.EXITED else ""
            await self._end(attendance, end, exit_code=outcome.exit_code, reason=reason)
        await self._remove(container.id, attendance.volumes)

    async def _sweep(self) -> None:
        """Remove what is of no run: what the engine could not remove, or made without an answer, when it was away."""
        while True:
            await anyio.sleep(SWEEP_INTERVAL_S)
            try:
                containers = await self._find_containers()
                for fence in containers.keys() - self._attended_fences():
                    await self._remove(containers[fence].id)
                await self._remove_volumes_of_nobody()
            except engine.ENGINE_ERRORS as error:
                _log.warning("what is of no run can't be removed: %s", engine.describe(error))

    async def _remove_volumes_of_nobody(self) -> None:
        volumes = await engine.list_volumes(self._docker, self._owner)
        # Looked at after the listing: a run is attended before it has anything.
        attended = self._attended_fences()
        for name, labels in volumes.items():
            if labels[f"{LABEL}fence"] not in attended:
                await engine.remove_volume(self._docker, name)

    def _attended_fences(self) -> set[str]:
        return {_fence_text(attendance.run) for attendance in self._attended.values()}

    async def _keep_guard(self) -> None:
        """Have a guard at all times: what runs outlives this process."""
        while True:
            await anyio.sleep(GUARD_INTERVAL_S)
            try:
                await self._guarded.ensure_guard()
            except (AgentStartError, OSError, CalledProcessError) as error:
                _log.warning("nothing starts, there is no guard: %s", error)
                self._is_guarded = False
            else:
                self._is_guarded = True
                self._start_due.set()

    async def _guard_lease(self) -> None:
        """End everything once the lease is over: from then on others may run the same jobs."""
        guarded = math.nan
        while True:
            deadline = self._ledger.lease_deadline
            left_s = deadline - wire.now()
            if left_s <= 0:
                # Also what came after its end: when the lease is renewed, others may have been offered the same jobs.
                self._ledger.revoke_waiting()
                if deadline != guarded:
                    guarded = deadline
                    for attendance in self._attended.values():
                        attendance.stop(RunEnd.LOST, 0)
                self._tell()
            await anyio.sleep(min(GUARD_INTERVAL_S, left_s) if left_s > 0 else GUARD_INTERVAL_S)

    async def _end(
        self, attendance: Attendance, end: RunEnd, *, exit_code: int | None = None, reason: str = ""
    ) -> None:
        # Free at the moment in which the room for the next run is.
        attendance.gpus = ()
        await self._finish(attendance.run, end, exit_code=exit_code, reason=reason)
        del self._attended[attendance.run.fence]

    async def _finish(self, run: Run, end: RunEnd, *, exit_code: int | None = None, reason: str = "") -> None:
        """Record an end. It is in the journal when this returns, and the container may be removed."""
        self._ledger.finish(run, wire.now(), end, exit_code=exit_code, reason=reason)
        self._tell()
        self._start_due.set()
        await self._journal.finish(run)

    def _tell(self) -> None:
        self._something_new.set()


@asynccontextmanager
async def open_docker_runtime(
    folder: Path, *, agent_id: str, capacity: Need, logs: LogFolder, settings: DockerSettings
) -> AsyncIterator[DockerRuntime]:
    """Run containers for the length of the context; on leaving they go on, for the next to find.

    Raises AgentStartError if no engine answers, the guard does not start, or the journal is damaged.
    """
    before = engine_before(folder)
    url = await require_engine(settings.docker_host, before)
    if url.startswith("unix://"):
        settings = replace(settings, policy=settings.policy.guarding(url.removeprefix("unix://")))
    owner = Owner(settings.installation, agent_id)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(locked_folder(folder, LOCK_PATIENCE_S))
        guarded = GuardedFolder(folder, agent_id, settings.starter_folder)
        stack.callback(guarded.close)
        journal = stack.enter_context(open_journal(folder))
        if before not in (None, url) and journal.history.may_run(wire.boot_id()):
            raise AgentStartError(
                f"jobs of this agent may still run in the container engine at {before}, not at {url}: let that one"
                f" answer, or see to it that none of them runs and remove {folder}"
            )
        await to_thread.run_sync(guarded.set_engine, url, owner.label_filters())
        await guarded.ensure_guard()
        docker = await stack.enter_async_context(open_engine(url))
        dialect = await dialect_of(docker)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        runtime = DockerRuntime(
            docker, dialect, guarded, journal, tasks, owner=owner, capacity=capacity, logs=logs, settings=settings
        )
        await runtime.take_over()
        yield runtime
        tasks.cancel_scope.cancel()


def _about(offer: Offer) -> dict[str, str]:
    about = {**offer.about, "attempt": str(offer.attempt)}
    if offer.spec.timeout.HasField("attempt_duration_seconds"):
        about["timeout_s"] = str(offer.spec.timeout.attempt_duration_seconds)
    return about


def _fence_text(run: Run) -> str:
    return f"{run.fence[0]}-{run.fence[1]}"


def _seconds_since(moment: str) -> float:
    """Return how long ago the engine's moment (RFC 3339, in nanoseconds) was, on the wall clock."""
    started = datetime.fromisoformat(moment[:19] + "+00:00")
    return max(0.0, datetime.now(started.tzinfo).timestamp() - started.timestamp())


def _about_job(run: Run) -> AbstractContextManager[None]:
    """Have what is logged within be about a run's job; that of an agent before us may not tell its attempt."""
    attempt = run.about.get("attempt")
    return about_job(run.about["job_id"], int(attempt) if attempt else None)
