import itertools

import pytest

from batchyard.api.agent.v1 import run_pb2
from batchyard.api.jobs.v1.jobs_pb2 import JobStatus
from batchyard.domain.lifecycle import (
    TERMINAL,
    TRANSITIONS,
    Effect,
    IllegalMoveError,
    JobEvent,
    JobState,
    RunEnd,
    RunState,
    judge,
    move,
)
from batchyard.domain.retries import ExitRule, RetryAction

LEGAL = {(state, event): step.target for state, moves in TRANSITIONS.items() for event, step in moves.items()}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(JobState, JobEvent)))
def test_an_event_moves_a_job_as_the_table_says_or_is_refused(state: JobState, event: JobEvent) -> None:
    if (state, event) in LEGAL:
        assert move(state, event).target is LEGAL[state, event]
    else:
        with pytest.raises(IllegalMoveError, match=f"{state.name} cannot be told {event.value}"):
            move(state, event)


def test_only_succeeded_and_failed_have_no_way_out() -> None:
    assert {JobState.SUCCEEDED, JobState.FAILED} == TERMINAL


@pytest.mark.parametrize(("state", "event"), list(LEGAL))
def test_a_job_only_goes_back_to_be_placed_again(state: JobState, event: JobEvent) -> None:
    step = move(state, event)
    if step.target < state:
        assert step.target is JobState.RUNNABLE
        assert event in (JobEvent.ATTEMPT_FAILED, JobEvent.RETURNED)


@pytest.mark.parametrize(("state", "event"), list(LEGAL))
def test_what_becomes_runnable_is_placed_and_what_ends_settles_its_dependents(state: JobState, event: JobEvent) -> None:
    step = move(state, event)
    assert (Effect.ENQUEUE in step.effects) == (step.target is JobState.RUNNABLE)
    assert (Effect.SETTLE_DEPENDENTS in step.effects) == (step.target in TERMINAL)


def test_every_state_can_be_reached_from_submitted() -> None:
    reached, frontier = {JobState.SUBMITTED}, {JobState.SUBMITTED}
    while frontier:
        frontier = {step.target for state in frontier for step in TRANSITIONS[state].values()} - reached
        reached |= frontier
    assert reached == set(JobState)


def test_the_numbers_are_those_of_the_protos() -> None:
    assert {state.name: int(state) for state in JobState} == {
        name.removeprefix("JOB_STATUS_"): number for name, number in JobStatus.items() if number
    }
    for ours, theirs, prefix in ((RunState, run_pb2.RunState, "RUN_STATE_"), (RunEnd, run_pb2.RunEnd, "RUN_END_")):
        assert {member.name: int(member) for member in ours} == {
            name.removeprefix(prefix): number for name, number in theirs.items() if number
        }


@pytest.mark.parametrize("attempts_left", [0, 1])
@pytest.mark.parametrize(
    ("end", "exit_code", "status_reason"),
    [
        (RunEnd.EXITED, 3, "Essential container in task exited"),
        (RunEnd.STOPPED, 137, "Essential container in task exited"),
        (RunEnd.START_FAILED, None, "Task failed to start"),
        (RunEnd.LOST, None, "Host EC2 (instance agent-1) terminated."),
    ],
)
def test_a_failed_attempt_is_retried_while_attempts_are_left(
    end: RunEnd, exit_code: int | None, status_reason: str, attempts_left: int
) -> None:
    verdict = judge(end, exit_code, None, "agent-1", stop_reason=None, attempts_left=attempts_left)
    assert verdict.status_reason == status_reason
    assert verdict.event is (JobEvent.ATTEMPT_FAILED if attempts_left else JobEvent.GAVE_UP)


def test_a_timeout_is_never_retried() -> None:
    verdict = judge(RunEnd.TIMED_OUT, 137, None, "agent-1", stop_reason=None, attempts_left=5)
    assert verdict.event is JobEvent.GAVE_UP
    assert verdict.status_reason == "Job attempt duration exceeded timeout"


def test_a_terminated_job_fails_even_if_its_process_exits_0() -> None:
    verdict = judge(RunEnd.EXITED, 0, None, "agent-1", stop_reason="enough", attempts_left=5)
    assert (verdict.event, verdict.status_reason) == (JobEvent.GAVE_UP, "enough")


def test_exit_code_0_is_success() -> None:
    verdict = judge(RunEnd.EXITED, 0, None, "agent-1", stop_reason=None, attempts_left=0)
    assert verdict.event is JobEvent.SUCCEEDED


@pytest.mark.parametrize(
    ("end", "exit_code", "reason", "rule"),
    [
        (RunEnd.EXITED, 3, None, ExitRule(RetryAction.EXIT, on_exit_code="3")),
        (RunEnd.EXITED, 137, "OutOfMemoryError: killed", ExitRule(RetryAction.EXIT, on_reason="OutOfMemoryError*")),
        (RunEnd.START_FAILED, None, "no image", ExitRule(RetryAction.EXIT, on_status_reason="Task failed to start")),
        (RunEnd.LOST, None, None, ExitRule(RetryAction.EXIT, on_status_reason="Host EC2*")),
    ],
)
def test_rules_of_the_job_decide_whether_a_failed_attempt_is_retried(
    end: RunEnd, exit_code: int | None, reason: str | None, rule: ExitRule
) -> None:
    def event(action: RetryAction, attempts_left: int = 1) -> JobEvent:
        rules = [rule._replace(action=action), ExitRule(RetryAction.RETRY, on_status_reason="*")]
        return judge(
            end, exit_code, reason, "agent-1", stop_reason=None, attempts_left=attempts_left, exit_rules=rules
        ).event

    assert event(RetryAction.EXIT) is JobEvent.GAVE_UP
    assert event(RetryAction.RETRY) is JobEvent.ATTEMPT_FAILED
    assert event(RetryAction.RETRY, attempts_left=0) is JobEvent.GAVE_UP


def test_no_rule_retries_a_timeout_a_terminated_job_or_a_success() -> None:
    rules = [ExitRule(RetryAction.RETRY, on_status_reason="*")]
    timeout = judge(RunEnd.TIMED_OUT, 137, None, "a", stop_reason=None, attempts_left=5, exit_rules=rules)
    terminated = judge(RunEnd.STOPPED, 143, None, "a", stop_reason="enough", attempts_left=5, exit_rules=rules)
    success = judge(RunEnd.EXITED, 0, None, "a", stop_reason=None, attempts_left=5, exit_rules=rules)
    assert [verdict.event for verdict in (timeout, terminated, success)] == [
        JobEvent.GAVE_UP,
        JobEvent.GAVE_UP,
        JobEvent.SUCCEEDED,
    ]
