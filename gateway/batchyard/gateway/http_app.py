"""The gateway's HTTP side: a bare ASGI application in front of the operations."""

import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from batchyard.domain.names import Caller
from batchyard.gateway.asgi import Answer, DisconnectedError, Request, read_body, send_answer
from batchyard.gateway.aws_errors import AWS_JSON, REST_JSON, AwsError, Protocol
from batchyard.gateway.browser import BrowserRules
from batchyard.gateway.config import GatewayConfig
from batchyard.gateway.console.app import Console
from batchyard.gateway.health import alive_answer, readiness_answer
from batchyard.gateway.identity import Authorization, caller_of, invocation_of, parse_authorization
from batchyard.gateway.metrics import metrics_answer, record_request
from batchyard.gateway.operations import Operation
from batchyard.gateway.routes import AWS_JSON_PATH, RouteTable
from batchyard.gateway.sigv4 import SignatureVerifier
from batchyard.gateway.sts import FORM, STS, GetCallerIdentity
from batchyard.gateway.submissions import call_of
from batchyard.gateway.upstreams import PUBLIC_SERVICES, UnaryCall, Upstreams
from batchyard.rpc import log_context
from batchyard.rpc.http_server import Receive, Scope, Send
from batchyard.rpc.identity import INVOCATION_KEY

logger = logging.getLogger(__name__)

BODY_BYTES_MAX: Final = 1024 * 1024
_TARGET_HEADER: Final = "x-amz-target"


class HttpApp:
    """Answers AWS clients, health probes and metric scrapers."""

    def __init__(self, config: GatewayConfig, upstreams: Upstreams, submit: UnaryCall) -> None:
        """Answer with what the services behind `upstreams` say; SubmitJob is called by `submit`."""
        self._config = config
        self._browser_rules = BrowserRules(config)
        self._verifier = (
            None
            if config.access_keys is None
            else SignatureVerifier(config.access_keys, time.time, clock_skew_s=config.clock_skew_s)
        )
        self._table = RouteTable(PUBLIC_SERVICES)
        self._operations = {}
        for route in self._table.routes:
            channel = upstreams.owner_of(route.method.containing_service)
            call = call_of(route.method, channel, submit)
            self._operations[route.method.full_name] = Operation(route, channel, call, deadline_s=config.deadline_s)
        self._caller_identity = GetCallerIdentity()
        self._console = Console(config, upstreams, self._browser_rules)
        self._pages: dict[str, Callable[[], Awaitable[Answer]]] = {
            "/healthz": _at_once(alive_answer),
            "/readyz": lambda: readiness_answer(upstreams),
            "/metrics": _at_once(metrics_answer),
        }

    def close(self) -> None:
        """End the streams of pages, which would last as long as their browsers: the server is to stop."""
        self._console.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request.from_scope(scope)
        request_id = str(uuid.uuid4())
        log_context.begin_request(log_context.Request(request_id))
        try:
            if self._console.has(request):
                await self._console.serve(request, receive, send, request_id)
                return
            page = self._pages.get(request.path)
            answering = self._answer(request, receive, request_id) if page is None else _show(page, request, request_id)
            answer = await answering
        except DisconnectedError:
            return
        await send_answer(send, answer, request_id)

    async def _answer(self, request: Request, receive: Receive, request_id: str) -> Answer:
        begin = time.perf_counter()
        protocol = _protocol_of(request)
        name = "unknown"
        try:
            operation = self._find(request, protocol)
            name = operation.name
            authorization = parse_authorization(request.headers.get("authorization"))
            if self._verifier is not None:
                self._verifier.check_head(request, authorization, protocol.signing_name)
            body = await read_body(request, receive, bytes_max=BODY_BYTES_MAX, deadline_s=self._config.deadline_s)
            caller = self._caller_of(request, authorization, body)
            invocation = invocation_of(authorization.credential, request.headers.get(INVOCATION_KEY))
            text = await operation.call(request, body, caller, request_id, invocation)
            answer = Answer(200, text, protocol.content_type)
        except AwsError as error:
            answer = _error_answer(error, protocol, request_id)
            if error.status >= 500:
                logger.warning("%s failed: %s", name, error.__cause__ or error)
        except DisconnectedError:
            raise
        except Exception:
            logger.exception("%s failed", name)
            failure = AwsError(500, protocol.server_error, "The server failed to handle the request.")
            answer = _error_answer(failure, protocol, request_id)
        seconds = time.perf_counter() - begin
        record_request(name, answer.status, seconds)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s is answered with %d", name, answer.status, extra={"seconds": round(seconds, 6)})
        return answer

    def _caller_of(self, request: Request, authorization: Authorization, body: bytes) -> Caller:
        caller = caller_of(authorization.credential, self._config)
        if self._verifier is None:
            return caller
        key = self._verifier.verify(request, authorization, body)
        return replace(caller, namespace=key.namespace or self._config.account)

    def _find(self, request: Request, protocol: Protocol) -> Operation | GetCallerIdentity:
        self._browser_rules.check(request.headers.get("host"), request.headers.get("origin"))
        if protocol is STS:
            return self._caller_identity
        target = request.headers.get(_TARGET_HEADER) if protocol is AWS_JSON else None
        return self._operations[self._table.find(request.verb, request.path, target).method.full_name]


def _protocol_of(request: Request) -> Protocol:
    """Return in which protocol a request is, whatever is wrong with it."""
    if request.path == AWS_JSON_PATH and _TARGET_HEADER in request.headers:
        return AWS_JSON
    if request.path == AWS_JSON_PATH and request.headers.get("content-type", "").startswith(FORM):
        return STS
    return REST_JSON


def _error_answer(error: AwsError, protocol: Protocol, request_id: str) -> Answer:
    headers = {"x-amzn-errortype": error.error_type, **error.headers}
    return Answer(error.status, protocol.body_of(error, request_id), protocol.content_type, headers)


async def _show(page: Callable[[], Awaitable[Answer]], request: Request, request_id: str) -> Answer:
    if request.verb not in ("GET", "HEAD"):
        message = f"{request.path} takes GET, not {request.verb}."
        error = AwsError(405, "MethodNotAllowedException", message, {"allow": "GET, HEAD"})
        return _error_answer(error, REST_JSON, request_id)
    return await page()


def _at_once(answer: Callable[[], Answer]) -> Callable[[], Awaitable[Answer]]:
    async def page() -> Answer:
        return answer()

    return page
