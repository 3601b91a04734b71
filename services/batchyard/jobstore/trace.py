"""What becomes of each job, a line a change, for whoever asks for it by the log level debug."""

import logging
from collections.abc import Sequence

from batchyard.domain.jobs import Job, JobChange
from batchyard.domain.lifecycle import JobState
from batchyard.rpc.log_context import job_fields

_log = logging.getLogger(__name__)

_UNDER_WAY = (JobState.STARTING, JobState.RUNNING)


def trace_submission(job: Job) -> None:
    """Tell that a job was taken in, in the course of the request that brought it."""
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug("submitted to %s", job.job_queue, extra=job_fields(job.key.job_id))


def trace_changes(changes: Sequence[JobChange]) -> None:
    """Tell what a commit says of jobs."""
    if not _log.isEnabledFor(logging.DEBUG):
        return
    for change in changes:
        if change.blocked:
            continue
        attempt = change.attempts + (change.state in _UNDER_WAY)
        fields = job_fields(change.key.job_id, attempt or None)
        if change.agent_id is not None:
            fields["agent_id"] = change.agent_id
        if change.exit_code is not None:
            fields["exit_code"] = change.exit_code
        if change.status_reason:
            fields["reason"] = change.status_reason
        if change.children is not None:
            _log.debug("%d children are %s", change.count, change.state.name, extra=fields)
        else:
            _log.debug("%s", change.state.name, extra=fields)
