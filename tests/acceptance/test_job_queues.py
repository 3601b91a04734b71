"""The four operations on job queues, as boto3 users see them."""

from typing import Any

import pytest

from support.aws import Account, pages, refused


@pytest.fixture
def environments(account: Account) -> list[str]:
    """Four compute environments; their names."""
    names = [f"environment-{letter}" for letter in "abcd"]
    for name in names:
        account.batch.create_compute_environment(computeEnvironmentName=name, type="UNMANAGED")
    return names


def order(*names: str) -> Any:
    return [{"order": place, "computeEnvironment": name} for place, name in enumerate(names, start=1)]


def describe(account: Account, *references: str) -> Any:
    return account.batch.describe_job_queues(jobQueues=references)["jobQueues"]


def test_creates_a_queue_and_returns_every_member(account: Account, environments: list[str]) -> None:
    answer = account.batch.create_job_queue(
        jobQueueName="high", priority=0, computeEnvironmentOrder=order(*environments[:2]), tags={"team": "blue"}
    )
    arn = f"arn:aws:batch:us-east-1:{account.access_key}:job-queue/high"
    assert (answer["jobQueueName"], answer["jobQueueArn"]) == ("high", arn)
    environment_arns = [arn.replace("job-queue/high", f"compute-environment/{name}") for name in environments[:2]]
    assert describe(account, "high") == [
        {
            "jobQueueName": "high",
            "jobQueueArn": arn,
            "state": "ENABLED",
            "status": "VALID",
            "statusReason": "JobQueue Healthy",
            "priority": 0,
            "computeEnvironmentOrder": order(*environment_arns),
            "tags": {"team": "blue"},
            "jobQueueType": "ECS",
        }
    ]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "computeEnvironmentOrder is required."),
        (order(*"abcd"), "Only 3 environments are allowed in job queue request."),
        ([*order("a"), *order("b")], "Duplicate ComputeEnvironment order values."),
        (order("a", "a"), "Duplicate ComputeEnvironments within order list."),
        (order("nothing"), "Compute Environments must be created and valid before attaching them to a job queue"),
    ],
)
def test_refuses_an_order_that_makes_no_sense(
    account: Account, environments: list[str], entries: Any, message: str
) -> None:
    named = {name[-1]: name for name in environments}
    entries = [
        entry | {"computeEnvironment": named.get(entry["computeEnvironment"], entry["computeEnvironment"])}
        for entry in entries
    ]
    with refused(message):
        account.batch.create_job_queue(jobQueueName="queue", priority=1, computeEnvironmentOrder=entries)
    assert describe(account) == []


def test_refuses_a_second_queue_of_the_same_name(account: Account, queue: str) -> None:
    with refused("Object already exists"):
        account.batch.create_job_queue(jobQueueName=queue, priority=1, computeEnvironmentOrder=order(queue))


def test_describes_queues_page_by_page(account: Account, environments: list[str]) -> None:
    for number in range(3):
        account.batch.create_job_queue(
            jobQueueName=f"queue-{number}", priority=1, computeEnvironmentOrder=order(environments[0])
        )
    seen = list(pages(account.batch.describe_job_queues, "jobQueues", maxResults=2))
    assert [[queue["jobQueueName"] for queue in page] for page in seen] == [["queue-0", "queue-1"], ["queue-2"]]


def test_an_update_changes_only_the_members_that_are_sent(account: Account, environments: list[str]) -> None:
    account.batch.create_job_queue(jobQueueName="q", priority=5, computeEnvironmentOrder=order(*environments[:2]))
    account.batch.update_job_queue(jobQueue="q", priority=0)
    account.batch.update_job_queue(jobQueue="q", computeEnvironmentOrder=order(environments[2]))
    (queue,) = describe(account, "q")
    assert queue["priority"] == 0
    assert queue["state"] == "ENABLED"
    (entry,) = queue["computeEnvironmentOrder"]
    assert entry["computeEnvironment"].endswith(f"compute-environment/{environments[2]}")


def test_refuses_to_update_an_unknown_queue(account: Account) -> None:
    with refused("job-queue/nothing does not exist"):
        account.batch.update_job_queue(jobQueue="nothing", state="DISABLED")


def test_deletes_a_queue_only_when_disabled_and_without_unfinished_jobs(account: Account, queue: str) -> None:
    account.define()
    job_id = account.submit(["sleep", "600"])
    with refused("Cannot delete, job queue must be DISABLED"):
        account.batch.delete_job_queue(jobQueue=queue)
    account.batch.update_job_queue(jobQueue=queue, state="DISABLED")
    with refused("Cannot delete, job queue has jobs that have not completed"):
        account.batch.delete_job_queue(jobQueue=queue)
    account.batch.terminate_job(jobId=job_id, reason="the queue goes")
    account.wait(job_id)
    account.batch.delete_job_queue(jobQueue=queue)
    assert describe(account) == []
    assert account.describe(job_id)["status"] == "FAILED"


def test_what_is_made_again_under_the_name_of_what_was_deleted_knows_nothing_of_it(account: Account) -> None:
    def delete_all() -> None:
        account.batch.update_job_queue(jobQueue="queue", state="DISABLED")
        account.batch.delete_job_queue(jobQueue="queue")
        account.batch.update_compute_environment(computeEnvironment="queue", state="DISABLED")
        account.batch.delete_compute_environment(computeEnvironment="queue")
        # Of what is gone already, too.
        account.batch.delete_job_queue(jobQueue="queue")
        account.batch.delete_compute_environment(computeEnvironment="queue")

    account.make_queue()
    first = account.define()
    old = account.submit(jobName="old")
    account.wait(old)
    account.batch.tag_resource(resourceArn=describe(account)[0]["jobQueueArn"], tags={"of": "the old one"})
    delete_all()
    account.make_queue(priority=7)
    (queue,) = describe(account)
    assert (queue["priority"], queue["tags"]) == (7, {})
    assert account.job_ids() == []
    everything: Any = [{"name": "JOB_NAME", "values": ["*"]}]
    assert account.batch.list_jobs(jobQueue="queue", filters=everything)["jobSummaryList"] == []
    assert account.describe(old)["status"] == "SUCCEEDED"

    account.batch.deregister_job_definition(jobDefinition=first)
    assert account.define() == "definition:2"
    new = account.submit(jobName="new")
    assert account.wait(new)["status"] == "SUCCEEDED"
    assert account.job_ids() == [new]
    assert [
        job["jobId"] for job in account.batch.list_jobs(jobQueue="queue", filters=everything)["jobSummaryList"]
    ] == [new]
    delete_all()
    assert describe(account) == []


def test_a_disabled_queue_refuses_submissions_from_the_moment_of_the_answer(account: Account, queue: str) -> None:
    account.define()
    account.batch.update_job_queue(jobQueue=queue, state="DISABLED")
    with refused(f"JobQueue {queue} is not in ENABLED state"):
        account.submit()
    account.batch.update_job_queue(jobQueue=queue, state="ENABLED")
    assert account.wait(account.submit())["status"] == "SUCCEEDED"


def test_deleting_an_unknown_queue_succeeds(account: Account) -> None:
    account.batch.delete_job_queue(jobQueue="nothing")
