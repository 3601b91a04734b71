"""Synthetic work: jobs of many widths, a few of which take most of the time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from batchyard.scheduler.model import Resources

GIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Task:
    """A job: what it needs, and how long it really takes."""

    number: int
    """Place in the order of submission."""
    submitted_at: float
    """In seconds, as all times here."""
    need: Resources
    runs_s: float
    limit_s: int | None
    """Its time limit, which is all that schedulers know of how long it takes."""
    share: str = ""


@dataclass(frozen=True, slots=True)
class Workload:
    """Jobs, and the hosts that they are for."""

    name: str
    hosts: Sequence[Resources]
    tasks: Sequence[Task]
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weight factors of the shares; empty: no fair share."""

    @property
    def capacity(self) -> Resources:
        """What all hosts have together."""
        return Resources(*(sum(amounts) for amounts in zip(*self.hosts, strict=True)))


Shape = Callable[[Random], tuple[int, int]]
"""Draws vCPUs and MiB."""


def a_host(vcpus: int = 32, gib: int = 128, gpus: int = 0) -> Resources:
    """Return the size of a host."""
    return Resources(vcpus * 1000, gib * GIB, gpus)


def mixed(rng: Random) -> tuple[int, int]:
    """Mostly narrow jobs, some of half a host and more; memory goes with vCPUs, more or less."""
    vcpus = rng.choices((1, 2, 4, 8, 16, 32), (50, 20, 14, 9, 5, 2))[0]
    return vcpus, int(vcpus * rng.choice((2, 2, 4, 4, 6)) * GIB * 0.6)


def narrow(rng: Random) -> tuple[int, int]:
    """One to four vCPUs, so that hardly anything keeps the order of shares from being carried out."""
    vcpus = rng.choice((1, 2, 4))
    return vcpus, vcpus * 2 * GIB


def narrow_and_whole(rng: Random) -> tuple[int, int]:
    """One job in fifty needs a whole host, the others a vCPU or two."""
    vcpus = 32 if rng.random() < 0.02 else rng.choice((1, 1, 2))
    return vcpus, vcpus * 2 * GIB


def lopsided(rng: Random) -> tuple[int, int]:
    """Half of the jobs need much memory and few vCPUs, the other half the reverse."""
    if rng.random() < 0.5:
        return rng.choice((1, 2, 3)), rng.choice((16, 24, 32)) * GIB
    return rng.choice((4, 6, 8)), rng.choice((2, 4, 6)) * GIB


def duration_s(rng: Random) -> float:
    """Draw a duration with a heavy tail: the median is two minutes, the mean five, the longest hours."""
    return min(max(1.0, rng.lognormvariate(4.8, 1.35)), 6 * 3600.0)


def arriving(
    name: str,
    shape: Shape,
    *,
    hosts: int,
    count: int,
    load: float,
    limits: bool = True,
    seed: int = 1,
    shares: Mapping[str, float] | None = None,
) -> Workload:
    """Return jobs that come one by one, so that they would keep this part of the hosts busy; 0: all come at once."""
    rng = Random(seed)
    machines = [a_host() for _ in range(hosts)]
    shapes = [(*shape(rng), duration_s(rng)) for _ in range(count)]
    work = sum(vcpus * seconds for vcpus, _, seconds in shapes)
    rate = count / (work / (hosts * 32) / load) if load else 0.0
    names = sorted(shares) if shares else [""]
    now, tasks = 0.0, []
    for number, (vcpus, mib, seconds) in enumerate(shapes):
        if rate:
            now += rng.expovariate(rate)
        limit = max(60, int(seconds * rng.uniform(1.1, 4.0))) if limits else None
        need = Resources(vcpus * 1000, mib, 0)
        tasks.append(Task(number, now, need, seconds, limit, rng.choice(names)))
    return Workload(name, machines, tasks, shares or {})


def workloads(scale: int) -> list[Workload]:
    """Return the workloads of the report: `scale` hosts, and jobs to match."""
    count = scale * 80
    return [
        arriving("mixed, at full load", mixed, hosts=scale, count=count, load=1.0),
        arriving("mixed, at full load, no time limits", mixed, hosts=scale, count=count, load=1.0, limits=False),
        arriving("mixed, all at once", mixed, hosts=scale, count=count, load=0),
        arriving("narrow and whole hosts", narrow_and_whole, hosts=scale, count=count * 6, load=1.0),
        arriving("vCPUs against memory, all at once", lopsided, hosts=scale, count=count * 2, load=0),
        arriving("two shares, narrow", narrow, hosts=scale, count=count * 4, load=0, shares={"four": 4.0, "one": 1.0}),
        arriving("two shares, mixed", mixed, hosts=scale, count=count, load=0, shares={"four": 4.0, "one": 1.0}),
    ]
