"""What an AWS tutorial does: a MANAGED environment of EC2 instances, a queue over it, and a job in it."""

import itertools

from support.aws import Account
from support.waiting import soon


def test_a_script_written_for_aws_runs_its_job_on_the_local_agent(account: Account) -> None:
    batch = account.batch
    batch.create_compute_environment(
        computeEnvironmentName="C4OnDemand",
        type="MANAGED",
        state="ENABLED",
        computeResources={
            "type": "EC2",
            "minvCpus": 0,
            "maxvCpus": 128,
            "desiredvCpus": 48,
            "instanceTypes": ["c4.large", "c4.xlarge", "c4.2xlarge", "c4.4xlarge", "c4.8xlarge"],
            "subnets": ["subnet-220c0e0a", "subnet-1a95556d", "subnet-978f6dce"],
            "securityGroupIds": ["sg-cf5093b2"],
            "ec2KeyPair": "id_rsa",
            "instanceRole": "ecsInstanceRole",
            "tags": {"Name": "Batch Instance - C4OnDemand"},
        },
        serviceRole="arn:aws:iam::012345678910:role/AWSBatchServiceRole",
    )
    soon(
        lambda: (
            batch.describe_compute_environments(computeEnvironments=["C4OnDemand"])["computeEnvironments"][0]["status"]
            == "VALID"
        ),
        "the environment is VALID",
    )
    batch.create_job_queue(
        jobQueueName="HighPriority",
        state="ENABLED",
        priority=1,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": "C4OnDemand"}],
    )
    batch.register_job_definition(
        jobDefinitionName="sleep10",
        type="container",
        containerProperties={
            "image": "busybox",
            "vcpus": 1,
            "memory": 128,
            "command": ["sh", "-c", "echo $AWS_BATCH_CE_NAME"],
        },
    )
    job_id = batch.submit_job(jobName="example", jobQueue="HighPriority", jobDefinition="sleep10")["jobId"]
    job = account.wait(job_id)
    assert (job["status"], job["container"]["exitCode"]) == ("SUCCEEDED", 0)
    assert account.log_lines(job) == ["C4OnDemand"]


def test_an_environment_is_a_ceiling_for_what_runs_in_it(account: Account) -> None:
    account.batch.create_compute_environment(
        computeEnvironmentName="small",
        type="MANAGED",
        computeResources={
            "type": "EC2",
            "minvCpus": 0,
            "maxvCpus": 1,
            "instanceTypes": ["optimal"],
            "subnets": ["subnet-220c0e0a"],
            "securityGroupIds": ["sg-cf5093b2"],
            "instanceRole": "ecsInstanceRole",
        },
    )
    account.batch.create_job_queue(
        jobQueueName="queue", priority=1, computeEnvironmentOrder=[{"order": 1, "computeEnvironment": "small"}]
    )
    account.define()
    jobs = account.wait_all([account.submit(["sleep", "0.1"]) for _ in range(3)]).values()
    spans = sorted((job["startedAt"], job["stoppedAt"]) for job in jobs)
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))
