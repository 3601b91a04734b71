"""The console's HTTP side: who may look, which page it is, and how it is sent.

A browser sends no signatures. On a server that verifies none, everybody who can reach it may look and act, as with any
client; where access keys are configured, the browser asks for one of them. What changes something must come from a page
of our own: a POST with our own Origin.
"""

import base64
import binascii
import hmac
import logging
import re
import time
from collections.abc import Mapping
from functools import cached_property
from http.cookies import CookieError, SimpleCookie
from importlib import resources
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote

import grpc
import grpc.aio

from batchyard.domain.names import Caller
from batchyard.gateway.access_keys import AccessKey
from batchyard.gateway.asgi import Answer, Request, read_body, send_answer
from batchyard.gateway.aws_errors import REST_JSON, AwsError, aws_error_of
from batchyard.gateway.browser import BrowserRules
from batchyard.gateway.config import ACCOUNT, GatewayConfig
from batchyard.gateway.console import shapes
from batchyard.gateway.console.actions import ACTIONS
from batchyard.gateway.console.api import Api
from batchyard.gateway.console.live import Streams, changes, log_lines
from batchyard.gateway.console.pages import PAGES, Page, View
from batchyard.gateway.console.watches import Watches
from batchyard.gateway.transcoder import MemberError
from batchyard.gateway.upstreams import Upstreams
from batchyard.rpc.http_server import Receive, Send

if TYPE_CHECKING:
    import jinja2

BODY_BYTES_MAX: Final = 256 * 1024
ACCOUNT_COOKIE: Final = "batchyard-account"
_FLEET_PATHS: Final = frozenset({"/actions/drain", "/actions/resume"})
"""What has an effect on all accounts, and is not for keys of a single one."""
_HTML: Final = "text/html; charset=utf-8"
_ASSETS: Final[Mapping[str, str]] = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
_REALM: Final = {"www-authenticate": 'Basic realm="Batchyard: an access key and its secret", charset="UTF-8"'}

logger = logging.getLogger(__name__)


class Console:
    """Serves the pages, their actions and their live streams."""

    def __init__(self, config: GatewayConfig, upstreams: Upstreams, rules: BrowserRules) -> None:
        self._config = config
        self._rules = rules
        self._api = Api(upstreams)
        self._streams = Streams()
        self._watches = Watches(self._api)
        self._assets = {f"/assets/{name}": answer for name, answer in _read_assets().items()}

    @cached_property
    def _templates(self) -> "jinja2.Environment":
        # Loaded when somebody looks: a server is to start fast.
        import jinja2

        templates = jinja2.Environment(
            loader=jinja2.PackageLoader("batchyard.gateway.console"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        templates.filters |= {"duration": shapes.duration, "memory": shapes.memory}
        templates.globals |= {"STATUSES": shapes.STATUSES, "TERMINAL": shapes.TERMINAL, "share": shapes.share}
        return templates

    def has(self, request: Request) -> bool:
        """Tell whether a request is for the console and not for an API."""
        if request.verb in ("GET", "HEAD"):
            is_stream = request.verb == "GET" and request.path.startswith("/live/")
            return is_stream or request.path in self._assets or _page_of(request.path) is not None
        return request.verb == "POST" and request.path.startswith("/actions/")

    def close(self) -> None:
        """End what would go on for as long as somebody looks."""
        self._streams.close()

    async def serve(self, request: Request, receive: Receive, send: Send, request_id: str) -> None:
        """Answer one request."""
        try:
            self._rules.check(request.headers.get("host"), request.headers.get("origin"))
            if request.path in self._assets:
                await send_answer(send, self._assets[request.path], request_id)
                return
            caller = self._caller_of(request)
            if request.path.startswith("/live/"):
                await self._stream(request, caller, receive, send)
                return
            answer = await (
                self._act(request, receive, caller) if request.verb == "POST" else self._show(request, caller)
            )
        except AwsError as error:
            answer = self._failure(request, error)
        except Exception:
            logger.exception("%s failed", request.path)
            answer = self._failure(request, AwsError(500, "", "The page could not be made; the log says why."))
        await send_answer(send, answer, request_id)

    async def _show(self, request: Request, caller: Caller) -> Answer:
        found = _page_of(request.path)
        assert found is not None
        page, parts = found
        query = {name: values[-1] for name, values in parse_qs(request.query).items()}
        if ACCOUNT.fullmatch(query.get("account", "")) and self._config.access_keys is None:
            cookie = f"{ACCOUNT_COOKIE}={query['account']}; Path=/; SameSite=Strict; HttpOnly"
            if self._config.tls is not None:
                cookie += "; Secure"
            return Answer(303, b"", _HTML, {"location": request.path, "set-cookie": cookie})
        try:
            view = await page(self._api, caller, parts, query)
        except grpc.aio.AioRpcError as error:
            status = 404 if error.code() is grpc.StatusCode.NOT_FOUND else None
            raise _told(error, status) from error
        except MemberError as error:
            raise AwsError(400, "", str(error)) from error
        return self._page(request, view, caller)

    async def _act(self, request: Request, receive: Receive, caller: Caller) -> Answer:
        if request.headers.get("origin") is None:
            raise AwsError(403, "", "Actions are taken from the console's own pages only.")
        action = ACTIONS.get(request.path.removeprefix("/actions/"))
        if action is None:
            raise AwsError(404, "", f"There is no action {request.path}.")
        body = await read_body(request, receive, bytes_max=BODY_BYTES_MAX, deadline_s=self._config.deadline_s)
        form = {
            name: values[-1]
            for name, values in parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True).items()
        }
        try:
            location = await action(self._api, caller, form)
        except grpc.aio.AioRpcError as error:
            raise _told(error) from error
        except MemberError as error:
            raise AwsError(400, "", str(error)) from error
        return Answer(303, b"", _HTML, {"location": location})

    async def _stream(self, request: Request, caller: Caller, receive: Receive, send: Send) -> None:
        query = {name: values[-1] for name, values in parse_qs(request.query).items()}

        def is_allowed() -> bool:
            try:
                return self._caller_of(request) == caller
            except AwsError:
                return False

        match request.path:
            case "/live/log":
                after = request.headers.get("last-event-id") or query.get("after", "")
                lines = log_lines(self._api, caller, query.get("stream", ""), after)
                await self._streams.serve(lines, receive, send, is_allowed)
            case "/live/changes":
                events, watches = changes(self._watches, caller, query)
                await self._streams.serve(events, receive, send, is_allowed, watches)
            case _:
                raise AwsError(404, "", f"There is no {request.path}.")

    def _caller_of(self, request: Request) -> Caller:
        keys = self._config.access_keys
        if keys is None:
            return Caller(_account_in(request.headers.get("cookie", "")) or self._config.account, self._config.region)
        key_id, secret = _basic(request.headers.get("authorization", ""))
        key = keys.get(key_id)
        is_right = hmac.compare_digest((key.secret if key is not None else " " * 40).encode(), secret.encode())
        # A session token has no place in a browser's question.
        if key is None or not is_right or key.session_token or _is_expired(key):
            raise AwsError(401, "", "Sign in with an access key id and its secret.", _REALM)
        if key.namespace is not None and request.path in _FLEET_PATHS:
            raise AwsError(403, "", f"This access key is for account {key.namespace}: agents run jobs of all accounts.")
        return Caller(key.namespace or self._config.account, self._config.region)

    def _page(self, request: Request, view: View, caller: Caller, status: int = 200) -> Answer:
        shared: dict[str, Any] = {
            "account": caller.namespace,
            "default_account": self._config.account,
            "may_choose_account": self._config.access_keys is None,
            "path": request.path,
            "fragment": "x-fragment" in request.headers,
        }
        text = self._templates.get_template(view.template).render(**shared, **view.context)
        return Answer(status, text.encode(), _HTML, _HEADERS)

    def _failure(self, request: Request, error: AwsError) -> Answer:
        view = View("failure.html", {"status": error.status, "message": error.message, "title": "Not done"})
        caller = Caller(self._config.account, self._config.region)
        answer = self._page(request, view, caller, error.status)
        return Answer(answer.status, answer.body, answer.content_type, {**answer.headers, **error.headers})


def _told(error: grpc.aio.AioRpcError, status: int | None = None) -> AwsError:
    told = aws_error_of(error, REST_JSON)
    return AwsError(status or told.status, told.error_type, told.message)


def _page_of(path: str) -> tuple[Page, tuple[str, ...]] | None:
    for pattern, page in PAGES:
        if (match := re.fullmatch(pattern, path)) is not None:
            return page, tuple(unquote(part) for part in match.groups())
    return None


def _account_in(cookies: str) -> str | None:
    try:
        cookie = SimpleCookie(cookies).get(ACCOUNT_COOKIE)
    except CookieError:
        return None
    return cookie.value if cookie is not None and ACCOUNT.fullmatch(cookie.value) else None


def _basic(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password


def _is_expired(key: AccessKey) -> bool:
    return key.expires is not None and time.time() >= key.expires.timestamp()


def _read_assets() -> dict[str, Answer]:
    headers = {**_HEADERS, "cache-control": "max-age=3600"}
    return {
        file.name: Answer(200, file.read_bytes(), _ASSETS[suffix], headers)
        for file in resources.files("batchyard.gateway.console").joinpath("assets").iterdir()
        if (suffix := file.name[file.name.rfind(".") :]) in _ASSETS
    }
