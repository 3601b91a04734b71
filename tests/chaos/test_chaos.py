"""Real processes, really killed, paused and parted under load: no acknowledged job is lost, and none runs twice.

`make chaos MINUTES=30` runs for longer. CHAOS_SEED chooses the same faults again, though the timing does not repeat.
"""

import os
from pathlib import Path
from typing import Final

import pytest

from chaos.cluster import READY_BOUND_S
from chaos.network import Namespaces, NotPossibleError
from chaos.run import HEALING_BOUND_S, run

SMOKE_MINUTES: Final = 1 / 3
ALL_MINUTES: Final = 2.0


def chosen_minutes() -> float:
    minutes = os.environ.get("CHAOS_MINUTES")
    if minutes is None:
        return ALL_MINUTES if os.environ.get("BATCHYARD_TEST_ALL") else SMOKE_MINUTES
    return float(minutes)


def chosen_seed() -> int | None:
    seed = os.environ.get("CHAOS_SEED")
    return int(seed) if seed else None


@pytest.mark.chaos
@pytest.mark.timeout(chosen_minutes() * 60 + HEALING_BOUND_S + 5 * READY_BOUND_S)
def test_no_job_is_lost_and_none_runs_twice_whatever_dies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run(chosen_minutes(), chosen_seed(), parent=tmp_path)
    with capsys.disabled():
        print(f"\n{outcome.report}")
    assert outcome.violations == []
    assert outcome.harmed


def test_hosts_are_namespaces_that_can_be_parted() -> None:
    try:
        network = Namespaces(["one"])
    except NotPossibleError as error:
        pytest.skip(str(error))
    network.close()
    assert network.directions == ("both", "in", "out")
    assert network.disturbance
    assert network.leftovers() == []
