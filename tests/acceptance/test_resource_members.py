"""Every member of the operations on resources: what is sent comes back; what is sent empty goes away."""

from typing import Any, Final

import pytest

from support.aws import Account

# Rules and members are the same wherever the registry runs.
pytestmark = pytest.mark.parametrize("installation", ["one process"], indirect=True)

REGION_AND_SERVICE: Final = "arn:aws:batch:us-east-1"

EC2: Final[Any] = {
    "type": "SPOT",
    "allocationStrategy": "SPOT_CAPACITY_OPTIMIZED",
    "minvCpus": 0,
    "maxvCpus": 16,
    "desiredvCpus": 2,
    "instanceTypes": ["optimal"],
    "imageId": "ami-1",
    "subnets": ["subnet-1"],
    "securityGroupIds": ["sg-1"],
    "ec2KeyPair": "key",
    "instanceRole": "ecsInstanceRole",
    "tags": {"Name": "an instance"},
    "placementGroup": "group",
    "bidPercentage": 0,
    "spotIamFleetRole": "fleet",
    "launchTemplate": {
        "launchTemplateId": "lt-1",
        "version": "$Latest",
        "userdataType": "EKS_NODEADM",
        "overrides": [{"launchTemplateName": "other", "version": "1", "targetInstanceTypes": ["m5.large"]}],
    },
    "ec2Configuration": [{"imageType": "ECS_AL2023", "imageIdOverride": "ami-2"}],
    "scalingPolicy": {"minScaleDownDelayMinutes": 20},
}
FARGATE: Final[Any] = {"type": "FARGATE", "maxvCpus": 16, "subnets": ["s-1"], "securityGroupIds": ["sg-1"]}
LIMITS: Final[Any] = [
    {
        "reason": "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT",
        "state": "RUNNABLE",
        "maxTimeSeconds": 600,
        "action": "CANCEL",
    }
]
LINUX: Final[Any] = {
    "devices": [{"hostPath": "/dev/null", "containerPath": "/dev/none", "permissions": ["READ", "WRITE"]}],
    "initProcessEnabled": True,
    "sharedMemorySize": 64,
    "tmpfs": [{"containerPath": "/run", "size": 8, "mountOptions": ["noexec"]}],
    "maxSwap": 0,
    "swappiness": 0,
}
LOGS: Final[Any] = {
    "logDriver": "awslogs",
    "options": {"awslogs-group": "g"},
    "secretOptions": [{"name": "token", "valueFrom": "arn:aws:ssm:us-east-1:123456789012:parameter/t"}],
}
VOLUMES: Final[Any] = [
    {"name": "scratch", "host": {"sourcePath": "/mnt"}},
    {
        "name": "shared",
        "efsVolumeConfiguration": {
            "fileSystemId": "fs-1",
            "rootDirectory": "/",
            "transitEncryption": "ENABLED",
            "transitEncryptionPort": 0,
            "authorizationConfig": {"accessPointId": "ap-1", "iam": "ENABLED"},
        },
    },
    {
        "name": "bucket",
        "s3filesVolumeConfiguration": {
            "fileSystemArn": "arn:aws:s3files:us-east-1:123456789012:file-system/f",
            "rootDirectory": "/",
            "transitEncryptionPort": 1,
            "accessPointArn": "arn:aws:s3files:us-east-1:123456789012:access-point/a",
        },
    },
]
SECRETS: Final[Any] = [{"name": "PASSWORD", "valueFrom": "arn:aws:secretsmanager:us-east-1:123456789012:secret:s"}]
REQUIREMENTS: Final[Any] = [
    {"type": "VCPU", "value": "0.5"},
    {"type": "MEMORY", "value": "1024"},
]
CONTAINER: Final[Any] = {
    "image": "busybox@sha256:0",
    "command": ["echo", "Ref::word"],
    "jobRoleArn": "arn:aws:iam::123456789012:role/job",
    "executionRoleArn": "arn:aws:iam::123456789012:role/pull",
    "volumes": VOLUMES,
    "environment": [{"name": "COLOUR", "value": ""}],
    "mountPoints": [{"containerPath": "/scratch", "readOnly": True, "sourceVolume": "scratch"}],
    "readonlyRootFilesystem": False,
    "privileged": False,
    "ulimits": [{"name": "nofile", "softLimit": 0, "hardLimit": 200}],
    "user": "nobody",
    "instanceType": "m5.large",
    "resourceRequirements": REQUIREMENTS,
    "linuxParameters": LINUX,
    "logConfiguration": LOGS,
    "secrets": SECRETS,
    "enableExecuteCommand": False,
    "repositoryCredentials": {"credentialsParameter": "arn:aws:secretsmanager:us-east-1:123456789012:secret:r"},
}
ON_FARGATE: Final[Any] = {
    "networkConfiguration": {"assignPublicIp": "ENABLED"},
    "fargatePlatformConfiguration": {"platformVersion": "LATEST"},
    "ephemeralStorage": {"sizeInGiB": 21},
    "runtimePlatform": {"operatingSystemFamily": "LINUX", "cpuArchitecture": "ARM64"},
}
TASK: Final[Any] = {
    "containers": [
        {
            "name": "main",
            "image": "busybox",
            "command": ["true"],
            "dependsOn": [{"containerName": "first", "condition": "SUCCESS"}],
            "environment": [{"name": "A", "value": "B"}],
            "essential": True,
            "firelensConfiguration": {"type": "fluentbit", "options": {"a": "b"}},
            "linuxParameters": LINUX,
            "logConfiguration": LOGS,
            "mountPoints": [{"containerPath": "/s", "sourceVolume": "scratch"}],
            "privileged": False,
            "readonlyRootFilesystem": True,
            "repositoryCredentials": {"credentialsParameter": "arn:aws:secretsmanager:us-east-1:1:secret:r"},
            "resourceRequirements": REQUIREMENTS,
            "secrets": SECRETS,
            "ulimits": [{"name": "core", "softLimit": 0, "hardLimit": 0}],
            "user": "0:0",
            "startTimeout": 2,
            "stopTimeout": 2,
        },
        {"name": "first", "image": "busybox", "essential": False, "resourceRequirements": REQUIREMENTS},
    ],
    "ephemeralStorage": {"sizeInGiB": 200},
    "executionRoleArn": "arn:aws:iam::123456789012:role/pull",
    "platformVersion": "LATEST",
    "ipcMode": "task",
    "taskRoleArn": "arn:aws:iam::123456789012:role/task",
    "pidMode": "task",
    "runtimePlatform": {"cpuArchitecture": "X86_64"},
    "volumes": VOLUMES[:1],
    "enableExecuteCommand": True,
}
COMMON: Final[Any] = {
    "parameters": {"word": ""},
    "schedulingPriority": 0,
    "retryStrategy": {
        "attempts": 3,
        "evaluateOnExit": [
            {"onStatusReason": "Host EC2*", "onReason": "*", "onExitCode": "1*", "action": "retry"},
        ],
    },
    "propagateTags": True,
    "timeout": {"attemptDurationSeconds": 60},
    "tags": {"team": "blue"},
    "consumableResourceProperties": {"consumableResourceList": [{"consumableResource": "licence", "quantity": 1}]},
}


def environment(account: Account, **members: Any) -> Any:
    created: Any = {"computeEnvironmentName": "environment", "type": "UNMANAGED", **members}
    account.batch.create_compute_environment(**created)
    return described_environment(account)


def described_environment(account: Account) -> Any:
    (found,) = account.batch.describe_compute_environments()["computeEnvironments"]
    return found


def updated_resources(account: Account, **resources: Any) -> Any:
    changed: Any = {"computeEnvironment": "environment", "computeResources": resources}
    account.batch.update_compute_environment(**changed)
    return described_environment(account)["computeResources"]


def queue(account: Account, **members: Any) -> Any:
    order = [{"order": 0, "computeEnvironment": "environment"}]
    created: Any = {"jobQueueName": "queue", "priority": 0, "computeEnvironmentOrder": order, **members}
    account.batch.create_job_queue(**created)
    return described_queue(account)


def described_queue(account: Account) -> Any:
    (found,) = account.batch.describe_job_queues()["jobQueues"]
    return found


def definition(account: Account, **members: Any) -> Any:
    registered: Any = {"jobDefinitionName": "definition", **members}
    account.batch.register_job_definition(**registered)
    (found,) = account.batch.describe_job_definitions(jobDefinitionName="definition")["jobDefinitions"]
    return found


def test_every_member_of_a_managed_environment_comes_back(account: Account) -> None:
    members: Any = {
        "type": "MANAGED",
        "state": "DISABLED",
        "computeResources": EC2,
        "serviceRole": "role",
        "tags": {"a": ""},
        "context": "a context",
        "ecsSettings": {"containerInsights": "ENHANCED"},
    }
    found = environment(account, **members)
    assert {name: found[name] for name in members} == members


def test_every_member_of_an_unmanaged_environment_comes_back(account: Account) -> None:
    found = environment(account, unmanagedvCpus=0)
    assert found["unmanagedvCpus"] == 0
    assert "computeResources" not in found
    account.batch.update_compute_environment(computeEnvironment="environment", unmanagedvCpus=8, context="")
    found = described_environment(account)
    assert (found["unmanagedvCpus"], found["context"]) == (8, "")


def test_an_update_takes_every_member_and_leaves_the_others(account: Account) -> None:
    environment(account, type="MANAGED", computeResources=EC2)
    changed: Any = {
        "type": "EC2",
        "allocationStrategy": "BEST_FIT_PROGRESSIVE",
        "minvCpus": 1,
        "maxvCpus": 8,
        "desiredvCpus": 1,
        "instanceTypes": ["m5"],
        "imageId": "ami-3",
        "subnets": ["subnet-2", "subnet-3"],
        "securityGroupIds": ["sg-2"],
        "ec2KeyPair": "other",
        "instanceRole": "otherRole",
        "tags": {"b": "c"},
        "placementGroup": "other",
        "bidPercentage": 50,
        "launchTemplate": {"launchTemplateName": "name"},
        "ec2Configuration": [{"imageType": "ECS_AL2"}],
        "scalingPolicy": {"minScaleDownDelayMinutes": 0},
    }
    assert updated_resources(account) == EC2
    assert updated_resources(account, **changed, updateToLatestImageVersion=True) == {
        **changed,
        "spotIamFleetRole": "fleet",
    }


@pytest.mark.parametrize("member", ["ec2KeyPair", "imageId", "placementGroup", "tags", "ec2Configuration"])
def test_an_update_with_an_empty_member_takes_it_away(account: Account, member: str) -> None:
    environment(account, type="MANAGED", computeResources=EC2)
    empty = type(EC2[member])()
    assert updated_resources(account, **{member: empty}) == {k: v for k, v in EC2.items() if k != member}


def test_security_groups_may_stand_in_a_launch_template_alone(account: Account) -> None:
    environment(account, type="MANAGED", computeResources=EC2)
    assert "securityGroupIds" not in updated_resources(account, securityGroupIds=[])
    resources = updated_resources(account, securityGroupIds=["sg-1"], launchTemplate={"launchTemplateId": ""})
    assert "launchTemplate" not in resources


def test_on_fargate_an_empty_list_changes_nothing(account: Account) -> None:
    environment(account, type="MANAGED", computeResources=FARGATE)
    assert updated_resources(account, subnets=[], securityGroupIds=[]) == FARGATE
    assert updated_resources(account, maxvCpus=4, type="FARGATE_SPOT") == {
        **FARGATE,
        "maxvCpus": 4,
        "type": "FARGATE_SPOT",
    }


def test_the_policy_for_updates_has_defaults_and_is_merged(account: Account) -> None:
    environment(account)
    account.batch.update_compute_environment(
        computeEnvironment="environment", updatePolicy={"jobExecutionTimeoutMinutes": 1}
    )
    account.batch.update_compute_environment(
        computeEnvironment="environment", updatePolicy={"terminateJobsOnUpdate": True}, state="DISABLED"
    )
    found = described_environment(account)
    assert found["updatePolicy"] == {"terminateJobsOnUpdate": True, "jobExecutionTimeoutMinutes": 1}
    assert found["state"] == "DISABLED"


def test_every_member_of_a_queue_comes_back(account: Account) -> None:
    environment(account)
    policy = account.batch.create_scheduling_policy(name="policy")["arn"]
    members: Any = {
        "state": "DISABLED",
        "priority": 0,
        "schedulingPolicyArn": policy,
        "jobQueueType": "ECS",
        "tags": {"a": "b"},
        "jobStateTimeLimitActions": LIMITS,
    }
    found = queue(account, **members)
    prefix = f"{REGION_AND_SERVICE}:{account.access_key}"
    assert found == {
        **members,
        "jobQueueName": "queue",
        "jobQueueArn": f"{prefix}:job-queue/queue",
        "status": "VALID",
        "statusReason": "JobQueue Healthy",
        "computeEnvironmentOrder": [{"order": 0, "computeEnvironment": f"{prefix}:compute-environment/environment"}],
    }


def test_the_least_queue_has_nothing_but_its_defaults(account: Account) -> None:
    environment(account, type="MANAGED", computeResources=FARGATE)
    found = queue(account)
    assert (found["state"], found["priority"], found["tags"]) == ("ENABLED", 0, {})
    assert found["jobQueueType"] == "ECS_FARGATE"
    assert not {"schedulingPolicyArn", "jobStateTimeLimitActions"} & found.keys()


def test_an_update_of_a_queue_replaces_its_policy_and_its_limits(account: Account) -> None:
    environment(account)
    first, second = (account.batch.create_scheduling_policy(name=name)["arn"] for name in ("first", "second"))
    queue(account, schedulingPolicyArn=first)
    changed: Any = {"jobQueue": "queue", "schedulingPolicyArn": second, "jobStateTimeLimitActions": LIMITS}
    account.batch.update_job_queue(**changed)
    found = described_queue(account)
    assert (found["schedulingPolicyArn"], found["jobStateTimeLimitActions"]) == (second, LIMITS)
    account.batch.delete_scheduling_policy(arn=first)
    account.batch.update_job_queue(jobQueue="queue", priority=1)
    assert described_queue(account)["jobStateTimeLimitActions"] == LIMITS
    account.batch.update_job_queue(jobQueue="queue", jobStateTimeLimitActions=[])
    assert "jobStateTimeLimitActions" not in described_queue(account)


def test_every_member_of_a_definition_comes_back(account: Account) -> None:
    members = {"type": "container", "containerProperties": CONTAINER, "platformCapabilities": ["EC2"], **COMMON}
    assert definition(account, **members) == {
        **members,
        "jobDefinitionName": "definition",
        "jobDefinitionArn": f"{REGION_AND_SERVICE}:{account.access_key}:job-definition/definition:1",
        "revision": 1,
        "status": "ACTIVE",
        "containerOrchestrationType": "ECS",
    }


def test_every_member_of_a_definition_for_fargate_comes_back(account: Account) -> None:
    properties = {**CONTAINER, **ON_FARGATE}
    found = definition(account, type="container", containerProperties=properties, platformCapabilities=["FARGATE"])
    assert found["containerProperties"] == properties


def test_a_definition_of_several_containers_comes_back_and_takes_no_jobs_yet(account: Account) -> None:
    properties = {"taskProperties": [TASK]}
    found = definition(account, type="container", ecsProperties=properties)
    assert found["ecsProperties"] == properties
    assert "containerProperties" not in found
    account.make_queue()
    with pytest.raises(account.batch.exceptions.ClientException, match="has ecsProperties: such jobs are not supp"):
        account.submit()


def test_a_definition_of_several_nodes_comes_back_and_takes_no_jobs_yet(account: Account) -> None:
    consumable = COMMON["consumableResourceProperties"]
    properties = {
        "numNodes": 4,
        "mainNode": 0,
        "nodeRangeProperties": [
            {"targetNodes": "0", "container": CONTAINER, "consumableResourceProperties": consumable},
            {"targetNodes": "1:", "ecsProperties": {"taskProperties": [TASK]}, "instanceTypes": ["m5.large"]},
        ],
    }
    found = definition(account, type="multinode", nodeProperties=properties)
    assert (found["type"], found["nodeProperties"]) == ("multinode", properties)
    assert "containerProperties" not in found
    account.make_queue()
    with pytest.raises(account.batch.exceptions.ClientException, match="is of type multinode"):
        account.submit()


def test_the_least_definition_has_the_lists_that_clients_index(account: Account) -> None:
    found = definition(account, type="container", containerProperties={"image": "i", "vcpus": 1, "memory": 4})
    prefix = f"{REGION_AND_SERVICE}:{account.access_key}"
    lists = ("command", "volumes", "environment", "mountPoints", "ulimits", "resourceRequirements", "secrets")
    assert found == {
        "jobDefinitionName": "definition",
        "jobDefinitionArn": f"{prefix}:job-definition/definition:1",
        "revision": 1,
        "status": "ACTIVE",
        "type": "container",
        "parameters": {},
        "containerProperties": {"image": "i", "vcpus": 1, "memory": 4, **{name: [] for name in lists}},
        "tags": {},
        "propagateTags": False,
        "containerOrchestrationType": "ECS",
    }


def test_environments_and_queues_are_found_by_their_arns_for_every_operation(account: Account) -> None:
    environment_arn = environment(account)["computeEnvironmentArn"]
    queue_arn = queue(account)["jobQueueArn"]
    batch = account.batch
    updated_queue = batch.update_job_queue(jobQueue=queue_arn, state="DISABLED")
    assert (updated_queue["jobQueueName"], updated_queue["jobQueueArn"]) == ("queue", queue_arn)
    updated = batch.update_compute_environment(computeEnvironment=environment_arn, state="DISABLED")
    assert (updated["computeEnvironmentName"], updated["computeEnvironmentArn"]) == ("environment", environment_arn)
    assert batch.describe_job_queues(jobQueues=[queue_arn, "queue"])["jobQueues"] == [described_queue(account)]
    batch.delete_job_queue(jobQueue=queue_arn)
    batch.delete_compute_environment(computeEnvironment=environment_arn)
    assert batch.describe_compute_environments()["computeEnvironments"] == []
    account.define()
    batch.deregister_job_definition(
        jobDefinition=f"{REGION_AND_SERVICE}:{account.access_key}:job-definition/definition:1"
    )
    assert batch.describe_job_definitions(status="ACTIVE")["jobDefinitions"] == []
