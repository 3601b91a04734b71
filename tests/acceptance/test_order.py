"""Who goes first, as boto3 users see it: which way round priorities and weights run."""

from contextlib import closing
from pathlib import Path

import pytest

from support.aws import Account
from support.installation import start_up
from support.order import OneSlot


@pytest.fixture
def slot(account: Account, tmp_path: Path) -> OneSlot:
    return OneSlot(account, tmp_path / "gate")


def test_a_queue_with_a_lower_priority_goes_first(account: Account, slot: OneSlot) -> None:
    for name, priority in (("ten", 10), ("one", 1)):
        slot.make_queue(name, priority=priority)
    with slot.occupied(jobQueue="ten"):
        queues = ("ten", "ten", "one", "one")
        first_ten, second_ten, first_one, second_one = (account.submit(jobQueue=queue) for queue in queues)
    order = slot.order_of_starts([first_ten, second_ten, first_one, second_one])
    assert order == [first_one, second_one, first_ten, second_ten]


def test_a_share_with_a_lower_weight_factor_gets_more(account: Account, slot: OneSlot) -> None:
    policy = {
        "shareDistribution": [
            {"shareIdentifier": "light*", "weightFactor": 0.0001},
            {"shareIdentifier": "heavy", "weightFactor": 999.9},
        ]
    }
    slot.make_queue("fair", policy=policy)
    with slot.occupied(jobQueue="fair", shareIdentifier="holder", schedulingPriorityOverride=0):
        heavy, light = (
            [account.submit(jobQueue="fair", shareIdentifier=share, schedulingPriorityOverride=0) for _ in range(3)]
            for share in ("heavy", "light-1")
        )
        # Each share has one job before what it uses counts; between equals the name decides.
        expected = [heavy[0], *light, *heavy[1:]]
        assert slot.front("fair") == expected
    assert slot.order_of_starts(expected) == expected


def test_a_higher_scheduling_priority_goes_first_within_a_share(account: Account, slot: OneSlot) -> None:
    slot.make_queue("fair", policy={})
    account.define("ranked", schedulingPriority=50)
    with slot.occupied(jobQueue="fair", shareIdentifier="a", schedulingPriorityOverride=0):
        low, high = (
            account.submit(jobQueue="fair", shareIdentifier="a", schedulingPriorityOverride=priority)
            for priority in (1, 9999)
        )
        middle = account.submit(jobQueue="fair", jobDefinition="ranked", shareIdentifier="a")
        assert slot.front("fair") == [high, middle, low]
    assert slot.order_of_starts([low, high, middle]) == [high, middle, low]


def test_a_policy_that_changes_holds_for_what_waits(account: Account, slot: OneSlot) -> None:
    policy = {"shareDistribution": [{"shareIdentifier": "a", "weightFactor": 0.001}]}
    slot.make_queue("fair", policy=policy)
    with slot.occupied(jobQueue="fair", shareIdentifier="holder", schedulingPriorityOverride=0):
        first, second, third, fourth = (
            account.submit(jobQueue="fair", shareIdentifier=share, schedulingPriorityOverride=0) for share in "aabb"
        )
        assert slot.front("fair") == [first, third, second, fourth]
        (described,) = account.batch.describe_job_queues(jobQueues=["fair"])["jobQueues"]
        account.batch.update_scheduling_policy(
            arn=described["schedulingPolicyArn"],
            fairsharePolicy={"shareDistribution": [{"shareIdentifier": "a", "weightFactor": 900.0}]},
        )
        expected = [first, third, fourth, second]
    assert slot.order_of_starts(expected) == expected


def test_what_shares_have_used_outlives_a_restart(tmp_path: Path) -> None:
    """Between equals the name decides, so `a` would go first if it were forgotten that it has used the slot."""
    account_number = "500000000001"
    for is_second_start in (False, True):
        with (
            closing(start_up(tmp_path / "data")) as installation,
            closing(Account(installation.http_url, account_number)) as account,
        ):
            if not is_second_start:
                slot = OneSlot(account, tmp_path / "gate")
                slot.make_queue("fair", policy={"shareDecaySeconds": 604_800})
                used = account.submit(
                    ["sleep", "4"], jobQueue="fair", shareIdentifier="a", schedulingPriorityOverride=0
                )
                account.wait(used)
                installation.processes["up"].kill_group()
                continue
            waiting = [
                account.submit(
                    jobQueue="fair",
                    shareIdentifier=share,
                    schedulingPriorityOverride=0,
                    containerOverrides={"vcpus": 1000},
                )
                for share in "ab"
            ]
            front = account.batch.get_job_queue_snapshot(jobQueue="fair")["frontOfQueue"]["jobs"]
            assert [job["jobArn"].rpartition("/")[2] for job in front] == waiting[::-1]
