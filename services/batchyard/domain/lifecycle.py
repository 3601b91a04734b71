"""The life of a job, as one table.

SUBMITTED, PENDING, RUNNABLE, STARTING, RUNNING, then SUCCEEDED or FAILED. States only move forward, save that a job
whose attempt failed with attempts left, or whose agent gave it back unstarted, is RUNNABLE again. An event that the
table does not know for a state is an error in the code that raised it: `move` raises, and nothing changes.

A run (one offer of a job to one agent) has a life of its own, `RunState`, which only goes up. A job that is offered
stays RUNNABLE; it is the agent's claim that makes it STARTING.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum, auto
from types import MappingProxyType
from typing import Final

from batchyard.domain.retries import ExitRule, is_retried


class JobState(IntEnum):
    """Where a job is in its life; the numbers are those of JobStatus in jobs.proto."""

    SUBMITTED = 1
    PENDING = 2
    RUNNABLE = 3
    STARTING = 4
    RUNNING = 5
    SUCCEEDED = 6
    FAILED = 7


class JobEvent(StrEnum):
    """What can happen to a job."""

    DEPENDENCIES_WAITING = auto()
    """A dependency has not succeeded yet."""
    DEPENDENCIES_MET = auto()
    """Every dependency has succeeded, or there was none."""
    DEPENDENCY_FAILED = auto()
    """A dependency has failed."""
    CHILDREN_RELEASED = auto()
    """Of an array, which never runs itself: its children wait for nothing but what each of them may depend on."""
    CHILDREN_SUCCEEDED = auto()
    """All children have ended, each of them well."""
    CHILD_FAILED = auto()
    """All children have ended, and one of them has failed."""
    CANCELLED = auto()
    """It was cancelled, or terminated, and no agent has or will have started it."""
    CLAIMED = auto()
    """An agent has written down that it takes the job."""
    STARTED = auto()
    """Its process or container is up."""
    RETURNED = auto()
    """Its agent gave it back: nothing of it was started."""
    SUCCEEDED = auto()
    """Its process ended with exit code 0."""
    ATTEMPT_FAILED = auto()
    """The attempt failed, and there is another."""
    GAVE_UP = auto()
    """The attempt failed, and it was the last, or none may follow."""


class Effect(IntEnum):
    """What must be done, in the same transaction, when a job moves."""

    ENQUEUE = auto()
    """The scheduler is to place it."""
    WITHDRAW = auto()
    """The scheduler is to forget it, if it had it."""
    RECORD_ATTEMPT = auto()
    """The attempt is over and is added to the job's attempts."""
    SETTLE_DEPENDENTS = auto()
    """The jobs that wait for it are released or failed."""


@dataclass(frozen=True, slots=True)
class Move:
    """The answer of the table."""

    target: JobState
    effects: frozenset[Effect] = frozenset()


class IllegalMoveError(AssertionError):
    """An event came to a job in a state that does not know it."""


_S, _E = JobState, JobEvent

_SETTLES = frozenset({Effect.SETTLE_DEPENDENTS})
_READY = Move(_S.RUNNABLE, frozenset({Effect.ENQUEUE}))
_NEVER_RAN = Move(_S.FAILED, frozenset({Effect.WITHDRAW, Effect.SETTLE_DEPENDENTS}))
_RETRY = Move(_S.RUNNABLE, frozenset({Effect.RECORD_ATTEMPT, Effect.ENQUEUE}))
_OVER = frozenset({Effect.RECORD_ATTEMPT, Effect.SETTLE_DEPENDENTS})

TRANSITIONS: Final[Mapping[JobState, Mapping[JobEvent, Move]]] = MappingProxyType(
    {
        _S.SUBMITTED: {
            _E.DEPENDENCIES_WAITING: Move(_S.PENDING),
            _E.DEPENDENCIES_MET: _READY,
            _E.DEPENDENCY_FAILED: _NEVER_RAN,
            _E.CANCELLED: _NEVER_RAN,
            _E.CHILDREN_RELEASED: Move(_S.PENDING),
        },
        _S.PENDING: {
            _E.DEPENDENCIES_MET: _READY,
            _E.DEPENDENCY_FAILED: _NEVER_RAN,
            _E.CANCELLED: _NEVER_RAN,
            _E.CHILDREN_RELEASED: Move(_S.PENDING),
            _E.CHILDREN_SUCCEEDED: Move(_S.SUCCEEDED, _SETTLES),
            _E.CHILD_FAILED: Move(_S.FAILED, _SETTLES),
        },
        _S.RUNNABLE: {
            _E.CANCELLED: _NEVER_RAN,
            _E.CLAIMED: Move(_S.STARTING),
            _E.RETURNED: _READY,
            # An agent can be lost while it is not known whether it took up the offer.
            _E.ATTEMPT_FAILED: _RETRY,
            _E.GAVE_UP: Move(_S.FAILED, _OVER),
        },
        _S.STARTING: {
            _E.STARTED: Move(_S.RUNNING),
            _E.RETURNED: _READY,
            _E.CANCELLED: _NEVER_RAN,
            _E.ATTEMPT_FAILED: _RETRY,
            _E.GAVE_UP: Move(_S.FAILED, _OVER),
        },
        _S.RUNNING: {
            _E.SUCCEEDED: Move(_S.SUCCEEDED, _OVER),
            _E.ATTEMPT_FAILED: _RETRY,
            _E.GAVE_UP: Move(_S.FAILED, _OVER),
        },
        _S.SUCCEEDED: {},
        _S.FAILED: {},
    }
)

TERMINAL: Final = frozenset(state for state, moves in TRANSITIONS.items() if not moves)
ACTIVE: Final = frozenset({_S.RUNNABLE, _S.STARTING, _S.RUNNING})


def move(state: JobState, event: JobEvent) -> Move:
    """Return where an event takes a job in this state; raise IllegalMoveError if the table does not know it there."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalMoveError(f"a job that is {state.name} cannot be told {event.value}") from None


class RunState(IntEnum):
    """How far a run has come; the numbers are those of RunState in run.proto."""

    OFFERED = 1
    CLAIMED = 2
    STARTED = 3
    DONE = 4
    REVOKED = 5


class RunEnd(IntEnum):
    """Why a run is DONE; the numbers are those of RunEnd in run.proto."""

    EXITED = 1
    START_FAILED = 2
    TIMED_OUT = 3
    STOPPED = 4
    LOST = 5
    NEVER_STARTED = 6


REASON_EXITED: Final = "Essential container in task exited"
REASON_START_FAILED: Final = "Task failed to start"
REASON_TIMED_OUT: Final = "Job attempt duration exceeded timeout"
REASON_DEPENDENCY_FAILED: Final = "Dependent Job failed"
REASON_ARRAY_CHILD_FAILED: Final = "Array Child Job failed"
"""AWS's status reasons, word for word: clients and their retry rules match them."""

UNSTARTED_LOSSES_MAX: Final = 5
"""A job that was lost so often before its command started has failed: it may be what its hosts die of."""

CONTAINER_REASON_LENGTH_MAX: Final = 255
"""AWS cuts `container.reason`, in which a runtime says what went wrong, to this length."""


def reason_host_lost(agent_id: str) -> str:
    """Return AWS's status reason for an attempt whose host is gone."""
    return f"Host EC2 (instance {agent_id}) terminated."


def reason_host_drained(agent_id: str) -> str:
    """Return the status reason of an attempt that was ended to drain its host: to clients a loss of the host."""
    return f"{reason_host_lost(agent_id)} It was drained."


def reason_lost_too_often(agent_id: str) -> str:
    """Return the status reason of a job that has reached UNSTARTED_LOSSES_MAX."""
    return f"{reason_host_lost(agent_id)} Lost {UNSTARTED_LOSSES_MAX} times before its command started."


def reason_time_limit(code: str) -> str:
    """Return AWS's status reason for a job that its queue does not let wait any longer; the code says for what."""
    return f"Canceled by JobStateTimeLimit action due to reason: {code}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the end of an attempt means for its job."""

    event: JobEvent
    status_reason: str


def judge(
    end: RunEnd,
    exit_code: int | None,
    reason: str | None,
    agent_id: str,
    *,
    stop_reason: str | None,
    attempts_left: int,
    exit_rules: Sequence[ExitRule] = (),
    evicted: bool = False,
) -> Verdict:
    """Judge an attempt that has ended.

    `reason` is the container's. `stop_reason` is that of a TerminateJob, which outweighs whatever the process returned;
    it and a timeout are never retried. `evicted`: the store has had it stopped because its host is drained.
    """
    if stop_reason is not None:
        return Verdict(JobEvent.GAVE_UP, stop_reason)
    if end is RunEnd.EXITED and exit_code == 0:
        return Verdict(JobEvent.SUCCEEDED, REASON_EXITED)
    if end is RunEnd.TIMED_OUT:
        return Verdict(JobEvent.GAVE_UP, REASON_TIMED_OUT)
    match end:
        case RunEnd.START_FAILED:
            status_reason = REASON_START_FAILED
        case RunEnd.LOST:
            status_reason = reason_host_lost(agent_id)
        case RunEnd.NEVER_STARTED:
            return Verdict(JobEvent.GAVE_UP, reason_lost_too_often(agent_id))
        case RunEnd.STOPPED if evicted:
            status_reason = reason_host_drained(agent_id)
        case _:
            status_reason = REASON_EXITED
    again = attempts_left > 0 and is_retried(exit_rules, status_reason, reason, exit_code)
    return Verdict(JobEvent.ATTEMPT_FAILED if again else JobEvent.GAVE_UP, status_reason)
