import pytest
from google.protobuf.json_format import ParseDict

from batchyard.api.common.v1.container_pb2 import RetryStrategy
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.retries import ExitRule, RetryAction, check_retry_strategy, exit_rules, is_retried

EXIT, RETRY = RetryAction.EXIT, RetryAction.RETRY


def a_strategy(*entries: dict[str, str], attempts: int | None = 3) -> RetryStrategy:
    members: dict[str, object] = {"evaluateOnExit": list(entries)}
    if attempts is not None:
        members["attempts"] = attempts
    return ParseDict(members, RetryStrategy())


def check(strategy: RetryStrategy) -> None:
    check_retry_strategy(strategy.attempts if strategy.HasField("attempts") else None, strategy.evaluate_on_exit)


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        (a_strategy(attempts=None), "RetryAttempts must be provided with retry strategy."),
        (
            a_strategy({"onExitCode": "1", "action": "RETRY"}, attempts=None),
            "RetryAttempts must be provided with retry strategy.",
        ),
        (a_strategy(attempts=0), "RetryAttempts must be between 1 and 10."),
        (a_strategy(attempts=11), "RetryAttempts must be between 1 and 10."),
        (
            a_strategy({"action": "EXIT"}),
            "EvaluateOnExit should contain at least one of onExitCode, onReason or onStatusReason",
        ),
        (
            a_strategy({"onReason": "", "action": "EXIT"}),
            "EvaluateOnExit should contain at least one of onExitCode, onReason or onStatusReason",
        ),
        (
            a_strategy({"onReason": "x" * 513, "action": "EXIT"}),
            "Evaluate on exit condition cannot exceed 512 characters.",
        ),
        (
            a_strategy({"onReason": "\0", "action": "EXIT"}),
            "Evaluate on exit condition contains restricted characters.",
        ),
        *(
            (
                a_strategy({"onExitCode": pattern, "action": "EXIT"}),
                "Evaluate on exit condition contains restricted characters.",
            )
            for pattern in ("1a", "*1", "1**", "-1", "1 ", "\u0661")
        ),
        (a_strategy({"onReason": "x", "action": "STOP"}), "Action STOP is not valid. Valid actions: [RETRY, EXIT]"),
        (
            a_strategy(*[{"onExitCode": "1", "action": "EXIT"}] * 6),
            "EvaluateOnExit can have at most 5 entries, got 6.",
        ),
    ],
)
def test_a_strategy_that_makes_no_sense_is_refused_in_aws_words(strategy: RetryStrategy, text: str) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        check(strategy)
    assert refusal.value.message == text
    assert refusal.value.field is not None
    assert refusal.value.field.startswith("retryStrategy.")


def test_limits_are_legal_themselves_and_texts_may_hold_what_reasons_hold() -> None:
    rule = {"onReason": "x" * 511 + "*", "action": "eXiT"}
    status = {"onStatusReason": "Host EC2 (instance i-1/2) terminated.\t*", "onExitCode": "1*", "action": "retry"}
    strategy = a_strategy(rule, status, *[{"onExitCode": "*", "action": "EXIT"}] * 3, attempts=10)
    check(strategy)
    assert [entry.action for entry in exit_rules(strategy.evaluate_on_exit)] == [EXIT, RETRY, EXIT, EXIT, EXIT]
    assert exit_rules(strategy.evaluate_on_exit)[0] == ExitRule(EXIT, None, "x" * 511 + "*", None)


STATUS = "Essential container in task exited"


@pytest.mark.parametrize(
    ("rule", "reason", "exit_code", "matches"),
    [
        (ExitRule(EXIT, on_exit_code="1"), None, 1, True),
        (ExitRule(EXIT, on_exit_code="1"), None, 10, False),
        (ExitRule(EXIT, on_exit_code="1*"), None, 137, True),
        (ExitRule(EXIT, on_exit_code="0"), None, None, False),
        (ExitRule(EXIT, on_exit_code="1*"), None, None, False),
        (ExitRule(EXIT, on_exit_code="*"), None, None, True),
        (ExitRule(EXIT, on_status_reason="Essential*"), None, 1, True),
        (ExitRule(EXIT, on_status_reason="Essential"), None, 1, False),
        (ExitRule(EXIT, on_status_reason="essential*"), None, 1, False),
        (ExitRule(EXIT, on_status_reason="OutOfMemory*"), "OutOfMemoryError: x", 137, False),
        (ExitRule(EXIT, on_reason="OutOfMemory*"), "OutOfMemoryError: x", 137, True),
        (ExitRule(EXIT, on_reason="OutOfMemory*", on_exit_code="1"), "OutOfMemoryError: x", 137, False),
        (ExitRule(EXIT, on_reason="OutOfMemory*", on_exit_code="137"), "OutOfMemoryError: x", 137, True),
        (ExitRule(EXIT, on_reason="*"), None, 1, True),
        (ExitRule(EXIT, on_reason="a*"), None, 1, False),
    ],
)
def test_a_rule_decides_when_every_condition_matches(
    rule: ExitRule, reason: str | None, exit_code: int | None, matches: bool
) -> None:
    assert is_retried([rule], STATUS, reason, exit_code) is not matches


def test_the_first_rule_that_matches_decides_and_without_one_the_attempt_is_retried() -> None:
    rules = [ExitRule(RETRY, on_exit_code="14*"), ExitRule(EXIT, on_exit_code="1*"), ExitRule(RETRY, on_exit_code="1")]
    assert is_retried(rules, STATUS, None, 143)
    assert not is_retried(rules, STATUS, None, 1)
    assert is_retried(rules, STATUS, None, 2)
    assert is_retried([], STATUS, None, 1)
