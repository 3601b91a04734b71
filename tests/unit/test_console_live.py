"""The console's streams: what a page that is open hears, for how long, and what it costs when nobody listens."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import anyio
import pytest
from grpc import StatusCode

from batchyard.api.operations.v1 import logs_service_pb2
from batchyard.api.operations.v1.agents_service_pb2 import AgentSummary, WatchAgentsResponse
from batchyard.api.operations.v1.job_operations_service_pb2 import JobChange, WatchJobsResponse
from batchyard.domain.names import Caller
from batchyard.gateway.access_keys import AccessKey
from batchyard.gateway.config import GatewayConfig
from batchyard.gateway.console import live
from batchyard.gateway.console.api import Api
from batchyard.gateway.console.watches import Watches
from batchyard.gateway.http_app import HttpApp
from support import gateway
from support.gateway import Context, FakeServices, ask, in_process, refusing, scope_of
from support.loop_time import LoopTime
from support.waiting import eventually

CHANGES: Final = "/live/changes?agents=1"
LOG: Final = "/live/log?stream=a-log"
END: Final = b"event: end\ndata: {}\n\n"
HOUR_S: Final = 3600
CHANGED: Final = b"event: changed\ndata: {}\n\n"


class Watched:
    """A service's stream that says when it is open, and when its caller has gone."""

    def __init__(self, *responses: Any) -> None:
        self.begun, self.ended = anyio.Event(), anyio.Event()
        self._responses = responses

    async def __call__(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """Send the responses, then nothing."""
        try:
            for response in self._responses:
                yield response
            self.begun.set()
            await anyio.sleep_forever()
        finally:
            self.ended.set()


class Tab:
    """A browser's side of a stream."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.status: int | None = None
        self.has_ended = False
        self._gone, self._news = anyio.Event(), anyio.Event()
        self._asked = False

    async def receive(self) -> dict[str, Any]:
        """Give the request, then, when the tab is closed, its end."""
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """Take what is sent."""
        if message["type"] == "http.response.start":
            assert self.status is None
            self.status = message["status"]
        else:
            self.heard += [message["body"]] if message["body"] else []
            self.has_ended = not message.get("more_body", False)
        news, self._news = self._news, anyio.Event()
        news.set()

    def close(self) -> None:
        """Leave."""
        self._gone.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so, which is looked at after each message."""
        with anyio.fail_after(30):
            while not condition():
                await self._news.wait()


@pytest.fixture
def services(services: FakeServices) -> FakeServices:
    """Services that have agents, of which nothing changes."""
    services.answer("WatchAgents", Watched(WatchAgentsResponse(caught_up=True)))
    return services


@asynccontextmanager
async def an_app(services: FakeServices, config: GatewayConfig | None = None) -> AsyncIterator[HttpApp]:
    async with in_process(services) as upstreams:
        yield gateway.an_app(upstreams, config or GatewayConfig())


@asynccontextmanager
async def opened(app: HttpApp, path: str, **headers: str) -> AsyncIterator[Tab]:
    """Have a stream open for the length of the context; it is over at its end, whoever has ended it."""
    tab = Tab()
    named = {"host": "127.0.0.1:8080", **{name.replace("_", "-"): value for name, value in headers.items()}}
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app, scope_of("GET", path, named), tab.receive, tab.send)
            yield tab
    assert tab.has_ended


async def test_a_tab_that_is_closed_ends_what_was_watched_for_it(services: FakeServices) -> None:
    watch = Watched(WatchJobsResponse(revision=1))
    services.answer("WatchJobs", watch)
    async with an_app(services) as app:
        async with opened(app, CHANGES) as tab:
            await tab.until(lambda: tab.heard == [CHANGED])
            tab.close()
        with anyio.fail_after(30):
            await watch.ended.wait()


async def test_tabs_of_an_account_share_one_watch_for_as_long_as_one_is_open(services: FakeServices) -> None:
    go_on = anyio.Event()
    ended = anyio.Event()

    async def watch(request: Any, context: Context) -> AsyncIterator[WatchJobsResponse]:
        try:
            yield WatchJobsResponse(revision=1)
            await go_on.wait()
            yield WatchJobsResponse(revision=2, changes=[JobChange(job_id="a", job_queue="x:job-queue/q")])
            await anyio.sleep_forever()
        finally:
            ended.set()

    services.answer("WatchJobs", watch)
    async with an_app(services) as app:
        async with opened(app, "/live/changes") as first:
            await first.until(lambda: len(first.heard) == 1)
            # One that comes later looks anew as well, and hears of what changes from then on.
            async with (
                opened(app, "/live/changes?queue=q") as second,
                opened(app, "/live/changes?queue=other") as third,
            ):
                await second.until(lambda: len(second.heard) == 1)
                await third.until(lambda: len(third.heard) == 1)
                first.close()
                go_on.set()
                await second.until(lambda: len(second.heard) == 2)
                assert len(third.heard) == 1
                assert not ended.is_set()
                second.close()
                third.close()
        with anyio.fail_after(30):
            await ended.wait()
        assert [call.method for call in services.received] == ["WatchJobs"]
        async with opened(app, "/live/changes") as again:
            await again.until(lambda: len(again.heard) == 1)
            again.close()
        assert [call.method for call in services.received] == ["WatchJobs"] * 2


async def test_a_watch_that_breaks_ends_the_streams_of_all_tabs_and_the_next_ones_begin_another(
    services: FakeServices,
) -> None:
    breaks = anyio.Event()

    async def watch(request: Any, context: Context) -> AsyncIterator[WatchJobsResponse]:
        yield WatchJobsResponse(revision=1)
        await breaks.wait()
        await refusing(StatusCode.UNAVAILABLE, "started anew")(request, context)

    services.answer("WatchJobs", watch)
    async with an_app(services) as app:
        async with opened(app, "/live/changes") as first, opened(app, "/live/changes") as second:
            for tab in (first, second):
                await tab.until(lambda tab=tab: len(tab.heard) == 1)  # type: ignore[misc]
            breaks.set()
        async with opened(app, "/live/changes"):
            pass
    assert [call.method for call in services.received] == ["WatchJobs"] * 2


@pytest.mark.parametrize("path", [CHANGES, LOG])
async def test_a_server_that_stops_ends_all_streams_at_once_and_opens_none(services: FakeServices, path: str) -> None:
    watch = Watched()
    services.answer("WatchJobs", watch)
    services.answer("FollowLogEvents", watch)
    async with an_app(services) as app:
        async with opened(app, path), opened(app, path):
            await watch.begun.wait()
            app.close()
        assert (await ask(app, "GET", path, headers={"authorization": ""})).status == 503


async def test_no_more_streams_are_open_than_a_server_can_bear(
    services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "STREAMS_MAX", 1)
    watch = Watched()
    services.answer("WatchJobs", watch)
    async with an_app(services) as app:
        for _ in range(2):
            async with opened(app, CHANGES) as tab:
                await watch.begun.wait()
                assert (await ask(app, "GET", CHANGES, headers={"authorization": ""})).status == 503
                tab.close()


async def test_who_loses_the_right_to_look_hears_nothing_more(services: FakeServices) -> None:
    keys = {"AKID": AccessKey("a secret of enough letters")}
    config = replace(GatewayConfig(), access_keys=keys)
    line = logs_service_pb2.LogEvent(timestamp=1, message="secret")
    may_go_on = anyio.Event()

    async def follow(request: Any, context: Context) -> AsyncIterator[Any]:
        yield logs_service_pb2.FollowLogEventsResponse(events=[line], next_forward_token="f/1")
        await may_go_on.wait()
        yield logs_service_pb2.FollowLogEventsResponse(events=[line], next_forward_token="f/2")

    services.answer("FollowLogEvents", follow)
    async with an_app(services, config) as app:
        basic = "Basic QUtJRDphIHNlY3JldCBvZiBlbm91Z2ggbGV0dGVycw=="
        async with opened(app, LOG, authorization=basic) as tab:
            await tab.until(lambda: len(tab.heard) == 1)
            keys.clear()
            may_go_on.set()
    assert len(tab.heard) == 1


@pytest.mark.parametrize(
    ("path", "headers", "token"),
    [(LOG, {}, ""), (f"{LOG}&after=f/7", {}, "f/7"), (f"{LOG}&after=f/7", {"last_event_id": "f/9"}, "f/9")],
    ids=["first", "looked at again", "lost and back"],
)
async def test_a_log_goes_on_where_its_reader_was(
    services: FakeServices, path: str, headers: dict[str, str], token: str
) -> None:
    async def follow(request: Any, context: Context) -> AsyncIterator[Any]:
        event = logs_service_pb2.LogEvent(timestamp=1, message="line\nof two")
        yield logs_service_pb2.FollowLogEventsResponse(events=[event], next_forward_token="f/10")

    services.answer("FollowLogEvents", follow)
    async with an_app(services) as app, opened(app, path, **headers) as tab:
        pass
    assert tab.heard == [b'id: f/10\nevent: lines\ndata: [[1,"line\\nof two"]]\n\n', END]
    assert [call.request.next_token for call in services.received] == [token]


@pytest.mark.parametrize(
    ("code", "heard"),
    [
        (StatusCode.NOT_FOUND, [b'event: refused\ndata: "no such log"\n\n']),
        (StatusCode.UNAVAILABLE, []),
    ],
)
async def test_a_browser_is_told_what_it_need_not_ask_again(
    services: FakeServices, code: StatusCode, heard: list[bytes]
) -> None:
    async def follow(request: Any, context: Context) -> AsyncIterator[Any]:
        await refusing(code, "no such log")(request, context)
        yield

    services.answer("FollowLogEvents", follow)
    async with an_app(services) as app, opened(app, LOG) as tab:
        pass
    assert (tab.status, tab.heard) == (200, heard)


async def test_all_accounts_share_one_watch_of_the_agents_that_names_no_jobs(services: FakeServices) -> None:
    go_on = anyio.Event()

    async def watch(request: Any, context: Context) -> AsyncIterator[WatchAgentsResponse]:
        yield WatchAgentsResponse(agents=[AgentSummary(agent_id="a")])
        yield WatchAgentsResponse(agents=[AgentSummary(agent_id="b")], caught_up=True)
        await go_on.wait()
        yield WatchAgentsResponse(agents=[AgentSummary(agent_id="b", connected=True)], caught_up=True)
        await anyio.sleep_forever()

    services.answer("WatchJobs", Watched(WatchJobsResponse(revision=1)))
    services.answer("WatchAgents", watch)
    other = {"cookie": "batchyard-account=210987654321"}
    async with an_app(services) as app, opened(app, CHANGES) as first, opened(app, CHANGES, **other) as second:
        for tab in (first, second):
            await tab.until(lambda tab=tab: tab.heard == [CHANGED])  # type: ignore[misc]
        go_on.set()
        for tab in (first, second):
            await tab.until(lambda tab=tab: tab.heard == [CHANGED] * 2)  # type: ignore[misc]
            tab.close()
    assert sorted(call.method for call in services.received) == ["WatchAgents", "WatchJobs", "WatchJobs"]
    (asked,) = (call.request for call in services.received if call.method == "WatchAgents")
    assert not asked.include_jobs


async def test_a_page_costs_nothing_while_nothing_changes(
    services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.answer("WatchJobs", Watched(WatchJobsResponse(revision=1)))
    async with in_process(services) as upstreams:
        events, watches = live.changes(Watches(Api(upstreams)), Caller(), {"agents": "1"})
        heard: list[bytes] = []
        hear = heard.append

        async def listen() -> None:
            async for event in events:
                hear(event)

        async with anyio.create_task_group() as page:
            for watch in watches:
                page.start_soon(watch)
            page.start_soon(listen)
            await eventually(lambda: heard == [CHANGED], "both watches have begun")
            time = LoopTime(monkeypatch)
            for _ in range(HOUR_S):
                await time.passes(1)
            page.cancel_scope.cancel()
    assert len(heard) > HOUR_S / live.KEEP_ALIVE_S - 2, "the hour has passed"
    assert set(heard[1:]) == {b": still here\n\n"}
    assert sorted(call.method for call in services.received) == ["WatchAgents", "WatchJobs"]
