"""Seeds of the simulator, and what the simulator itself must be: repeatable, and made of production code."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from batchyard.agent.host import IdentityKeeper
from batchyard.agent.launcher.ledger import Ledger
from batchyard.agent.launcher.server import Launcher
from batchyard.agent.reconcile import Reconciler
from batchyard.jobstore.core import JobStoreCore
from batchyard.jobstore.feed import Feed
from batchyard.jobstore.leadership import Leadership
from batchyard.scheduler.loop import Scheduler
from batchyard.storage.sqlite.jobs import SqliteJobWriter
from simulation import mutants
from simulation.host import simulated_machine
from simulation.parallel import pool
from simulation.profiles import PROFILES
from simulation.world import Outcome, World, simulate

FIXED_SEEDS = range(1, 101)
SEEDS = int(os.environ.get("SIMULATION_SEEDS", "100"))
TODAY = datetime.now(UTC).date()
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", f"{TODAY:%Y%m%d}000"))
"""Beside the fixed seeds there are others each day."""
MUTANT_SEEDS = 150
"""So many seeds have the chance to notice a guard that is switched off."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """Log nothing: what actors say of the harm that is done to them is of no interest here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _failed_once() -> Sequence[tuple[int, str | None]]:
    """Return the seeds of the file, each with the name of its profile if one follows it."""
    lines = Path(__file__).with_name("seeds.txt").read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    return [(int(seed), profile if profile in PROFILES else None) for seed, profile, *_ in words]


def _violations(outcomes: Iterator[Outcome]) -> str:
    return "\n\n".join(str(outcome) for outcome in outcomes if outcome.violation)


def test_no_seed_violates_an_invariant() -> None:
    seeds = [(seed, None) for seed in (*FIXED_SEEDS, *range(FIRST_SEED, FIRST_SEED + SEEDS))]
    with pool() as processes:
        violations = _violations(processes.map(simulate, *zip(*seeds, *_failed_once(), strict=True), chunksize=4))
    assert not violations, f"{violations}\n\nAgain: make soak SEEDS=1 FIRST_SEED=<seed>"


def test_without_faults_every_job_ends() -> None:
    outcome = simulate(FIXED_SEEDS[0], profile="peace")
    assert outcome.violation is None, str(outcome)
    assert outcome.starts > 10
    assert outcome.ended > 10


def test_faults_do_hit() -> None:
    outcomes = [simulate(seed) for seed in FIXED_SEEDS[:5]]
    assert any("nemesis" in line for outcome in outcomes for line in outcome.tail)


def test_the_same_seed_does_the_same_whatever_the_hash_seed() -> None:
    program = "from simulation.world import simulate; print(simulate(7).trace_hash)"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(hashes) == 1
    assert hashes != {""}


def test_the_actors_are_production_code_and_no_copies(tmp_path: Path) -> None:
    with simulated_machine():
        world = World(FIXED_SEEDS[0], tmp_path)
        world.kernel.run(5)
        machine = world.machines[0]
        launcher = machine.host.launcher
        assert launcher is not None
        actors = (
            (world.store.core, JobStoreCore),
            (world.store.writer, SqliteJobWriter),
            (world.store.feed, Feed),
            (world.store.leadership, Leadership),
            (world.scheduler.core, Scheduler),
            (machine.agent.reconciler, Reconciler),
            (machine.agent.identity, IdentityKeeper),
            (launcher, Launcher),
            (launcher._ledger, Ledger),
        )
        for actor, production in actors:
            assert isinstance(actor, production)
            assert production.__module__.startswith("batchyard.")
        decisions = ("_obey", "_kill", "_start", "_guard_lease", "_meet_deadlines", "_finish", "_take_over")
        for decision in decisions:
            assert getattr(type(launcher), decision) is getattr(Launcher, decision)
        world.close()


notices = partial(mutants.noticed_by, range(1, MUTANT_SEEDS + 1))


def test_every_guard_that_is_switched_off_is_noticed() -> None:
    names = [name for name in mutants.MUTANTS if name not in mutants.DEFENCE_IN_DEPTH]
    with pool() as processes:
        noticed_by = dict(zip(names, processes.map(notices, names), strict=True))
    assert not [name for name, seed in noticed_by.items() if seed is None]


def test_excuses_and_storms_are_about_guards_that_can_be_switched_off() -> None:
    assert mutants.DEFENCE_IN_DEPTH.keys() | mutants.STORMS.keys() <= mutants.MUTANTS.keys()


def test_a_failing_seed_shows_its_number_and_its_trace() -> None:
    with mutants.switched_off("nobody guards the lease"):
        outcome = next(outcome for outcome in map(simulate, range(1, 100)) if outcome.violation)
    lines = str(outcome).splitlines()
    assert lines[0].startswith(f"seed {outcome.seed}: I")
    assert len(lines) > 20
