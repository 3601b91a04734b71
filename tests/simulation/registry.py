"""Queues and compute environments that change while jobs run, as schedulers and the store come to know of it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from batchyard.jobstore.group import Group
from batchyard.scheduler.model import ComputeEnvironment, JobQueue, ResourceKey
from batchyard.scheduler.planner import Planner
from batchyard.storage.jobs import EnvironmentCopy, EnvironmentKey, QueueCopy, QueueKey
from simulation.checker import Checker
from simulation.kernel import Kernel, Life
from support.jobs import NAMESPACE

Settle = Callable[[Callable[[Group], object], Callable[[object], None]], None]


class Registry:
    """The truth about resources. Whoever follows it learns of changes a while later, the newest state at once."""

    def __init__(self, kernel: Kernel, checker: Checker, lease_s: float) -> None:
        """Begin with environments some of which have another lease than `lease_s`."""
        rng = kernel.rng
        self._lease_s = lease_s
        self._kernel = kernel
        self._checker = checker
        self._life = Life("registry")
        self.settle: Settle
        self._revision = 1
        self._lag_s = rng.choice((2.0, 20.0))
        """How long schedulers take at most to hear of a change."""
        self._closed: set[str] = set()
        first, second = (ResourceKey(NAMESPACE, name) for name in ("first", "second"))
        self._environments = {
            "first": ComputeEnvironment(first, True, True, rng.choice((2000, 4000)), lease_s=self._draw_lease()),
            "second": ComputeEnvironment(second, True, True, None, lease_s=self._draw_lease()),
        }
        self._queues = {
            "low": JobQueue(ResourceKey(NAMESPACE, "low"), 10, ("first", "second")),
            "high": JobQueue(ResourceKey(NAMESPACE, "high"), 1, ("second",)),
        }
        self._at_first = dict(self._environments), dict(self._queues)
        self._followers: list[tuple[Life, Callable[[], None]]] = []
        self._note_ceilings()

    def _draw_lease(self) -> float | None:
        rng = self._kernel.rng
        return rng.choice((None, rng.choice((0.4, 3)) * self._lease_s))

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The names of all queues."""
        return tuple(self._queues)

    def settlement(self) -> Callable[[Group], object]:
        """Return what tells the job store of all that it is to know."""
        revision = self._revision
        queues = [
            QueueCopy(
                *(QueueKey(NAMESPACE, name), f"arn:{name}", name not in self._closed, False, revision),
                environments=queue.environments,
            )
            for name, queue in self._queues.items()
        ]
        environments = [
            EnvironmentCopy(EnvironmentKey(NAMESPACE, name), environment.usable, environment.max_vcpus_milli, revision)
            for name, environment in self._environments.items()
        ]
        return partial(Group.settle, queues=queues, environments=environments)

    def follow(self, life: Life, planner: Planner, changed: Callable[[], None]) -> None:
        """Tell a scheduler, for its life, of all that there is and of every change."""

        def tell() -> None:
            for environment in self._environments.values():
                planner.put_environment(environment)
            for queue in self._queues.values():
                planner.put_queue(queue)
            changed()

        self._followers = [follower for follower in self._followers if follower[0].alive]
        self._followers.append((life, tell))
        tell()

    def change_something(self) -> None:
        """Change a queue or an environment."""
        rng = self._kernel.rng
        kind = rng.choice(("disable", "ceiling", "order", "close"))
        if kind == "disable":
            name = rng.choice(sorted(self._environments))
            self._environments[name] = replace(self._environments[name], enabled=not self._environments[name].enabled)
        elif kind == "ceiling":
            ceiling = rng.choice((500, 2000, 4000, 8000))
            self._environments["first"] = replace(self._environments["first"], max_vcpus_milli=ceiling)
        elif kind == "order":
            name = rng.choice(sorted(self._queues))
            order = rng.choice((("first",), ("second",), ("first", "second"), ("second", "first")))
            self._queues[name] = replace(self._queues[name], environments=order)
        else:
            self._closed ^= {rng.choice(sorted(self._queues))}
        self._kernel.note(f"registry: {kind}")
        self._tell()

    def change_leases(self) -> None:
        """Have agents get other leases than before."""
        for name, environment in self._environments.items():
            self._environments[name] = replace(environment, lease_s=self._draw_lease())
        self._kernel.note("registry: leases")
        self._tell()

    def restore(self) -> None:
        """Have everything be as it was at first."""
        environments, queues = self._at_first
        self._environments, self._queues = dict(environments), dict(queues)
        self._closed.clear()
        self._tell()

    def _tell(self) -> None:
        self._revision += 1
        self._note_ceilings()
        for life, tell in self._followers:
            self._kernel.after(self._kernel.rng.random() * self._lag_s, life, tell)
        self.tell_store()

    def tell_store(self) -> None:
        """Have the job store know all that there is, as soon as it can."""
        revision = self._revision

        def answered(value: object) -> None:
            if isinstance(value, Exception) and revision == self._revision:
                self._kernel.after(1, self._life, self.tell_store)

        self.settle(self.settlement(), answered)

    def _note_ceilings(self) -> None:
        # Who has not heard of a lower ceiling yet goes by the one before.
        ceilings = self._checker.ceilings
        for name, environment in self._environments.items():
            ceilings[name] = max(ceilings.get(name, 0), environment.max_vcpus_milli or 1 << 40)
