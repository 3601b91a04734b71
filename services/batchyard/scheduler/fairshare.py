"""Fair share: how much each share of a queue has used of late, what weight it has, and what is kept back.

A share's use is the integral of the vCPUs that it holds, in which the past fades exponentially with a window. Shares
are served by what they have used and what they hold now, held for a window, times their weight: the lowest goes first.
So shares that always have jobs waiting come to hold vCPUs in inverse ratio to their weights, and one that had nothing
for a while gets more for a while, without taking all.
"""

from collections.abc import Mapping
from math import exp
from typing import Final

from batchyard.scheduler.model import ResourceKey, SchedulingPolicy

WINDOW_MIN_S: Final = 600.0
"""AWS's least: also with a shareDecaySeconds of 0."""
WEIGHT_DEFAULT: Final = 1.0
FORGOTTEN: Final = 1.0
"""vCPU milliseconds: a share that has used less has used nothing."""

_NO_KEY: Final = ResourceKey("", "")


class FairShare:
    """What a scheduling policy says, ready to be asked."""

    def __init__(self, policy: SchedulingPolicy | None = None) -> None:
        """Take in a policy; without one all weights are equal, and nothing is kept back."""
        policy = policy or SchedulingPolicy(key=_NO_KEY)
        self.window_s = max(float(policy.share_decay_s), WINDOW_MIN_S)
        self._reservation = policy.compute_reservation / 100
        self._exact: Mapping[str, float] = dict(policy.weights)
        self._prefixes = [(name[:-1], weight) for name, weight in policy.weights if name.endswith("*")]

    def weight_of(self, share: str) -> float:
        """Return the weight factor of a share: that of the entry that names it, or that begins like it."""
        exact = self._exact.get(share)
        if exact is not None:
            return exact
        return next((weight for prefix, weight in self._prefixes if share.startswith(prefix)), WEIGHT_DEFAULT)

    @property
    def reserves(self) -> bool:
        """Whether anything is kept back."""
        return self._reservation > 0

    def usable_milli(self, base_milli: int, active_shares: int) -> int:
        """Return how much of an environment the active shares may hold together: the rest is for others to come."""
        return int(base_milli * (1 - self._reservation ** max(active_shares, 1)))


class Use:
    """How much one share uses, in thousandths of vCPUs and their seconds.

    What it holds changes at once; when it did so is known at the next `settle`.
    """

    __slots__ = ("_accruing", "_as_of", "_past", "_told", "ahead", "running", "window_s")

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self.running = 0
        """Held by its runs."""
        self.ahead = 0
        """Of what was offered beyond the room that there is, and holds none."""
        self._past = 0.0
        self._as_of: float | None = None
        self._accruing = 0
        self._told: tuple[float, float] | None = None

    @property
    def held(self) -> int:
        """What it holds or is about to hold."""
        return self.running + self.ahead

    @property
    def is_nothing(self) -> bool:
        """Whether nothing was used that is not forgotten, and nothing is held."""
        return not self.held and not self._past and self._told is None

    def remember(self, vcpu_s: float, ago_s: float) -> None:
        """Take in what had been used at a time in the past, in place of all that is known."""
        self._told = (vcpu_s * 1000, max(ago_s, 0.0))

    def settle(self, now: float, window_s: float) -> None:
        """Take into account what was held until now; from now on what is held now is, and another window may hold."""
        if self._told is not None:
            used, ago_s = self._told
            self._past, self._as_of, self._told = used * exp(-ago_s / window_s), now, None
        else:
            self._past = self.at(now)
        self._as_of = now if self._as_of is None else max(now, self._as_of)
        self._accruing = self.running
        self.window_s = window_s

    def at(self, now: float) -> float:
        """Return the use at a time not before the last `settle`, in vCPU milliseconds."""
        if self._as_of is None or now <= self._as_of:
            return self._past
        kept = exp((self._as_of - now) / self.window_s)
        return self._past * kept + self._accruing * self.window_s * (1 - kept)

    def forget(self) -> None:
        """Count what was used as nothing."""
        self._past = 0.0

    def standing(self, now: float) -> float:
        """Return what a share is ordered by, before its weight."""
        return self.at(now) + self.held * self.window_s
