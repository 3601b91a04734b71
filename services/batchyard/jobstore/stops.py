"""Ending jobs before their time, one or many in a call."""

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from batchyard.domain.errors import InvalidRequestError, UnavailableError
from batchyard.domain.jobs import JobId, JobKey
from batchyard.domain.names import Caller, ResourceKind, name_in_reference
from batchyard.jobstore.feed import Feed
from batchyard.jobstore.group import Group
from batchyard.jobstore.writer import Writer
from batchyard.rpc.log_context import job_fields

STOPPED_JOBS_MAX: Final = 100
"""Ids in the one text that CancelJob and TerminateJob take."""
LISTED_JOBS_MAX: Final = 50
"""Ids in the list of CancelJobs and TerminateJobs."""
REASON_LENGTH_MAX: Final = 1024

VALIDATION_ERROR: Final = "ValidationException"
SERVER_ERROR: Final = "ServerException"
"""Codes of single jobs of a list, as AWS has them."""

_JOB_ID = re.compile(r"[A-Za-z0-9_-]+([:#][0-9]+)?")
_JOB_ARN = re.compile(r"arn:aws[a-z-]*:batch:[^:]*:[^:]*:job/(?P<id>.+)")

_log = logging.getLogger(__name__)

Act = Callable[[Group, JobKey, str], bool]
"""Group.cancel or Group.terminate."""


@dataclass(frozen=True, slots=True)
class NotStopped:
    """Why a job of a list was not stopped."""

    job: str
    """As it was given."""
    code: str
    message: str


class Stopper:
    """Has jobs cancelled or terminated, and waits until it is known whether it came in time."""

    def __init__(self, *, writer: Writer, feed: Feed) -> None:
        self._writer = writer
        self._feed = feed

    async def stop_text(self, caller: Caller, job_ids: str, reason: str, act: Act) -> None:
        """Stop the jobs whose ids a text holds, separated by commas or white space."""
        ids = [word for word in re.split(r"[\s,]+", job_ids) if word]
        if not ids:
            raise _empty("jobId")
        if len(ids) > STOPPED_JOBS_MAX:
            raise InvalidRequestError(f"Maximum number of jobs supported is {STOPPED_JOBS_MAX}.", field="jobId")
        await self._stop(caller, ids, reason, act)

    async def stop_list(
        self, caller: Caller, job_ids: Sequence[str], reason: str, act: Act
    ) -> tuple[list[str], list[NotStopped]]:
        """Stop the jobs of a list, each for itself; return those for which it was accepted, and the others.

        Each is there once, as it was given. Raises UnavailableError if that is so of all of them.
        """
        if len(job_ids) > LISTED_JOBS_MAX:
            raise InvalidRequestError(f"Maximum number of jobs supported is {LISTED_JOBS_MAX}.", field="jobs")
        _check_reason(reason)
        given = list(dict.fromkeys(job_ids))
        can_be = {job for job in given if _can_be_a_job(job)}
        failures = await self._stop_each(job_keys(caller, can_be), reason, act)
        not_stopped = {job: NotStopped(job, VALIDATION_ERROR, _no_job(job)) for job in given if job not in can_be}
        for job in can_be:
            for key in job_keys(caller, [job]):
                if (failure := failures.get(key)) is not None:
                    not_stopped[job] = NotStopped(job, SERVER_ERROR, failure.message)
        if failures and len(not_stopped) == len(given):
            raise next(iter(failures.values()))
        return [job for job in given if job not in not_stopped], [
            not_stopped[job] for job in given if job in not_stopped
        ]

    async def _stop(self, caller: Caller, job_ids: Sequence[str], reason: str, act: Act) -> None:
        _check_reason(reason)
        for failure in (await self._stop_each(job_keys(caller, job_ids), reason, act)).values():
            raise failure

    async def _stop_each(self, keys: Sequence[JobKey], reason: str, act: Act) -> dict[JobKey, UnavailableError]:
        """Stop jobs; return those of which it is not known whether that was done."""
        failures = await asyncio.gather(*(self._stop_one(act, key, reason) for key in keys))
        return {key: failure for key, failure in zip(keys, failures, strict=True) if failure is not None}

    async def _stop_one(self, act: Act, key: JobKey, reason: str) -> UnavailableError | None:
        decision = self._feed.decision(key)
        try:
            if await self._writer.do(lambda group: act(group, key, reason), key):
                await decision
            _log.info("asked to %s", act.__name__, extra={**job_fields(key.job_id), "reason": reason})
        except UnavailableError as error:
            return error
        finally:
            self._feed.forget(key, decision)
        return None


def _check_reason(reason: str) -> None:
    if not reason:
        raise _empty("reason")
    if len(reason) > REASON_LENGTH_MAX:
        raise InvalidRequestError(f"reason must not exceed {REASON_LENGTH_MAX} characters", field="reason")


def _can_be_a_job(reference: str) -> bool:
    arn = _JOB_ARN.fullmatch(reference)
    return _JOB_ID.fullmatch(arn["id"] if arn is not None else reference) is not None


def _no_job(reference: str) -> str:
    if not reference:
        return _empty("jobs").message
    return f"{reference} is neither the id nor the ARN of a job"


def job_keys(caller: Caller, references: Iterable[str]) -> list[JobKey]:
    """Return the keys of jobs named by id or ARN, each once; an ARN of another account names nothing."""
    names = [name_in_reference(reference, ResourceKind.JOB, caller.namespace) for reference in references]
    return list(dict.fromkeys(JobKey(caller.namespace, JobId(name)) for name in names if name is not None))


def _empty(member: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{member}' is a required field (cannot be an empty string)", field=member)
