"""Lines of the log say which request and which job they are about."""

import ast
import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchyard.cli.logging import ContextFields
from batchyard.domain.jobs import JobId, JobKey
from batchyard.domain.names import DEFAULT_NAMESPACE, DEFAULT_REGION, Caller
from batchyard.jobstore.core import Command
from batchyard.rpc.identity import metadata_for
from batchyard.rpc.log_context import (
    REQUEST_ID_KEY,
    Request,
    about_job,
    begin_request,
    current_request,
    log_fields,
    request_metadata,
)
from batchyard.rpc.requests import Requests
from support import rpc
from support.rpc import Transport, text

ROOT = Path(__file__).parents[2]
CALLER = Caller(DEFAULT_NAMESPACE, DEFAULT_REGION)

log = logging.getLogger("batchyard.part")


@pytest.fixture(autouse=True)
def context(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(ContextFields())


def written(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the tests have logged: gRPC may have words of its own about a loop of before."""
    return [record for record in caplog.records if record.name == log.name]


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    return {name: vars(record)[name] for name in ("job_id", "attempt", "request_id") if name in vars(record)}


@pytest.mark.parametrize("transport", [rpc.in_process, rpc.over_a_socket])
async def test_a_request_has_one_id_in_all_processes_that_it_passes(
    transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    async def behind(request: Any, context: Any) -> Any:
        log.warning("behind")
        return request

    async with transport(interceptors=[Requests()], unary_unary=behind) as service:

        async def before(request: Any, context: Any) -> Any:
            await service.unary_unary(request, metadata=tuple(metadata_for(CALLER)))
            log.warning("before")
            return text(request_metadata()[0][1])

        async with transport(interceptors=[Requests()], unary_unary=before) as entrance:
            named = await entrance.unary_unary(text(""), metadata=((REQUEST_ID_KEY, "r-17"),))
            made = await entrance.unary_unary(text(""))
    assert named.value == "r-17"
    assert [fields_of(record) for record in written(caplog)] == [
        {"request_id": request_id} for request_id in ("r-17", "r-17", made.value, made.value)
    ]


async def test_requests_at_the_same_time_are_kept_apart(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(request: Any, context: Any) -> Any:
        await asyncio.sleep(0)
        log.warning("%s", request.value)
        return request

    async with rpc.in_process(interceptors=[Requests()], unary_unary=answer) as stub:
        await asyncio.gather(
            *(stub.unary_unary(text(name), metadata=((REQUEST_ID_KEY, f"r-{name}"),)) for name in "abc")
        )
    assert {record.getMessage(): vars(record)["request_id"] for record in written(caplog)} == {
        name: f"r-{name}" for name in "abc"
    }
    assert current_request() is None


def test_lines_about_a_job_say_so_and_what_a_line_says_itself_stands(caplog: pytest.LogCaptureFixture) -> None:
    with about_job("j1", 2):
        log.warning("within")
        log.warning("of another", extra={"job_id": "j2"})
    log.warning("after")
    assert [fields_of(record) for record in written(caplog)] == [
        {"job_id": "j1", "attempt": 2},
        {"job_id": "j2"},
        {},
    ]


def test_a_command_of_the_job_store_remembers_whose_it_is() -> None:
    command = Command(lambda group: None, (JobKey("123456789012", JobId("j1")),), request=Request("r-1"))
    assert command.log_fields() == {"job_id": "j1", "request_id": "r-1"}
    assert Command(lambda group: None).log_fields() == {}


async def test_a_task_of_a_request_is_in_its_course() -> None:
    begin_request(Request("r-2"))

    async def fields() -> dict[str, object]:
        return log_fields()

    assert await asyncio.create_task(fields()) == {"request_id": "r-2"}


def calls_of_loggers() -> Iterator[tuple[str, ast.Call]]:
    for folder in (ROOT / "services" / "batchyard", ROOT / "gateway" / "batchyard"):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())) if "/api/" not in str(path) else ():
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id in ("_log", "_LOG", "logger")
                ):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_no_line_hides_a_job_in_its_text() -> None:
    places = dict(calls_of_loggers())
    assert len(places) > 50
    for place, call in places.items():
        words = {node.attr for argument in call.args for node in ast.walk(argument) if isinstance(node, ast.Attribute)}
        words |= {node.id for argument in call.args for node in ast.walk(argument) if isinstance(node, ast.Name)}
        assert not words & {"job_id", "request_id", "attempt"}, f"{place}: give it as a field of the line"
