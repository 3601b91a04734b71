"""What a plain HTTP client gets: probes, metrics, refusals of what is no request of ours, and the browser's place."""

import http.client
import json
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from support.aws import Account
from support.installation import Installation

AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential={account}/20260101/us-east-1/batch/aws4_request, SignedHeaders=host, Signature=00"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response, read whole."""

    status: int
    error_type: str | None
    body: bytes

    @property
    def message(self) -> str:
        """The message of an AWS error."""
        text = json.loads(self.body)["message"]
        assert isinstance(text, str)
        return text


def send(installation: Installation, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    """Send one request; an underscore in a header's keyword stands for a hyphen."""
    address = urlsplit(installation.http_url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return Answer(response.status, response.headers.get("x-amzn-errortype"), response.read())
    finally:
        connection.close()


@pytest.fixture
def authorization(account: Account) -> str:
    """The Authorization header of the account."""
    return AUTHORIZATION.format(account=account.access_key)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_answer_without_credentials(installation: Installation, path: str) -> None:
    assert send(installation, "GET", path).status == 200


def test_metrics_are_in_the_form_of_prometheus(installation: Installation) -> None:
    answer = send(installation, "GET", "/metrics")
    assert answer.status == 200
    assert b"# TYPE batchyard_" in answer.body


def submission(account: Account) -> bytes:
    """Make what a submission needs, and return its body."""
    account.make_queue()
    account.define()
    return json.dumps({"jobName": "job", "jobQueue": "queue", "jobDefinition": "definition"}).encode()


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example", "Content_Type": "text/plain"},
        {"Origin": "http://evil.example", "Authorization": AUTHORIZATION},
        {"Origin": "null", "Authorization": AUTHORIZATION},
        {"Host": "evil.example", "Authorization": AUTHORIZATION},
        {},
    ],
    ids=["simple post", "other origin", "sandboxed page", "rebound name", "no authorization"],
)
def test_a_page_from_another_origin_cannot_submit_a_job(
    installation: Installation, account: Account, headers: dict[str, str]
) -> None:
    body = submission(account)
    headers = {name: value.format(account=account.access_key) for name, value in headers.items()}
    assert send(installation, "POST", "/v1/submitjob", body, **headers).status == 403
    assert account.job_ids() == []


def test_the_same_submission_from_an_aws_client_is_accepted(
    installation: Installation, account: Account, authorization: str
) -> None:
    answer = send(installation, "POST", "/v1/submitjob", submission(account), Authorization=authorization)
    assert answer.status == 200
    job_id = json.loads(answer.body)["jobId"]
    account.wait(job_id)
    assert account.job_ids() == [job_id]


def test_numbers_are_json_numbers_and_zeros_are_not_dropped(
    installation: Installation, account: Account, authorization: str
) -> None:
    account.make_queue()
    account.define()
    job_id = account.submit()
    account.wait(job_id)
    body = json.dumps({"jobs": [job_id]}).encode()
    answer = send(installation, "POST", "/v1/describejobs", body, Authorization=authorization)
    (job,) = json.loads(answer.body)["jobs"]
    assert all(type(job[member]) is int for member in ("createdAt", "startedAt", "stoppedAt"))
    assert job["container"]["exitCode"] == 0


@pytest.mark.parametrize(
    ("body", "status", "error_type", "words"),
    [
        (b"{not json", 400, "SerializationException", ""),
        (b'["a list"]', 400, "SerializationException", ""),
        (b'{"jobs": "not a list"}', 400, "SerializationException", "jobs"),
        (b'{"jobs": [7]}', 400, "SerializationException", "jobs"),
        (b'{"jobs": [], "fill": "' + b"x" * 1024 * 1024 + b'"}', 413, None, ""),
    ],
    ids=["bad json", "no object", "wrong type", "wrong element", "over 1 MiB"],
)
def test_malformed_bodies_are_answered_clearly(
    installation: Installation, authorization: str, body: bytes, status: int, error_type: str | None, words: str
) -> None:
    answer = send(installation, "POST", "/v1/describejobs", body, Authorization=authorization)
    assert answer.status == status
    assert error_type is None or answer.error_type == error_type
    assert words in answer.message


def test_a_missing_required_member_is_named(installation: Installation, authorization: str) -> None:
    answer = send(installation, "POST", "/v1/submitjob", b'{"jobName": "job"}', Authorization=authorization)
    assert (answer.status, answer.error_type) == (400, "ClientException")
    assert "jobQueue" in answer.message


@pytest.mark.parametrize("body", [b"", b"{}", b'{"jobs": null}'])
def test_no_list_is_not_an_empty_list(installation: Installation, authorization: str, body: bytes) -> None:
    answer = send(installation, "POST", "/v1/describejobs", body, Authorization=authorization)
    assert (answer.status, answer.error_type, answer.message) == (400, "ClientException", "jobs is required.")


def test_unknown_and_null_members_are_ignored(installation: Installation, authorization: str) -> None:
    body = b'{"jobs": [], "newMember": {"of": ["later", "years"]}, "alsoNew": null}'
    answer = send(installation, "POST", "/v1/describejobs", body, Authorization=authorization)
    assert (answer.status, json.loads(answer.body)) == (200, {"jobs": []})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/v1/nosuchoperation", 404), ("GET", "/elsewhere", 404), ("GET", "/v1/submitjob", 405)],
)
def test_unknown_paths_and_wrong_methods_are_answered_clearly(
    installation: Installation, authorization: str, method: str, path: str, status: int
) -> None:
    answer = send(installation, method, path, Authorization=authorization)
    assert answer.status == status
    assert answer.message
