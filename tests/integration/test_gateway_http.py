"""The gateway's HTTP port over real sockets: what uvicorn and clients make of it, and how it starts and stops."""

import http.client
import json
import socket
from contextlib import closing
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import anyio
import grpc.aio
import pytest
from anyio import to_thread

from batchyard.api.jobs.v1 import jobs_service_pb2
from batchyard.gateway.app import GatewayAddresses, open_gateway
from batchyard.gateway.config import GatewayConfig
from batchyard.gateway.upstreams import Upstreams
from support.gateway import ANY_PORT, FakeServices, Response, authorization, over_sockets
from support.waiting import PATIENCE_S

SUBMISSION = b'{"jobName":"a","jobQueue":"q","jobDefinition":"d"}'


async def send(gateway: GatewayAddresses, verb: str, path: str, body: Any = None, **options: Any) -> Response:
    """Send a request with the plainest of HTTP clients."""
    headers = {"Authorization": authorization(), **options.pop("headers", {})}

    def send_it() -> Response:
        with closing(http.client.HTTPConnection(urlsplit(gateway.http).netloc)) as connection:
            connection.request(verb, path, body, headers, **options)
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, names, response.read())

    return await to_thread.run_sync(send_it)


async def send_raw(gateway: GatewayAddresses, data: bytes) -> bytes:
    """Send bytes on a connection; return all that comes back until the server closes it."""
    parts = urlsplit(gateway.http)
    async with await anyio.connect_tcp(parts.hostname or "", parts.port or 0) as stream:
        await stream.send(data)
        return b"".join([chunk async for chunk in stream])


async def test_answers_with_date_and_request_id(gateway: GatewayAddresses) -> None:
    response = await send(gateway, "POST", "/v1/describejobs", b'{"jobs":["x"]}')
    assert (response.status, response.body) == (200, b'{"jobs":[]}')
    assert parsedate_to_datetime(response.headers["date"])
    assert response.headers["x-amzn-requestid"]
    assert "server" not in response.headers


async def test_serves_many_requests_on_one_connection(gateway: GatewayAddresses, services: FakeServices) -> None:
    def send_all() -> list[int]:
        with closing(http.client.HTTPConnection(urlsplit(gateway.http).netloc)) as connection:
            statuses = []
            for body in (b"{}", b"{", b"[]", b"{}"):
                connection.request("POST", "/v1/describejobqueues", body, {"Authorization": authorization()})
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
            return statuses

    assert await to_thread.run_sync(send_all) == [200, 400, 400, 200]
    assert len(services.received) == 2


async def test_tells_the_sender_of_a_large_body_that_it_is_too_large(
    gateway: GatewayAddresses, services: FakeServices
) -> None:
    response = await send(gateway, "POST", "/v1/submitjob", b"x" * (8 * 1024 * 1024))
    assert response.error == (
        413,
        "RequestEntityTooLargeException",
        "The request body is larger than 1048576 bytes.",
    )
    assert services.received == []


async def test_refuses_a_large_body_before_it_is_sent_to_clients_that_ask(gateway: GatewayAddresses) -> None:
    head = (
        f"POST /v1/submitjob HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization()}\r\n"
        "Content-Length: 2000000\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    )
    assert (await send_raw(gateway, head.encode())).startswith(b"HTTP/1.1 413 ")


async def test_stops_reading_a_stream_that_does_not_end(gateway: GatewayAddresses, services: FakeServices) -> None:
    parts = urlsplit(gateway.http)
    async with await anyio.connect_tcp(parts.hostname or "", parts.port or 0) as stream:
        await stream.send(
            f"POST /v1/submitjob HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization()}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        with pytest.raises(anyio.BrokenResourceError):
            await _send_for_ever(stream, b"10000\r\n" + b"a" * 0x10000 + b"\r\n")
    assert services.received == []


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST\r\n\r\n",
        b"POST /v1/submitjob\r\n\r\n",
        b"POST /v1/submit\xffjob HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"POST /v1/submitjob HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/submitjob HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/submitjob HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/submitjob HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"POST /v1/submitjob HTTP/1.1\r\nNo colon\r\n\r\n",
        b"POST /v1/submitjob HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"POST /v1/submitjob HTTP/1.0\r\n\r\n",
        b"POST /v1/submitjob HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"POST http://evil.example/v1/submitjob HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    ],
)
async def test_garbage_is_the_clients_fault_and_reaches_no_service(
    gateway: GatewayAddresses, services: FakeServices, data: bytes
) -> None:
    answer = await send_raw(gateway, data)
    assert answer.startswith(b"HTTP/1.1 4")
    assert services.received == []
    assert (await send(gateway, "GET", "/healthz")).status == 200


async def test_a_pipelined_request_is_answered_after_the_one_before(gateway: GatewayAddresses) -> None:
    one = (
        f"POST /v1/describejobqueues HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization()}\r\n"
        "Content-Length: 2\r\n\r\n{}"
    )
    other = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await send_raw(gateway, (one + other).encode())
    assert 0 < answer.index(b'{"jobQueues":[]}') < answer.index(b'{"status":"alive"}')


async def test_a_head_request_has_no_body(gateway: GatewayAddresses) -> None:
    response = await send(gateway, "HEAD", "/readyz")
    assert (response.status, response.body) == (200, b"")


async def test_a_service_that_cannot_be_reached_is_a_server_exception_and_named_by_readyz(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("batchyard.gateway.upstreams.RESTART_PATIENCE_S", 0.2)
    monkeypatch.setattr("batchyard.gateway.health.CHECK_DEADLINE_S", PATIENCE_S)
    with socket.create_server(("127.0.0.1", 0)) as unused:
        nobody = f"127.0.0.1:{unused.getsockname()[1]}"
    async with over_sockets(FakeServices()) as there, grpc.aio.insecure_channel(nobody) as away:
        upstreams = Upstreams(registry=there.registry, jobs=away, scheduler=there.scheduler, logs=there.logs)
        async with open_gateway(config=ANY_PORT, upstreams=upstreams) as gateway:
            submission = await send(gateway, "POST", "/v1/submitjob", SUBMISSION)
            readiness = await send(gateway, "GET", "/readyz")
    assert submission.error == (500, "ServerException", "The service is not available at the moment.")
    assert (readiness.status, readiness.members["upstreams"]) == (
        503,
        {"jobs": "UNAVAILABLE", "logs": "SERVING", "registry": "SERVING", "scheduler": "SERVING"},
    )


async def test_a_service_that_does_not_answer_in_time_is_a_server_exception(services: FakeServices) -> None:
    async def never(request: Any, context: Any) -> None:
        await anyio.sleep_forever()

    services.answer("SubmitJob", never)
    config = GatewayConfig(port=0, grpc_port=0, deadline_s=0.5)
    async with over_sockets(services) as upstreams, open_gateway(config=config, upstreams=upstreams) as gateway:
        response = await send(gateway, "POST", "/v1/submitjob", SUBMISSION)
    assert response.error == (500, "ServerException", "The request took too long.")


async def _send_for_ever(stream: anyio.abc.ByteStream, data: bytes) -> None:
    while True:
        await stream.send(data)


async def test_finishes_what_is_in_flight_when_it_stops(services: FakeServices) -> None:
    arrived, go_on = anyio.Event(), anyio.Event()

    async def slow(request: Any, context: Any) -> jobs_service_pb2.SubmitJobResponse:
        arrived.set()
        await go_on.wait()
        return jobs_service_pb2.SubmitJobResponse(job_id="1")

    services.answer("SubmitJob", slow)
    responses: list[Response] = []

    async def submit(gateway: GatewayAddresses) -> None:
        responses.append(await send(gateway, "POST", "/v1/submitjob", SUBMISSION))

    async with (
        over_sockets(services) as upstreams,
        anyio.create_task_group() as tasks,
        open_gateway(config=ANY_PORT, upstreams=upstreams) as gateway,
    ):
        tasks.start_soon(submit, gateway)
        await arrived.wait()
        tasks.start_soon(_set_when_refusing, gateway, go_on)
    assert [json.loads(response.body) for response in responses] == [{"jobId": "1"}]


async def _set_when_refusing(gateway: GatewayAddresses, event: anyio.Event) -> None:
    """Set the event once the server takes no new connection."""
    parts = urlsplit(gateway.http)
    while True:
        try:
            async with await anyio.connect_tcp(parts.hostname or "", parts.port or 0):
                await anyio.lowlevel.checkpoint()
        except OSError:
            event.set()
            return


async def test_stops_when_it_is_cancelled(services: FakeServices) -> None:
    async with over_sockets(services) as upstreams:
        with anyio.CancelScope() as scope:
            async with open_gateway(config=ANY_PORT, upstreams=upstreams) as gateway:
                scope.cancel()
                await anyio.sleep_forever()
    with pytest.raises(OSError):
        await send(gateway, "GET", "/healthz")


async def test_says_which_address_it_cannot_have(services: FakeServices) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with over_sockets(services) as upstreams:
            with pytest.raises(OSError, match=str(port)):
                async with open_gateway(config=GatewayConfig(port=port, grpc_port=0), upstreams=upstreams):
                    raise AssertionError("it started")


async def test_listens_on_ipv6(services: FakeServices) -> None:
    config = GatewayConfig(host="::1", port=0, grpc_port=0)
    async with over_sockets(services) as upstreams, open_gateway(config=config, upstreams=upstreams) as gateway:
        assert gateway.http.startswith("http://[::1]:")
        assert gateway.grpc.startswith("grpc://[::1]:")
        assert (await send(gateway, "POST", "/v1/describejobqueues", b"{}")).status == 200
