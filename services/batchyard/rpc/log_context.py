"""What a line of the log is about: the request and the job in whose course it is written.

Every call of a server is a request. Its id comes with it as metadata, or is made when first somebody asks for it; calls
that are made in its course pass it on. The gateway makes the id of what comes in by HTTP, and answers with it. The
fields of `log_fields` stand on every line; a line about a job that is not written in its course says so by
`extra=job_fields(...)`.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final, Protocol
from uuid import uuid4

REQUEST_ID_KEY: Final = "batchyard-request-id"
"""Metadata in which a caller may name its request, for the logs."""

_LEGAL: Final = re.compile(r"[!-~]{1,128}")


class _HasMetadata(Protocol):
    def invocation_metadata(self) -> Any: ...


class Request:
    """Something that a client wants; its id is looked up, or made, when it is wanted."""

    __slots__ = ("_context", "_request_id")

    def __init__(self, request_id: str = "", context: _HasMetadata | None = None) -> None:
        self._request_id = request_id
        self._context = context

    @property
    def request_id(self) -> str:
        """The id that the caller has sent, if it can be one: 1 to 128 visible ASCII characters; else a new one."""
        if not self._request_id:
            metadata: Any = () if self._context is None else self._context.invocation_metadata() or ()
            sent = next((str(value) for key, value in metadata if key == REQUEST_ID_KEY), "")
            self._request_id = sent if _LEGAL.fullmatch(sent) else str(uuid4())
            self._context = None
        return self._request_id


_request: ContextVar[Request | None] = ContextVar("request", default=None)
_job: ContextVar[Mapping[str, object]] = ContextVar("job", default=MappingProxyType({}))


def begin_request(request: Request) -> None:
    """Have the rest of this task, and the tasks that it starts, be in the course of a request."""
    _request.set(request)


def current_request() -> Request | None:
    """Return the request in whose course this runs, if it is one's."""
    return _request.get()


def request_metadata() -> tuple[tuple[str, str], ...]:
    """Return the metadata by which a call is in the course of the same request."""
    request = _request.get()
    return () if request is None else ((REQUEST_ID_KEY, request.request_id),)


@contextmanager
def about_job(job_id: str, attempt: int | None = None) -> Iterator[None]:
    """Have all that is logged within be about a job, and the attempt of this number."""
    token = _job.set(job_fields(job_id, attempt))
    try:
        yield
    finally:
        _job.reset(token)


def job_fields(job_id: str, attempt: int | None = None) -> dict[str, object]:
    """Return the fields of a line about a job, and the attempt of this number."""
    return {"job_id": job_id} if attempt is None else {"job_id": job_id, "attempt": attempt}


def request_fields(request: Request | None) -> dict[str, object]:
    """Return the fields of a line that is written in the course of a request, but not in its task."""
    return {} if request is None else {"request_id": request.request_id}


def log_fields(*, without_job: bool = False) -> dict[str, object]:
    """Return the fields of lines that are written here; without those of the job for a line that names another."""
    return {**({} if without_job else _job.get()), **request_fields(_request.get())}
