import pytest

from batchyard.scheduler.config import SchedulerConfig


def test_the_defaults_are_those_of_the_protocol() -> None:
    config = SchedulerConfig()
    assert (config.heartbeat_interval_s, config.lease_s, config.kill_budget_s) == (5, 600, 15)


def test_every_problem_is_named() -> None:
    with pytest.raises(ValueError, match="heartbeat_interval_s must be more than 0") as caught:
        SchedulerConfig(heartbeat_interval_s=-1, kill_budget_s=0, lease_s=10, suspicion_s=20)
    problems = str(caught.value).split("; ")
    assert len(problems) == 3
    assert "kill_budget_s must be more than 0, not 0" in problems
    assert "lease_s must be more than suspicion_s" in problems


def test_an_agent_is_not_suspect_before_its_next_heartbeat_is_due() -> None:
    with pytest.raises(ValueError, match="suspicion_s must be more than heartbeat_interval_s"):
        SchedulerConfig(heartbeat_interval_s=15, suspicion_s=15)
