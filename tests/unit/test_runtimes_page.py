"""The page of docs/runtimes.md refuses to be wrong."""

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "generate_runtimes.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_runtimes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(script: ModuleType) -> dict[str, Any]:
    return tomllib.loads((script.DATA / "cells.toml").read_text())


def test_every_property_has_a_row_and_a_part_of_one_has_its_own(script: ModuleType, data: dict[str, Any]) -> None:
    rows = script.table(data).splitlines()[2:]
    assert len(rows) == len(data["cells"])
    assert any(row.startswith("| `resourceRequirements` (GPU) | honoured ") for row in rows)


def test_a_property_of_which_nothing_is_said_is_an_error(script: ModuleType, data: dict[str, Any]) -> None:
    del data["cells"]["secrets"]
    with pytest.raises(SystemExit, match=r"secrets\.name, secrets\.valueFrom"):
        script.table(data)


def test_a_runtime_of_which_nothing_is_said_is_an_error(script: ModuleType, data: dict[str, Any]) -> None:
    del data["cells"]["image"]["process"]
    with pytest.raises(SystemExit, match="what process makes of image"):
        script.table(data)


@pytest.mark.parametrize(
    ("name", "entry", "reason"),
    [
        ("imag", {"all": "ignored properties::test_x"}, "speaks of what is not there: imag"),
        ("image", {"all": "honoured runtimes::test_that_is_not_there"}, "a test that does not exist"),
        ("image", {"all": "honoured nowhere::test_x"}, "a test that does not exist"),
        ("image", {"all": "done runtimes::test_x"}, "no such word"),
        ("image", {"lambda": "ignored runtimes::test_x"}, "knows no runtime lambda"),
    ],
)
def test_an_entry_that_says_nothing_true_is_an_error(
    script: ModuleType, data: dict[str, Any], name: str, entry: dict[str, str], reason: str
) -> None:
    data["cells"][name] = entry
    with pytest.raises(SystemExit, match=reason):
        script.table(data)
