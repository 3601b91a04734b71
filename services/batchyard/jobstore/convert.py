"""Between the dispatch stream's messages and the store's own words."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from google.protobuf.message import Message

from batchyard.api.agent.v1 import run_pb2
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.arrays import VERSION_WITHOUT_ROW, to_bytes
from batchyard.domain.jobs import AgentId, Fence, Job, JobId, JobKey, RunReport
from batchyard.domain.lifecycle import RunEnd, RunState
from batchyard.jobstore.effects import (
    DrainOutcome,
    Effects,
    OfferOutcome,
    QueuedChildren,
    QueuedJob,
    ReportOutcome,
    RunDemand,
    demand_on,
    queued_children,
)
from batchyard.jobstore.offers import Cause, Proposal
from batchyard.storage.job_reader import SnapshotPage
from batchyard.storage.jobs import AgentRecord, QueueKey, ShareUse
from batchyard.storage.lines import LineName, LinePart
from batchyard.storage.listings import LineKey

ENTRIES_A_MESSAGE: Final = 1000
OFFERED_BYTES_A_MESSAGE: Final = 1024 * 1024
"""Bounds that keep every message of the stream well below what a receiver takes."""
JOBS_A_LINE_MAX: Final = 10_000
"""The same for one entry."""

_RUN_STATES: Final[Mapping[int, RunState]] = {int(state): state for state in RunState}
_RUN_ENDS: Final[Mapping[int, RunEnd]] = {int(end): end for end in RunEnd}
_REFUSAL: Final = {cause: wire.OfferRefusal.Value(f"OFFER_REFUSAL_{cause.name}") for cause in Cause}
_RUN_STATE: Final = {state: run_pb2.RunState.Value(f"RUN_STATE_{state.name}") for state in RunState}


def fence_of(message: run_pb2.Fence) -> Fence:
    """Return a fence."""
    return Fence(message.epoch, message.number)


def report_of(message: run_pb2.RunReport) -> RunReport | None:
    """Return a report; None if its state is none that this version knows, as a newer agent's may be.

    One that does not say, in words known here, how its run ended says that it is lost.
    """
    state = _RUN_STATES.get(message.state)
    if state is None:
        return None
    return RunReport(
        fence=fence_of(message.fence),
        key=JobKey(message.namespace, JobId(message.job_id)),
        state=state,
        started_ago_ms=message.started_ago_ms if message.HasField("started_ago_ms") else None,
        ended_ago_ms=message.ended_ago_ms if message.HasField("ended_ago_ms") else None,
        end=_RUN_ENDS.get(message.end, RunEnd.LOST),
        exit_code=message.exit_code if message.HasField("exit_code") else None,
        reason=message.reason or None,
    )


def proposal_of(message: wire.OfferProposal) -> Proposal:
    """Return a proposal."""
    return Proposal(
        key=key_of(message.job),
        version=message.version,
        agent_id=AgentId(message.agent_id),
        incarnation=message.incarnation,
        compute_environment=message.compute_environment,
    )


def line_of(message: wire.WaitReason) -> LineKey:
    """Return which line a reason is about."""
    need = (message.vcpus_milli, message.memory_mib, message.gpus)
    return LineKey(message.namespace, message.job_queue, *need, message.share_identifier or None)


def line_name_of(message: wire.LineRef) -> LineName:
    """Return the name of a line."""
    return LineName(
        message.namespace,
        message.job_queue,
        message.share_identifier or None,
        message.vcpus_milli,
        message.memory_mib,
        message.gpus,
        message.time_limit_s or None,
    )


def jobs_a_line(wanted: int) -> int:
    """Return how many jobs of a line are told at once, of as many as are wanted."""
    return wanted if 0 < wanted < JOBS_A_LINE_MAX else JOBS_A_LINE_MAX


def share_use_of(message: wire.ShareUse, now_ms: int) -> ShareUse:
    """Return what a share has used up to now."""
    queue = QueueKey(message.namespace, message.job_queue)
    return ShareUse(queue, message.share_identifier, message.used_vcpu_seconds, now_ms)


def share_uses_message(uses: Iterable[ShareUse], now_ms: int) -> wire.DispatchResponse:
    """Return a part of a snapshot: what shares have used."""
    message = wire.DispatchResponse()
    for use in uses:
        message.share_uses.add(
            namespace=use.queue.namespace,
            job_queue=use.queue.name,
            share_identifier=use.share,
            used_vcpu_seconds=use.used_vcpu_s,
            ago_ms=max(now_ms - use.at, 0),
        )
    return message


def key_of(message: wire.JobRef) -> JobKey:
    """Return a job's key."""
    return JobKey(message.namespace, JobId(message.job_id))


def agents_message(agents: Iterable[AgentRecord]) -> wire.DispatchResponse:
    """Return the beginning of a snapshot: the agents that are live, and those that are drained."""
    message = wire.DispatchResponse()
    for agent in agents:
        if agent.live:
            message.agents.add(agent_id=agent.agent_id, incarnation=agent.incarnation, lease_ms=agent.lease_ms)
        if agent.draining:
            message.drains.add(agent_id=agent.agent_id, draining=True, limit_ms=agent.drain_limit_ms)
    return message


def snapshot_message(page: SnapshotPage) -> wire.DispatchResponse:
    """Return a page of a snapshot: what is to be placed, what is held, what is demanded of agents."""
    message = wire.DispatchResponse()
    for array in page.arrays:
        if array.children is not None:
            message.children.append(_children_message(queued_children(array, array.children.runnable)))
    for job, spec in page.runs:
        message.held.append(_held_message(job, spec))
        if (demand := demand_on(job)) is not None:
            message.demands.append(_demand_message(demand))
    message.lines.extend(map(_line_message, page.lines))
    return message


def effect_messages(effects: Effects, heartbeat: int) -> Iterator[wire.DispatchResponse]:
    """Return what commits mean, in messages of bounded size; the first answers a heartbeat."""
    message = wire.DispatchResponse(heartbeat=heartbeat)
    entries = size = 0
    for name, entry in _entries(effects):
        getattr(message, name).append(entry)
        entries += 1
        if name in {"offers", "lines"}:
            size += entry.ByteSize()
        if entries >= ENTRIES_A_MESSAGE or size > OFFERED_BYTES_A_MESSAGE:
            yield message
            message, entries, size = wire.DispatchResponse(), 0, 0
    yield message


def _entries(effects: Effects) -> Iterator[tuple[str, Message]]:
    """Return the entries of all lists, in the order in which a scheduler applies those of one message."""
    for part in effects.lines:
        yield "lines", _line_message(part)
    for outcome in effects.offers:
        yield "offers", _outcome_message(outcome)
    for demand in effects.demands:
        yield "demands", _demand_message(demand)
    for run in effects.ended:
        yield (
            "ended",
            wire.EndedRun(agent_id=run.agent_id, fence=_fence_message(run.fence), ran_for_ms=run.ran_for_ms),
        )
    for drain in effects.drains:
        yield "drains", _drain_message(drain)
    for job in effects.runnable.values():
        yield "runnable", _queued_message(job)
    for children in effects.children.values():
        yield "children", _children_message(children)
    for key in effects.withdrawn:
        yield "withdrawn", _ref(key)
    for agent in effects.registered:
        yield (
            "registered",
            wire.AgentRegistered(
                agent_id=agent.agent_id, incarnation=agent.incarnation, accepted=agent.accepted, lease_ms=agent.lease_ms
            ),
        )
    for report in effects.reports:
        yield "reports", _report_message(report)
    for front in effects.fronts:
        yield (
            "front_requests",
            wire.FrontRequest(
                request=front.request, namespace=front.queue.namespace, job_queue=front.queue.name, limit=front.limit
            ),
        )


def _report_message(outcome: ReportOutcome) -> wire.ReportOutcome:
    return wire.ReportOutcome(
        agent_id=outcome.agent_id,
        incarnation=outcome.incarnation,
        fence=_fence_message(outcome.fence),
        state=_RUN_STATE[outcome.state],
        stale=outcome.stale,
    )


def _outcome_message(outcome: OfferOutcome) -> wire.OfferOutcome:
    message = wire.OfferOutcome(job=_ref(outcome.key), agent_id=outcome.agent_id, incarnation=outcome.incarnation)
    if outcome.refusal is not None:
        message.refused, message.refusal = outcome.refusal.text, _REFUSAL[outcome.refusal.cause]
    if outcome.job is not None:
        message.offer.CopyFrom(_offer_message(outcome.job, outcome.spec))
    return message


def _held_message(job: Job, spec: bytes | None) -> wire.HeldRun:
    run = job.run
    assert run is not None
    message = wire.HeldRun(
        fence=_fence_message(run.fence),
        job=_ref(job.key),
        agent_id=run.agent_id,
        incarnation=run.incarnation,
        state=_RUN_STATE[run.state],
        compute_environment=run.compute_environment,
        vcpus_milli=job.vcpus_milli,
        memory_mib=job.memory_mib,
        gpus=job.gpus,
        job_queue=job.job_queue,
        share_identifier=job.share_identifier or "",
        time_limit_s=job.timeout_s or 0,
    )
    if spec is not None:
        message.offer.CopyFrom(_offer_message(job, spec))
    return message


def _offer_message(job: Job, spec: bytes) -> run_pb2.RunOffer:
    run = job.run
    assert run is not None
    return run_pb2.RunOffer(
        fence=_fence_message(run.fence),
        attempt=job.attempts_made + 1,
        job_spec=spec,
        compute_environment=run.compute_environment,
        task_id=run.task_id,
        log_stream_name=run.log_stream_name,
        array_index=job.index if job.parent is not None else None,
    )


def _queued_message(job: QueuedJob) -> wire.QueuedJob:
    return wire.QueuedJob(
        job=_ref(job.key),
        job_queue=job.job_queue,
        sequence=job.sequence,
        vcpus_milli=job.vcpus_milli,
        memory_mib=job.memory_mib,
        gpus=job.gpus,
        version=job.version,
        share_identifier=job.share,
        scheduling_priority=job.priority,
        time_limit_s=job.timeout_s or 0,
    )


def _line_message(part: LinePart) -> wire.LinePart:
    line = part.line
    return wire.LinePart(
        line=wire.LineRef(
            namespace=line.namespace,
            job_queue=line.job_queue,
            share_identifier=line.share or "",
            vcpus_milli=line.vcpus_milli,
            memory_mib=line.memory_mib,
            gpus=line.gpus,
            time_limit_s=line.time_limit_s or 0,
        ),
        after=part.after,
        job_ids=part.job_ids,
        places=part.places,
        versions=part.versions,
        more=part.more,
    )


def _children_message(children: QueuedChildren) -> wire.QueuedChildren:
    return wire.QueuedChildren(
        array=_ref(children.key),
        job_queue=children.job_queue,
        sequence=children.sequence,
        vcpus_milli=children.vcpus_milli,
        memory_mib=children.memory_mib,
        gpus=children.gpus,
        version=VERSION_WITHOUT_ROW,
        indices=to_bytes(children.indices),
        share_identifier=children.share,
        scheduling_priority=children.priority,
        time_limit_s=children.timeout_s or 0,
    )


def _demand_message(demand: RunDemand) -> wire.RunDemand:
    return wire.RunDemand(
        agent_id=demand.agent_id,
        incarnation=demand.incarnation,
        fence=_fence_message(demand.fence),
        kill=demand.kill,
    )


def _drain_message(outcome: DrainOutcome) -> wire.AgentDrain:
    return wire.AgentDrain(
        agent_id=outcome.agent_id,
        draining=outcome.draining,
        limit_ms=outcome.limit_ms,
        request=outcome.request,
        unknown=outcome.unknown,
    )


def _fence_message(fence: Fence) -> run_pb2.Fence:
    return run_pb2.Fence(epoch=fence.epoch, number=fence.number)


def _ref(key: JobKey) -> wire.JobRef:
    return wire.JobRef(namespace=key.namespace, job_id=key.job_id)
