"""What jobs have held, told at the command line."""

import json
import subprocess
import sys
from typing import Any

from support.aws import Account
from support.installation import Installation


def usage(installation: Installation, account: Account, *flags: str) -> str:
    return subprocess.run(
        [
            *(sys.executable, "-m", "batchyard.cli", "usage", "--endpoint", installation.grpc_target),
            *("--account", account.access_key, *flags),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_usage_is_told_by_tag_for_people_and_for_programs(installation: Installation, account: Account) -> None:
    account.make_queue()
    account.define()
    jobs = [account.submit(["sleep", "0.5"], tags={"team": team}) for team in ("red", "red", "blue")]
    account.wait_all(jobs)
    told = json.loads(usage(installation, account, "--by", "tag:team", "--output", "json"))["usage"]
    assert [(group["group"], group["attempts"]) for group in told] == [("blue", 1), ("red", 2)]
    assert told[1]["vcpuHours"] > told[0]["vcpuHours"] >= 0.3 / 3600
    policy = account.batch.create_scheduling_policy(name="fair", fairsharePolicy={"shareDecaySeconds": 600})
    account.batch.create_job_queue(
        jobQueueName="shared",
        priority=1,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": "queue"}],
        schedulingPolicyArn=policy["arn"],
    )
    shared: dict[str, Any] = {"jobQueue": "shared", "schedulingPriorityOverride": 1}
    shares = [account.submit(shareIdentifier=share, **shared) for share in ("a", "b", "b")]
    account.wait_all(shares)
    told = json.loads(usage(installation, account, "--by", "share", "--output", "json"))["usage"]
    assert {group.get("group", ""): group["attempts"] for group in told} == {"": 3, "a": 1, "b": 2}
    lines = usage(installation, account).splitlines()
    assert lines[0].split() == ["GROUP", "ATTEMPTS", "VCPU", "HOURS", "GIB", "HOURS", "GPU", "HOURS"]
    assert lines[1].split()[:2] == ["queue", "3"]
