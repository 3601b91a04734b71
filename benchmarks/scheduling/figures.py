"""What a simulated run was like, in figures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from benchmarks.scheduling.simulator import Run, Trace
from benchmarks.scheduling.workload import Workload

SHORT_S: Final = 10.0
"""Slowdowns of jobs shorter than this are those of jobs that take as long (bounded slowdown)."""
WIDE: Final = 0.5
"""A job is wide from this part of a host's vCPUs on."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run."""

    utilisation: float
    """Part of the vCPUs that was busy until the last job was submitted, or all of them had started."""
    makespan_ratio: float
    """The time until the last end, divided by a bound that no scheduler can go below."""
    slowdown_mean: float
    slowdown_p99: float
    wait_max_s: float
    wide_wait_p99_s: float
    shares: dict[str, float]
    """What each share got of the use while all had narrow jobs waiting, divided by what its weight entitles it to.

    A share that has only wide jobs left cannot use the room that falls free bit by bit.
    """

    def as_json(self) -> dict[str, Any]:
        """Return the figures, rounded."""
        return {
            name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()
        } | {"shares": {share: round(value, 3) for share, value in self.shares.items()}}


def figures(trace: Trace) -> Figures:
    """Sum a run up."""
    runs, workload = trace.runs, trace.workload
    slowdowns = sorted(_slowdown(run) for run in runs)
    host = max(host.vcpus_milli for host in workload.hosts)
    wide = sorted(run.waited_s for run in runs if run.task.need.vcpus_milli >= WIDE * host)
    return Figures(
        utilisation=_busy(runs, 0.0, until := _saturated_until(runs)) / (workload.capacity.vcpus_milli * until),
        makespan_ratio=max(run.ended_at for run in runs) / shortest_makespan_s(workload),
        slowdown_mean=sum(slowdowns) / len(slowdowns),
        slowdown_p99=_quantile(slowdowns, 0.99),
        wait_max_s=max(run.waited_s for run in runs),
        wide_wait_p99_s=_quantile(wide, 0.99) if wide else 0.0,
        shares=_shares(trace),
    )


def shortest_makespan_s(workload: Workload) -> float:
    """Return a bound: the longest job, and whatever is submitted from some time on, spread over all that there is."""
    bound = max(task.submitted_at + task.runs_s for task in workload.tasks)
    for kind, have in enumerate(workload.capacity):
        work = 0.0
        for task in reversed(workload.tasks):
            work += task.need[kind] * task.runs_s
            bound = max(bound, task.submitted_at + work / have if have else 0.0)
    return bound


def _slowdown(run: Run) -> float:
    took = max(run.task.runs_s, SHORT_S)
    return max(1.0, (run.waited_s + run.task.runs_s) / took)


def _saturated_until(runs: Sequence[Run]) -> float:
    last_came = max(run.task.submitted_at for run in runs)
    return last_came or max(run.started_at for run in runs)


def _busy(runs: Sequence[Run], begin: float, end: float) -> float:
    """Return thousandths of vCPU seconds between two times."""
    return sum(
        run.task.need.vcpus_milli * max(0.0, min(run.ended_at, end) - max(run.started_at, begin)) for run in runs
    )


def _shares(trace: Trace) -> dict[str, float]:
    weights = trace.workload.weights
    if not weights:
        return {}
    narrowest = min(run.task.need.vcpus_milli for run in trace.runs)
    fillers = [run for run in trace.runs if run.task.need.vcpus_milli == narrowest]
    end = min(max(run.started_at for run in fillers if run.task.share == share) for share in weights)
    used = {share: _busy([run for run in trace.runs if run.task.share == share], 0.0, end) for share in weights}
    entitled = {share: (1 / weight) / sum(1 / other for other in weights.values()) for share, weight in weights.items()}
    return {share: used[share] / sum(used.values()) / entitled[share] for share in sorted(weights)}


def _quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
