"""What the planner promises, over random work in virtual time.

The simulator itself asserts that no host is ever oversubscribed, that no job starts twice, and that each one starts.
"""

from functools import cache
from itertools import groupby
from random import Random
from statistics import geometric_mean
from typing import Final

from benchmarks.scheduling.baselines import Easy, Fifo
from benchmarks.scheduling.figures import Figures, figures
from benchmarks.scheduling.production import Production
from benchmarks.scheduling.simulator import simulate
from benchmarks.scheduling.workload import Task, Workload, a_host, workloads
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from batchyard.scheduler.backfill import SLACK_S
from batchyard.scheduler.model import Resources

BOUND_S: Final = 100.0
LONGEST_S: Final = 500

QUICK: Final = (Phase.explicit, Phase.reuse, Phase.generate)
"""Shrinking would simulate for minutes."""

tasks = st.lists(
    st.tuples(
        st.integers(0, 300),
        st.sampled_from([1, 1, 1, 2, 4, 8]),
        st.sampled_from([1, 2, 8]),
        st.integers(1, LONGEST_S),
        st.booleans(),
    ),
    min_size=1,
    max_size=60,
)


def a_workload(drawn: list[tuple[int, int, int, int, bool]], hosts: int) -> Workload:
    """Return a workload; time limits are those of the durations, of jobs that have one."""
    drawn = sorted(drawn, key=lambda task: task[0])
    return Workload(
        "drawn",
        [a_host(8, 32)] * hosts,
        [
            Task(number, float(at), Resources(vcpus * 1000, gib * 1024, 0), float(runs), runs if limited else None)
            for number, (at, vcpus, gib, runs, limited) in enumerate(drawn)
        ],
    )


@settings(max_examples=60, deadline=None, phases=QUICK)
@given(drawn=tasks, hosts=st.integers(1, 4))
def test_jobs_of_one_shape_start_in_the_order_of_submission(
    drawn: list[tuple[int, int, int, int, bool]], hosts: int
) -> None:
    workload = a_workload([(*task[:4], False) for task in drawn], hosts)
    trace = simulate(workload, Production(workload, bound_s=BOUND_S))
    by_shape = sorted(trace.runs, key=lambda run: (run.task.need, run.started_at, run.task.number))
    for _, runs in groupby(by_shape, key=lambda run: run.task.need):
        numbers = [run.task.number for run in runs]
        assert numbers == sorted(numbers)


@settings(max_examples=25, deadline=None, phases=QUICK)
@given(hosts=st.integers(1, 3), width=st.integers(5, 8), seed=st.integers(0, 10_000))
def test_a_wide_job_waits_no_longer_than_the_bound_and_what_runs_when_it_is_over(
    hosts: int, width: int, seed: int
) -> None:
    """Its hosts are full when it comes, and narrow jobs come faster than they go, with time limits and without."""
    rng = Random(seed)
    begins = [*[0] * (8 * hosts), *(second for second in range(2, 1200, 15) for _ in range(hosts))]
    narrow = [(begin, 1, 1, rng.randint(1, LONGEST_S), rng.random() < 0.5) for begin in begins]
    workload = a_workload([*narrow, (1, width, 8, 60, True)], hosts)
    trace = simulate(workload, Production(workload, bound_s=BOUND_S))
    (run,) = [run for run in trace.runs if run.task.need.vcpus_milli == width * 1000]
    # A time limit is rounded up by a quarter at most.
    assert run.waited_s <= BOUND_S + 1.25 * LONGEST_S + SLACK_S


@settings(max_examples=8, deadline=None, phases=QUICK)
@given(
    weights=st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0]), min_size=2, max_size=4),
    seed=st.integers(0, 1000),
    limited=st.booleans(),
)
def test_shares_that_always_have_jobs_use_what_their_weights_say(
    weights: list[float], seed: int, limited: bool
) -> None:
    rng = Random(seed)
    shares = {f"share-{number}": weight for number, weight in enumerate(weights)}
    drawn = [
        Task(number, 0.0, _narrow(rng), rng.uniform(20, 200), 300 if limited else None, share)
        for number, share in enumerate(list(shares) * 200)
    ]
    workload = Workload("shares", [a_host(16, 64)] * 2, drawn, shares)
    got = figures(simulate(workload, Production(workload))).shares
    entitled = {share: (1 / weight) / sum(1 / other for other in shares.values()) for share, weight in shares.items()}
    # Of all vCPUs; a single job is as much as one in sixteen of them.
    assert all(abs(part - 1) * entitled[share] <= 1 / 16 for share, part in got.items()), got


def _narrow(rng: Random) -> Resources:
    return Resources(rng.choice((1000, 2000)), 1024, 0)


@cache
def compared() -> dict[str, tuple[Figures, Figures, Figures]]:
    """Run the benchmark's workloads, a few jobs of each, on the planner, EASY and FIFO."""
    return {
        workload.name: (
            figures(simulate(workload, Production(workload))),
            figures(simulate(workload, Easy(workload))),
            figures(simulate(workload, Fifo(workload))),
        )
        for workload in workloads(2)
    }


def test_no_workload_takes_longer_than_with_fifo() -> None:
    for name, (ours, _, fifo) in compared().items():
        assert ours.makespan_ratio <= fifo.makespan_ratio * 1.1, name


def test_jobs_wait_less_than_with_fifo() -> None:
    for name, (ours, _, fifo) in compared().items():
        assert ours.slowdown_mean <= fifo.slowdown_mean * 1.01, name


def test_with_time_limits_jobs_wait_about_as_long_as_with_easy() -> None:
    """Few hosts make single workloads differ by much, in both directions; on the whole they must not."""
    both = [
        (ours.slowdown_mean, easy.slowdown_mean)
        for name, (ours, easy, _) in compared().items()
        if "no time limits" not in name and "shares" not in name
    ]
    assert geometric_mean(ours / easy for ours, easy in both) <= 1.25
