"""What must hold of what clients saw, in the order in which they saw it. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

from chaos.client import Sighting
from chaos.history import Ended
from support.aws import STATUSES, TERMINAL

_RANK: Final = {status: rank for rank, status in enumerate(STATUSES)}


def first_ends(sightings: Iterable[Sighting]) -> dict[str, Ended]:
    """Return every job that was seen at its end, as of the first time."""
    ended: dict[str, Ended] = {}
    for seen in sightings:
        if seen.status in TERMINAL:
            ended.setdefault(seen.job_id, Ended(seen.status, seen.attempts, seen.at))
    return ended


def violations(sightings: Sequence[Sighting], stopped: Mapping[str, tuple[str, float]]) -> list[str]:
    """Return everything in which what was seen breaks the promises; `stopped` is as in the clients' notes."""
    by_job: dict[str, list[Sighting]] = defaultdict(list)
    for seen in sightings:
        by_job[seen.job_id].append(seen)
    found: list[str] = []
    for job_id, seen_of_job in by_job.items():
        for before, after in pairwise(seen_of_job):
            found += _steps(before, after)
        found += _times(seen_of_job[-1])
        if job_id in stopped:
            found += _stops(stopped[job_id], seen_of_job)
    return found


def _steps(before: Sighting, after: Sighting) -> Iterable[str]:
    if before.status in TERMINAL:
        if before.outcome != after.outcome:
            yield f"I8: {before.job_id} had ended and changed: {before.outcome} to {after.outcome}"
        return
    # An agent may give a job back unstarted.
    went_back = _RANK[after.status] < _RANK[before.status] and before.status != "STARTING"
    if went_back and after.attempts == before.attempts:
        yield f"I2: {before.job_id} went back from {before.status} to {after.status} in one attempt"
    if after.attempts < before.attempts:
        yield f"I2: {before.job_id} had {before.attempts} attempts, and then {after.attempts}"


def _times(last: Sighting) -> Iterable[str]:
    started, stopped = last.outcome[2:4]
    if started and stopped and started > stopped:
        yield f"times: {last.job_id} started at {started}, after it stopped at {stopped}"


def _stops(stop: tuple[str, float], seen: Sequence[Sighting]) -> Iterable[str]:
    """Once a stop is acknowledged, a job that waits for others is over, and a terminated one has no further attempt."""
    verb, at = stop
    after = [sighting for sighting in seen if sighting.asked_at > at]
    for sighting in after:
        if sighting.status in ("SUBMITTED", "PENDING"):
            yield f"I9: {sighting.job_id} was {sighting.status} after its {verb} was acknowledged"
    if verb == "TerminateJob" and after and after[-1].attempts > after[0].attempts + 1:
        yield f"I9: {seen[0].job_id} was terminated, and had {after[-1].attempts - after[0].attempts} attempts more"
