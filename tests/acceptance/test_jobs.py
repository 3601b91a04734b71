"""SubmitJob, DescribeJobs and ListJobs, and what the jobs really do, as boto3 users see them."""

import json
import urllib.request
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError

from support.aws import Account, Json, boto3_session, pages, refused
from support.waiting import soon

pytestmark = pytest.mark.usefixtures("queue")


def test_a_job_runs_and_every_member_of_its_description_is_right(account: Account) -> None:
    account.define(command=["sh", "-c", "echo out; echo err >&2"])
    answer = account.batch.submit_job(jobName="hello", jobQueue="queue", jobDefinition="definition")
    job_id = answer["jobId"]
    arn = f"arn:aws:batch:us-east-1:{account.access_key}"
    assert (answer["jobName"], answer["jobArn"]) == ("hello", f"{arn}:job/{job_id}")
    job: Any = account.wait(job_id)
    assert account.log_lines(job, lambda lines: len(lines) == 2) == ["out", "err"]

    times = [job.pop(member) for member in ("createdAt", "startedAt", "stoppedAt")]
    assert all(type(time) is int for time in times)
    assert times == sorted(times)
    container = job.pop("container")
    assert container.pop("logStreamName").startswith("definition/default/")
    cluster = account.cluster_of("queue")
    assert container.pop("taskArn").startswith(cluster.replace(":cluster/", ":task/") + "/")
    assert container.pop("containerInstanceArn").startswith(cluster.replace(":cluster/", ":container-instance/") + "/")
    assert container == {
        "image": "busybox",
        "vcpus": 1,
        "memory": 16,
        "command": ["sh", "-c", "echo out; echo err >&2"],
        "volumes": [],
        "environment": [],
        "mountPoints": [],
        "ulimits": [],
        "resourceRequirements": [],
        "secrets": [],
        "networkInterfaces": [],
        "exitCode": 0,
    }
    (attempt,) = job.pop("attempts")
    assert attempt["container"]["exitCode"] == 0
    assert attempt["container"]["networkInterfaces"] == []
    assert times[0] <= attempt["startedAt"] <= attempt["stoppedAt"] <= times[2]
    assert job == {
        "jobArn": f"{arn}:job/{job_id}",
        "jobId": job_id,
        "jobName": "hello",
        "jobQueue": f"{arn}:job-queue/queue",
        "jobDefinition": f"{arn}:job-definition/definition:1",
        "status": "SUCCEEDED",
        "statusReason": "Essential container in task exited",
        "dependsOn": [],
        "parameters": {},
        "retryStrategy": {"attempts": 1, "evaluateOnExit": []},
        "tags": {},
        "isCancelled": False,
        "isTerminated": False,
        "propagateTags": False,
        "platformCapabilities": [],
    }


def test_the_exit_code_decides(account: Account) -> None:
    account.define()
    job = account.wait(account.submit(["sh", "-c", "echo before; exit 3"]))
    assert (job["status"], job["container"]["exitCode"]) == ("FAILED", 3)
    assert job["statusReason"] == "Essential container in task exited"
    assert account.log_lines(job) == ["before"]


def test_a_process_killed_by_a_signal_exits_with_128_and_its_number(account: Account) -> None:
    account.define()
    assert account.wait(account.submit(["sh", "-c", "kill -9 $$"]))["container"]["exitCode"] == 137


def test_a_command_that_cannot_be_started_fails_without_exit_code(account: Account) -> None:
    account.define()
    job = account.wait(account.submit(["/no/such/program"]))
    assert (job["status"], job["statusReason"]) == ("FAILED", "Task failed to start")
    assert job["container"]["reason"].startswith("CannotStartContainerError: ")
    assert "exitCode" not in job["container"]
    assert "startedAt" not in job
    assert len(job["attempts"]) == 1


def test_a_failed_attempt_is_tried_again_in_a_new_log_stream(account: Account) -> None:
    account.define()
    job_id = account.submit(
        ["sh", "-c", 'echo attempt $AWS_BATCH_JOB_ATTEMPT; test "$AWS_BATCH_JOB_ATTEMPT" = 3'],
        retryStrategy={"attempts": 5},
    )
    job = account.wait(job_id)
    assert job["status"] == "SUCCEEDED"
    assert [attempt["container"]["exitCode"] for attempt in job["attempts"]] == [1, 1, 0]
    streams = [attempt["container"]["logStreamName"] for attempt in job["attempts"]]
    assert [account.lines_of(stream) for stream in streams] == [["attempt 1"], ["attempt 2"], ["attempt 3"]]


def test_the_first_rule_that_matches_decides_and_what_none_matches_is_tried_again(account: Account) -> None:
    account.define(retryStrategy={"attempts": 1})
    rules = [
        {"onExitCode": "4*", "action": "retry"},
        {"onStatusReason": "Essential container*", "onExitCode": "3", "action": "EXIT"},
        {"onExitCode": "44", "action": "EXIT"},
    ]
    job_id = account.submit(
        ["sh", "-c", "set -- 44 7 3 0; shift $(($AWS_BATCH_JOB_ATTEMPT - 1)); exit $1"],
        retryStrategy={"attempts": 5, "evaluateOnExit": rules},
    )
    job = account.wait(job_id)
    assert job["status"] == "FAILED"
    assert [attempt["container"]["exitCode"] for attempt in job["attempts"]] == [44, 7, 3]
    assert job["retryStrategy"] == {"attempts": 5, "evaluateOnExit": rules}


def test_the_environment_says_which_job_this_is(account: Account) -> None:
    account.define(containerProperties={"environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]})
    overrides = {"environment": [{"name": "B", "value": "two words"}]}
    job_id = account.submit(["env"], containerOverrides=overrides)
    expected = {
        "A=1",
        "B=two words",
        f"AWS_BATCH_JOB_ID={job_id}",
        "AWS_BATCH_JOB_ATTEMPT=1",
        "AWS_BATCH_JQ_NAME=queue",
        "AWS_BATCH_CE_NAME=queue",
    }
    account.log_lines(account.wait(job_id), lambda lines: expected <= set(lines))


def test_parameters_are_put_in_place_of_references(account: Account) -> None:
    account.define(command=["echo", "Ref::greeting", "to-Ref::who"], parameters={"greeting": "hello", "who": "nobody"})
    job = account.wait(account.submit(parameters={"who": "you"}))
    assert account.log_lines(job) == ["hello to-you"]
    assert job["parameters"] == {"greeting": "hello", "who": "you"}
    assert job["container"]["command"] == ["echo", "hello", "to-you"]


def test_overrides_replace_what_the_definition_says(account: Account) -> None:
    account.define(command=["false"])
    job = account.wait(account.submit(["true"], containerOverrides={"vcpus": 2, "memory": 32}))
    assert job["status"] == "SUCCEEDED"
    assert (job["container"]["vcpus"], job["container"]["memory"]) == (2, 32)


def test_a_job_waits_for_all_that_it_depends_on(account: Account) -> None:
    account.define()
    first = account.submit(["sleep", "0.3"])
    second = account.submit(["sleep", "0.1"])
    last = account.submit(dependsOn=[{"jobId": first}, {"jobId": second}])
    assert account.describe(last)["status"] in {"SUBMITTED", "PENDING"}
    job = account.wait(last)
    assert job["status"] == "SUCCEEDED"
    assert [dependency["jobId"] for dependency in job["dependsOn"]] == [first, second]
    assert job["startedAt"] >= max(account.describe(job_id)["stoppedAt"] for job_id in (first, second))


def test_a_dependency_is_named_by_its_arn_too(account: Account) -> None:
    account.define()
    job_id = account.submit(containerOverrides={"vcpus": 1000})
    arn = account.describe(job_id)["jobArn"]
    dependent = account.submit(dependsOn=[{"jobId": arn}, {"jobId": job_id}])
    assert account.describe(dependent)["dependsOn"] == [{"jobId": job_id}]
    for nothing in (arn.replace("job/", "job-queue/"), arn.replace(account.access_key, "999999999999")):
        with refused(f"Job {nothing} does not exist"):
            account.submit(dependsOn=[{"jobId": nothing}])


def test_a_failed_dependency_fails_all_that_hang_on_it(account: Account) -> None:
    account.define()
    first = account.submit(["sh", "-c", "sleep 0.2; exit 1"])
    second = account.submit(dependsOn=[{"jobId": first}])
    third = account.submit(dependsOn=[{"jobId": second}])
    for job_id in (second, third):
        job = account.wait(job_id)
        assert (job["status"], job["statusReason"]) == ("FAILED", "Dependent Job failed")
        assert "startedAt" not in job


def test_a_submission_whose_answer_is_lost_makes_one_job(account: Account) -> None:
    account.define()
    config = Config(retries={"total_max_attempts": 3})
    client = boto3_session(account.access_key).client(
        "batch", endpoint_url=account.batch.meta.endpoint_url, config=config
    )
    answered: list[str] = []

    def lose_the_first_answer(request: Any, **_: object) -> None:
        if not answered:
            headers = {
                key: str(value, "ascii") if isinstance(value, bytes) else value
                for key, value in request.headers.items()
            }
            with urllib.request.urlopen(urllib.request.Request(request.url, request.body, headers)) as answer:
                answered.append(json.load(answer)["jobId"])
            raise ConnectionClosedError(endpoint_url=request.url)

    client.meta.events.register("before-send.batch.SubmitJob", lose_the_first_answer)
    answer = client.submit_job(jobName="job", jobQueue="queue", jobDefinition="definition")
    assert answer["ResponseMetadata"]["RetryAttempts"] == 1
    assert [answer["jobId"]] == answered
    other = client.submit_job(jobName="job", jobQueue="queue", jobDefinition="definition")["jobId"]
    client.close()
    account.wait_all([*answered, other])
    assert sorted(account.job_ids()) == sorted([*answered, other])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"jobQueue": "nothing"}, "JobQueue nothing not found."),
        ({"jobDefinition": "nothing"}, "JobDefinition name nothing does not exist or is not in ACTIVE status"),
        ({"jobDefinition": "definition:9"}, "JobDefinition definition:9 not found."),
        ({"jobName": "-begins-badly"}, "Job name should match valid pattern"),
        ({"jobName": "x" * 129}, "Job name should match valid pattern"),
        ({"dependsOn": [{"jobId": "00000000-0000-7000-8000-000000000000"}]}, "does not exist"),
        ({"retryStrategy": {"attempts": 11}}, "RetryAttempts must be between 1 and 10."),
        ({"timeout": {"attemptDurationSeconds": 59}}, "AttemptDurationSeconds in Timeout must be at least 60 seconds."),
        ({"containerOverrides": {"command": ["echo", "Ref::lost"]}}, "No parameter found for reference lost"),
        ({"containerOverrides": {"environment": [{"name": "AWS_BATCH_JOB_ID", "value": "x"}]}}, "AWS_BATCH"),
    ],
)
def test_a_submission_that_makes_no_sense_is_refused_and_leaves_nothing(
    account: Account, members: Json, message: str
) -> None:
    account.define()
    with refused(message):
        account.submit(**members)
    assert account.job_ids() == []


def test_descriptions_come_in_the_order_asked_without_unknown_ids(account: Account) -> None:
    account.define()
    first, second = account.submit(), account.submit()
    account.wait_all([first, second])
    unknown = "00000000-0000-7000-8000-000000000000"
    jobs = account.batch.describe_jobs(jobs=[second, unknown, first])["jobs"]
    assert [job["jobId"] for job in jobs] == [second, first]
    assert account.batch.describe_jobs(jobs=[unknown])["jobs"] == []


def test_refuses_to_describe_more_than_a_hundred_jobs(account: Account) -> None:
    with refused("Maximum number of jobs supported is 100."):
        account.batch.describe_jobs(jobs=["x"] * 101)


def test_the_front_of_a_queue_is_in_the_order_of_submission(account: Account) -> None:
    account.define()
    running = account.submit(["sleep", "600"])
    account.wait(running, "RUNNING")
    waiting = [account.submit(containerOverrides={"vcpus": vcpus}) for vcpus in (1000, 500, 1000)]
    snapshot = account.batch.get_job_queue_snapshot(jobQueue="queue")
    front = snapshot["frontOfQueue"]["jobs"]
    jobs = [account.describe(job_id) for job_id in waiting]
    assert [entry["jobArn"] for entry in front] == [job["jobArn"] for job in jobs]
    assert all(entry["earliestTimeAtPosition"] >= job["createdAt"] for entry, job in zip(front, jobs, strict=True))
    assert snapshot["frontOfQueue"]["lastUpdatedAt"] >= jobs[-1]["createdAt"]
    usage = snapshot["queueUtilization"]
    assert usage["totalCapacityUsage"] == [{"capacityUnit": "VCPU", "quantity": 1.0}]
    account.batch.terminate_jobs(jobs=[running, *waiting], reason="seen")
    account.wait_all([running, *waiting])
    with refused("nothing does not exist"):
        account.batch.get_job_queue_snapshot(jobQueue="nothing")


def test_every_job_that_can_never_run_says_why_with_awss_code_and_the_numbers(account: Account) -> None:
    account.define()
    job_ids = [account.submit(containerOverrides={"vcpus": 1000}) for _ in range(3)]
    job_ids.append(account.submit(containerOverrides={"memory": 10_000_000}))
    amounts = ["1000 vCPU and 16 MiB"] * 3 + ["1 vCPU and 10000000 MiB"]

    def reasons() -> list[str] | None:
        texts = [account.describe(job_id).get("statusReason", "") for job_id in job_ids]
        return texts if all(text.startswith("MISCONFIGURATION:") for text in texts) else None

    for reason, amount in zip(soon(reasons, "a reason for each"), amounts, strict=True):
        assert reason == (
            "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - The job resource requirement (vCPU/memory/GPU) is higher than "
            f"that can be met by the CE(s) attached to the job queue. It asks for {amount}; the largest that agents "
            "offer is 8 vCPU and 16384 MiB."
        )
    listed = account.batch.list_jobs(jobQueue="queue", jobStatus="RUNNABLE")["jobSummaryList"]
    assert {summary["statusReason"] for summary in listed} == set(reasons() or ())
    account.batch.terminate_jobs(jobs=job_ids, reason="seen")
    assert {account.describe(job_id)["statusReason"] for job_id in job_ids} == {"seen"}


def test_another_account_does_not_see_a_job(account: Account) -> None:
    account.define()
    job_id = account.submit()
    stranger = Account(account.batch.meta.endpoint_url, "999999999999")
    try:
        assert stranger.batch.describe_jobs(jobs=[job_id])["jobs"] == []
    finally:
        stranger.close()
    assert account.wait(job_id)["status"] == "SUCCEEDED"


def test_lists_one_status_newest_first_page_by_page(account: Account) -> None:
    account.define()
    job_ids = [account.submit() for _ in range(5)]
    failed = account.submit(["false"])
    account.wait_all([*job_ids, failed])
    seen = list(pages(account.batch.list_jobs, "jobSummaryList", jobQueue="queue", jobStatus="SUCCEEDED", maxResults=2))
    assert [len(page) for page in seen] == [2, 2, 1]
    assert [summary["jobId"] for page in seen for summary in page] == job_ids[::-1]
    (summary,) = account.batch.list_jobs(jobQueue="queue", jobStatus="FAILED")["jobSummaryList"]
    assert summary["jobId"] == failed
    assert summary["container"]["exitCode"] == 1


def test_lists_running_jobs_when_no_status_is_named(account: Account) -> None:
    account.define()
    job_id = account.submit(["sleep", "600"])
    account.wait(job_id, "RUNNING")
    assert [job["jobId"] for job in account.batch.list_jobs(jobQueue="queue")["jobSummaryList"]] == [job_id]
    account.batch.terminate_job(jobId=job_id, reason="seen")
    account.wait(job_id)


def test_lists_what_a_filter_lets_through_in_every_status(account: Account) -> None:
    account.define()
    account.define()
    account.define("other")
    done = account.submit(jobName="Some-1", jobDefinition="definition:1")
    account.wait(done)
    late = [
        account.submit(jobName=name, jobDefinition=definition, containerOverrides={"vcpus": 1000})
        for name, definition in (("some-2", "definition:2"), ("else", "other"), ("somebody", "other"))
    ]
    jobs = {job_id: account.describe(job_id) for job_id in (done, *late)}

    def found(name: str, *values: str, **members: Any) -> list[str]:
        filters = [{"name": name, "values": list(values)}]
        seen = pages(account.batch.list_jobs, "jobSummaryList", jobQueue="queue", filters=filters, **members)
        return [summary["jobId"] for page in seen for summary in page]

    assert found("JOB_NAME", "SOME*", maxResults=1) == [late[2], late[0], done]
    assert found("JOB_NAME", "some-1", "ELSE", jobStatus="RUNNING") == [late[1], done]
    assert found("JOB_DEFINITION", "definition") == [late[0], done]
    assert found("JOB_DEFINITION", "o*") == [late[2], late[1]]
    assert found("JOB_DEFINITION", jobs[done]["jobDefinition"]) == [done]
    assert found("JOB_DEFINITION", "Definition") == []
    middle = jobs[late[1]]["createdAt"]
    assert found("BEFORE_CREATED_AT", str(middle)) == [
        id_ for id_ in (late[0], done) if jobs[id_]["createdAt"] < middle
    ]
    assert found("AFTER_CREATED_AT", str(middle)) == [id_ for id_ in late[2:] if jobs[id_]["createdAt"] > middle]
    assert found("SHARE_IDENTIFIER", "nobody") == []
    with refused("Only one filter can be used at a time."):
        filters = [{"name": "JOB_NAME", "values": ["x"]}] * 2
        account.batch.list_jobs(jobQueue="queue", filters=filters)  # type: ignore[arg-type]  # boto3's own dicts
    account.batch.terminate_jobs(jobs=late, reason="seen")


def test_a_summary_says_all_that_there_is_to_say(account: Account) -> None:
    account.define()
    job = account.wait(account.submit(["false"]))
    (summary,) = account.batch.list_jobs(jobQueue="queue", jobStatus="FAILED")["jobSummaryList"]
    members = ("jobArn", "jobId", "jobName", "jobDefinition", "createdAt", "startedAt", "stoppedAt", "statusReason")
    assert summary == {
        **{member: job[member] for member in members},  # type: ignore[literal-required]
        "status": "FAILED",
        "container": {"exitCode": 1},
        "capacityUsage": [{"capacityUnit": "VCPU", "quantity": 1.0}],
    }


def test_refuses_to_list_an_unknown_queue_or_with_a_foreign_token(account: Account) -> None:
    with refused("nothing"):
        account.batch.list_jobs(jobQueue="nothing")
    with refused("nextToken"):
        account.batch.list_jobs(jobQueue="queue", nextToken="made up")
    wrong: list[Any] = [{}, {"jobQueue": "queue", "arrayJobId": "x"}, {"arrayJobId": "x", "multiNodeJobId": "x"}]
    for members in wrong:
        with refused("Exactly one of jobQueue, arrayJobId and multiNodeJobId is required."):
            account.batch.list_jobs(**members)
    assert account.batch.list_jobs(multiNodeJobId="x")["jobSummaryList"] == []
    assert account.batch.list_jobs(arrayJobId="x")["jobSummaryList"] == []
    with refused("maxResults must be between 1 and 1000."):
        account.batch.list_jobs(jobQueue="queue", maxResults=1001)
    assert account.batch.list_jobs(jobQueue="queue", maxResults=1000)["jobSummaryList"] == []
