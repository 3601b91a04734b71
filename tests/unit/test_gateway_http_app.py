"""The HTTP side as a client sees it, without sockets."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from grpc import StatusCode

from batchyard.api.jobs.v1 import jobs_pb2, jobs_service_pb2
from batchyard.api.operations.v1 import logs_service_pb2
from batchyard.cli.logging import ContextFields
from batchyard.gateway.config import GatewayConfig
from batchyard.gateway.http_app import BODY_BYTES_MAX, HttpApp
from batchyard.rpc.identity import CREDENTIAL_KEY, INVOCATION_KEY, NAMESPACE_KEY, REGION_KEY
from batchyard.rpc.log_context import REQUEST_ID_KEY
from support.gateway import ACCOUNT, FakeServices, an_app, ask, authorization, exchange, in_process, refusing, scope_of

CONFIG = GatewayConfig()
LOGS = {"x-amz-target": "Logs_20140328.GetLogEvents", "content-type": "application/x-amz-json-1.1"}


@pytest.fixture
async def app(services: FakeServices) -> AsyncIterator[HttpApp]:
    async with in_process(services) as upstreams:
        yield an_app(upstreams, CONFIG)


async def test_passes_a_request_on_and_its_answer_back(app: HttpApp, services: FakeServices) -> None:
    services.answer("SubmitJob", jobs_service_pb2.SubmitJobResponse(job_id="1", job_name="a"))
    response = await ask(app, "POST", "/v1/submitjob", b'{"jobName":"a","containerOverrides":{"vcpus":2}}')
    assert (response.status, response.members) == (200, {"jobId": "1", "jobName": "a"})
    (call,) = services.received
    assert call.request == jobs_service_pb2.SubmitJobRequest(
        job_name="a", container_overrides=jobs_pb2.ContainerOverrides(vcpus=2)
    )


async def test_passes_on_for_whom_a_request_acts(app: HttpApp, services: FakeServices) -> None:
    await ask(app, "POST", "/v1/listjobs", headers={"authorization": authorization(ACCOUNT, "eu-north-1")})
    (call,) = services.received
    assert (call.metadata[NAMESPACE_KEY], call.metadata[REGION_KEY]) == (ACCOUNT, "eu-north-1")


async def test_passes_on_which_request_it_is_and_who_signed_it(app: HttpApp, services: FakeServices) -> None:
    for key in ("AKIDEXAMPLE", "AKIDEXAMPLE", "AKIDOTHER"):
        headers = {"authorization": authorization(key, "eu-north-1"), INVOCATION_KEY: "an-id"}
        await ask(app, "POST", "/v1/listjobs", headers=headers)
    sent = [(call.metadata[INVOCATION_KEY], call.metadata[CREDENTIAL_KEY]) for call in services.received]
    assert [invocation_id for invocation_id, _ in sent] == ["an-id"] * 3
    assert sent[0] == sent[1] != sent[2]
    assert "AKID" not in sent[0][1]


@pytest.mark.parametrize("invocation_id", ["", "two words", "x" * 129])
async def test_an_invocation_id_that_none_can_be_is_passed_over(
    app: HttpApp, services: FakeServices, invocation_id: str
) -> None:
    response = await ask(app, "POST", "/v1/listjobs", headers={INVOCATION_KEY: invocation_id})
    assert response.status == 200
    assert INVOCATION_KEY not in services.received[0].metadata


async def test_a_request_has_one_id_everywhere(app: HttpApp, services: FakeServices) -> None:
    response = await ask(app, "POST", "/v1/listjobs")
    assert services.received[0].metadata[REQUEST_ID_KEY] == response.headers["x-amzn-requestid"]


async def test_gives_every_call_a_deadline(app: HttpApp, services: FakeServices) -> None:
    await ask(app, "POST", "/v1/listjobs")
    (call,) = services.received
    assert call.time_remaining_s is not None
    assert 0 < call.time_remaining_s <= CONFIG.deadline_s


async def test_answers_as_aws_does(app: HttpApp) -> None:
    first, second = [await ask(app, "POST", "/v1/listjobs") for _ in range(2)]
    assert first.headers["content-type"] == "application/json"
    assert first.headers["content-length"] == str(len(first.body))
    assert len(first.headers["x-amzn-requestid"]) == 36
    assert first.headers["x-amzn-requestid"] != second.headers["x-amzn-requestid"]


@pytest.mark.parametrize("body", [b"", b"{}"])
async def test_an_empty_body_is_an_empty_object(app: HttpApp, services: FakeServices, body: bytes) -> None:
    response = await ask(app, "POST", "/v1/describejobs", body)
    assert (response.status, response.body) == (200, b'{"jobs":[]}')
    assert services.received[0].request == jobs_service_pb2.DescribeJobsRequest()


async def test_takes_a_body_in_pieces(app: HttpApp, services: FakeServices) -> None:
    await ask(app, "POST", "/v1/submitjob", [b'{"job', b'Name":', b'"a"}'])
    assert services.received[0].request.job_name == "a"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "The request body is not JSON"),
        (b"x", "The request body is not JSON"),
        (b"{} {}", "The request body is not JSON"),
        (b'{"jobName":NaN}', "The request body is not JSON"),
        (b'{"jobName":1e999}', "The request body is not JSON"),
        (b'{"jobName":"\xff"}', "The request body is not JSON"),
        (b'{"\xff":1}', "The request body is not JSON"),
        (
            b'{"jobName":"\\\\ud800 \\ud83d\\ude00 \\ud800"}',
            r"The request body is not JSON: \ud800 is half of a surrogate pair",
        ),
        (b'{"jobName":"\\uDC00x"}', r"The request body is not JSON: \uDC00 is half of a surrogate pair"),
        (b"\xef\xbb\xbf{}", "The request body is not JSON"),
        (b"\x1f\x8b\x08", "The request body is not JSON"),
        (b'{"jobName":' + b"1" * 5000 + b"}", "The request body is not JSON"),
        (b"[" * 100_000, "The request body is nested too deeply."),
        (b'{"x":' * 100_000, "The request body is nested too deeply."),
        (b"[]", "The request body: expected an object, got an array"),
        (b"null", "The request body: expected an object, got null"),
        (b'{"jobName":7}', "jobName: expected a string, got a number"),
    ],
)
async def test_refuses_what_is_not_json_of_the_right_shape(
    app: HttpApp, services: FakeServices, body: bytes, text: str
) -> None:
    response = await ask(app, "POST", "/v1/submitjob", body)
    status, error_type, message = response.error
    assert (status, error_type) == (400, "SerializationException")
    assert message.startswith(text)
    assert services.received == []


async def test_an_unknown_word_is_a_client_error_and_no_serialization_error(
    app: HttpApp, services: FakeServices
) -> None:
    status, error_type, message = (await ask(app, "POST", "/v1/listjobs", b'{"jobStatus":"DONE"}')).error
    assert (status, error_type) == (400, "ClientException")
    assert message.startswith("jobStatus 'DONE' is not valid. Valid values: [SUBMITTED, ")
    assert services.received == []


async def test_takes_a_body_of_exactly_the_limit(app: HttpApp, services: FakeServices) -> None:
    body = b'{"jobName":"' + b"a" * (BODY_BYTES_MAX - 14) + b'"}'
    assert len(body) == BODY_BYTES_MAX
    assert (await ask(app, "POST", "/v1/submitjob", body)).status == 200
    assert len(services.received) == 1


async def test_does_not_read_a_body_that_is_announced_as_too_large(app: HttpApp, services: FakeServices) -> None:
    async def receive() -> Any:
        raise AssertionError("the body was read")

    headers = {"host": "localhost", "authorization": authorization(), "content-length": str(BODY_BYTES_MAX + 1)}
    start, content = await exchange(app, scope_of("POST", "/v1/submitjob", headers), receive)
    assert (start["status"], content["body"]) == (413, b'{"message":"The request body is larger than 1048576 bytes."}')
    assert (b"connection", b"close") not in start["headers"]
    assert services.received == []


async def test_stops_reading_a_body_of_unknown_length_at_the_limit(app: HttpApp, services: FakeServices) -> None:
    pieces_read = 0

    async def receive() -> Any:
        nonlocal pieces_read
        pieces_read += 1
        return {"type": "http.request", "body": b"a" * (BODY_BYTES_MAX // 4), "more_body": True}

    headers = {"host": "localhost", "authorization": authorization()}
    start, _ = await exchange(app, scope_of("POST", "/v1/submitjob", headers), receive)
    assert (start["status"], pieces_read) == (413, 5)
    assert (b"connection", b"close") in start["headers"]
    assert services.received == []


async def test_gives_no_answer_to_a_client_that_has_gone(app: HttpApp, services: FakeServices) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    headers = {"host": "localhost", "authorization": authorization()}
    assert await exchange(app, scope_of("POST", "/v1/submitjob", headers), receive) == []
    assert services.received == []


async def test_gives_up_on_a_request_that_does_not_arrive(services: FakeServices) -> None:
    async def receive() -> Any:
        await anyio.sleep_forever()

    headers = {"host": "localhost", "authorization": authorization()}
    async with in_process(services) as upstreams:
        app = an_app(upstreams, GatewayConfig(deadline_s=0.01))
        start, _ = await exchange(app, scope_of("POST", "/v1/submitjob", headers), receive)
    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]
    assert services.received == []


@pytest.mark.parametrize(
    ("verb", "path", "headers", "status", "error_type"),
    [
        ("POST", "/v1/nothing", {}, 404, "UnknownOperationException"),
        ("GET", "/v1/submitjob", {}, 405, "MethodNotAllowedException"),
        ("POST", "/v1/createconsumableresource", {}, 400, "ClientException"),
        ("POST", "/v1/submitjob", {"authorization": None}, 403, "MissingAuthenticationTokenException"),
        ("POST", "/v1/submitjob", {"authorization": "Bearer x"}, 400, "IncompleteSignatureException"),
        ("POST", "/v1/describejobs", {"authorization": None}, 403, "MissingAuthenticationTokenException"),
        ("POST", "/v1/submitjob", {"host": None}, 403, "AccessDeniedException"),
        ("POST", "/v1/submitjob", {"host": "evil.example"}, 403, "AccessDeniedException"),
        ("POST", "/v1/submitjob", {"origin": "http://evil.example"}, 403, "AccessDeniedException"),
        ("OPTIONS", "/v1/submitjob", {"origin": "http://evil.example"}, 403, "AccessDeniedException"),
        ("OPTIONS", "/v1/submitjob", {"origin": "http://127.0.0.1:8080"}, 405, "MethodNotAllowedException"),
        ("POST", "/", LOGS | {"x-amz-target": "Logs_20140328.Nothing"}, 400, "UnknownOperationException"),
        ("POST", "/healthz", {}, 405, "MethodNotAllowedException"),
    ],
)
async def test_refuses_a_request_before_any_service_sees_it(
    app: HttpApp,
    services: FakeServices,
    verb: str,
    path: str,
    headers: dict[str, str | None],
    status: int,
    error_type: str,
) -> None:
    response = await ask(app, verb, path, b"{}", headers)
    assert response.error[:2] == (status, error_type)
    assert response.error[2]
    assert not [name for name in response.headers if name.startswith("access-control-")]
    assert services.received == []


async def test_a_page_of_another_origin_cannot_submit_a_job(app: HttpApp, services: FakeServices) -> None:
    as_a_form_does = {"origin": "http://evil.example", "content-type": "text/plain", "authorization": None}
    assert (await ask(app, "POST", "/v1/submitjob", b'{"jobName":"a"}', as_a_form_does)).status == 403
    after_rebinding = {"host": "evil.example:8080", "origin": "http://evil.example:8080"}
    assert (await ask(app, "POST", "/v1/submitjob", b'{"jobName":"a"}', after_rebinding)).status == 403
    assert services.received == []


async def test_a_service_that_refuses_is_a_client_exception(app: HttpApp, services: FakeServices) -> None:
    services.answer("SubmitJob", refusing(StatusCode.NOT_FOUND, "JobQueue q not found.", reason="NOT_FOUND"))
    response = await ask(app, "POST", "/v1/submitjob", b"{}")
    assert response.error == (400, "ClientException", "JobQueue q not found.")
    assert response.headers["content-type"] == "application/json"


async def test_a_service_that_is_away_is_a_server_exception(app: HttpApp, services: FakeServices) -> None:
    services.answer("SubmitJob", refusing(StatusCode.UNAVAILABLE, "connect to 10.0.0.1:4711 failed"))
    response = await ask(app, "POST", "/v1/submitjob", b"{}")
    assert response.error == (500, "ServerException", "The service is not available at the moment.")


async def test_a_fault_of_our_own_says_nothing_of_its_inside(
    app: HttpApp, services: FakeServices, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret inside")

    monkeypatch.setattr("batchyard.gateway.http_app.caller_of", fail)
    caplog.handler.addFilter(ContextFields())
    response = await ask(app, "POST", "/v1/submitjob", b"{}")
    assert response.error == (500, "ServerException", "The server failed to handle the request.")
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert response.headers["x-amzn-requestid"] == vars(record)["request_id"]
    assert record.exc_info is not None


async def test_reads_logs_in_the_protocol_of_cloudwatch(app: HttpApp, services: FakeServices) -> None:
    event = logs_service_pb2.LogEvent(timestamp=1480460782010, message="hello", ingestion_time=1480460782010)
    services.answer("GetLogEvents", logs_service_pb2.GetLogEventsResponse(events=[event]))
    response = await ask(app, "POST", "/", b'{"logStreamName":"s","startFromHead":true}', LOGS)
    assert response.headers["content-type"] == "application/x-amz-json-1.1"
    assert response.members == {
        "events": [{"timestamp": 1480460782010, "message": "hello", "ingestionTime": 1480460782010}]
    }
    assert services.received[0].request == logs_service_pb2.GetLogEventsRequest(
        log_stream_name="s", start_from_head=True
    )


async def test_log_errors_carry_their_type_in_the_body(app: HttpApp, services: FakeServices) -> None:
    services.answer("GetLogEvents", refusing(StatusCode.NOT_FOUND, "The specified log stream does not exist."))
    response = await ask(app, "POST", "/", b"{}", LOGS)
    assert (response.status, response.headers["content-type"]) == (400, "application/x-amz-json-1.1")
    assert response.members == {
        "__type": "ResourceNotFoundException",
        "message": "The specified log stream does not exist.",
    }


async def test_log_requests_of_a_wrong_shape_are_refused_in_their_protocol(app: HttpApp) -> None:
    response = await ask(app, "POST", "/", b'{"limit":"x"}', LOGS)
    assert (response.status, response.members["__type"]) == (400, "SerializationException")


async def test_questions_for_the_caller_follow_the_rules_of_all_requests(app: HttpApp) -> None:
    form: dict[str, str | None] = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    body = b"Action=GetCallerIdentity&Version=2011-06-15"
    answer = await ask(app, "POST", "/", body, form)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/xml")
    assert f"<Account>{ACCOUNT}</Account>".encode() in answer.body
    for headers, code in (
        ({"authorization": None}, b"<Code>MissingAuthenticationToken</Code>"),
        ({"host": "evil.example"}, b"<Code>AccessDenied</Code>"),
    ):
        refused = await ask(app, "POST", "/", body, form | headers)
        assert (refused.status, code in refused.body) == (403, True), refused
    unread = await ask(app, "POST", "/", b"Action=%ff", form)
    assert (unread.status, b"<Code>MalformedQueryString</Code>" in unread.body) == (400, True)


async def test_a_target_means_nothing_on_a_path_of_its_own(app: HttpApp) -> None:
    response = await ask(app, "POST", "/v1/describejobs", b"{}", LOGS)
    assert (response.status, response.headers["content-type"]) == (200, "application/json")


PROBE = {"host": "10.1.2.3:8080", "authorization": None}


async def test_is_alive_for_probes_that_come_without_credentials(app: HttpApp) -> None:
    response = await ask(app, "GET", "/healthz", headers=PROBE)
    assert (response.status, response.members) == (200, {"status": "alive"})


async def test_is_ready_when_all_behind_it_serve(app: HttpApp) -> None:
    response = await ask(app, "GET", "/readyz", headers=PROBE)
    upstreams = dict.fromkeys(("jobs", "logs", "registry", "scheduler"), "SERVING")
    assert (response.status, response.members) == (200, {"status": "ready", "upstreams": upstreams})


async def test_is_not_ready_when_one_behind_it_does_not_serve(app: HttpApp, services: FakeServices) -> None:
    services.health["JobsService"].is_serving = False
    response = await ask(app, "GET", "/readyz", headers=PROBE)
    assert (response.status, response.members["status"]) == (503, "not ready")
    assert response.members["upstreams"] == {
        "jobs": "NOT_SERVING",
        "logs": "SERVING",
        "registry": "SERVING",
        "scheduler": "SERVING",
    }


async def test_counts_requests_by_operation_and_status(app: HttpApp) -> None:
    await ask(app, "POST", "/v1/listjobs")
    await ask(app, "POST", "/v1/nothing")
    response = await ask(app, "GET", "/metrics", headers=PROBE)
    assert response.headers["content-type"].startswith("text/plain")
    lines = response.body.decode().splitlines()
    name = "batchyard_gateway_request_duration_seconds_count"
    for labels in ('operation="ListJobs",status="200"', 'operation="unknown",status="404"'):
        assert any(line.startswith(f"{name}{{{labels}}} ") for line in lines)
