"""What a log line looks like, for people and for machines."""

import json
import logging
import sys

import pytest

from batchyard.cli.logging import JsonFormatter, TextFormatter


def a_record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord("batchyard.part", logging.WARNING, __file__, 1, message, arguments, None)
    record.created = 1.5
    vars(record).update(extra)
    return record


def test_text_tells_when_how_grave_where_and_what() -> None:
    line = TextFormatter().format(a_record("lost %s", "a host", agent="a1"))
    assert line == "1970-01-01T00:00:01.500Z WARNING batchyard.part: lost a host agent=a1"


def test_json_is_one_object_with_the_same() -> None:
    line = JsonFormatter().format(a_record("lost %s", "a host\n", agent="a1"))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "warning",
        "logger": "batchyard.part",
        "message": "lost a host\n",
        "agent": "a1",
    }


def test_text_quotes_what_could_be_taken_for_another_field_or_line() -> None:
    line = TextFormatter().format(a_record("asked", reason="no need\nforged job_id=2", job_id="1"))
    assert line.endswith(r' asked reason="no need\nforged job_id=2" job_id=1')


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_an_error_brings_its_traceback(formatter: logging.Formatter) -> None:
    record = a_record("failed")
    try:
        raise RuntimeError("the cause")
    except RuntimeError:
        record.exc_info = sys.exc_info()
    assert "RuntimeError: the cause" in formatter.format(record)
