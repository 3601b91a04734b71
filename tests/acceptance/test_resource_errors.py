"""Every refusal of the operations on resources, in AWS's words, as boto3 users see it."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from typing import Any, Final

import pytest
from botocore.exceptions import ClientError

from support.aws import Account, refused
from support.installation import Installation

# Rules and members are the same wherever the registry runs.
pytestmark = pytest.mark.parametrize("installation", ["one process"], indirect=True)

_accounts: Final = count(300_000_000_001)

EC2: Final = {
    "type": "EC2",
    "minvCpus": 0,
    "maxvCpus": 16,
    "instanceTypes": ["optimal"],
    "subnets": ["subnet-1"],
    "securityGroupIds": ["sg-1"],
    "instanceRole": "ecsInstanceRole",
}
FARGATE: Final = {"type": "FARGATE", "maxvCpus": 16, "subnets": ["subnet-1"], "securityGroupIds": ["sg-1"]}
LIMIT: Final = {
    "reason": "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT",
    "state": "RUNNABLE",
    "maxTimeSeconds": 600,
    "action": "CANCEL",
}
ONE_VCPU: Final = [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "512"}]
ROLE: Final = "arn:aws:iam::123456789012:role/r"
NAMED: Final = {"image": "busybox", "resourceRequirements": ONE_VCPU}
NOT_USABLE: Final = "Compute Environments must be created and valid before attaching them to a job queue"
BATCH: Final = "arn:aws:batch:us-east-1:123456789012"


@pytest.fixture(scope="module")
def account(installation: Installation) -> Iterator[Account]:
    """An account for all tests of the module, with what they refer to; none of them changes anything."""
    account = Account(installation.http_url, str(next(_accounts)))
    batch = account.batch
    for name, resources in (("ec2", EC2), ("fargate", FARGATE)):
        created: Any = {"computeEnvironmentName": name, "type": "MANAGED", "computeResources": resources}
        batch.create_compute_environment(**created)
    for name in ("e1", "e2", "e3", "e4"):
        batch.create_compute_environment(computeEnvironmentName=name, type="UNMANAGED")
    batch.create_compute_environment(computeEnvironmentName="used", type="UNMANAGED", state="DISABLED")
    batch.create_job_queue(jobQueueName="queue", priority=1, computeEnvironmentOrder=order("used"))
    policy = batch.create_scheduling_policy(name="policy")["arn"]
    batch.create_job_queue(
        jobQueueName="shares", priority=1, computeEnvironmentOrder=order("e1"), schedulingPolicyArn=policy
    )
    account.define()
    yield account
    account.close()


def order(*names: str) -> Any:
    return [{"order": place, "computeEnvironment": name} for place, name in enumerate(names, start=1)]


def without(members: Any, *names: str) -> Any:
    return {name: value for name, value in members.items() if name not in names}


def environment(**members: Any) -> Any:
    return {"computeEnvironmentName": "new", "type": "UNMANAGED", **members}


def managed(resources: Any = EC2, **members: Any) -> Any:
    return environment(type="MANAGED", computeResources={**resources, **members})


def queue(**members: Any) -> Any:
    return {"jobQueueName": "new", "priority": 1, "computeEnvironmentOrder": order("e1"), **members}


def definition(**members: Any) -> Any:
    return {"jobDefinitionName": "new", "type": "container", **members}


def container(**members: Any) -> Any:
    return definition(containerProperties={"image": "busybox", "vcpus": 1, "memory": 128, **members})


def fargate(vcpus: str, memory: str, **members: Any) -> Any:
    requirements = [{"type": "VCPU", "value": vcpus}, {"type": "MEMORY", "value": memory}]
    properties = {"image": "busybox", "resourceRequirements": requirements, **members}
    return definition(containerProperties=properties, platformCapabilities=["FARGATE"])


def task(*containers: Any, **members: Any) -> Any:
    return definition(ecsProperties={"taskProperties": [{"containers": list(containers or [NAMED]), **members}]})


def nodes(*targets: str, number: int = 4, main: int = 0, **members: Any) -> Any:
    ranges = [{"targetNodes": target, "container": NAMED, **members} for target in targets]
    properties = {"numNodes": number, "mainNode": main, "nodeRangeProperties": ranges}
    return {"jobDefinitionName": "new", "type": "multinode", "nodeProperties": properties}


def retries(*entries: Any, attempts: int | None = 2) -> Any:
    strategy: Any = {"evaluateOnExit": list(entries)} if entries else {}
    if attempts is not None:
        strategy["attempts"] = attempts
    return container() | {"retryStrategy": strategy}


def shares(*identifiers: str, **members: Any) -> Any:
    distribution = [{"shareIdentifier": identifier} for identifier in identifiers]
    return {"name": "new", "fairsharePolicy": {"shareDistribution": distribution, **members}}


def consumables(*names: str) -> Any:
    entries = [{"consumableResource": name, "quantity": 1} for name in names]
    return container() | {"consumableResourceProperties": {"consumableResourceList": entries}}


ENVIRONMENTS: Final = [
    ("create_compute_environment", environment(computeEnvironmentName="a b"), "Compute environment name should match"),
    ("create_compute_environment", environment(computeEnvironmentName="n" * 129), "name should match a valid pattern."),
    ("create_compute_environment", environment(computeEnvironmentName=""), "computeEnvironmentName is required."),
    ("create_compute_environment", environment(type="OWN"), "type 'OWN' is not valid. Valid values: [MANAGED, UNM"),
    ("create_compute_environment", environment(state="ON"), "state 'ON' is not valid. Valid values: [ENABLED, DIS"),
    ("create_compute_environment", environment(computeEnvironmentName="ec2"), "Object already exists"),
    ("create_compute_environment", environment(type="MANAGED"), "computeResources is required."),
    (
        "create_compute_environment",
        managed() | {"unmanagedvCpus": 4},
        "unmanagedvCpus is not applicable for managed Compute Environments",
    ),
    ("create_compute_environment", environment(unmanagedvCpus=-1), "unmanagedvCpus should be greater than or equal"),
    ("create_compute_environment", managed(type="METAL"), "Compute resource type METAL is not valid. Valid types: [EC"),
    ("create_compute_environment", managed(without(EC2, "minvCpus")), "Resource minvCpus is required."),
    ("create_compute_environment", managed(minvCpus=-1), "minvCpus should be greater than or equal to 0."),
    ("create_compute_environment", managed(minvCpus=17), "maxvCpus should be greater than or equal to minvCpus."),
    ("create_compute_environment", managed(desiredvCpus=17), "desiredvCpus should be between minvCpus and maxvCpus."),
    ("create_compute_environment", managed(instanceTypes=[]), "Resource instanceTypes are required."),
    ("create_compute_environment", managed(without(EC2, "instanceTypes")), "Resource instanceTypes are required."),
    ("create_compute_environment", managed(subnets=[]), "subnets is required."),
    ("create_compute_environment", managed(securityGroupIds=[]), "Security group ids are required."),
    ("create_compute_environment", managed(instanceRole=""), "Instance role is required."),
    ("create_compute_environment", managed(bidPercentage=101), "Bid percentage must be between 0 to 100."),
    ("create_compute_environment", managed(allocationStrategy="FIRST"), "Allocation strategy FIRST is not valid."),
    (
        "create_compute_environment",
        managed(type="SPOT", allocationStrategy="BEST_FIT"),
        "compute resource spotIamFleetRole is required.",
    ),
    (
        "create_compute_environment",
        managed(launchTemplate={"launchTemplateId": "lt-1", "launchTemplateName": "n"}),
        "Either launchTemplateId or launchTemplateName is required, not both.",
    ),
    (
        "create_compute_environment",
        managed(launchTemplate={"launchTemplateId": "lt-1", "overrides": [{"launchTemplateName": "n"}]}),
        "targetInstanceTypes is required in a launch template override.",
    ),
    (
        "create_compute_environment",
        managed(ec2Configuration=[{"imageType": "ECS_AL2"}] * 3),
        "Number of ec2Configuration entries must not exceed 2.",
    ),
    (
        "create_compute_environment",
        managed(scalingPolicy={"minScaleDownDelayMinutes": 19}),
        "minScaleDownDelayMinutes must be 0 or between 20 and 10080.",
    ),
    *(
        ("create_compute_environment", managed(FARGATE, **{member: value}), f"{member} is not applicable for Fargate.")
        for member, value in {
            "minvCpus": 0,
            "desiredvCpus": 0,
            "instanceTypes": ["optimal"],
            "ec2KeyPair": "key",
            "instanceRole": "role",
            "tags": {"a": "b"},
            "placementGroup": "group",
            "bidPercentage": 50,
            "spotIamFleetRole": "role",
            "launchTemplate": {"launchTemplateId": "lt-1"},
            "ec2Configuration": [{"imageType": "ECS_AL2"}],
            "allocationStrategy": "BEST_FIT",
        }.items()
    ),
    ("create_compute_environment", managed(FARGATE, subnets=["s"] * 17), "Number of subnets must not exceed 16"),
    ("create_compute_environment", managed(FARGATE, securityGroupIds=["s"] * 6), "security group ids must not exceed"),
    (
        "create_compute_environment",
        environment(eksConfiguration={"eksClusterArn": "a", "kubernetesNamespace": "n"}),
        "eksConfiguration is not supported by this server",
    ),
    (
        "create_compute_environment",
        managed(capacityTags={"a": "b"}),
        "capacityTags is not supported by this server",
    ),
    ("create_compute_environment", environment(ecsSettings={"containerInsights": "SOME"}), "Container insights SOME"),
    ("create_compute_environment", environment(tags={"AWS:a": "b"}), "Tag key AWS:a is not valid: the prefix aws:"),
    ("create_compute_environment", environment(tags={"a" * 129: "b"}), "Tag keys must have 1 to 128 characters."),
    ("create_compute_environment", environment(tags={"a": "b" * 257}), "Tag values must not exceed 256 characters."),
    ("create_compute_environment", environment(tags={str(n): "" for n in range(51)}), "tags must not exceed 50."),
    ("update_compute_environment", {"computeEnvironment": "no"}, "compute-environment/no does not exist"),
    (
        "update_compute_environment",
        {"computeEnvironment": "a b"},
        "Provided name a b is not supported pattern[a-zA-Z_0",
    ),
    (
        "update_compute_environment",
        {"computeEnvironment": "ec2", "computeResources": {"minvCpus": 17}},
        "maxvCpus should be greater than or equal to minvCpus.",
    ),
    (
        "update_compute_environment",
        {"computeEnvironment": "ec2", "computeResources": {"desiredvCpus": 17}},
        "desiredvCpus should be between minvCpus and maxvCpus.",
    ),
    (
        "update_compute_environment",
        {"computeEnvironment": "ec2", "computeResources": {"securityGroupIds": []}},
        "Security group ids are required.",
    ),
    (
        "update_compute_environment",
        {"computeEnvironment": "ec2", "computeResources": {"instanceRole": ""}},
        "Instance role is required.",
    ),
    (
        "update_compute_environment",
        {"computeEnvironment": "ec2", "computeResources": {"type": "FARGATE"}},
        "Compute resource type EC2 cannot be changed to FARGATE.",
    ),
    (
        "update_compute_environment",
        {"computeEnvironment": "fargate", "computeResources": {"minvCpus": 1}},
        "minvCpus is not applicable for Fargate.",
    ),
    (
        "update_compute_environment",
        {"computeEnvironment": "ec2", "unmanagedvCpus": 1},
        "unmanagedvCpus is not applicable for managed Compute Environments",
    ),
    (
        "update_compute_environment",
        {"computeEnvironment": "e1", "updatePolicy": {"jobExecutionTimeoutMinutes": 7201}},
        "jobExecutionTimeoutMinutes must be between 1 and 7200.",
    ),
    ("delete_compute_environment", {"computeEnvironment": "e2"}, "Cannot delete, compute environment must be DISABLED"),
    ("delete_compute_environment", {"computeEnvironment": "used"}, "Cannot delete, found existing JobQueue relationsh"),
    ("describe_compute_environments", {"maxResults": 0}, "maxResults must be between 1 and 100."),
    ("describe_compute_environments", {"maxResults": 101}, "maxResults must be between 1 and 100."),
    ("describe_compute_environments", {"nextToken": "no-token"}, "nextToken is not valid for this request."),
    ("describe_compute_environments", {"computeEnvironments": ["a"] * 101}, "Maximum number of computeEnvironments"),
]

QUEUES: Final = [
    ("create_job_queue", queue(jobQueueName="a.b"), "Job Queue name should match a valid pattern."),
    ("create_job_queue", queue(jobQueueName="queue"), "Object already exists"),
    ("create_job_queue", queue(priority=-1), "Priority must be greater than or equal to 0."),
    ("create_job_queue", queue(state="OPEN"), "state 'OPEN' is not valid. Valid values: [ENABLED, DISABLED]"),
    ("create_job_queue", queue(computeEnvironmentOrder=[]), "computeEnvironmentOrder is required."),
    ("create_job_queue", without(queue(), "computeEnvironmentOrder"), "computeEnvironmentOrder is required."),
    (
        "create_job_queue",
        queue(computeEnvironmentOrder=order("e1", "e2", "e3", "e4")),
        "Only 3 environments are allowed in job queue request.",
    ),
    (
        "create_job_queue",
        queue(computeEnvironmentOrder=[*order("e1"), *order("e2")]),
        "Duplicate ComputeEnvironment order values.",
    ),
    (
        "create_job_queue",
        queue(computeEnvironmentOrder=order("e1", "e1")),
        "Duplicate ComputeEnvironments within order list.",
    ),
    ("create_job_queue", queue(computeEnvironmentOrder=order("none")), NOT_USABLE),
    ("create_job_queue", queue(computeEnvironmentOrder=order(f"{BATCH}:compute-environment/e1")), NOT_USABLE),
    (
        "create_job_queue",
        queue(computeEnvironmentOrder=order("ec2", "fargate")),
        "Fargate and EC2 compute environments can not be mixed.",
    ),
    ("create_job_queue", queue(schedulingPolicyArn="policy"), "SchedulingPolicy policy not found."),
    (
        "create_job_queue",
        queue(schedulingPolicyArn=f"{BATCH}:scheduling-policy/no"),
        f"SchedulingPolicy {BATCH}:scheduling-policy/no not found.",
    ),
    ("create_job_queue", queue(jobStateTimeLimitActions=[LIMIT] * 2), "Duplicate job state limit actions are not all"),
    (
        "create_job_queue",
        queue(jobStateTimeLimitActions=[{**LIMIT, "action": "TERMINATE"}]),
        "Invalid job action. Valid job actions: [CANCEL]",
    ),
    ("create_job_queue", queue(jobStateTimeLimitActions=[{**LIMIT, "state": "RUNNING"}]), "Valid job states: [RUNNABL"),
    ("create_job_queue", queue(jobStateTimeLimitActions=[{**LIMIT, "reason": "BORED"}]), "Valid reasons: [CAPACITY:IN"),
    (
        "create_job_queue",
        queue(jobStateTimeLimitActions=[{**LIMIT, "maxTimeSeconds": 599}]),
        "maxTimeSeconds must be between 600 and 86400.",
    ),
    ("create_job_queue", queue(jobQueueType="EKS"), "Job queue type EKS is not supported by this server."),
    ("create_job_queue", queue(jobQueueType="ECS_FARGATE"), "does not fit its compute environments"),
    (
        "create_job_queue",
        queue(serviceEnvironmentOrder=[{"order": 1, "serviceEnvironment": "s"}]),
        "serviceEnvironmentOrder is not supported by this server",
    ),
    ("create_job_queue", queue(tags={"k" * 129: "b"}), "Tag keys must have 1 to 128 characters."),
    ("update_job_queue", {"jobQueue": "no"}, "job-queue/no does not exist"),
    ("update_job_queue", {"jobQueue": f"{BATCH}:job-queue/queue"}, f"{BATCH}:job-queue/queue does not exist"),
    ("update_job_queue", {"jobQueue": "queue", "priority": -1}, "Priority must be greater than or equal to 0."),
    ("update_job_queue", {"jobQueue": "queue", "computeEnvironmentOrder": []}, "computeEnvironmentOrder is required."),
    ("update_job_queue", {"jobQueue": "queue", "computeEnvironmentOrder": order("no")}, NOT_USABLE),
    ("update_job_queue", {"jobQueue": "queue", "schedulingPolicyArn": "x"}, "A scheduling policy cannot be added to"),
    ("update_job_queue", {"jobQueue": "shares", "schedulingPolicyArn": ""}, "can be replaced, but not removed."),
    ("update_job_queue", {"jobQueue": "shares", "schedulingPolicyArn": "x"}, "SchedulingPolicy x not found."),
    ("update_job_queue", {"jobQueue": "queue", "jobStateTimeLimitActions": [LIMIT] * 2}, "Duplicate job state limit"),
    ("delete_job_queue", {"jobQueue": "queue"}, "Cannot delete, job queue must be DISABLED"),
    ("describe_job_queues", {"maxResults": 101}, "maxResults must be between 1 and 100."),
    ("describe_job_queues", {"jobQueues": ["a"] * 101}, "Maximum number of jobQueues supported is 100."),
]

DEFINITIONS: Final = [
    (container() | {"jobDefinitionName": "a:1"}, "Job Definition name should match a valid pattern."),
    (container() | {"type": "script"}, "Job definition type script is not valid."),
    (definition(), "ECS Container Image must be provided."),
    (container(image=""), "ECS Container Image must be provided."),
    (task() | {"containerProperties": NAMED}, "Cannot use both ECS containerProperties and ecsProperties"),
    (container() | {"eksProperties": {}}, "Cannot use both ECS containerProperties and eksProperties"),
    (definition(eksProperties={}), "eksProperties is not supported by this server: it has no Kubernetes."),
    (container() | {"type": "multinode"}, "Node properties of multinode job is required."),
    (nodes("0:") | {"type": "container"}, "nodeProperties can only be used with job definition type multinode."),
    (nodes("0:") | {"containerProperties": NAMED}, "Cannot use both nodeProperties and containerProperties"),
    (definition(containerProperties={"image": "i", "memory": 4}), "vCPU is required."),
    (definition(containerProperties={"image": "i", "vcpus": 1}), "Memory is required."),
    (container(memory=3), "Memory must be at least 4 Mib, got 3 Mib."),
    (container(vcpus=0), "vCPU must be at least 1, got 0."),
    (
        definition(containerProperties={"image": "i", "resourceRequirements": [{"type": "VCPU", "value": "one"}]}),
        "Value one for type VCPU in resourceRequirement is not valid. Please provide a numeric value.",
    ),
    (
        definition(containerProperties={"image": "i", "resourceRequirements": ONE_VCPU + ONE_VCPU[:1]}),
        "Cannot provide duplicates in resourceRequirements.",
    ),
    (
        container(resourceRequirements=ONE_VCPU[:1]),
        "Cannot use both ECS containerProperties vcpus and resourceRequirement VCPU.",
    ),
    (
        container(resourceRequirements=[{"type": "DISK", "value": "1"}]),
        "Type DISK in resourceRequirement is not valid.",
    ),
    (container(environment=[{"value": "x"}]), "Environment variable name is required."),
    (container(environment=[{"name": "AWS_BATCH_X"}]), "Environment variable cannot start with AWS_BATCH"),
    (retries(attempts=0), "RetryAttempts must be between 1 and 10."),
    (retries(attempts=11), "RetryAttempts must be between 1 and 10."),
    (retries({"onExitCode": "1", "action": "EXIT"}, attempts=None), "RetryAttempts must be provided with retry strat"),
    (retries({"action": "EXIT"}), "EvaluateOnExit should contain at least one of onExitCode, onReason or onStatusRe"),
    (retries({"onReason": "x" * 513, "action": "EXIT"}), "Evaluate on exit condition cannot exceed 512 characters."),
    (retries({"onExitCode": "1-2", "action": "EXIT"}), "Evaluate on exit condition contains restricted characters."),
    (
        container() | {"timeout": {"attemptDurationSeconds": 59}},
        "AttemptDurationSeconds in Timeout must be at least 60",
    ),
    (container() | {"schedulingPriority": 10_000}, "Scheduling priority must be between 0 and 9999."),
    (container() | {"schedulingPriority": -1}, "Scheduling priority must be between 0 and 9999."),
    (
        container() | {"platformCapabilities": ["LAMBDA"]},
        "Capability LAMBDA is not valid. Valid capabilities: [FARGATE, EC2]",
    ),
    (container() | {"platformCapabilities": ["EC2", "FARGATE"]}, "Exactly 1 capability must be provided."),
    (container(volumes=[{"name": "a b"}]), "Volume name should match a valid pattern."),
    (container(volumes=[{"name": "a"}, {"name": "a"}]), "Duplicate volume names."),
    (
        container(volumes=[{"name": "v", "host": {}, "efsVolumeConfiguration": {"fileSystemId": "fs-1"}}]),
        "When the volume parameter is specified, only one volume configuration type should be used.",
    ),
    (container(volumes=[{"name": "v", "efsVolumeConfiguration": {"fileSystemId": ""}}]), "fileSystemId is required."),
    (
        container(
            volumes=[
                {
                    "name": "v",
                    "efsVolumeConfiguration": {"fileSystemId": "fs-1", "authorizationConfig": {"iam": "ENABLED"}},
                }
            ]
        ),
        "transitEncryption must be ENABLED when iam is ENABLED.",
    ),
    (container(mountPoints=[{"containerPath": "/x"}]), "sourceVolume is required."),
    (container(mountPoints=[{"containerPath": "/x", "sourceVolume": "v"}]), "Source volume v of a mount point is not"),
    (container(secrets=[{"name": "S", "valueFrom": "arn"}]), "executionRoleArn cannot be empty when using secrets or"),
    (
        container(logConfiguration={"logDriver": "splunk", "secretOptions": [{"name": "S", "valueFrom": "arn"}]}),
        "executionRoleArn cannot be empty when using secrets or secretOptions",
    ),
    (
        container(linuxParameters={"maxSwap": 1, "swappiness": 101}),
        "Invalid swappiness: 101, must be between 0 and 100",
    ),
    (container(linuxParameters={"maxSwap": 1}), "When container specified swap memory, swappiness value is required."),
    (container(linuxParameters={"maxSwap": -1}), "Invalid swap memory size: -1, must be non-negative."),
    (
        container(linuxParameters={"tmpfs": [{"containerPath": "/t", "size": 0}]}),
        "Size of a tmpfs is invalid. The size is required and must be a positive integer.",
    ),
    (container(linuxParameters={"devices": [{"hostPath": "/d", "permissions": ["ALL"]}]}), "permissions ALL is not va"),
    (
        container(logConfiguration={"logDriver": "awslogs", "options": {"mode": "x"}}),
        "Log driver awslogs disallows options: mode",
    ),
    (container(logConfiguration={"logDriver": "paper"}), "logDriver paper is not valid. Valid values: [json-file, sys"),
    (container(user="A B"), "User 'A B' does not match regex"),
    (container(ulimits=[{"name": "x", "softLimit": 1, "hardLimit": 1}]), "Ulimit name x is not valid."),
    (container(ulimits=[{"name": "nofile", "softLimit": 2, "hardLimit": 1}]), "Ulimit softLimit must be between 0 and"),
    (container(networkConfiguration={"assignPublicIp": "ENABLED"}), "networkConfiguration not applicable for EC2."),
    (container(ephemeralStorage={"sizeInGiB": 20}), "Ephemeral storage size must be between 21 and 200 GiB."),
    (container(runtimePlatform={"cpuArchitecture": "MIPS"}), "cpuArchitecture MIPS is not valid."),
    (fargate("3", "8192"), "vCPU 3 is not valid for Fargate. Valid values: [0.25, 0.5, 1, 2, 4, 8, 16]"),
    (fargate("1", "2000"), "Memory 2000 MiB is not valid for Fargate with 1 vCPU."),
    (container() | {"platformCapabilities": ["FARGATE"]}, "vcpus is not applicable for Fargate. Use resource requir"),
    (
        container() | {"parameters": {"p": "x" * 25_000}},
        "Job definition size must be less than 24 KiB, got 25 KiB",
    ),
    (definition(ecsProperties={"taskProperties": []}), "taskProperties is required."),
    (definition(ecsProperties={"taskProperties": [{"containers": [NAMED]}] * 2}), "Exactly 1 taskProperties must be p"),
    (task(*[NAMED] * 11), "Number of containers must be between 1 and 10."),
    (task({**NAMED, "image": ""}), "image is required."),
    (task({**NAMED, "name": "a"}, {**NAMED, "name": "a"}), "Container names must be unique in a task."),
    (task({**NAMED, "essential": False}), "At least one container must be essential."),
    (task({**NAMED, "name": "a", "dependsOn": [{"containerName": "b", "condition": "START"}]}), "Container b does not"),
    (
        task(
            NAMED | {"name": "a", "dependsOn": [{"containerName": "b", "condition": "SUCCESS"}]}, NAMED | {"name": "b"}
        ),
        "Condition SUCCESS cannot be set on the essential container b.",
    ),
    (
        task(
            NAMED | {"name": "a", "dependsOn": [{"containerName": "b", "condition": "START"}]},
            NAMED | {"name": "b", "dependsOn": [{"containerName": "a", "condition": "START"}]},
        ),
        "Containers depend on each other: ",
    ),
    (task({"image": "i"}), "vCPU is required."),
    (task(NAMED | {"secrets": [{"name": "S", "valueFrom": "arn"}]}), "executionRoleArn cannot be empty when using"),
    (task(NAMED | {"stopTimeout": 1}), "stopTimeout must be at least 2 seconds."),
    (task(NAMED | {"firelensConfiguration": {"type": "rsyslog"}}), "Log router rsyslog is not valid."),
    (task(ipcMode="all"), "ipcMode all is not valid. Valid values: [host, task, none]"),
    (task(pidMode="none"), "pidMode none is not valid. Valid values: [host, task]"),
    (task(networkMode="host"), "networkMode is not applicable for EC2 and Fargate."),
    (task(networkConfiguration={}), "networkConfiguration not applicable for EC2."),
    (nodes("0:", number=0), "Number of nodes must be between 1 and 1000."),
    (nodes("0:", number=1001), "Number of nodes must be between 1 and 1000."),
    (nodes("0:", main=4), "Main node index is out of range, must be less than numNodes."),
    (nodes(*["0:"] * 6), "Maximum allowed size of node range properties is 5"),
    (nodes("a:b"), "targetNodes should contain only digits."),
    (nodes(":3", "1:4"), "Node range 1:4 is out of range"),
    (nodes(":1", "3"), "Node ranges must cover all nodes: there is none for node 2."),
    (nodes("0:", ecsProperties={"taskProperties": [{"containers": [NAMED]}]}), "Cannot use both ECS containerProperti"),
    (nodes("0:", instanceTypes=["m5"]), "instanceTypes can only be used with ecsProperties."),
    (nodes("0:", container={"image": "i", "memory": 4}), "vCPU is required."),
    (consumables(*"abcdef"), "Each ConsumableResourceProperty can have at most 5 consumableResources"),
    (consumables("a", "a"), "Cannot have duplicate consumableResource in consumableResourceProperties"),
    (container() | {"tags": {"aws:x": "y"}}, "Tag key aws:x is not valid: the prefix aws: is reserved."),
]

OTHERS: Final = [
    (
        "register_job_definition",
        nodes("0:") | {"nodeProperties": {"numNodes": 1, "mainNode": 0, "nodeRangeProperties": [{"targetNodes": "0"}]}},
        "Must specify container for node range 0",
    ),
    ("deregister_job_definition", {"jobDefinition": "definition"}, "must be given with its revision."),
    ("deregister_job_definition", {"jobDefinition": "definition:99"}, "JobDefinition definition:99 not found."),
    ("deregister_job_definition", {"jobDefinition": f"{BATCH}:job-definition/no:1"}, "job-definition/no:1 not found."),
    ("describe_job_definitions", {"status": "GONE"}, "Status must be ACTIVE or INACTIVE."),
    ("describe_job_definitions", {"jobDefinitionName": "a b"}, "Job Definition name should match a valid pattern."),
    ("describe_job_definitions", {"jobDefinitions": ["name:latest"]}, "Provided name name:latest is not supported pat"),
    ("describe_job_definitions", {"maxResults": 0}, "maxResults must be between 1 and 100."),
    ("create_scheduling_policy", {"name": "a b"}, "Scheduling policy name should match a valid pattern."),
    ("create_scheduling_policy", {"name": "policy"}, "Object already exists"),
    ("create_scheduling_policy", {"name": "new", "tags": {"aws:a": ""}}, "the prefix aws: is reserved."),
    (
        "create_scheduling_policy",
        {"name": "new", "quotaSharePolicy": {"idleResourceAssignmentStrategy": "FIFO"}},
        "quotaSharePolicy is not supported by this server.",
    ),
    ("create_scheduling_policy", shares("a", "a"), "Cannot have two or more identical shareIdentifiers."),
    ("create_scheduling_policy", shares("ab*", "abc"), "Share identifier ab* matches another share identifier abc"),
    ("create_scheduling_policy", shares("a*b"), "ShareIdentifier name should match a valid pattern."),
    ("create_scheduling_policy", shares(*map(str, range(501))), "ShareDistribution size cannot be greater than 500."),
    ("create_scheduling_policy", shares(shareDecaySeconds=604_801), "ShareDecaySeconds should be between 0 and 604800"),
    ("create_scheduling_policy", shares(computeReservation=100), "ComputeReservation should be between 0 and 99."),
    *(
        (
            "create_scheduling_policy",
            shares(shareDistribution=[{"shareIdentifier": "a", "weightFactor": weight}]),
            "Weight factor should be between 0.0001 and 999.9999.",
        )
        for weight in (0.0, 1000.0)
    ),
    ("update_scheduling_policy", {"arn": f"{BATCH}:scheduling-policy/no"}, "scheduling-policy/no does not exist"),
    ("update_scheduling_policy", {"arn": "policy"}, "policy does not exist"),
    ("describe_scheduling_policies", {"arns": []}, "arns is required."),
    ("describe_scheduling_policies", {"arns": ["a"] * 101}, "Maximum number of arns supported is 100."),
    ("list_scheduling_policies", {"maxResults": 101}, "maxResults must be between 1 and 100."),
    ("list_scheduling_policies", {"nextToken": "x"}, "nextToken is not valid for this request."),
]


@pytest.mark.parametrize(
    ("operation", "request_", "text"),
    [*ENVIRONMENTS, *QUEUES, *(("register_job_definition", *row) for row in DEFINITIONS), *OTHERS],
)
def test_refuses_in_the_words_of_aws(account: Account, operation: str, request_: Any, text: str) -> None:
    with refused(text):
        getattr(account.batch, operation)(**request_)


def test_a_policy_that_a_queue_names_cannot_be_deleted(account: Account) -> None:
    arn = account.batch.list_scheduling_policies()["schedulingPolicies"][0]["arn"]
    with refused("Cannot delete, found existing JobQueue relationship (shares)"):
        account.batch.delete_scheduling_policy(arn=arn)


def test_a_refused_request_leaves_nothing_behind(account: Account) -> None:
    with suppress(ClientError):
        account.batch.register_job_definition(**container(memory=3))
    names = [found["jobDefinitionName"] for found in account.batch.describe_job_definitions()["jobDefinitions"]]
    environments = account.batch.describe_compute_environments()["computeEnvironments"]
    assert names == ["definition"]
    assert "new" not in {found["computeEnvironmentName"] for found in environments}
    assert len(account.batch.describe_job_queues()["jobQueues"]) == 2
