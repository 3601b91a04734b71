#!/usr/bin/env python3
"""Write docs/runtimes.md: what each runtime makes of each container property.

The properties are those of the descriptor, what becomes of each is said in runtimes/cells.toml, the text around is
runtimes/page.md. A property of which nothing is said, an entry for nothing, a test that does not exist: each is an
error. With --check nothing is written, and the exit code says whether the page is current.
"""

import sys
import tomllib
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor import Descriptor

from batchyard.api.registry.v1.job_definition_pb2 import ContainerProperties
from batchyard.gateway.transcoder import member_name

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "runtimes.md"
DATA: Final = ROOT / "scripts" / "runtimes"

RUNTIMES: Final = ("docker", "podman", "process")
WORDS: Final = ("honoured", "refused", "ignored", "allowed")


def properties(message: Descriptor, told: Collection[str], prefix: str = "") -> Iterator[str]:
    """Yield the members of a message; of one of which nothing is said itself, those that are in it."""
    for field in message.fields:
        name = f"{prefix}{member_name(field)}"
        if name not in told and field.message_type is not None:
            yield from properties(field.message_type, told, f"{name}.")
        else:
            yield name


def cell(text: str, tests: dict[str, str]) -> str:
    """Return an entry as the page shows it; exit if it has no known word, or names no test that is there."""
    word, _, rest = text.partition(" ")
    test, _, note = rest.partition(" ")
    if word not in WORDS:
        raise SystemExit(f"cells.toml has no such word: {text}")
    alias, _, function = test.partition("::")
    path = tests.get(alias, "")
    if not path or f"def {function}(" not in _text_of(path):
        raise SystemExit(f"cells.toml names a test that does not exist: {text}")
    return f'{word}{f" {note}" if note else ""} ([{alias}](../{path} "{function}"))'


@cache
def _text_of(path: str) -> str:
    return (ROOT / path).read_text()


def table(data: dict[str, Any]) -> str:
    """Return the table; exit if it is not about the properties that there are."""
    cells: dict[str, dict[str, str]] = data["cells"]
    told = {name: name.partition(" (")[0] for name in cells}
    names = list(properties(ContainerProperties.DESCRIPTOR, told.values()))
    if missing := [name for name in names if name not in told.values()]:
        raise SystemExit(f"say in cells.toml what becomes of {', '.join(missing)}")
    if unknown := set(told.values()) - set(names):
        raise SystemExit(f"cells.toml speaks of what is not there: {', '.join(sorted(unknown))}")
    lines = [f"| property | {' | '.join(RUNTIMES)} |", "| --- " * (1 + len(RUNTIMES)) + "|"]
    for member in names:
        lines += [row(name, cells[name], data["tests"]) for name in cells if told[name] == member]
    return "\n".join(lines)


def row(name: str, entry: dict[str, str], tests: dict[str, str]) -> str:
    """Return what all runtimes make of a member, or of the part of it that stands in parentheses."""
    if extra := entry.keys() - {"all", "containers", *RUNTIMES}:
        raise SystemExit(f"cells.toml knows no runtime {', '.join(extra)} ({name})")
    found = []
    for runtime in RUNTIMES:
        groups = (runtime, "all") if runtime == "process" else (runtime, "containers", "all")
        text = next((entry[group] for group in groups if group in entry), None)
        if text is None:
            raise SystemExit(f"say in cells.toml what {runtime} makes of {name}")
        found.append(cell(text, tests))
    member, _, part = name.partition(" ")
    return f"| `{member}`{f' {part}' if part else ''} | {' | '.join(found)} |"


def main() -> None:
    """Write the page, or with --check compare it."""
    data = tomllib.loads((DATA / "cells.toml").read_text())
    text = (DATA / "page.md").read_text().replace("{table}", table(data))
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text() != text:
            raise SystemExit("docs/runtimes.md is not current, run scripts/generate_runtimes.py")
        return
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
