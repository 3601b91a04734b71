"""What goes onto the dispatch stream, and in how large pieces."""

from batchyard.api.agent.v1 import run_pb2
from batchyard.api.scheduler.v1 import dispatch_service_pb2 as wire
from batchyard.domain.jobs import Fence
from batchyard.domain.lifecycle import RunEnd, RunState
from batchyard.jobstore.convert import ENTRIES_A_MESSAGE, OFFERED_BYTES_A_MESSAGE, effect_messages, report_of
from batchyard.jobstore.effects import Effects, EndedRun, OfferOutcome, ReportOutcome, RunDemand
from support.jobs import AGENT, a_job, a_key, a_run


def many(count: int) -> Effects:
    effects = Effects()
    for number in range(count):
        effects.withdraw(a_key(f"withdrawn-{number}"))
        effects.ended.append(EndedRun(AGENT, Fence(1, number), 5))
        effects.demands.append(RunDemand(AGENT, 1, Fence(1, number), kill=True))
        effects.reports.append(ReportOutcome(AGENT, 1, Fence(1, number), RunState.DONE, stale=False))
    return effects


def test_however_much_has_been_merged_no_message_is_large() -> None:
    messages = list(effect_messages(many(5000), 7))
    assert all(message.ByteSize() < 1024 * 1024 for message in messages)
    together = wire.DispatchResponse()
    for message in messages:
        together.MergeFrom(message)
    for name in ("withdrawn", "ended", "demands", "reports"):
        assert len(getattr(together, name)) == 5000
    assert [message.heartbeat for message in messages] == [7] + [0] * (len(messages) - 1)
    assert len(messages) >= 4 * 5000 // ENTRIES_A_MESSAGE


def test_large_jobs_are_offered_in_messages_of_their_own() -> None:
    effects = Effects()
    for number in range(30):
        job = a_job(f"job-{number}")
        job.run = a_run(number + 1)
        effects.offers.append(OfferOutcome(job.key, AGENT, 1, job, b"s" * 100_000))
    messages = list(effect_messages(effects, 0))
    assert sum(len(message.offers) for message in messages) == 30
    assert all(message.ByteSize() < OFFERED_BYTES_A_MESSAGE + 200_000 for message in messages)


def test_a_run_is_offered_before_it_ends() -> None:
    effects = many(3 * ENTRIES_A_MESSAGE)
    job = a_job()
    job.run = a_run()
    effects.offers.append(OfferOutcome(job.key, AGENT, 1, job, b"spec"))
    first, *rest = effect_messages(effects, 0)
    assert len(first.offers) == 1
    assert not any(message.offers for message in rest)


def test_an_end_that_is_not_known_here_says_that_the_run_is_lost() -> None:
    known, unknown = b"\x20\x04\x48\x01", b"\x20\x04\x48\x63"
    ends = [getattr(report_of(run_pb2.RunReport.FromString(data)), "end", None) for data in (known, unknown)]
    assert ends == [RunEnd.EXITED, RunEnd.LOST]
