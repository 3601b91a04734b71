"""CloudWatch's filter patterns, as far as they are about text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.domain.errors import InvalidRequestError
from batchyard.logs.patterns import parse_pattern

MESSAGES = [
    "[ERROR 400] BAD REQUEST",
    "[ERROR 401] UNAUTHORIZED REQUEST",
    "[WARN 410] GONE",
    "error: no such file",
    "all is well",
]


def matching(pattern: str) -> list[int]:
    parsed = parse_pattern(pattern)
    return [number for number, message in enumerate(MESSAGES) if parsed.matches(message)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", [0, 1, 2, 3, 4]),
        ("   ", [0, 1, 2, 3, 4]),
        ("ERROR", [0, 1]),
        ("ERR", [0, 1]),
        ("ERROR REQUEST", [0, 1]),
        ("REQUEST 401", [1]),
        ('"BAD REQUEST"', [0]),
        ('"ERROR 401" REQUEST', [1]),
        ('"REQUEST BAD"', []),
        ("ERROR -BAD", [1]),
        ('-"BAD REQUEST" -error', [1, 2, 4]),
        ("?ERROR ?WARN", [0, 1, 2]),
        ('?"no such file" ?GONE', [2, 3]),
        ("?ERROR ?WARN REQUEST", [0, 1]),
        ("?ERROR -REQUEST", [2, 3, 4]),
        ('""', [0, 1, 2, 3, 4]),
    ],
)
def test_terms_choose_messages_as_cloudwatch_says(pattern: str, expected: list[int]) -> None:
    assert matching(pattern) == expected


def test_quotes_and_backslashes_in_a_phrase_stand_behind_a_backslash() -> None:
    pattern = parse_pattern(r'"say \"hi\" to C:\\"')
    assert pattern.matches(r'then say "hi" to C:\ now')
    assert not pattern.matches("then say hi to C: now")


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [('{ $.level = "x" }', "JSON"), ("[ip, user]", "space-delimited"), ("%ERR.*%", "regular expression")],
)
def test_patterns_of_other_kinds_are_refused_by_name(pattern: str, kind: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"{kind} patterns are not supported") as caught:
        parse_pattern(pattern)
    assert caught.value.field == "filterPattern"


@pytest.mark.parametrize("pattern", ['"open', 'a "b', 'a"b c', '"a"b', "x" * 1025])
def test_what_cannot_be_read_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequestError, match="Invalid filter pattern"):
        parse_pattern(pattern)


@given(st.text(max_size=60))
def test_any_text_in_quotes_is_found_as_it_is(text: str) -> None:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_pattern(f'"{quoted}"').matches(f"before {text} after")
