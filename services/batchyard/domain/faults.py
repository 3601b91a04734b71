"""Attempts that are made to end in a given way, without running: for testing retry rules.

A job asks for them by the tag `batchyard:fault`: `1:oom 2:exit=143` ends its first attempt as if it had used too much
memory, the second with exit code 143, and runs the third.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.lifecycle import RunEnd

FAULT_TAG: Final = "batchyard:fault"

_ATTEMPTS_MAX: Final = 10
_EXIT_CODE_MAX: Final = 255
_ENTRY: Final = re.compile(r"(?P<attempt>[0-9]{1,2}):(?P<end>[a-z-]+)(?:=(?P<exit_code>[0-9]{1,3}))?")


@dataclass(frozen=True, slots=True)
class Fault:
    """How an attempt is to end."""

    end: RunEnd
    runs: bool = True
    """Whether the attempt gets as far as RUNNING."""
    exit_code: int | None = None
    reason: str | None = None
    """Of the container."""


_FAULTS: Final[Mapping[str, Fault]] = MappingProxyType(
    {
        "host-terminated": Fault(RunEnd.LOST),
        "oom": Fault(RunEnd.EXITED, exit_code=137, reason="OutOfMemoryError: Container killed due to memory usage"),
        "pull-error": Fault(
            RunEnd.START_FAILED, runs=False, reason=f"CannotPullContainerError: asked for by the tag {FAULT_TAG}"
        ),
        "start-error": Fault(
            RunEnd.START_FAILED, runs=False, reason=f"CannotStartContainerError: asked for by the tag {FAULT_TAG}"
        ),
        "timeout": Fault(RunEnd.TIMED_OUT, exit_code=137),
    }
)


def parse_faults(text: str) -> dict[int, Fault]:
    """Return the faults of a tag's value by the number of the attempt; raise InvalidRequestError if it is none."""
    faults: dict[int, Fault] = {}
    for entry in text.split():
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise _invalid(f"{entry!r} is not ATTEMPT:END")
        attempt = int(match["attempt"])
        if not 1 <= attempt <= _ATTEMPTS_MAX:
            raise _invalid(f"{entry!r} names attempt {attempt}, there are 1 to {_ATTEMPTS_MAX}")
        if attempt in faults:
            raise _invalid(f"attempt {attempt} is named twice")
        faults[attempt] = _fault(entry, match["end"], match["exit_code"])
    if not faults:
        raise _invalid("it is empty")
    return faults


def faults_of(tags: Mapping[str, str], *, enabled: bool) -> str | None:
    """Return the faults that a job asks for by its tags, if any.

    Raises InvalidRequestError for a value that cannot be read, and for any where faults are not `enabled`: a test that
    waits for a failure which never comes would tell nothing.
    """
    text = tags.get(FAULT_TAG)
    if text is None:
        return None
    if not enabled:
        raise InvalidRequestError(
            f"The tag {FAULT_TAG} makes attempts fail, which this server does not do: start it with --faults.",
            field="tags",
        )
    parse_faults(text)
    return text


def _fault(entry: str, end: str, exit_code: str | None) -> Fault:
    if end == "exit":
        if exit_code is None or int(exit_code) > _EXIT_CODE_MAX:
            raise _invalid(f"{entry!r} needs an exit code of 0 to {_EXIT_CODE_MAX}, as in exit=143")
        return Fault(RunEnd.EXITED, exit_code=int(exit_code))
    if end not in _FAULTS:
        raise _invalid(f"{entry!r} asks for an unknown end; known are exit=CODE, {', '.join(_FAULTS)}")
    if exit_code is not None:
        raise _invalid(f"{entry!r} has an exit code, which only exit=CODE takes")
    return _FAULTS[end]


def _invalid(problem: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"The value of the tag {FAULT_TAG} is not valid: {problem}. It is ATTEMPT:END, several separated by spaces, "
        "as in '1:host-terminated 2:exit=143'.",
        field="tags",
    )
