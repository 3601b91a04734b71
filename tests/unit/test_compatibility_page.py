"""The page of docs/compatibility.md refuses to be wrong."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "generate_compatibility.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_compatibility", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def statements(script: ModuleType) -> Any:
    return script.Statements.read()


def text_with(script: ModuleType, statements: Any, place: tuple[str, str], member: str, entry: str | None) -> str:
    table = statements.tables[place]
    table.pop(member, None) if entry is None else table.update({member: entry})
    return str(script.Page(statements).text())


def test_every_member_of_the_first_api_is_there(script: ModuleType, statements: Any) -> None:
    page = script.Page(statements)
    page.text()
    assert script._missing_of_seed(page) == []
    page.statuses["shape", "ContainerProperties", "image"] = "refused"
    del page.statuses["ListJobs", "request", "jobStatus"]
    assert script._missing_of_seed(page) == [
        "DescribeJobDefinitions response jobDefinitions.containerProperties.image",
        "ListJobs request jobStatus",
        "RegisterJobDefinition request containerProperties.image",
    ]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (None, r"CreateJobQueue.request.state is in the protos: say what becomes of it"),
        ("acted", "names no test that shows CreateJobQueue.request.state"),
        ("acted queues::test_nothing", "names a test that does not exist: queues::test_nothing"),
        ("acted nowhere::test_nothing", "names a test that does not exist: nowhere::test_nothing"),
        ("honoured", "has no such status: honoured"),
    ],
)
def test_a_member_needs_a_status_and_a_test_that_exists(
    script: ModuleType, statements: Any, entry: str | None, text: str
) -> None:
    with pytest.raises(SystemExit, match=text):
        text_with(script, statements, ("CreateJobQueue", "request"), "state", entry)


def test_an_entry_for_nothing_is_noticed(script: ModuleType, statements: Any) -> None:
    text_with(script, statements, ("CreateJobQueue", "request"), "colour", "stored")
    assert statements.unused() == ["CreateJobQueue.request.colour"]


def test_what_no_message_has_is_said_to_be_missing(script: ModuleType, statements: Any) -> None:
    page = script.Page(statements)
    assert "| `podProperties`" not in page.text()
    assert page.statuses["shape", "JobDetail", "eksProperties"] == "not there"
