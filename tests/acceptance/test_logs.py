"""What jobs print, where AWS's clients look for it: describing, paging, searching and tailing with boto3."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from support.aws import LOG_GROUP, Account
from support.waiting import soon

pytestmark = pytest.mark.usefixtures("queue")


class Tail:
    """What `aws logs tail --follow` does: it asks from the time of the newest event on, and drops what it has seen."""

    def __init__(self, account: Account, **members: Any) -> None:
        self._logs = account.logs
        self._request: dict[str, Any] = {"logGroupName": LOG_GROUP, "interleaved": True, **members}
        self._seen: dict[int, set[str]] = defaultdict(set)

    def poll(self) -> list[str]:
        """Return what has come since."""
        new: list[str] = []
        request = dict(self._request)
        while True:
            page = self._logs.filter_log_events(**request)
            for event in page["events"]:
                if event["eventId"] not in self._seen[event["timestamp"]]:
                    self._seen[event["timestamp"]].add(event["eventId"])
                    new.append(event["message"])
            if "nextToken" not in page:
                break
            request["nextToken"] = page["nextToken"]
        if self._seen:
            newest = max(self._seen)
            self._request["startTime"] = newest
            self._seen = defaultdict(set, {newest: self._seen[newest]})
        return new


def printing_until(gate: Path) -> list[str]:
    """Return a command that prints two lines, and a third once the file is there."""
    return ["sh", "-c", f"echo one; echo two >&2; until [ -e {gate} ]; do sleep 0.05; done; echo three"]


def test_a_running_jobs_log_is_paged_and_tailed_to_its_end(account: Account, tmp_path: Path) -> None:
    account.define()
    tail = Tail(account)
    assert tail.poll() == []
    gate = tmp_path / "gate"
    job_id = account.submit(printing_until(gate))
    stream = account.wait(job_id, "RUNNING")["container"]["logStreamName"]
    assert account.lines_of(stream, lambda lines: len(lines) == 2) == ["one", "two"]
    page = account.logs.get_log_events(logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True)
    again = account.logs.get_log_events(
        logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True, nextToken=page["nextForwardToken"]
    )
    assert (again["events"], again["nextForwardToken"]) == ([], page["nextForwardToken"])
    assert tail.poll() == ["one", "two"]
    gate.touch()
    job = account.wait(job_id)

    def rest() -> list[str]:
        return tail.poll()

    assert soon(rest, "the last line") == ["three"]
    assert tail.poll() == []
    page = account.logs.get_log_events(
        logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True, nextToken=page["nextForwardToken"]
    )
    assert [event["message"] for event in page["events"]] == ["three"]
    times = [event["timestamp"] for event in page["events"]]
    assert times == sorted(times)
    assert job["startedAt"] - 1000 <= times[0] <= job["stoppedAt"] + 1000


def test_the_streams_of_jobs_are_described(account: Account) -> None:
    account.define("first")
    account.define("second")
    jobs = [account.wait(account.submit(["echo", "x"], jobDefinition=name)) for name in ("first", "second", "second")]
    names = sorted(job["container"]["logStreamName"] for job in jobs)
    for name in names:
        account.lines_of(name)

    def listed(**members: Any) -> list[str]:
        pages = account.logs.get_paginator("describe_log_streams").paginate(
            logGroupName=LOG_GROUP, PaginationConfig={"PageSize": 2}, **members
        )
        return [stream["logStreamName"] for page in pages for stream in page["logStreams"]]

    assert listed() == names
    assert listed(descending=True) == names[::-1]
    assert listed(logStreamNamePrefix="second/") == names[1:]
    assert sorted(listed(orderBy="LastEventTime")) == names
    (group,) = account.logs.describe_log_groups()["logGroups"]
    assert (group["logGroupName"], group["storedBytes"]) == (LOG_GROUP, 6)


def test_a_search_over_all_jobs_finds_the_lines_of_a_pattern(account: Account) -> None:
    account.define()
    jobs = [account.submit(["sh", "-c", f"echo job {number} ok; echo job {number} ERROR"]) for number in range(3)]
    streams = {number: account.wait(job)["container"]["logStreamName"] for number, job in enumerate(jobs)}
    for stream in streams.values():
        account.lines_of(stream, lambda lines: len(lines) == 2)
    pages = account.logs.get_paginator("filter_log_events").paginate(
        logGroupName=LOG_GROUP, filterPattern='ERROR -"job 1"', PaginationConfig={"PageSize": 1}
    )
    events = [event for page in pages for event in page["events"]]
    assert {event["logStreamName"]: event["message"] for event in events} == {
        streams[0]: "job 0 ERROR",
        streams[2]: "job 2 ERROR",
    }
    one = account.logs.filter_log_events(logGroupName=LOG_GROUP, logStreamNames=[streams[1]], filterPattern="?ERROR")
    assert [event["message"] for event in one["events"]] == ["job 1 ERROR"]


def test_a_job_may_name_its_log_group(account: Account) -> None:
    configuration = {"logDriver": "awslogs", "options": {"awslogs-group": "/team/a"}}
    account.define(containerProperties={"logConfiguration": configuration})
    stream = account.wait(account.submit(["echo", "hello"]))["container"]["logStreamName"]

    def events() -> list[str]:
        try:
            page = account.logs.get_log_events(logGroupName="/team/a", logStreamName=stream)
        except account.logs.exceptions.ResourceNotFoundException:
            return []
        return [event["message"] for event in page["events"]]

    assert soon(events, "the log in its group") == ["hello"]
    assert [group["logGroupName"] for group in account.logs.describe_log_groups()["logGroups"]] == [
        LOG_GROUP,
        "/team/a",
    ]
    with pytest.raises(account.logs.exceptions.ResourceNotFoundException, match="log stream does not exist"):
        account.logs.get_log_events(logGroupName=LOG_GROUP, logStreamName=stream)


def test_errors_are_those_of_the_model(account: Account) -> None:
    exceptions = account.logs.exceptions
    with pytest.raises(exceptions.ResourceNotFoundException, match="log group does not exist"):
        account.logs.filter_log_events(logGroupName="/none")
    with pytest.raises(exceptions.ResourceNotFoundException, match="log stream does not exist"):
        account.logs.get_log_events(logGroupName=LOG_GROUP, logStreamName="d/default/0")
    with pytest.raises(exceptions.InvalidParameterException, match="JSON patterns are not supported"):
        account.logs.filter_log_events(logGroupName=LOG_GROUP, filterPattern='{ $.level = "x" }')
    with pytest.raises(exceptions.InvalidParameterException, match="nextToken"):
        account.logs.get_log_events(logGroupName=LOG_GROUP, logStreamName="d/default/0", nextToken="x")
    with pytest.raises(ClientError) as caught:
        account.logs.create_log_group(logGroupName="/none")
    assert caught.value.response["Error"]["Code"] == "UnknownOperationException"
