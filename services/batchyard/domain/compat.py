"""The one switch between the two meanings that AWS has given to a few requests."""

from enum import StrEnum


class Compat(StrEnum):
    """Which meaning wins where one request has two."""

    SEED = "seed"
    """The 2016 document: among queues the lower priority number first; a queue with unfinished jobs is not deleted."""
    AWS = "aws"
    """Today's service: the higher priority number first; a queue is deleted together with its unfinished jobs."""
