"""What a job store does when its process may die, or its disk fail, at any moment: a fixed scenario in a child process.

The child tells its parent of everything that was acknowledged to it, before it goes on.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
import grpc.aio

from batchyard.api.agent.v1.run_pb2 import JobSpec, RunEnd, RunOffer, RunReport, RunState
from batchyard.api.jobs.v1 import jobs_service_pb2 as jobs
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.storage.jobs import StorageError
from support.control_plane import ControlPlane, control_plane, with_lines

READ_DEADLINE_S: Final = 30.0
CLAIMED, STARTED, DONE = RunState.RUN_STATE_CLAIMED, RunState.RUN_STATE_STARTED, RunState.RUN_STATE_DONE

Tell = Callable[[tuple[Any, ...]], None]
"""Passes on what was acknowledged: ("submitted", name, job id), ("state", job id, status, attempts that ended),
("fence", store epoch, number)."""


class Parent(Protocol):
    """Whom the scenario tells, and who makes the disk well again."""

    def send(self, message: tuple[Any, ...], /) -> None:
        """Take a message."""
        ...

    def recv(self) -> Any:
        """Answer when the disk is well again."""
        ...


class StreamEndedError(Exception):
    """The store has ended the scheduler's stream."""


@dataclass
class Driver:
    """A scheduler and its one agent, which do as they are told and remember all that they have seen."""

    call: Any
    incarnation: int
    seen: wire.DispatchResponse = field(default_factory=wire.DispatchResponse)

    async def until(self, condition: Callable[[wire.DispatchResponse], bool]) -> None:
        """Read until everything that has come satisfies the condition."""
        while not condition(self.seen):
            message = await asyncio.wait_for(self.call.read(), READ_DEADLINE_S)
            if not isinstance(message, wire.DispatchResponse):
                raise StreamEndedError
            self.seen.MergeFrom(with_lines(message))

    async def send(self, **lists: Any) -> None:
        """Tell the store something; if the stream is over, fail as reading it does."""
        try:
            await self.call.write(wire.DispatchRequest(**lists))
        except asyncio.InvalidStateError:
            await self.until(lambda _: False)

    def queued(self, job_id: str) -> list[wire.QueuedJob]:
        """Return every announcement that the job may run."""
        return [queued for queued in self.seen.runnable if queued.job.job_id == job_id]

    async def offer(self, job_id: str, *, nth: int = 1) -> RunOffer:
        """Offer the job to the agent when it is announced for the nth time; return the offer."""
        await self.until(lambda _: len(self.queued(job_id)) >= nth)
        queued = self.queued(job_id)[nth - 1]
        made = len(self.seen.offers)
        proposal = wire.OfferProposal(
            job=queued.job,
            version=queued.version,
            agent_id="agent",
            incarnation=self.incarnation,
            compute_environment="queue",
        )
        await self.send(proposals=[proposal])
        await self.until(lambda seen: len(seen.offers) > made)
        outcome = self.seen.offers[made]
        assert not outcome.refused, outcome.refused
        return outcome.offer

    async def report(self, offer: RunOffer, state: "RunState.ValueType", **members: Any) -> None:
        """Report as the agent would, until it is answered."""
        spec = JobSpec.FromString(offer.job_spec)
        report = RunReport(fence=offer.fence, namespace=spec.namespace, job_id=spec.job_id, state=state, **members)
        await self.send(reports=[wire.AgentReports(agent_id="agent", incarnation=self.incarnation, reports=[report])])
        await self.until(
            lambda seen: any(
                answer.fence == offer.fence and (answer.state >= state or answer.stale) for answer in seen.reports
            )
        )


@asynccontextmanager
async def driving(plane: ControlPlane, *, incarnation: int) -> AsyncIterator[Driver]:
    """Be the scheduler, with a registered agent, for the length of the context."""
    call: Any = plane.dispatch.Dispatch()
    try:
        driver = Driver(call, incarnation)
        await driver.send(hello=wire.SchedulerHello(scheduler_id="test"))
        await driver.until(lambda seen: seen.snapshot_complete)
        await driver.send(registrations=[wire.AgentRegistration(agent_id="agent", incarnation=incarnation)])
        await driver.until(lambda seen: bool(seen.registered))
        assert driver.seen.registered[0].accepted
        yield driver
    finally:
        call.cancel()


async def run_to_end(driver: Driver, job_id: str, tell: Tell, *, nth: int = 1, exit_code: int = 0) -> None:
    """Have the agent run a job, step by step."""
    offer = await driver.offer(job_id, nth=nth)
    tell(("fence", offer.fence.epoch, offer.fence.number))
    await take_up(driver, offer, job_id, tell, nth=nth, exit_code=exit_code)


async def take_up(
    driver: Driver, offer: RunOffer, job_id: str, tell: Tell, *, nth: int = 1, exit_code: int = 0
) -> None:
    """Have the agent claim, start and end a run that it was offered."""
    await driver.report(offer, CLAIMED)
    tell(("state", job_id, "STARTING", nth - 1))
    await driver.report(offer, STARTED, started_ago_ms=1)
    tell(("state", job_id, "RUNNING", nth - 1))
    await driver.report(offer, DONE, started_ago_ms=2, ended_ago_ms=0, exit_code=exit_code, end=RunEnd.RUN_END_EXITED)


async def play(plane: ControlPlane, tell: Tell) -> None:
    """Submit, run, fail, retry, cancel, terminate; tell of each step once it is acknowledged."""

    async def submit(name: str, **members: Any) -> str:
        job_id = await plane.submit(name, **members)
        tell(("submitted", name, job_id))
        return job_id

    async with driving(plane, incarnation=1) as driver:
        parent = await submit("parent")
        child = await submit("child", dependsOn=[{"jobId": parent}])
        retried = await submit("retried", retryStrategy={"attempts": 2})
        cancelled = await submit("cancelled")
        orphan = await submit("orphan", dependsOn=[{"jobId": cancelled}])
        running = await submit("running")
        await run_to_end(driver, parent, tell)
        tell(("state", parent, "SUCCEEDED", 1))
        await run_to_end(driver, retried, tell, exit_code=1)
        await plane.jobs.CancelJob(jobs.CancelJobRequest(job_id=cancelled, reason="enough"))
        tell(("state", cancelled, "FAILED", 0))
        tell(("state", orphan, "FAILED", 0))
        await run_to_end(driver, retried, tell, nth=2)
        tell(("state", retried, "SUCCEEDED", 2))
        await run_to_end(driver, child, tell)
        tell(("state", child, "SUCCEEDED", 1))
        offer = await driver.offer(running)
        tell(("fence", offer.fence.epoch, offer.fence.number))
        await driver.report(offer, STARTED, started_ago_ms=1)
        tell(("state", running, "RUNNING", 0))
        await submit("last")


def child(folder: Path, parent: Connection) -> None:
    """Play the scenario once the parent says so; after a failure of the disk, show that the store comes back.

    The parent gets everything that was acknowledged, then ("over",) or, after an error, ("failed", status, text),
    answers that when the disk is well again, and gets ("submitted", "after", job id).
    """
    os.setpgid(0, 0)
    parent.send(("ready",))
    parent.recv()
    asyncio.run(play_through_failures(folder, parent))


async def play_through_failures(folder: Path, parent: Parent) -> None:
    """Do what `child` does, whoever the parent is."""
    is_over = False
    while not is_over:
        try:
            async with control_plane(folder) as plane:
                await _play_through_a_failure(plane, parent)
            is_over = True
        except* (sqlite3.Error, StorageError) as errors:  # the store could not even be opened
            _await_healing(parent, "OPENING", repr(errors))


async def _play_through_a_failure(plane: ControlPlane, parent: Parent) -> None:
    try:
        await play(plane, parent.send)
    except grpc.aio.AioRpcError as error:
        _await_healing(parent, error.code().name, error.details() or "")
        parent.send(("submitted", "after", await plane.submit_when_it_serves("after")))
    except StreamEndedError:
        _await_healing(parent, "UNAVAILABLE", "the stream has ended")
        parent.send(("submitted", "after", await plane.submit_when_it_serves("after")))
    parent.send(("over",))


def _await_healing(parent: Parent, status: str, text: str) -> None:
    parent.send(("failed", status, text))
    parent.recv()
