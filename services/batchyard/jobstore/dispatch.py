"""DispatchService: the stream between the store and the scheduler.

One scheduler leads at a time, the newest. Its stream begins with a snapshot, read beside the writer; then come the
effects of every later commit, merged while the stream is busy.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import grpc.aio
from anyio.abc import TaskGroup

from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.api.scheduler.v1.dispatch_service_pb2_grpc import DispatchServiceServicer
from batchyard.domain.clock import Clock
from batchyard.domain.errors import InvalidRequestError, SupersededError
from batchyard.domain.jobs import AgentId, JobId, JobKey, RunReport
from batchyard.jobstore.convert import (
    agents_message,
    effect_messages,
    fence_of,
    jobs_a_line,
    line_name_of,
    line_of,
    proposal_of,
    report_of,
    share_use_of,
    share_uses_message,
    snapshot_message,
)
from batchyard.jobstore.feed import Feed, Subscription
from batchyard.jobstore.fronts import Fronts
from batchyard.jobstore.group import Group
from batchyard.jobstore.leadership import Leadership
from batchyard.jobstore.reasons import WaitReasons
from batchyard.jobstore.writer import Writer
from batchyard.rpc.log_context import job_fields
from batchyard.storage.sqlite.database import open_database
from batchyard.storage.sqlite.job_reader import SqliteJobReader

_log = logging.getLogger(__name__)


class DispatchServicer(DispatchServiceServicer):
    """Tells the scheduler what there is to do, and writes down what it decides and passes on."""

    def __init__(
        self,
        *,
        writer: Writer,
        feed: Feed,
        database: Path,
        epoch: Callable[[], int],
        leadership: Leadership,
        reasons: WaitReasons,
        fronts: Fronts,
        clock: Clock,
        tasks: TaskGroup,
    ) -> None:
        self._writer = writer
        self._feed = feed
        self._database = database
        self._epoch = epoch
        self._leadership = leadership
        self._reasons = reasons
        self._fronts = fronts
        self._clock = clock
        self._tasks = tasks
        self._resigned = asyncio.Event()
        """Set, and replaced, when a leader resigns: whoever waits for the end of its lease looks again."""

    async def Dispatch(  # noqa: N802  # the name of the RPC
        self, request_iterator: AsyncIterator[wire.DispatchRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[wire.DispatchResponse]:
        """Serve one scheduler until it leaves or a newer one comes."""
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("hello"):
            raise InvalidRequestError("the first message must be a hello", field="hello")
        scheduler_id = first.hello.scheduler_id
        await self._until_it_may_lead(scheduler_id)
        subscription = Subscription()
        self._feed.subscribe(subscription, SupersededError("a newer scheduler has taken over"))
        telling = self._reasons.begin()
        self._fronts.begin(subscription)
        scope = anyio.CancelScope()
        try:
            leader_epoch, set_back, set_back_lease_ms = await self._writer.do(
                lambda group: (group.lead(scheduler_id), group.set_back, group.set_back_lease_ms)
            )
            _log.info("scheduler %s leads, epoch %d", scheduler_id, leader_epoch)
            yield wire.DispatchResponse(
                welcome=wire.SchedulerWelcome(
                    leader_epoch=leader_epoch,
                    store_epoch=self._epoch(),
                    lease_ms=self._leadership.lease_ms,
                    set_back=set_back,
                    set_back_lease_ms=set_back_lease_ms,
                )
            )
            async for message in self._snapshot(subscription, jobs_a_line(first.hello.jobs_a_line)):
                yield message
            self._tasks.start_soon(self._read, request_iterator, scheduler_id, leader_epoch, subscription, scope)
            while True:
                for message in effect_messages(*await subscription.take()):
                    yield message
        finally:
            scope.cancel()
            self._feed.unsubscribe(subscription)
            self._reasons.end(telling)
            self._fronts.end(subscription)

    async def _until_it_may_lead(self, scheduler_id: str) -> None:
        """Wait until no other scheduler leads, and let this one."""
        while (wait_s := self._leadership.wait_s(scheduler_id, self._clock.monotonic_s())) > 0:
            _log.info("scheduler %s waits: another one leads for %.1f s", scheduler_id, wait_s)
            resigned = self._resigned
            with anyio.move_on_after(wait_s):
                await resigned.wait()
        self._leadership.take(scheduler_id, self._clock.monotonic_s())

    async def _snapshot(self, subscription: Subscription, limit: int) -> AsyncIterator[wire.DispatchResponse]:
        async with open_database(self._database, read_only=True) as database:
            snapshot = await database.run(lambda connection: SqliteJobReader(connection).snapshot(limit))
            subscription.begin_after(snapshot.revision)
            yield agents_message(snapshot.agents)
            yield share_uses_message(snapshot.share_uses, self._clock.now_ms())
            pages = snapshot.pages

            def next_page(_: sqlite3.Connection) -> wire.DispatchResponse | None:
                page = next(pages, None)
                return None if page is None else snapshot_message(page)

            while (message := await database.run(next_page)) is not None:
                yield message
        yield wire.DispatchResponse(snapshot_complete=True)

    async def _read(
        self,
        requests: AsyncIterator[wire.DispatchRequest],
        scheduler_id: str,
        leader_epoch: int,
        subscription: Subscription,
        scope: anyio.CancelScope,
    ) -> None:
        """Hand the scheduler's messages to the writer; what becomes of them is in the effects."""
        with scope:
            try:
                async for request in requests:
                    if not subscription.is_open:
                        return
                    if request.heartbeat and self._leadership.renew(scheduler_id, self._clock.monotonic_s()):
                        subscription.answer(request.heartbeat)
                    self._take(request, leader_epoch)
                    if request.resign:
                        self._leadership.resign(scheduler_id)
                        self._resigned.set()
                        self._resigned = asyncio.Event()
            except (grpc.RpcError, grpc.aio.BaseError) as error:  # the latter when this side has ended the stream
                _log.debug("the scheduler's stream broke: %s", error)
            subscription.close(SupersededError("the scheduler has ended its stream"))

    def _take(self, request: wire.DispatchRequest, leader_epoch: int) -> None:
        """Have the writer do what is asked, each as long as its scheduler leads."""

        def tell(act: Callable[[Group], object], *keys: JobKey) -> None:
            self._writer.tell(lambda group: group.under(leader_epoch, act), *keys)

        if request.set_back_over:
            tell(partial(Group.end_set_back, number=request.set_back_over))
        for registration in request.registrations:
            tell(_registering(registration))
        for lost in request.lost_agents:
            tell(partial(Group.lose_agent, agent_id=AgentId(lost.agent_id), incarnation=lost.incarnation))
        for sender in request.reports:
            for message in sender.reports:
                report = report_of(message)
                if report is None:
                    # Passed over, not refused: the agent would say it again on every stream, and end each.
                    _log.warning(
                        "agent %s reports an unknown state: %s",
                        *(sender.agent_id, message.state),
                        extra=job_fields(message.job_id),
                    )
                else:
                    tell(_reporting(sender, report), report.key)
        for drain in request.drains:
            tell(_draining(drain))
        for agent_id in request.evictions:
            tell(partial(Group.evict, agent_id=AgentId(agent_id)))
        for proposal in map(proposal_of, request.proposals):
            tell(partial(Group.offer, proposal=proposal), proposal.key)
        for wanted in request.line_requests:
            line, limit = line_name_of(wanted.line), jobs_a_line(wanted.limit)
            tell(partial(Group.tell_line, line=line, after=wanted.after, limit=limit))
        if request.share_uses:
            now_ms = self._clock.now_ms()
            tell(partial(Group.keep_share_uses, uses=[share_use_of(use, now_ms) for use in request.share_uses]))
        for front in request.fronts:
            self._fronts.answered(front.request, [JobId(job_id) for job_id in front.job_ids])
        for waiting in request.wait_reasons:
            self._reasons.tell(line_of(waiting), waiting.reason, self._clock.monotonic_s())


def _registering(agent: wire.AgentRegistration) -> Callable[[Group], object]:
    return partial(
        Group.register,
        agent_id=AgentId(agent.agent_id),
        incarnation=agent.incarnation,
        known={fence_of(fence) for fence in agent.known},
        claimed_before={fence_of(fence) for fence in agent.claimed_before},
        lease_ms=agent.lease_ms,
    )


def _reporting(sender: wire.AgentReports, report: RunReport) -> Callable[[Group], object]:
    return partial(Group.report, agent_id=AgentId(sender.agent_id), incarnation=sender.incarnation, report=report)


def _draining(drain: wire.AgentDrain) -> Callable[[Group], object]:
    return partial(
        Group.drain,
        agent_id=AgentId(drain.agent_id),
        draining=drain.draining,
        limit_ms=drain.limit_ms if drain.HasField("limit_ms") else None,
        request=drain.request,
    )
