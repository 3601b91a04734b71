"""What kind of bad luck a seed has: which faults strike, and how often."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

KINDS: Final = (
    "store crash",
    "scheduler crash",
    "scheduler stop",
    "second scheduler",
    "usurper",
    "agent crash",
    "launcher death",
    "death at a claim",
    "power failure",
    "store pause",
    "scheduler pause",
    "agent pause",
    "launcher pause",
    "pause at an offer",
    "partition",
    "loss",
    "slow network",
    "late answers",
    "abandoned streams",
    "store restore",
    "store disk",
    "slow disk",
    "lying runtime",
    "resource changes",
    "lease changes",
    "drain",
    "journal disk",
    "intruder",
)


@dataclass(frozen=True)
class Profile:
    """A few kinds of faults that together make something rare likely."""

    kinds: Sequence[str]
    strikes: Sequence[int]
    """How often they strike in one run; a seed chooses."""
    aim: float = 0.1
    """How likely one strikes just after a job has started."""


PROFILES: Final[Mapping[str, Profile]] = {
    "late answers": Profile(("late answers",), (4, 8)),
    "two schedulers": Profile(("usurper",), (4, 9)),
    "pauses": Profile(("pause at an offer", "agent pause"), (6, 15)),
    "old streams": Profile(("abandoned streams",), (4, 8)),
    "resources": Profile(("resource changes", "scheduler crash"), (6, 15)),
    "leases": Profile(("lease changes", "agent pause", "usurper"), (10, 25)),
    "backups": Profile(("store restore", "agent crash", "partition"), (4, 8)),
    "crashes": Profile(("launcher death", "power failure", "agent crash", "slow network"), (6, 15), aim=0.4),
    "drains": Profile(("drain", "scheduler stop", "scheduler crash", "agent crash"), (6, 15)),
    "intruders": Profile(("intruder", "agent crash", "partition", "scheduler crash"), (4, 8)),
    "runtimes": Profile(("lying runtime", "launcher death", "death at a claim", "agent crash"), (6, 15)),
}
"""Storms, by name. A seed without one has any number of kinds."""


def draw(rng: Random) -> Profile:
    """Return what goes wrong with a seed: a storm, or any mixture."""
    if rng.random() < 0.3:
        return PROFILES[rng.choice(sorted(PROFILES))]
    return Profile(rng.sample(KINDS, rng.choice((1, 2, 3, 5, len(KINDS)))), (6, 15, 30))


PEACE: Final = Profile((), (1,))
