"""The agent's words and those of the agent protocol."""

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from batchyard.agent.launcher.ledger import Fence, RunState
from batchyard.agent.state import Demands, Offer, RunRecord
from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import run_pb2
from batchyard.domain.lifecycle import CONTAINER_REASON_LENGTH_MAX


def demands_of(response: session_pb2.ConnectResponse) -> Demands:
    """Return what a message of the scheduler asks for."""
    return Demands(
        offers=[offer_of(offer) for offer in response.offers],
        revocations=_fences(response.revocations),
        kills=[(fence_of(kill.fence), kill.grace_ms / 1000) for kill in response.kills],
        acknowledged=_fences(response.acknowledged),
        stale=_fences(response.stale),
    )


def offer_of(message: run_pb2.RunOffer) -> Offer:
    """Return an offer; a specification that can't be read counts as empty, and then fails to start."""
    spec = run_pb2.JobSpec()
    try:
        spec.ParseFromString(message.job_spec)
    except DecodeError:
        spec.Clear()
    return Offer(
        *(fence_of(message.fence), message.attempt, spec, message.compute_environment, message.log_stream_name),
        array_index=message.array_index if message.HasField("array_index") else None,
    )


def fence_of(message: run_pb2.Fence) -> Fence:
    """Return a fence as a pair."""
    return (message.epoch, message.number)


def fence_message(fence: Fence) -> run_pb2.Fence:
    """Return a fence as a message."""
    return run_pb2.Fence(epoch=fence[0], number=fence[1])


def report_of(record: RunRecord, now: float) -> run_pb2.RunReport:
    """Return the report of a run as it stands; `now` is of CLOCK_BOOTTIME, in seconds."""
    report = run_pb2.RunReport(
        fence=fence_message(record.fence),
        namespace=record.namespace,
        job_id=record.job_id,
        state=run_pb2.RunState.ValueType(record.state),
        # More would be cut by the store; uncut, many at once could be more than a message holds.
        reason=record.reason[:CONTAINER_REASON_LENGTH_MAX],
        end=run_pb2.RunEnd.ValueType(record.end or 0),
        started_ago_ms=_ago_ms(record.started, now),
        exit_code=record.exit_code,
    )
    if record.state is RunState.DONE:
        ended_ago_ms = _ago_ms(record.ended, now)
        if ended_ago_ms is not None:
            report.ended_ago_ms = ended_ago_ms
    return report


def _ago_ms(moment: float | None, now: float) -> int | None:
    return None if moment is None else max(0, round((now - moment) * 1000))


def _fences(messages: Iterable[run_pb2.Fence]) -> list[Fence]:
    return [(message.epoch, message.number) for message in messages]
