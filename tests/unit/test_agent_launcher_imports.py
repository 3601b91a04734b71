"""The launcher stays small: it imports the standard library, and of that nothing that costs megabytes."""

import ast
import sys
from pathlib import Path

import pytest

from batchyard.agent.launcher import ledger

MODULES = sorted(Path(ledger.__file__).parent.glob("*.py"))
EXPENSIVE = {"asyncio", "dataclasses", "inspect", "logging", "subprocess", "typing"}
OWN = "batchyard.agent.launcher"


def imported_by(path: Path) -> set[str]:
    """Return the modules that are imported when this one is; what is only for type checkers does not count."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_launcher_imports_only_the_cheap_standard_library_and_itself(path: Path) -> None:
    foreign = {name for name in imported_by(path) if name != OWN and not name.startswith(f"{OWN}.")}
    roots = {name.partition(".")[0] for name in foreign}
    assert roots <= sys.stdlib_module_names
    assert not roots & EXPENSIVE


@pytest.mark.parametrize("name", ["ledger"])
def test_what_decides_imports_no_io(name: str) -> None:
    path = Path(ledger.__file__).with_name(f"{name}.py")
    assert imported_by(path) <= {"collections", "collections.abc", "enum"}
