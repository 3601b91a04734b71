"""Logging on stderr, as text for people or as JSON, one object a line, for machines. Stdout is for ready lines.

Lines about a job have its `job_id`, and `attempt` where that is known; those in the course of a request `request_id`.
"""

import json
import logging
import logging.config
import re
from datetime import UTC, datetime
from typing import Any, Final

from batchyard.rpc.log_context import log_fields

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes that every record has; what else a record carries was given as `extra`."""

_PLAIN: Final = re.compile(r"[^\s\"=\x00-\x1f\x7f]+")


class TextFormatter(logging.Formatter):
    """Time, level, logger, message, and what was given as `extra` as name=value, quoted if it has spaces."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Return the line without the traceback."""
        details = "".join(f" {name}={_shown(value)}" for name, value in _extras(record).items())
        return super().formatMessage(record) + details

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Return the time in UTC, to the millisecond."""
        return _time(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object on one line."""
        entry: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


class ContextFields(logging.Filter):
    """Lets every record through, with the fields of what it is written in the course of."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields that were not given as `extra`."""
        own = vars(record)
        for name, value in log_fields(without_job="job_id" in own).items():
            own.setdefault(name, value)
        return True


def configure_logging(log_format: str, log_level: str) -> None:
    """Send every record of the level and above to stderr."""
    formatter = JsonFormatter if log_format == "json" else TextFormatter
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"()": formatter}},
            "filters": {"context": {"()": ContextFields}},
            "handlers": {
                "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["context"]},
            },
            "root": {"level": log_level.upper(), "handlers": ["stderr"]},
            # Both tell at INFO what only their developers want to know.
            "loggers": {"uvicorn": {"level": "WARNING"}, "grpc": {"level": "WARNING"}},
        }
    )


def _shown(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}
