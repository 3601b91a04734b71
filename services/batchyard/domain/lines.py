"""How waiting jobs stand in line: jobs that are alike in all that placing depends on stand in one, in their order.

The job store, which keeps the lines, and the scheduler, which knows the beginning of each, must agree on this.
"""

from bisect import bisect_left
from math import ceil
from typing import Final

from batchyard.domain.resources import SCHEDULING_PRIORITY_MAX

SEQUENCE_BITS: Final = 48

FROM_THE_FIRST: Final = -1
"""Before the place of any job."""

NO_SHARE: Final = ""
"""The share of all jobs of a queue without fair share."""

_TIME_LIMITS_S: Final = tuple(ceil(60 * 1.25**step) for step in range(60))
"""A minute to many months, in steps of a quarter. Stored with each job: never to be changed without a migration."""


def rounded_time_limit(time_limit_s: int | None) -> int | None:
    """Return a time limit rounded up, so that jobs of many limits stand in few lines; None: no limit."""
    at = len(_TIME_LIMITS_S) if time_limit_s is None else bisect_left(_TIME_LIMITS_S, time_limit_s)
    return _TIME_LIMITS_S[at] if at < len(_TIME_LIMITS_S) else None


def order_of(share: str, priority: int, sequence: int) -> int:
    """Return a number that puts the jobs of a share in order: by priority, the highest first, then by submission.

    Without a share it is the place in the order of submission. The index `jobs_waiting` has the same as an expression.
    """
    return sequence if share == NO_SHARE else (SCHEDULING_PRIORITY_MAX - priority << SEQUENCE_BITS) + sequence
