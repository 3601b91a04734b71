"""Retry strategies: which failed attempts are tried again.

AWS's rules: entries are read in order, the first whose given conditions all match decides, and where none matches the
attempt is tried again. The number of attempts is a cap over all of that.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from batchyard.domain.errors import InvalidRequestError

RETRY_ATTEMPTS_MAX: Final = 10
EXIT_RULES_MAX: Final = 5
PATTERN_LENGTH_MAX: Final = 512

_ASCII_DIGITS: Final = frozenset("0123456789")


class RetryAction(StrEnum):
    """What an entry decides. In requests any case is taken."""

    RETRY = "RETRY"
    EXIT = "EXIT"


class ExitRule(NamedTuple):
    """An entry of `evaluateOnExit`; a condition that is None matches everything."""

    action: RetryAction
    on_status_reason: str | None = None
    on_reason: str | None = None
    on_exit_code: str | None = None

    def matches(self, status_reason: str, reason: str | None, exit_code: int | None) -> bool:
        """Tell whether an attempt that ended like this meets every condition."""
        return (
            _matches(self.on_status_reason, status_reason)
            and _matches(self.on_reason, reason)
            and _matches(self.on_exit_code, None if exit_code is None else str(exit_code))
        )


def is_retried(rules: Sequence[ExitRule], status_reason: str, reason: str | None, exit_code: int | None) -> bool:
    """Tell whether a failed attempt is tried again, as far as the rules decide it.

    `reason` is the container's, `exit_code` absent if the process never ran.
    """
    for rule in rules:
        if rule.matches(status_reason, reason, exit_code):
            return rule.action is RetryAction.RETRY
    return True


class EvaluateOnExit(Protocol):
    """The message of that name; an empty text stands for a condition that was not given."""

    @property
    def on_status_reason(self) -> str:
        """Pattern for the attempt's status reason."""
        ...

    @property
    def on_reason(self) -> str:
        """Pattern for the container's reason."""
        ...

    @property
    def on_exit_code(self) -> str:
        """Pattern for the exit code in decimal."""
        ...

    @property
    def action(self) -> str:
        """RETRY or EXIT, in any case."""
        ...


def check_retry_strategy(attempts: int | None, entries: Sequence[EvaluateOnExit]) -> None:
    """Check a retry strategy that was sent, perhaps without attempts; raise InvalidRequestError in AWS's words."""
    if attempts is None:
        raise _refused("RetryAttempts must be provided with retry strategy.", "attempts")
    if not 1 <= attempts <= RETRY_ATTEMPTS_MAX:
        raise _refused(f"RetryAttempts must be between 1 and {RETRY_ATTEMPTS_MAX}.", "attempts")
    if len(entries) > EXIT_RULES_MAX:
        raise _refused(
            f"EvaluateOnExit can have at most {EXIT_RULES_MAX} entries, got {len(entries)}.", "evaluateOnExit"
        )
    for entry in entries:
        _check_entry(entry)


def exit_rules(entries: Sequence[EvaluateOnExit]) -> tuple[ExitRule, ...]:
    """Return the rules of a strategy that has passed the check."""
    return tuple(
        ExitRule(
            RetryAction(entry.action.upper()),
            entry.on_status_reason or None,
            entry.on_reason or None,
            entry.on_exit_code or None,
        )
        for entry in entries
    )


def _check_entry(entry: EvaluateOnExit) -> None:
    if entry.action.upper() not in RetryAction.__members__:
        raise _refused(
            f"Action {entry.action} is not valid. Valid actions: [{', '.join(RetryAction)}]", "evaluateOnExit.action"
        )
    patterns = {
        "onStatusReason": entry.on_status_reason,
        "onReason": entry.on_reason,
        "onExitCode": entry.on_exit_code,
    }
    if not any(patterns.values()):
        raise _refused(
            "EvaluateOnExit should contain at least one of onExitCode, onReason or onStatusReason", "evaluateOnExit"
        )
    for member, pattern in patterns.items():
        if len(pattern) > PATTERN_LENGTH_MAX:
            raise _refused(
                f"Evaluate on exit condition cannot exceed {PATTERN_LENGTH_MAX} characters.", f"evaluateOnExit.{member}"
            )
        legal = _is_exit_code_pattern(pattern) if member == "onExitCode" else _is_text_pattern(pattern)
        if not legal:
            raise _refused("Evaluate on exit condition contains restricted characters.", f"evaluateOnExit.{member}")


def _is_exit_code_pattern(pattern: str) -> bool:
    return _ASCII_DIGITS.issuperset(pattern.removesuffix("*"))


def _is_text_pattern(pattern: str) -> bool:
    return all(character.isprintable() or character.isspace() for character in pattern)


def _matches(pattern: str | None, value: str | None) -> bool:
    """Match the whole value; a `*` at the end stands for any rest, and alone for an absent value too."""
    if pattern is None or pattern == "*":
        return True
    if value is None:
        return False
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern


def _refused(message: str, member: str) -> InvalidRequestError:
    return InvalidRequestError(message, field=f"retryStrategy.{member}")
