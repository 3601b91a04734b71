"""Ending jobs before their time, one or many in a call."""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Final

from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.jobs import JobId, JobKey
from batchyard.domain.names import Caller, ResourceKind, name_in_reference
from batchyard.jobstore.feed import Feed
from batchyard.jobstore.group import Group
from batchyard.jobstore.writer import Writer

STOPPED_JOBS_MAX: Final = 100
"""Ids in the one text that CancelJob and TerminateJob take."""
LISTED_JOBS_MAX: Final = 50
"""Ids in the list of CancelJobs and TerminateJobs."""
REASON_LENGTH_MAX: Final = 1024

Act = Callable[[Group, JobKey, str], bool]
"""Group.cancel or Group.terminate."""


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

    async def stop_list(self, caller: Caller, job_ids: Sequence[str], reason: str, act: Act) -> None:
        """Stop the jobs of a list."""
        if not all(job_ids):
            raise _empty("jobs")
        if len(job_ids) > LISTED_JOBS_MAX:
            raise InvalidRequestError(f"Maximum number of jobs supported is {LISTED_JOBS_MAX}.", field="jobs")
        await self._stop(caller, job_ids, reason, act)

    async def _stop(self, caller: Caller, job_ids: Sequence[str], reason: str, act: Act) -> None:
        if not reason:
            raise _empty("reason")
        if len(reason) > REASON_LENGTH_MAX:
            raise InvalidRequestError(f"reason must not exceed {REASON_LENGTH_MAX} characters", field="reason")
        keys = job_keys(caller, job_ids)
        decisions = {key: self._feed.decision(key) for key in keys}
        try:
            asked = await asyncio.gather(*(self._stop_one(act, key, reason) for key in decisions))
            await asyncio.gather(*(decisions[key] for key, ask in zip(decisions, asked, strict=True) if ask))
        finally:
            for key, decision in decisions.items():
                self._feed.forget(key, decision)

    async def _stop_one(self, act: Act, key: JobKey, reason: str) -> bool:
        return await self._writer.do(lambda group: act(group, key, reason), key)


def job_keys(caller: Caller, references: Sequence[str]) -> list[JobKey]:
    """Return the keys of jobs named by id or ARN, each once; an ARN of another account names nothing."""
    names = [name_in_reference(reference, ResourceKind.JOB, caller.namespace) for reference in references]
    return list(dict.fromkeys(JobKey(caller.namespace, JobId(name)) for name in names if name is not None))


def _empty(member: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{member}' is a required field (cannot be an empty string)", field=member)
