"""The console as it is beyond loopback: by HTTPS, for those who have an access key."""

import base64
import http.client
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import pytest
from anyio import from_thread, to_thread

from batchyard.api.operations.v1.job_operations_service_pb2 import WatchJobsResponse
from batchyard.gateway.access_keys import AccessKey
from batchyard.gateway.config import GatewayConfig
from batchyard.rpc.identity import NAMESPACE_KEY
from batchyard.rpc.peers import Role
from support.certificates import Certificates
from support.gateway import ANY_PORT, Context, FakeServices, a_gateway

ACCOUNT: Final = "210987654321"
SECRET: Final = "a secret of enough letters"
SIGNED_IN: Final = {"Authorization": f"Basic {base64.b64encode(f'AKID:{SECRET}'.encode()).decode()}"}


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def services() -> FakeServices:
    services = FakeServices()
    services.answer("WatchJobs", _watch)
    return services


@pytest.fixture
def config(certificates: Certificates) -> GatewayConfig:
    keys = {"AKID": AccessKey(SECRET, ACCOUNT)}
    return replace(ANY_PORT, access_keys=keys, tls=certificates.tls(Role.SERVICE, "gateway"))


async def _watch(request: Any, context: Context) -> AsyncIterator[WatchJobsResponse]:
    yield WatchJobsResponse(revision=1)
    await anyio.sleep_forever()


def connection_to(url: str, certificates: Certificates) -> http.client.HTTPSConnection:
    trusting = ssl.create_default_context(cafile=certificates.ca)
    return http.client.HTTPSConnection(urlsplit(url).netloc, context=trusting, timeout=60)


async def answered(
    url: str, certificates: Certificates, verb: str, path: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, dict[str, str]]:
    def ask() -> tuple[int, dict[str, str]]:
        with closing(connection_to(url, certificates)) as connection:
            connection.request(verb, path, body, headers)
            response = connection.getresponse()
            response.read()
            return response.status, {name.lower(): value for name, value in response.getheaders()}

    return await to_thread.run_sync(ask)


async def test_a_browser_signs_in_looks_and_acts_by_https(
    services: FakeServices, config: GatewayConfig, certificates: Certificates
) -> None:
    async with a_gateway(services, config) as gateway:
        assert gateway.http.startswith("https://")
        status, headers = await answered(gateway.http, certificates, "GET", "/agents", {})
        assert (status, headers["www-authenticate"][:6]) == (401, "Basic ")
        assert services.received == []
        assert (await answered(gateway.http, certificates, "GET", "/agents", SIGNED_IN))[0] == 200
        terminate = ("POST", "/actions/terminate")
        for origin, expected in (("https://evil.example", 403), (gateway.http, 303)):
            form = {**SIGNED_IN, "Origin": origin, "Content-Type": "application/x-www-form-urlencoded"}
            assert (await answered(gateway.http, certificates, *terminate, form, b"job=an-id"))[0] == expected
    assert [call.method for call in services.received] == ["ListAgents", "TerminateJob"]
    assert {call.metadata[NAMESPACE_KEY] for call in services.received} == {ACCOUNT}


async def test_without_access_keys_the_chosen_account_is_told_by_https_alone(
    services: FakeServices, config: GatewayConfig, certificates: Certificates
) -> None:
    async with a_gateway(services, replace(config, access_keys=None)) as gateway:
        _, headers = await answered(gateway.http, certificates, "GET", f"/?account={ACCOUNT}", {})
    assert {"Secure", "HttpOnly", "SameSite=Strict"} <= set(headers["set-cookie"].split("; "))


async def test_a_gateway_that_stops_waits_for_no_page_that_is_open(
    services: FakeServices, config: GatewayConfig, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)

    def listen(url: str, told: Callable[[], None]) -> bytes:
        with closing(connection_to(url, certificates)) as connection:
            connection.request("GET", "/live/changes", headers=SIGNED_IN)
            response = connection.getresponse()
            assert response.readline() == b"event: changed\n"
            told()
            return response.read()

    heard: list[bytes] = []
    async with anyio.create_task_group() as tasks, a_gateway(services, config) as gateway:
        has_begun = anyio.Event()

        async def look() -> None:
            heard.append(await to_thread.run_sync(listen, gateway.http, partial(from_thread.run_sync, has_begun.set)))

        tasks.start_soon(look)
        with anyio.fail_after(60):
            await has_begun.wait()
    assert [b"event" in rest for rest in heard] == [False]
    # What uvicorn says of requests that it has to cut off.
    assert "graceful shutdown exceeded" not in caplog.text
