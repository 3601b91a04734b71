"""Compute environments as ceilings: how many vCPUs run in each, and who waits for its ceiling."""

from collections.abc import Iterator, Mapping, Sequence

from batchyard.scheduler.lines import Line
from batchyard.scheduler.model import ComputeEnvironment, ResourceKey, Resources, sum_of


class Environment:
    """A compute environment, known or only named by runs in it."""

    __slots__ = ("_used_milli", "holder", "key", "runs", "spec", "waiters")

    def __init__(self, key: ResourceKey) -> None:
        self.key = key
        self.spec: ComputeEnvironment | None = None
        self.runs = 0
        self._used_milli = 0
        self.holder: Line | None = None
        """The line for which room below the ceiling is held."""
        self.waiters: dict[Line, None] = {}
        """Lines, in the order in which they came, whose heads the ceiling kept out."""

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
        self._environments: dict[ResourceKey, Environment] = {}

    def __iter__(self) -> Iterator[Environment]:
        return iter(self._environments.values())

    def get(self, key: ResourceKey) -> Environment | None:
        """Return an environment, or None if nothing is known of it."""
        return self._environments.get(key)

    def put(self, spec: ComputeEnvironment) -> Environment:
        """Take in an environment, or what has changed of it."""
        environment = self._environments.setdefault(spec.key, Environment(spec.key))
        environment.spec = spec
        return environment

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
