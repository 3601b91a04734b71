"""The documentation as its readers follow it: the blocks of commands and code on its pages."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
RUN: Final = ("sh", "python", "js", "ts")
"""Languages of blocks that readers run."""
SHOWN: Final = ("toml", "json", "yaml")
"""Languages of blocks that readers write into files, or see."""

_PART: Final = re.compile(r"^## (.*?)$|^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_BLOCK: Final = re.compile(r'\bblock\(\s*"([^"]+\.md)",\s*"(\w+)",\s*(["\'])(.+?)\3,?\s*\)')
_SECTION: Final = re.compile(r'\bsection\(\s*"([^"]+\.md)",\s*"([^"]+)",?\s*\)')


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a page, and the heading under which it is."""

    page: str
    heading: str
    language: str
    text: str


@cache
def blocks_of(page: str) -> Sequence[Block]:
    """Return the blocks of a page, in their order."""
    found, under = [], ""
    for heading, _, language, text in _PART.findall((ROOT / page).read_text(encoding="utf-8")):
        if heading:
            under = heading
        else:
            found.append(Block(page, under, language, dedent(text)))
    return found


def block(page: str, language: str, words: str) -> str:
    """Return the block of a page that has these words. Who calls this runs it: `run_by_tests` finds calls by sight."""
    return _found(page, language, words).text


def section(page: str, heading: str) -> Sequence[str]:
    """Return all that is to be run under a heading of a page; as with `block`, who calls this runs it."""
    return [each.text for each in blocks_of(page) if each.heading == heading and each.language in RUN]


def run_by_tests() -> Iterator[Block]:
    """Return the blocks that tests ask for."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        for page, language, _, words in _BLOCK.findall(text):
            yield _found(page, language, words)
        for page, heading in _SECTION.findall(text):
            yield from (each for each in blocks_of(page) if each.heading == heading)


def _found(page: str, language: str, words: str) -> Block:
    found = [each for each in blocks_of(page) if each.language == language and words in each.text]
    assert len(found) == 1, f"{page} has {len(found)} {language} blocks with {words!r}"
    return found[0]
