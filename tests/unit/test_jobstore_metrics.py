"""What the job store measures does not grow without end."""

import pytest

from batchyard.domain.jobs import JobChange, JobId, JobKey
from batchyard.domain.lifecycle import JobState
from batchyard.jobstore import metrics
from batchyard.jobstore.overview import ACCOUNTS_MAX, MINUTE_MS, MINUTES, EndedJobs


def test_of_very_many_queues_the_last_are_measured_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_places", set())
    monkeypatch.setattr(metrics, "PLACES_MAX", 2)
    places = [metrics.place_of("1", name) for name in ("a", "b", "c", "d", "a")]
    assert places == [("1", "a"), ("1", "b"), ("other", "other"), ("other", "other"), ("1", "a")]


def test_accounts_of_which_nothing_has_ended_for_an_hour_are_forgotten() -> None:
    ended = EndedJobs()
    for number in range(2 * ACCOUNTS_MAX):
        key = JobKey(f"{number:012}", JobId("job"))
        ended.take([a_change(key, at=number * MINUTE_MS)])
    newest = 2 * ACCOUNTS_MAX - 1
    assert len(ended._minutes) == MINUTES
    assert [minute.succeeded for minute in ended.of(f"{newest:012}", newest * MINUTE_MS)] == [0] * 59 + [1]


def a_change(key: JobKey, *, at: int) -> JobChange:
    return JobChange(key, "job", "queue", JobState.SUCCEEDED, None, at, 1, 0, None, None)
