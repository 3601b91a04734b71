"""The agent's words as messages."""

from batchyard.agent.convert import demands_of, offer_of, report_of
from batchyard.agent.launcher.ledger import RunEnd, RunState
from batchyard.agent.state import Demands, RunRecord
from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import run_pb2
from support.agent import an_offer, offer_message


def test_an_offer_comes_back_from_its_message() -> None:
    offer = an_offer("echo", "hello", fence=(2, 3), attempt=4)
    assert offer_of(offer_message(offer)) == offer


def test_a_specification_that_cannot_be_read_counts_as_empty() -> None:
    message = offer_message(an_offer("true"))
    message.job_spec = b"\xff\xff"
    assert offer_of(message).spec == run_pb2.JobSpec()


def test_demands_are_read_from_a_message() -> None:
    fences = [run_pb2.Fence(epoch=1, number=number) for number in range(5)]
    response = session_pb2.ConnectResponse(
        revocations=[fences[1]],
        kills=[session_pb2.Kill(fence=fences[2], grace_ms=1500)],
        acknowledged=[fences[3]],
        stale=[fences[4]],
    )
    assert demands_of(response) == Demands([], [(1, 1)], [((1, 2), 1.5)], [(1, 3)], [(1, 4)])


def test_a_report_tells_how_long_ago_things_were() -> None:
    record = RunRecord((1, 2), RunState.DONE, "1" * 12, "job", "stream", 10.0, 12.5, 0, RunEnd.EXITED, "why")
    report = report_of(record, now=13.0)
    assert (report.started_ago_ms, report.ended_ago_ms) == (3000, 500)
    assert report.HasField("exit_code")
    assert (report.exit_code, report.reason, report.job_id) == (0, "why", "job")


def test_a_long_reason_is_cut_as_it_will_be_shown() -> None:
    assert report_of(RunRecord((1, 2), RunState.DONE, reason="x" * 30_000), now=0.0).reason == "x" * 255


def test_a_run_that_never_started_has_no_start() -> None:
    record = RunRecord((1, 2), RunState.DONE, ended=12.5, end=RunEnd.START_FAILED)
    report = report_of(record, now=13.0)
    assert not report.HasField("started_ago_ms")
    assert not report.HasField("exit_code")


def test_a_running_job_has_no_end() -> None:
    report = report_of(RunRecord((1, 2), RunState.STARTED, started=12.0), now=13.0)
    assert not report.HasField("ended_ago_ms")
