"""Compute environments as ceilings: how many vCPUs run in each, and who waits for its ceiling."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from batchyard.domain.leases import LEASE_S_MIN
from batchyard.scheduler.lines import Line
from batchyard.scheduler.model import ComputeEnvironment, ResourceKey, Resources, sum_of

PAUSE_S: Final = 2.0
"""How long nothing of a queue is placed in an environment after the store has refused it: longer than the delay of
reasons, so that the reason is told."""


@dataclass(slots=True)
class Pause:
    """Nothing of one queue is placed in an environment for a while."""

    reason: str
    until: float | None = None
    """None until the next plan, which knows the time."""


class Environment:
    """A compute environment, known or only named by runs in it."""

    __slots__ = ("_used_milli", "holder", "key", "paused", "runs", "spec", "waiters")

    def __init__(self, key: ResourceKey) -> None:
        self.key = key
        self.spec: ComputeEnvironment | None = None
        self.runs = 0
        self._used_milli = 0
        self.holder: Line | None = None
        """The line for which room below the ceiling is held."""
        self.waiters: dict[Line, None] = {}
        """Lines, in the order in which they came, whose heads the ceiling or a pause kept out."""
        self.paused: dict[ResourceKey, Pause] = {}
        """By queue."""

    @property
    def used_milli(self) -> int:
        """Thousandths of vCPUs of the runs in it."""
        return self._used_milli

    @property
    def room_milli(self) -> int | None:
        """Thousandths of vCPUs below the ceiling, negative if it was lowered; None: there is no ceiling."""
        if self.spec is None or self.spec.max_vcpus_milli is None:
            return None
        return self.spec.max_vcpus_milli - self._used_milli

    def charge(self, vcpus_milli: int) -> None:
        """Count a run."""
        self._used_milli += vcpus_milli
        self.runs += 1

    def discharge(self, vcpus_milli: int) -> None:
        """Count a run no more."""
        self._used_milli -= vcpus_milli
        self.runs -= 1

    def discharge_all(self) -> None:
        """Forget all runs."""
        self._used_milli = self.runs = 0


class Environments:
    """All compute environments of all namespaces."""

    def __init__(self) -> None:
        self.held_back = ""
        """Why nothing may be placed in any of them; empty: it may."""
        self._environments: dict[ResourceKey, Environment] = {}
        self._paused: dict[ResourceKey, None] = {}

    def __iter__(self) -> Iterator[Environment]:
        return iter(self._environments.values())

    def get(self, key: ResourceKey) -> Environment | None:
        """Return an environment, or None if nothing is known of it."""
        return self._environments.get(key)

    def lease_s(self, names: Collection[str], default_s: float) -> float:
        """Return the lease of an agent that serves those of these names, of whatever namespace: the shortest of all.

        One that serves none by name, and so all, has the default. While nothing is known of a name, as when this
        scheduler has just started, it counts as short: what was granted once counts to its end.
        """
        if not names:
            return default_s
        specs = [environment.spec for environment in self if environment.spec is not None]
        known = {spec.key.name for spec in specs}
        leases = [spec.lease_s or default_s for spec in specs if spec.key.name in names]
        return min(leases if known.issuperset(names) else [*leases, default_s, LEASE_S_MIN])

    def longest_lease_s(self) -> float:
        """Return the longest lease that any says; 0: none says one."""
        return max((environment.spec.lease_s or 0 for environment in self if environment.spec is not None), default=0)

    def put(self, spec: ComputeEnvironment) -> Environment:
        """Take in an environment, or what has changed of it."""
        environment = self._environments.setdefault(spec.key, Environment(spec.key))
        environment.spec = spec
        environment.paused.clear()
        return environment

    def pause(self, key: ResourceKey, queue: ResourceKey, reason: str) -> None:
        """Have nothing of a queue placed in an environment until `resume` returns it."""
        environment = self._environments.get(key)
        if environment is not None:
            environment.paused[queue] = Pause(reason)
            self._paused[key] = None

    def resume(self, now: float) -> list[Environment]:
        """Count the pauses; return the environments of those that are over."""
        resumed = []
        for key in list(self._paused):
            environment = self._environments.get(key)
            for queue, pause in list(environment.paused.items()) if environment is not None else ():
                if pause.until is None:
                    pause.until = now + PAUSE_S
                elif pause.until <= now and environment is not None:
                    del environment.paused[queue]
                    resumed.append(environment)
            if environment is None or not environment.paused:
                del self._paused[key]
        return resumed

    def next_deadline(self) -> float | None:
        """Return when a pause is over, or None."""
        environments = (self._environments.get(key) for key in self._paused)
        pauses = (pause for environment in environments if environment for pause in environment.paused.values())
        return min((pause.until for pause in pauses if pause.until is not None), default=None)

    def drop(self, key: ResourceKey) -> None:
        """Forget an environment; runs in it are remembered until they end."""
        environment = self._environments.get(key)
        if environment is not None:
            environment.spec = None
            self._tidy(environment)

    def charge(self, key: ResourceKey, vcpus_milli: int) -> None:
        """Count a run in an environment, known or not."""
        self._environments.setdefault(key, Environment(key)).charge(vcpus_milli)

    def discharge(self, key: ResourceKey, vcpus_milli: int) -> Environment:
        """Count a run no more."""
        environment = self._environments[key]
        environment.discharge(vcpus_milli)
        self._tidy(environment)
        return environment

    def discharge_all(self) -> None:
        """Forget all runs."""
        for environment in list(self._environments.values()):
            environment.discharge_all()
            self._tidy(environment)

    def sanity_check(self, taken: Mapping[ResourceKey, Sequence[Resources]]) -> None:
        """Assert that the environments agree with what is taken of each."""
        assert set(taken) <= set(self._environments), "runs in environments that are not known"
        for environment in self:
            runs = taken.get(environment.key, ())
            assert environment.runs == len(runs), f"{environment.key.name}: miscounted runs"
            assert environment.used_milli == sum_of(runs).vcpus_milli, f"{environment.key.name}: miscounted use"
            assert all(line.parked for line in environment.waiters), f"{environment.key.name}: a waiter is not parked"

    def _tidy(self, environment: Environment) -> None:
        if environment.spec is None and not environment.runs:
            del self._environments[environment.key]
