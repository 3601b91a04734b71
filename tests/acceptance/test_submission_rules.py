"""SubmitJob's rules as boto3 users meet them: what is legal, what is refused and in which words, what is frozen."""

from typing import Any

import pytest

from support.aws import Account, Json, refused

pytestmark = pytest.mark.usefixtures("queue")

FOREIGN = "arn:aws:batch:us-east-1:999999999999:"
MANY_TAGS = {str(number): "" for number in range(51)}
RULE = {"onExitCode": "1", "action": "EXIT"}


def overrides(**members: Any) -> Json:
    return {"containerOverrides": members}


def rules(*entries: Json, **members: Any) -> Json:
    return {"retryStrategy": {"attempts": 2, "evaluateOnExit": list(entries), **members}}


def requirement(kind: str, value: str) -> Json:
    return {"type": kind, "value": value}


REFUSED: list[tuple[Json, str]] = [
    ({"jobName": "a.b"}, "Job name should match valid pattern"),
    ({"jobName": "_a"}, "Job name should match valid pattern"),
    ({"jobQueue": "a.b"}, "Provided name a.b is not supported pattern[a-zA-Z_0-9-]{1,128}"),
    ({"jobQueue": f"{FOREIGN}job-queue/queue"}, f"JobQueue {FOREIGN}job-queue/queue not found."),
    ({"jobQueue": "nothing"}, "JobQueue nothing not found."),
    ({"shareIdentifier": "a b"}, "ShareIdentifier name should match a valid pattern."),
    (
        {"shareIdentifier": "a"},
        "Job with shareIdentifier or schedulingPriority can only be submitted to",
    ),
    ({"schedulingPriorityOverride": 0}, "can only be submitted to job queue with fair share scheduling policy."),
    ({"schedulingPriorityOverride": 10_000}, "Scheduling priority must be between 0 and 9999."),
    ({"jobDefinition": "definition:latest"}, "Provided name definition:latest is not supported pattern"),
    ({"jobDefinition": "definition:9"}, "JobDefinition definition:9 not found."),
    ({"jobDefinition": "definition:12345678901"}, "JobDefinition definition:12345678901 not found."),
    ({"jobDefinition": "nothing"}, "JobDefinition name nothing does not exist or is not in ACTIVE status"),
    ({"jobDefinition": f"{FOREIGN}job-definition/definition:1"}, "not found."),
    ({"parameters": {"a": "x" * 40_000}}, "Job size must be less than 30 KiB, got 40 KiB"),
    (overrides(command=["echo", "Ref::lost"]), "Unable to substitute value. No parameter found for reference lost"),
    (overrides(command=["echo", ""]), "Command cannot be empty"),
    (overrides(environment=[{"value": "x"}]), "Environment variable name is required."),
    (
        overrides(environment=[{"name": "AWS_BATCH_JOB_ID", "value": "x"}]),
        "Environment variable cannot start with AWS_BATCH",
    ),
    (overrides(vcpus=0), "vCPU must be at least 1, got 0."),
    (overrides(memory=3), "Memory must be at least 4 Mib, got 3 Mib."),
    (
        overrides(vcpus=1, resourceRequirements=[requirement("VCPU", "1")]),
        "Cannot use both ECS container",
    ),
    (
        overrides(resourceRequirements=[requirement("GPU", "1")] * 2),
        "Cannot provide duplicates in resource",
    ),
    (
        overrides(resourceRequirements=[requirement("VCPU", "x")]),
        "Value x for type VCPU in resource",
    ),
    (overrides(instanceType="m5.large"), "instanceType is for multi-node parallel jobs"),
    ({"nodeOverrides": {"numNodes": 2}}, "nodeOverrides is for multi-node parallel jobs"),
    ({"ecsPropertiesOverride": {}}, "ecsPropertiesOverride is for jobs of several containers"),
    ({"eksPropertiesOverride": {}}, "eksPropertiesOverride is for jobs on Kubernetes"),
    ({"retryStrategy": {"attempts": 0}}, "RetryAttempts must be between 1 and 10."),
    ({"retryStrategy": {"evaluateOnExit": [RULE]}}, "RetryAttempts must be provided with retry strategy."),
    (rules({"action": "EXIT"}), "EvaluateOnExit should contain at least one of onExitCode, onReason or onStatusReason"),
    (rules({"onReason": "x" * 513, "action": "EXIT"}), "Evaluate on exit condition cannot exceed 512 characters."),
    (rules({"onExitCode": "x", "action": "EXIT"}), "Evaluate on exit condition contains restricted characters."),
    (rules({"onExitCode": "1", "action": "STOP"}), "Action STOP is not valid."),
    (rules(*[RULE] * 6), "EvaluateOnExit can have at most 5 entries, got 6."),
    ({"timeout": {"attemptDurationSeconds": 59}}, "AttemptDurationSeconds in Timeout must be at least 60 seconds."),
    ({"tags": MANY_TAGS}, "Number of tags must not exceed 50."),
    ({"tags": {"aws:x": ""}}, "Tag key aws:x is not valid"),
    # Of several faults the first is told: members in the order of the model, then what they refer to.
    ({"jobName": "a.b", "jobQueue": "nothing", "tags": MANY_TAGS}, "Job name should match valid pattern"),
    ({"timeout": {"attemptDurationSeconds": 1}, "tags": MANY_TAGS}, "AttemptDurationSeconds in Timeout"),
    ({"jobQueue": "nothing", "tags": MANY_TAGS}, "Number of tags must not exceed 50."),
    ({"jobQueue": "nothing", "jobDefinition": "nothing"}, "JobQueue nothing not found."),
    ({"jobDefinition": "nothing", "dependsOn": [{"jobId": "nobody"}]}, "JobDefinition name nothing does not exist"),
]


@pytest.mark.parametrize(("members", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_a_submission_against_the_rules_is_refused_in_aws_words_and_leaves_nothing(
    account: Account, members: Json, message: str
) -> None:
    account.define()
    with refused(message):
        account.submit(**members)
    assert account.job_ids() == []


def test_all_members_of_a_submission_are_taken_and_shown(account: Account) -> None:
    account.define(
        command=["false"],
        parameters={"kept": "1", "replaced": "1"},
        retryStrategy={"attempts": 5},
        timeout={"attemptDurationSeconds": 60},
        containerProperties={"environment": [{"name": "KEPT", "value": "1"}, {"name": "REPLACED", "value": "1"}]},
    )
    rule = {"onStatusReason": "Host EC2*", "onReason": "*", "onExitCode": "1*", "action": "retry"}
    job_id = account.submit(
        jobName="A-name_1",
        parameters={"replaced": "2", "unused": ""},
        containerOverrides={
            "vcpus": 2,
            "memory": 32,
            "command": ["echo", "Ref::kept/Ref::replaced"],
            "environment": [{"name": "REPLACED", "value": "2"}, {"name": "ADDED", "value": ""}],
        },
        retryStrategy={"attempts": 2, "evaluateOnExit": [rule]},
        timeout={"attemptDurationSeconds": 100},
        propagateTags=True,
        tags={"team": "x", "empty": ""},
    )
    job = account.wait(job_id)
    assert job["status"] == "SUCCEEDED"
    assert job["jobName"] == "A-name_1"
    assert job["parameters"] == {"kept": "1", "replaced": "2", "unused": ""}
    container = job["container"]
    assert (container["vcpus"], container["memory"]) == (2, 32)
    assert container["command"] == ["echo", "1/2"]
    assert [(entry["name"], entry["value"]) for entry in container["environment"]] == [
        ("KEPT", "1"),
        ("REPLACED", "2"),
        ("ADDED", ""),
    ]
    assert job["retryStrategy"] == {"attempts": 2, "evaluateOnExit": [rule]}
    assert job["timeout"] == {"attemptDurationSeconds": 100}
    assert job["propagateTags"] is True
    assert job["tags"] == {"team": "x", "empty": ""}


def test_what_was_submitted_stays_as_it_was_whatever_becomes_of_the_definition(account: Account) -> None:
    definition = account.define(command=["echo", "first"])
    job_id = account.submit(containerOverrides={"vcpus": 1000})
    account.define(command=["echo", "second"])
    account.batch.deregister_job_definition(jobDefinition=definition)
    job = account.describe(job_id)
    assert (job["jobDefinition"].rpartition("/")[2], job["container"]["command"]) == (definition, ["echo", "first"])
    with refused(f"JobDefinition name {definition} does not exist or is not in ACTIVE status"):
        account.submit(jobDefinition=definition)
    assert account.describe(account.submit(containerOverrides={"vcpus": 1000}))["container"]["command"][1] == "second"
    account.batch.terminate_jobs(jobs=account.job_ids(), reason="seen")


def test_a_submission_names_its_definition_in_every_form(account: Account) -> None:
    prefix = f"arn:aws:batch:us-east-1:{account.access_key}:job-definition/"
    for _ in range(2):
        account.define(command=["true"])
    for reference, revision in (("definition", 2), ("definition:1", 1), ("definition:2", 2)):
        for named in (reference, prefix + reference):
            job = account.describe(account.submit(jobDefinition=named))
            assert job["jobDefinition"] == f"{prefix}definition:{revision}"
    for lost in (f"{prefix}definition:3", f"{prefix}definition:x", f"{prefix}definition:1:1", f"{prefix}definition:"):
        with refused(f"JobDefinition {lost} not found."):
            account.submit(jobDefinition=lost)


def test_a_disabled_queue_takes_nothing(account: Account) -> None:
    account.define()
    account.batch.update_job_queue(jobQueue="queue", state="DISABLED")
    with refused("JobQueue queue is not in ENABLED state"):
        account.submit()


def test_a_queue_with_a_scheduling_policy_wants_a_share_and_a_priority(account: Account) -> None:
    policy = account.batch.create_scheduling_policy(name="fair", fairsharePolicy={})["arn"]
    order: Any = [{"order": 1, "computeEnvironment": "queue"}]
    account.batch.create_job_queue(
        jobQueueName="fair", priority=1, computeEnvironmentOrder=order, schedulingPolicyArn=policy
    )
    account.define()
    account.define("ranked", schedulingPriority=7)
    no_share = "shareIdentifier must be specified."
    no_priority = "Either schedulingPriority in job definition or schedulingPriorityOverride is required."
    with refused(f"{no_share} {no_priority}"):
        account.submit(jobQueue="fair")
    with refused(no_priority):
        account.submit(jobQueue="fair", shareIdentifier="a")
    with refused(no_share):
        account.submit(jobQueue="fair", jobDefinition="ranked")
    ranked = account.wait(account.submit(jobQueue="fair", jobDefinition="ranked", shareIdentifier="a"))
    assert (ranked["status"], ranked["shareIdentifier"], ranked["schedulingPriority"]) == ("SUCCEEDED", "a", 7)
    first = account.wait(account.submit(jobQueue="fair", shareIdentifier="b-1_*", schedulingPriorityOverride=0))
    assert (first["shareIdentifier"], first["schedulingPriority"]) == ("b-1_*", 0)
    filters: Any = [{"name": "SHARE_IDENTIFIER", "values": ["a"]}]
    for members in ({}, {"jobStatus": "SUCCEEDED"}):
        (found,) = account.batch.list_jobs(jobQueue="fair", filters=filters, **members)["jobSummaryList"]  # type: ignore[arg-type]  # boto3's own dicts
        assert (found["jobId"], found["shareIdentifier"]) == (ranked["jobId"], "a")
    assert account.batch.list_jobs(jobQueue="fair", filters=filters, jobStatus="FAILED")["jobSummaryList"] == []
    running = [
        account.submit(["sleep", "600"], jobQueue="fair", jobDefinition="ranked", shareIdentifier=share)
        for share in ("b", "a", "b")
    ]
    for job_id in running:
        account.wait(job_id, "RUNNING")
    usage = account.batch.get_job_queue_snapshot(jobQueue="fair")["queueUtilization"]["fairshareUtilization"]
    assert usage["activeShareCount"] == 2
    shares = [(share["shareIdentifier"], share["capacityUsage"]) for share in usage["topCapacityUtilization"]]
    assert shares == [(name, [{"capacityUnit": "VCPU", "quantity": used}]) for name, used in (("b", 2.0), ("a", 1.0))]
    account.batch.terminate_jobs(jobs=running, reason="seen")


@pytest.mark.parametrize(
    ("members", "what"),
    [
        (
            {
                "type": "multinode",
                "nodeProperties": {
                    "numNodes": 2,
                    "mainNode": 0,
                    "nodeRangeProperties": [
                        {"targetNodes": "0:", "container": {"image": "busybox", "vcpus": 1, "memory": 16}}
                    ],
                },
            },
            "is of type multinode",
        ),
        (
            {
                "type": "container",
                "ecsProperties": {
                    "taskProperties": [
                        {
                            "containers": [
                                {
                                    "image": "busybox",
                                    "name": "main",
                                    "resourceRequirements": [requirement("VCPU", "1"), requirement("MEMORY", "16")],
                                }
                            ]
                        }
                    ]
                },
            },
            "has ecsProperties",
        ),
        (
            {
                "type": "container",
                "containerProperties": {"image": "busybox", "vcpus": 1, "memory": 16},
                "consumableResourceProperties": {
                    "consumableResourceList": [{"consumableResource": "licence", "quantity": 1}]
                },
            },
            "has consumableResourceProperties",
        ),
    ],
    ids=["multinode", "ecsProperties", "consumableResourceProperties"],
)
def test_a_definition_whose_jobs_cannot_run_here_yet_is_refused_by_name(
    account: Account, members: Json, what: str
) -> None:
    account.batch.register_job_definition(jobDefinitionName="later", **members)
    with refused(f"job-definition/later:1 {what}"):
        account.submit(jobDefinition="later")
