"""Jobs in real containers, as boto3 sees them: what they are given, how they end, and who may die meanwhile."""

import json
import signal
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from support.aws import Account
from support.docker import HOW_TO_GET_ONE, IMAGE, OwnEngine, an_engine, can_have_own_engine
from support.installation import Installation, free_ports, start_six, start_up
from support.waiting import soon

pytestmark = pytest.mark.docker

STOP_TIMEOUT_S = 1.0


@pytest.fixture(scope="module")
def engine() -> Iterator[OwnEngine]:
    """An engine that may be killed."""
    if not can_have_own_engine():
        pytest.skip(HOW_TO_GET_ONE)
    with an_engine() as own:
        yield own


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the host that containers may have."""
    return tmp_path_factory.mktemp("shared")


def agent_options(shared: Path) -> list[str]:
    return [
        *("--runtime", "docker", "--docker-network", "none", "--capacity", "vcpus=16,memory=4GiB"),
        *("--allow-host-path", str(shared), "--secret", "token=env:TESTED_TOKEN"),
        *("--stop-timeout", str(STOP_TIMEOUT_S)),
    ]


@pytest.fixture(scope="module")
def installation(engine: OwnEngine, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Batchyard in one process, whose agent runs containers."""
    environment = {"DOCKER_HOST": engine.url, "TESTED_TOKEN": "open sesame"}
    folder = tmp_path_factory.mktemp("containers") / "data"
    running = start_up(folder, *agent_options(shared), environment=environment)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def container_queue(account: Account) -> str:
    return account.make_queue("queue")


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def define(account: Account, script: str, name: str = "definition", **members: Any) -> str:
    properties: dict[str, Any] = {"image": IMAGE, "memory": 64, "command": sh(script)}
    properties |= members.pop("containerProperties", {})
    return account.define(name, containerProperties=properties, **members)


def mounted(shared: Path) -> dict[str, Any]:
    return {
        "volumes": [{"name": "shared", "host": {"sourcePath": str(shared)}}],
        "mountPoints": [{"sourceVolume": "shared", "containerPath": "/shared"}],
    }


@pytest.mark.usefixtures("container_queue")
def test_a_job_reads_from_a_volume_what_the_job_before_it_has_written(account: Account, shared: Path) -> None:
    define(account, "echo hello > /shared/file", "writer", containerProperties=mounted(shared))
    define(account, "cat /shared/file", "reader", containerProperties=mounted(shared))
    first = account.submit(jobDefinition="writer")
    second = account.submit(jobDefinition="reader", dependsOn=[{"jobId": first}])
    job = account.wait(second)
    assert (job["status"], account.log_lines(job)) == ("SUCCEEDED", ["hello"])


@pytest.mark.usefixtures("container_queue")
def test_a_job_over_its_memory_says_so_and_a_rule_on_that_reason_tries_it_again(account: Account) -> None:
    rules = [{"onReason": "OutOfMemoryError*", "action": "RETRY"}, {"onReason": "*", "action": "EXIT"}]
    define(
        account,
        # The second attempt is content with little.
        "test $AWS_BATCH_JOB_ATTEMPT = 2 || exec tail /dev/zero",
        retryStrategy={"attempts": 3, "evaluateOnExit": rules},
        containerProperties={"memory": 16},
    )
    job = account.wait(account.submit())
    assert job["status"] == "SUCCEEDED"
    first, second = (attempt["container"] for attempt in job["attempts"])
    assert first["exitCode"] == 137
    # So early that Docker may not have seen of what.
    assert first["reason"].startswith("OutOfMemoryError: Container killed due to memory usage")
    assert (second["exitCode"], "reason" in second) == (0, False)


@pytest.mark.usefixtures("container_queue")
def test_a_job_that_ignores_sigterm_ends_when_the_grace_is_over(account: Account) -> None:
    define(account, "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    job = account.wait(account.submit(), "RUNNING")
    account.log_lines(job)
    account.batch.terminate_job(jobId=job["jobId"], reason="enough")
    ended = account.wait(job["jobId"])
    assert (ended["status"], ended["statusReason"], ended["container"]["exitCode"]) == ("FAILED", "enough", 137)
    assert ended["stoppedAt"] - ended["startedAt"] >= STOP_TIMEOUT_S * 1000


@pytest.mark.usefixtures("container_queue")
def test_what_a_job_asks_for_is_so_as_seen_from_inside(account: Account) -> None:
    define(
        account,
        'id -u; ulimit -Sn; ulimit -Hn; touch /file || echo read-only; touch /scratch/file && echo "$TOKEN";'
        " df -k /scratch | tail -1 | awk '{print $2}'; echo $AWS_ROLE_ARN",
        containerProperties={
            "user": "nobody",
            "ulimits": [{"name": "nofile", "softLimit": 100, "hardLimit": 200}],
            "readonlyRootFilesystem": True,
            "linuxParameters": {"tmpfs": [{"containerPath": "/scratch", "size": 1, "mountOptions": ["mode=777"]}]},
            "secrets": [{"name": "TOKEN", "valueFrom": "token"}],
            "jobRoleArn": "arn:aws:iam::123456789012:role/job",
            "executionRoleArn": "arn:aws:iam::123456789012:role/execution",
            "logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-stream-prefix": "team"}},
        },
    )
    job = account.wait(account.submit())
    assert job["status"] == "SUCCEEDED"
    assert job["container"]["logStreamName"].startswith("team/default/")
    lines = account.log_lines(job, lambda lines: len(lines) == 8)
    assert sorted(lines) == sorted(
        [
            *("65534", "100", "200", "touch: /file: Read-only file system", "read-only", "open sesame", "1024"),
            "arn:aws:iam::123456789012:role/job",
        ]
    )


@pytest.mark.usefixtures("container_queue")
@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"privileged": True}, "CannotCreateContainerError: privileged is not allowed on this agent"),
        ({"image": "127.0.0.1:9/no/such:image"}, "CannotPullContainerError: "),
        ({"command": ["no-such-command"]}, "CannotStartContainerError: "),
        ({"user": "no-such-user"}, "CannotStartContainerError: "),
        (
            {
                "secrets": [{"name": "TOKEN", "valueFrom": "other"}],
                "executionRoleArn": "arn:aws:iam::123456789012:role/execution",
            },
            "ResourceInitializationError: ",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_job_that_cannot_start_says_why_and_has_no_exit_code(
    account: Account, properties: dict[str, Any], reason: str
) -> None:
    define(account, "true", containerProperties=properties)
    job = account.wait(account.submit())
    assert (job["status"], job["statusReason"]) == ("FAILED", "Task failed to start")
    assert job["container"]["reason"].startswith(reason)
    assert "exitCode" not in job["container"]
    assert "logStreamName" not in job["container"]


COUNTED = """
    echo $AWS_BATCH_JOB_ATTEMPT >> /shared/starts.$AWS_BATCH_JOB_ARRAY_INDEX
    i=0
    while ! test -e /shared/go; do i=$((i + 1)); echo $i; sleep 0.1; done
    echo end
    exit $((AWS_BATCH_JOB_ARRAY_INDEX + 1))
"""


def test_agent_and_engine_are_killed_while_containers_run_and_every_end_and_log_is_right(
    engine: OwnEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.url)
    shared = tmp_path / "shared"
    shared.mkdir()
    with (
        closing(start_six(tmp_path / "data", agent=agent_options(shared), jobs_outlive_agent=True)) as running,
        closing(Account(running.http_url, "100000000001")) as account,
    ):
        account.make_queue()
        define(account, COUNTED, containerProperties=mounted(shared))
        array = account.submit(arrayProperties={"size": 10})
        children = [f"{array}:{index}" for index in range(10)]
        for child in children:
            account.wait(child, "RUNNING")
        containers = set(engine.containers())
        assert len(containers) == 10

        running.processes["agent"].interrupt(signal.SIGKILL)
        running.processes["agent"].close()
        engine.kill()
        engine.start()
        running.start("agent")
        running.wait_until_ready("agent")
        # All of them print, and are copied, after all that.
        for stream in [stream_of(account, child) for child in children]:
            seen = len(account.stream_lines(stream))
            account.lines_of(stream, partial(is_longer, seen + 1))
        (shared / "go").touch()
        ended = account.wait_all(children)
        for index, child in enumerate(children):
            job = ended[child]
            assert (job["container"]["exitCode"], len(job["attempts"])) == (index + 1, 1)
            assert (shared / f"starts.{index}").read_text() == "1\n"
            lines = account.log_lines(job, lambda lines: bool(lines) and lines[-1] == "end")
            assert lines == [*map(str, range(1, len(lines))), "end"]
        soon(lambda: not engine.containers(), "no container is left")


def is_longer(length: int, lines: list[str]) -> bool:
    return len(lines) > length


def stream_of(account: Account, job_id: str) -> str:
    return account.describe(job_id)["container"]["logStreamName"]


def test_a_container_is_told_where_the_server_is_and_submits_a_job(engine: OwnEngine, tmp_path: Path) -> None:
    port, grpc_port = free_ports(2)
    options = ("--port", str(port), "--grpc-port", str(grpc_port), "--job-endpoint", f"http://127.0.0.1:{port}")
    runtime = ("--runtime", "docker", "--docker-network", "host")
    with (
        closing(start_up(tmp_path / "data", *options, *runtime, environment={"DOCKER_HOST": engine.url})) as running,
        closing(Account(running.http_url, "210987654321")) as account,
    ):
        account.make_queue()
        define(account, "echo from the child", "child")
        define(
            account,
            'wget -q -O - --header "Authorization: AWS4-HMAC-SHA256 Credential=$AWS_ACCESS_KEY_ID/20300101/$AWS_REGION'
            '/batch/aws4_request, SignedHeaders=host, Signature=0" --post-data'
            """ '{"jobName": "child", "jobQueue": "queue", "jobDefinition": "child"}'"""
            " $AWS_ENDPOINT_URL_BATCH/v1/submitjob",
            "head",
        )
        head = account.wait(account.submit(jobDefinition="head"))
        (answer,) = account.log_lines(head)
        child = account.wait(json.loads(answer)["jobId"])
        assert (child["status"], account.log_lines(child)) == ("SUCCEEDED", ["from the child"])
