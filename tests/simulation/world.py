"""One simulated world from a seed: who lives in it, what goes wrong, and whether the invariants hold."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from batchyard.domain.lifecycle import TERMINAL
from batchyard.scheduler.config import SchedulerConfig
from simulation.checker import Checker, ViolationError
from simulation.client import Client
from simulation.host import Host, simulated_machine
from simulation.intruder import Intruder
from simulation.kernel import HostClock, Kernel, Life
from simulation.nemesis import Machine, Nemesis, Scene
from simulation.network import Network
from simulation.profiles import PEACE, PROFILES, Profile, draw
from simulation.registry import Registry
from simulation.scheduler import SchedulerActor
from simulation.store import Store
from simulation.watcher import Watcher

DRIFT = 0.01
QUIET_S = 120.0
"""After so long without a job that runs or waits a world counts as done."""
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Outcome:
    """What came of a seed."""

    seed: int
    violation: str | None
    trace_hash: str
    tail: Sequence[str]
    simulated_s: float
    events: int
    starts: int
    ended: int

    def __str__(self) -> str:
        head = f"seed {self.seed}: {self.violation or 'no violation'}"
        return "\n".join([head, *self.tail, head]) if self.violation else head


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, disk: Path, profile: Profile | None = None) -> None:
        self.kernel = kernel = Kernel(seed)
        rng = kernel.rng
        self.net = Network(kernel)
        self.net.conditions.delay_s = rng.choice((0.002, 0.02, 0.3))
        self.checker = Checker(kernel)
        self.config = config = _config(kernel)
        self.checker.kill_slack_s = 2 * config.kill_budget_s
        self.faults_s = rng.uniform(4, 10) * config.lease_s
        self.registry = Registry(kernel, self.checker, config.lease_s)
        names = self.registry.queue_names
        self.store = Store(
            *(kernel, self.net, self.checker, self.registry.settlement()),
            leader_lease_s=rng.uniform(3, 25),
            folder=disk,
        )
        self.registry.settle = self.store.settle
        self.checker.connection = self.store.connection
        clock = HostClock(kernel, rate=rng.uniform(1 - DRIFT, 1 + DRIFT))
        self.scheduler = SchedulerActor(kernel, self.net, config, clock, self.registry)
        clock = HostClock(kernel, rate=rng.uniform(1 - DRIFT, 1 + DRIFT))
        self.rival = SchedulerActor(kernel, self.net, config, clock, self.registry, name="rival")
        self.rival.crash()
        self.machines: list[Machine] = []
        for number in range(1, rng.randint(2, 4) + 1):
            self.machines.append(self._machine(f"host{number}", disk))
        jobs = rng.randint(20, 60)
        self.client = Client(kernel, self.net, self.checker, names, jobs=jobs, within_s=self.faults_s * 0.9)
        self.watcher = Watcher(kernel, self.net, self.checker)
        self.checker.on_rollback = self._rolled_back
        drawn = draw(rng)
        self.intruder = Intruder(kernel, self.net, lambda: self.store.connection)
        scene = Scene(self.store, self.scheduler, self.rival, self.machines, self.registry, config, self.intruder)
        self.nemesis = Nemesis(kernel, self.net, scene, profile or drawn, within_s=self.faults_s)
        self.checker.on_offer = self.nemesis.offered
        self.checker.on_start = self.nemesis.aim
        self._watch()

    def _machine(self, name: str, disk: Path) -> Machine:
        rng = self.kernel.rng
        capacity = (rng.choice((2000, 3000, 4000)), 2048, 0)
        self.checker.capacities[name] = capacity
        host = Host(self.kernel, self.net, self.checker, name, disk, rng.uniform(1 - DRIFT, 1 + DRIFT), capacity)
        if self.machines:  # the first serves all, so that every job can end
            host.environments = rng.choice(((), ("first",), ("second",), ("first", "second")))
        host.kill_latency_s = self.config.kill_budget_s / 4
        host.durations = lambda: rng.choice((0.002, 0.1, 0.5, 2.0, 5.0)) * (0.1 + rng.random()) * self.config.lease_s
        return Machine(host)

    def _rolled_back(self) -> None:
        self.watcher.forget()
        self.registry.tell_store()

    def _watch(self) -> None:
        """Look at everything now and then."""
        watcher = Life("watcher")

        def look() -> None:
            self.checker.store_changed()
            for scheduler in (self.scheduler, self.rival):
                if scheduler.life.alive:
                    scheduler.core.planner.sanity_check()
                    missed = scheduler.spectator.missed()
                    self.checker.require(not missed, "I14", f"nobody was told of {missed}")
            self.kernel.after(self.config.lease_s / 5, watcher, look)

        look()

    def run(self) -> None:
        """Let it happen: faults, then healing; raise ViolationError as soon as something is wrong."""
        self.kernel.run(self.faults_s)
        self.nemesis.stop()
        bound_s = self.kernel.now + 100 * (self.config.lease_s + self.config.kill_budget_s) + 600
        quiet_s = 0.0
        while self.kernel.now < bound_s and quiet_s < QUIET_S:
            self.kernel.run(self.kernel.now + self.config.lease_s / 4)
            # Calls may still be under way that are older than the healing.
            quiet_s = quiet_s + self.config.lease_s / 4 if self.checker.all_is_over() else 0.0
        self.checker.check_end()
        self.watcher.check_end(self.store.connection)

    def close(self) -> None:
        """Give back what this machine lent."""
        self.store.connection.close()
        for machine in self.machines:
            machine.host.launcher_dies()


def simulate(seed: int, profile: str | None = None) -> Outcome:
    """Run a seed to its end, or to its first violation; in the storm of this name, or in `peace`, if one is given."""
    folder = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=folder) as disk, simulated_machine():
        world = World(seed, Path(disk), PEACE if profile == "peace" else PROFILES[profile] if profile else None)
        violation: str | None = None
        try:
            world.run()
        except ViolationError as error:
            violation = str(error)
        except AssertionError as error:
            violation = f"assertion: {error!r}"
        kernel, checker = world.kernel, world.checker
        outcome = Outcome(
            seed=seed,
            violation=violation,
            trace_hash=kernel.trace_hash(),
            tail=tuple(kernel.tail),
            simulated_s=kernel.now,
            events=kernel.events,
            starts=checker.starts.total(),
            ended=sum(state in TERMINAL for state in checker._states.values()),
        )
        world.close()
    return outcome


def _config(kernel: Kernel) -> SchedulerConfig:
    """Return times that are as short as they may be, so that everything happens to everybody."""
    rng = kernel.rng
    lease_s = rng.uniform(20, 60)
    heartbeat_s = rng.uniform(1, 4)
    return SchedulerConfig(
        heartbeat_interval_s=heartbeat_s,
        lease_s=lease_s,
        kill_budget_s=rng.uniform(5, 15),
        suspicion_s=min(lease_s / 2, heartbeat_s * rng.uniform(1.5, 4)),
        starvation_bound_s=rng.uniform(5, 60),
        # Lines are never long here: with few known of them, what follows is asked for again and again.
        jobs_a_line=rng.choice([1, 2, 5, 2000]),
    )
