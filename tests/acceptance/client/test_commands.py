"""The commands for people: piped, as scripts use them."""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from batchyard.cli.main import main
from support.aws import LARGE, Account
from support.installation import Installation
from support.terminal import piped
from support.waiting import soon


@pytest.fixture
def call(up: Installation, account: Account) -> Callable[..., Result]:
    """Return what calls a command in this process, as if its output were piped."""
    return partial(piped, up)


def rows(result: Result) -> list[list[str]]:
    """Return the cells of a table that was piped."""
    return [re.split(r" {2,}", line) for line in result.stdout.splitlines()]


def test_jobs_are_listed_in_whatever_status_newest_first(call: Any, account: Account) -> None:
    ended, waiting = account.submit(jobName="listed-1"), account.submit(jobName="listed-2", containerOverrides=LARGE)
    account.wait(ended)
    head, *found = rows(call("jobs", "--queue", "queue", "--name", "listed-*"))
    assert head == ["JOB", "NAME", "QUEUE", "STATUS", "AGE", "RAN", "REASON"]
    assert [(row[0], row[1], row[2], row[3]) for row in found] == [
        (waiting, "listed-2", "queue", "RUNNABLE"),
        (ended, "listed-1", "queue", "SUCCEEDED"),
    ]
    assert rows(call("jobs", "--name", "listed-*", "--status", "succeeded"))[1][0] == ended
    assert [row[0] for row in rows(call("jobs", "--limit", "1"))] == ["JOB", waiting]
    found = rows(call("jobs", "--limit", "1", "--name", "listed-*", "--status", "SUCCEEDED"))[1:]
    assert [row[0] for row in found] == [ended]
    document = json.loads(call("jobs", "--name", "listed-*", "--output", "json").stdout)
    assert [job["jobId"] for job in document["jobSummaryList"]] == [waiting, ended]
    assert document["jobSummaryList"][1]["container"]["exitCode"] == 0
    account.batch.cancel_job(jobId=waiting, reason="seen")


def test_children_are_listed_by_index_with_all_statuses(call: Any, account: Account) -> None:
    script = 'exit "$AWS_BATCH_JOB_ARRAY_INDEX"'
    array = account.submit(["sh", "-c", script], arrayProperties={"size": 3})
    account.wait(array)
    found = rows(call("jobs", "--array", array))[1:]
    assert [(row[0], row[2]) for row in found] == [
        (f"{array}:0", "SUCCEEDED"),
        (f"{array}:1", "FAILED"),
        (f"{array}:2", "FAILED"),
    ]
    assert "goes with neither" in call("jobs", "--array", array, "--queue", "queue", code=2).stderr
    waited = call("wait", array, code=1)
    assert rows(waited)[1] == [array, "job", "FAILED", "Array Child Job failed: 1, 2"]
    assert "and prints nothing itself" in call("logs", array, code=1).stderr


def test_a_job_is_described_with_its_attempts(call: Any, account: Account) -> None:
    job_id = account.submit(
        ["sh", "-c", "exit 3"], tags={"batchyard:fault": "1:oom"}, retryStrategy={"attempts": 2}, jobName="twice"
    )
    job = account.wait(job_id)
    text = call("describe", job["jobArn"]).stdout
    facts = dict(re.split(r" {2,}", line, maxsplit=1) for line in text.splitlines() if not line.startswith(" "))
    assert (facts["job"], facts["name"], facts["status"], facts["exit code"]) == (job_id, "twice", "FAILED", "3")
    assert (facts["command"], facts["attempts"]) == ("sh -c exit 3", "2 of 2")
    assert "OutOfMemoryError: Container killed due to memory usage" in text
    document = json.loads(call("describe", "--output", "json", job_id).stdout)
    assert document["jobs"][0]["attempts"][1]["container"]["exitCode"] == 3
    assert "there is no job nobody in account 123456789012" in call("describe", job_id, "nobody", code=1).stderr


def test_logs_are_printed_and_followed_over_all_attempts(call: Any, account: Account) -> None:
    script = 'echo "attempt $AWS_BATCH_JOB_ATTEMPT"; seq 3; [ "$AWS_BATCH_JOB_ATTEMPT" = 2 ]'
    job_id = account.submit(["sh", "-c", script], retryStrategy={"attempts": 2})
    followed = call("logs", "--follow", job_id).stdout.splitlines()
    assert followed[-4:] == ["attempt 2", "1", "2", "3"]
    assert call("logs", job_id).stdout.splitlines() == ["attempt 2", "1", "2", "3"]
    assert call("logs", "--attempt", "1", job_id).stdout.splitlines() == ["attempt 1", "1", "2", "3"]
    assert call("logs", "--tail", "2", job_id).stdout.splitlines() == ["2", "3"]
    lines = call("logs", "--output", "json", job_id).stdout.splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["attempt 2", "1", "2", "3"]
    assert "2 attempts" in call("logs", "--attempt", "3", job_id, code=1).stderr
    waiting = account.submit(containerOverrides=LARGE)
    assert "is RUNNABLE and has printed nothing" in call("logs", waiting).stderr
    account.batch.cancel_job(jobId=waiting, reason="seen")


def test_jobs_are_cancelled_and_terminated_by_the_ids_on_stdin(call: Any, account: Account) -> None:
    waiting = [account.submit(containerOverrides=LARGE) for _ in range(2)]
    assert call("cancel", "--reason", "enough", "-", stdin="\n".join(waiting)).stdout.split() == waiting
    assert [account.describe(job_id)["statusReason"] for job_id in waiting] == ["enough", "enough"]
    running = account.submit(["sleep", "600"])
    account.wait(running, "RUNNING")
    failed = call("terminate", running, "no job", code=1)
    assert (failed.stdout.split(), "neither the id nor the ARN" in failed.stderr) == ([running], True)
    assert account.wait(running)["statusReason"] == "Terminated by the user"
    document = json.loads(call("cancel", "--output", "json", "no job", code=1).stdout)
    assert [error["code"] for error in document["errors"]] == ["ValidationException"]


def test_wait_exits_with_0_only_if_all_have_succeeded(call: Any, account: Account) -> None:
    good, bad = account.submit(), account.submit(["false"])
    assert rows(call("wait", good))[1] == [good, "job", "SUCCEEDED", "Essential container in task exited"]
    assert [row[2] for row in rows(call("wait", good, bad, good, code=1))] == ["STATUS", "SUCCEEDED", "FAILED"]
    statuses = [job["status"] for job in json.loads(call("wait", "--output", "json", bad, code=1).stdout)["jobs"]]
    assert statuses == ["FAILED"]
    waiting = account.submit(containerOverrides=LARGE)
    late = call("wait", "--timeout", "0", good, waiting, code=124)
    assert rows(late)[2][2] == "RUNNABLE"
    assert "not all have ended" in late.stderr
    account.batch.cancel_job(jobId=waiting, reason="seen")


def test_wait_says_once_why_jobs_and_arrays_wait(call: Any, account: Account) -> None:
    ended, small = account.submit(), account.submit(containerOverrides=LARGE)
    array = account.submit(containerOverrides=LARGE, arrayProperties={"size": 3})
    larger = account.submit(containerOverrides={"vcpus": 2000})
    account.wait(ended)
    soon(lambda: all(account.describe(job_id).get("statusReason") for job_id in (small, larger)), "both say why")
    said = call("wait", "--timeout", "1.1", ended, small, array, larger, code=124).stderr.splitlines()
    code = "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - "
    assert sorted(line.partition(code)[0] for line in said) == sorted(
        (
            f"batchyard: jobs {small} and 1 more wait: ",
            f"batchyard: job {larger} waits: ",
            "batchyard: not all have ended after 1.1 s",
        )
    )
    assert sum(line.partition(code)[2].startswith("The job resource requirement") for line in said) == 2
    for job_id in (small, array, larger):
        account.batch.cancel_job(jobId=job_id, reason="seen")


def test_resources_are_listed(call: Any, account: Account) -> None:
    table = {row[0]: row for row in rows(call("queues"))}
    assert table["QUEUE"][1:4] == ["PRIORITY", "STATE", "STATUS"]
    assert table["queue"][1:4] == ["1", "ENABLED", "VALID"]
    (queue,) = [
        queue
        for queue in json.loads(call("queues", "--output", "json").stdout)["jobQueues"]
        if queue["jobQueueName"] == "queue"
    ]
    assert set(queue["jobsByStatus"]) <= {"SUCCEEDED", "FAILED", "RUNNABLE"}
    assert {row[0] for row in rows(call("environments"))} == {"ENVIRONMENT", "default", "queue"}
    ((_, *_, served),) = rows(call("agents"))[1:]
    assert served == "all"
    (agent,) = json.loads(call("agents", "--output", "json").stdout)["agents"]
    assert agent["vcpusMilli"] == 8000


def test_jobs_are_submitted_from_a_file_in_awss_names(call: Any, account: Account, tmp_path: Path) -> None:
    job = {"jobName": "filed", "jobQueue": "queue", "jobDefinition": "definition"}
    (job_id,) = call("submit", "-", stdin=json.dumps(job)).stdout.split()
    assert account.wait(job_id)["jobName"] == "filed"
    file = tmp_path / "jobs.yaml"
    file.write_text(
        "jobName: first\njobQueue: queue\njobDefinition: definition\n"
        "containerOverrides:\n  command: [echo, 'a word']\n"
        "---\n- {jobName: second, jobQueue: nowhere, jobDefinition: definition}\n"
    )
    result = call("submit", "--wait", str(file), code=1)
    assert rows(result)[1][1:3] == ["first", "SUCCEEDED"]
    assert "second: JobQueue nowhere not found." in result.stderr
    assert account.log_lines(account.describe(rows(result)[1][0])) == ["a word"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is no job in the file"),
        ("[", "neither JSON nor YAML"),
        ('{"jobname": "x"}', "SubmitJob has no member 'jobname'"),
        ('[{"jobName": "x"}, {"jobName": 7}]', "job 2 of 2: jobName: expected a string, got a number"),
        ("7", "expected an object, got a number"),
        ("jobName: 2024-01-01\ntimeout: 5", "timeout: expected an object, got a number"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_what_is_wrong_with_it(call: Any, text: str, problem: str) -> None:
    assert problem in call("submit", "-", stdin=text, code=1).stderr


def test_a_command_is_run_as_an_array_after_another_job(call: Any, account: Account, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = account.submit(["sh", "-c", f"sleep 0.3; touch {gate}"])
    script = f'[ -e {gate} ] && [ "$AWS_BATCH_JOB_ARRAY_SIZE" = 3 ]'
    result = call("run", "--queue", "queue", "--after", first, "--array", "3", "--", "sh", "-c", script)
    assert rows(result)[1][1:3] == ["sh", "SUCCEEDED"]


def test_an_agent_is_drained_and_resumed(call: Any) -> None:
    (agent,) = json.loads(call("agents", "--output", "json").stdout)["agents"]
    told = [
        json.loads(call("drain", *flags, "--output", "json", agent["hostname"]).stdout)
        for flags in (["--limit", "60"], ["--resume"])
    ]
    assert [(each["agentId"], each["status"]) for each in told] == [
        (agent["agentId"], "DRAINING"),
        (agent["agentId"], "ACTIVE"),
    ]


def clients_in(group: click.Group, *before: str) -> Iterator[str]:
    """Yield the words that name each command, of a group or of groups in it, that can be told which server to call."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from clients_in(command, *before, name)
        elif "endpoint" in {parameter.name for parameter in command.params}:
            yield " ".join((*before, name))


@pytest.mark.parametrize("name", list(clients_in(main)))
def test_programs_can_read_what_every_command_says_that_calls_a_server(
    call: Any, account: Account, an_ended_job: str, name: str
) -> None:
    arguments = {
        **{command: [an_ended_job] for command in ("cancel", "describe", "logs", "terminate", "wait")},
        "drain": ["--resume", account.describe(an_ended_job)["container"]["containerInstanceArn"].split("/")[-1]],
        "run": ["--queue", "queue", "--", "echo", "a line"],
        "submit": ["-"],
    }.get(name, [])
    job = {"jobName": "read", "jobQueue": "queue", "jobDefinition": "definition"}
    told = call(*name.split(), "--output", "json", *arguments, stdin=json.dumps(job)).stdout
    documents = [json.loads(line) for line in told.splitlines()] if told.count("}\n{") else [json.loads(told)]
    assert documents
    assert all(isinstance(document, dict) and document for document in documents)


@pytest.fixture(scope="module")
def an_ended_job(account: Account) -> str:
    job_id = account.submit(["echo", "a line"], jobName="ended")
    account.wait(job_id)
    return job_id


def test_the_form_of_output_can_be_chosen_for_all_commands_at_once(
    call: Any, an_ended_job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHYARD_OUTPUT", "table")
    line = call("events", "--job", an_ended_job, "--status", "SUCCEEDED").stdout
    assert re.split(r" {2,}", line.rstrip())[1:4] == ["SUCCEEDED", an_ended_job, "ended"]
    monkeypatch.setenv("BATCHYARD_OUTPUT", "json")
    assert json.loads(call("describe", an_ended_job).stdout)["jobs"][0]["jobId"] == an_ended_job


def test_a_server_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["jobs", "--data-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "no `batchyard up` runs on the data folder" in result.stderr


def test_logs_without_a_job_is_the_service() -> None:
    result = CliRunner().invoke(main, ["logs", "--grpc-port", "none"])
    assert result.exit_code == 2
    assert "'--grpc-port'" in result.stderr
    assert "--follow" in CliRunner().invoke(main, ["logs", "--help"]).stdout
    assert "Missing argument 'JOB'" in CliRunner().invoke(main, ["logs", "--follow"]).stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_completion_script(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_BATCHYARD_COMPLETE" in result.stdout


def test_commands_and_flags_are_completed() -> None:
    words = {"COMP_WORDS": "batchyard wa", "COMP_CWORD": "1", "_BATCHYARD_COMPLETE": "bash_complete"}
    result = CliRunner().invoke(main, [], prog_name="batchyard", env=words)
    assert result.stdout.splitlines() == ["plain,wait"]
    words |= {"COMP_WORDS": "batchyard wait --time", "COMP_CWORD": "2"}
    result = CliRunner().invoke(main, [], prog_name="batchyard", env=words)
    assert result.stdout.splitlines() == ["plain,--timeout"]
