"""What shares use: counted while jobs run, told from time to time so that it outlives this process."""

from collections.abc import Iterable
from typing import Final

from batchyard.scheduler.fairshare import FORGOTTEN, WINDOW_MIN_S
from batchyard.scheduler.model import ShareUse
from batchyard.scheduler.queues import Share

SAVE_EVERY_S: Final = 2.0
"""So much of what shares use is forgotten at worst when a scheduler dies: little, measured by the shortest window."""


class Usage:
    """The use of all shares of queues with fair share."""

    def __init__(self) -> None:
        self._shares: dict[Share, None] = {}
        self._changed: dict[Share, None] = {}
        self._unsaved: dict[Share, None] = {}
        self._save_at: float | None = None

    def forget(self) -> None:
        """Forget all shares."""
        self._shares.clear()
        self._changed.clear()
        self._unsaved.clear()
        self._save_at = None

    def remember(self, share: Share, vcpu_s: float, ago_s: float) -> None:
        """Take in what a share had used."""
        share.use.remember(vcpu_s, ago_s)
        self._changed[share] = self._shares[share] = None

    def charge(self, share: Share, vcpus_milli: int, *, ahead: bool) -> None:
        """Count what a share holds, or is to hold; a negative number gives it back."""
        if ahead:
            share.use.ahead += vcpus_milli
        else:
            share.use.running += vcpus_milli
        if share.queue.fair is not None:
            self._changed[share] = self._shares[share] = self._unsaved[share] = None

    def policies_changed(self, shares: Iterable[Share]) -> None:
        """Note that windows may be others."""
        self._changed.update((share, None) for share in shares)

    def settle(self, now: float) -> None:
        """Begin a plan: whatever has changed did so now."""
        for share in self._changed:
            _settle(share, now)
        self._changed.clear()

    def due(self, now: float) -> tuple[list[ShareUse], list[Share]]:
        """End a plan: return what is to be kept of shares, if it is time, and the shares of which nothing is left."""
        if self._save_at is None and self._unsaved:
            self._save_at = now + SAVE_EVERY_S
        if self._save_at is None or now < self._save_at:
            return [], []
        self._save_at = None
        over = [share for share in self._shares if not share.use.held and share.use.at(now) < FORGOTTEN]
        for share in over:
            share.use.forget()
            del self._shares[share]
            self._unsaved[share] = None
        uses = [ShareUse(share.queue.key, share.identifier, share.use.at(now) / 1000) for share in self._unsaved]
        self._unsaved = {share: None for share in self._unsaved if share.use.held}
        if self._unsaved:
            self._save_at = now + SAVE_EVERY_S
        return uses, over

    def next_deadline(self) -> float | None:
        """Return when something is to be kept next, or None."""
        return self._save_at


def _settle(share: Share, now: float) -> None:
    fair = share.queue.fair
    share.use.settle(now, fair.window_s if fair is not None else WINDOW_MIN_S)
