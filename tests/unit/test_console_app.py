"""Who may look at the console, and who may act: a browser sends no signatures, and not every page in it is ours."""

import base64
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from grpc import StatusCode

import batchyard.gateway.console
from batchyard.gateway.access_keys import AccessKey
from batchyard.gateway.config import GatewayConfig
from batchyard.rpc.identity import NAMESPACE_KEY
from support.gateway import FakeServices, Response, an_app, ask, in_process, refusing

SECRET: Final = "a secret of enough letters"
KEYS: Final = {
    "AKIDONE": AccessKey(SECRET, "210987654321"),
    "AKIDALL": AccessKey(SECRET),
    "AKIDTOKEN": AccessKey(SECRET, None, "a token"),
    "AKIDOLD": AccessKey(SECRET, expires=datetime(2020, 1, 1, tzinfo=UTC)),
}
OPEN: Final = GatewayConfig()
LOCKED: Final = replace(OPEN, access_keys=KEYS)
OWN: Final = {"host": "127.0.0.1:8080", "origin": "http://127.0.0.1:8080"}
FORM: Final = b"job=an-id&reason=enough"


async def asked(services: FakeServices, config: GatewayConfig, verb: str, path: str, **headers: str) -> Response:
    """Send one request as a browser does: without a signature."""
    named = {"authorization": "", **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with in_process(services) as upstreams:
        return await ask(an_app(upstreams, config), verb, path, FORM if verb == "POST" else b"", headers=named)


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


async def test_an_action_is_one_call_of_its_operation(services: FakeServices) -> None:
    response = await asked(services, OPEN, "POST", "/actions/terminate", **OWN)
    assert (response.status, response.headers["location"]) == (303, "/jobs/an-id")
    (call,) = services.received
    assert (call.method, call.request.job_id, call.request.reason) == ("TerminateJob", "an-id", "enough")


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "127.0.0.1:8080"},
        {"host": "127.0.0.1:8080", "origin": "http://evil.example"},
        {"host": "127.0.0.1:8080", "origin": "null"},
        {"host": "evil.example", "origin": "http://evil.example"},
    ],
    ids=["no origin", "another page", "a sandboxed page", "a rebound name"],
)
async def test_pages_that_are_not_ours_cannot_act(services: FakeServices, headers: dict[str, str]) -> None:
    response = await asked(services, OPEN, "POST", "/actions/terminate", **headers)
    assert response.status == 403
    assert services.received == []


async def test_a_rebound_name_cannot_read_either(services: FakeServices) -> None:
    response = await asked(services, OPEN, "GET", "/jobs/an-id", host="evil.example")
    assert response.status == 403
    assert services.received == []


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        basic("AKIDONE", "wrong"),
        basic("AKIDNONE", SECRET),
        basic("AKIDTOKEN", SECRET),
        basic("AKIDOLD", SECRET),
        "Basic %",
    ],
    ids=["nothing", "wrong secret", "unknown key", "key with a token", "expired key", "nonsense"],
)
@pytest.mark.parametrize(
    ("verb", "path"), [("GET", "/agents"), ("POST", "/actions/terminate"), ("GET", "/live/changes")]
)
async def test_with_access_keys_a_browser_must_have_one(
    services: FakeServices, authorization: str, verb: str, path: str
) -> None:
    response = await asked(services, LOCKED, verb, path, authorization=authorization, **OWN)
    assert response.status == 401
    assert response.headers["www-authenticate"].startswith("Basic ")
    assert services.received == []


async def test_a_key_looks_at_its_own_account_whatever_a_cookie_says(services: FakeServices) -> None:
    response = await asked(
        services,
        LOCKED,
        "GET",
        "/agents",
        authorization=basic("AKIDONE", SECRET),
        cookie="batchyard-account=999999999999",
    )
    assert response.status == 200
    assert {call.metadata[NAMESPACE_KEY] for call in services.received} == {"210987654321"}


@pytest.mark.parametrize("action", ["drain", "resume"])
async def test_a_key_of_one_account_drains_no_agents(services: FakeServices, action: str) -> None:
    for key, status in (("AKIDONE", 403), ("AKIDALL", 303)):
        response = await asked(services, LOCKED, "POST", f"/actions/{action}", authorization=basic(key, SECRET), **OWN)
        assert response.status == status
        assert bool(services.received) == (status == 303)


async def test_an_account_is_chosen_by_a_cookie(services: FakeServices) -> None:
    chosen = await asked(services, OPEN, "GET", "/?account=999999999999")
    assert (chosen.status, chosen.headers["location"]) == (303, "/")
    cookie = chosen.headers["set-cookie"].partition(";")[0]
    response = await asked(services, OPEN, "GET", "/agents", cookie=cookie)
    assert response.status == 200
    assert {call.metadata[NAMESPACE_KEY] for call in services.received} == {"999999999999"}


async def test_a_service_that_is_not_there_is_told_as_a_page(services: FakeServices) -> None:
    services.answer("ListAgents", refusing(StatusCode.UNAVAILABLE, "10.0.0.7:8084 refused"))
    response = await asked(services, OPEN, "GET", "/agents")
    assert response.status == 500
    assert b"not available" in response.body
    assert b"10.0.0.7" not in response.body


async def test_what_users_wrote_is_text_and_not_markup(services: FakeServices) -> None:
    services.answer("ListAgents", refusing(StatusCode.NOT_FOUND, "<script>alert(1)</script>"))
    response = await asked(services, OPEN, "GET", "/agents")
    assert b"<script>alert" not in response.body
    assert b"&lt;script&gt;alert" in response.body
    assert "default-src 'self'" in response.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/console.js", "/assets/../app.py", "/assets/none.js", "/actions/terminate", "/v1/x"])
async def test_what_is_no_page_is_left_to_the_apis(services: FakeServices, path: str) -> None:
    response = await asked(services, OPEN, "GET", path)
    assert response.status in (403, 404)
    assert "x-amzn-errortype" in response.headers


def test_no_page_names_another_host() -> None:
    folder = Path(batchyard.gateway.console.__file__).parent
    files = [*folder.glob("templates/*.html"), *folder.glob("assets/console.*")]
    assert len(files) > 8
    for file in files:
        assert re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+", file.read_text()) == [], file.name
