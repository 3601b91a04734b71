"""What has been committed, for those who follow it: watches, the scheduler's stream, calls that wait for an agent."""

import asyncio
from collections import deque
from collections.abc import Collection
from typing import Final

from batchyard.domain.errors import UnavailableError
from batchyard.domain.jobs import JobChange, JobKey
from batchyard.domain.lifecycle import TERMINAL
from batchyard.jobstore.effects import Committed, Effects
from batchyard.storage.jobs import Counters

CHANGES_IN_MEMORY: Final = 20_000
"""Of the newest commits; whoever is further behind reads from the store."""
HELD_BACK_S: Final = 0.020
"""How long the scheduler may be told of no commit while one follows the other: a plan for many costs little more."""
TOLD_AFTER_S: Final = 0.010
"""How long those who watch are not woken for what ends no job: of a short one they are told once."""


class Subscription:
    """The effects of commits, for one scheduler, merged until it takes them."""

    def __init__(self) -> None:
        self._pending: list[Committed] = []
        self._after: int | None = None
        self._wake = asyncio.Event()
        self._closed: Exception | None = None
        self._heartbeat = 0
        self._held: asyncio.TimerHandle | None = None
        """Ends the time for which what is pending is held back."""

    def push(self, committed: Committed, *, more: bool = False) -> None:
        """Add a commit. It may be held back for others that follow at once."""
        if committed.effects:
            self._pending.append(committed)
        if not self._pending:
            return
        if not more:
            self._wake.set()
        elif self._held is None:
            # The commit that follows may take its time.
            self._held = asyncio.get_running_loop().call_later(HELD_BACK_S, self._wake.set)

    def say(self, effects: Effects) -> None:
        """Have something said that comes of no commit."""
        self._pending.append(Committed(revision=0, written=False, effects=effects, changes=[], decided=set()))
        self._wake.set()

    def answer(self, heartbeat: int) -> None:
        """Have a heartbeat answered."""
        self._heartbeat = heartbeat
        self._wake.set()

    def begin_after(self, revision: int) -> None:
        """Say that everything up to this revision is known already, from a snapshot."""
        self._after = revision

    def close(self, error: Exception) -> None:
        """End it: `take` raises the error from now on."""
        self._closed = self._closed or error
        self._wake.set()

    @property
    def is_open(self) -> bool:
        """Whether its scheduler still leads: what comes from another one must have no effect."""
        return self._closed is None

    async def take(self) -> tuple[Effects, int]:
        """Wait for something to say; return all effects that there are, in order, and the heartbeat to be answered."""
        while True:
            await self._wake.wait()
            effects, heartbeat = self.take_now()
            if effects or heartbeat:
                return effects, heartbeat

    def take_now(self) -> tuple[Effects, int]:
        """Do the same without waiting: there may be nothing to say."""
        assert self._after is not None
        if self._closed is not None:
            raise self._closed
        self._wake.clear()
        if self._held is not None:
            self._held.cancel()
            self._held = None
        pending, self._pending = self._pending, []
        effects = Effects()
        for committed in pending:
            # What was not written answers this scheduler's own messages, which came after the snapshot.
            if not committed.written or committed.revision > self._after:
                effects.merge(committed.effects)
        heartbeat, self._heartbeat = self._heartbeat, 0
        return effects, heartbeat


class Feed:
    """The newest commits, and who waits for more."""

    def __init__(self) -> None:
        self.revision = 0
        self._recent: deque[tuple[int, list[JobChange]]] = deque()
        self._remembered = 0
        self._complete_after = 0
        self._changed = asyncio.Event()
        self._followed: dict[JobKey, set[asyncio.Future[int]]] = {}
        self._untold: dict[JobKey, int] = {}
        """Followed, and changed since those who follow were woken; up to which revision they had not changed."""
        self._timer: asyncio.TimerHandle | None = None
        self._subscription: Subscription | None = None
        self._undecided: dict[JobKey, list[asyncio.Future[None]]] = {}

    def opened(self, counters: Counters) -> None:
        """Begin at the state of a store that was just read: what was known of the one before counts no more."""
        self.revision = self._complete_after = counters.revision
        self._recent.clear()
        self._remembered = 0
        # The commit that failed may have been applied: whoever waits for the next one must look.
        self._untold = dict.fromkeys(self._followed, 0)
        self._tell()
        error = UnavailableError("the job store was opened anew")
        if self._subscription is not None:
            self._subscription.close(error)
        for waiting in self._undecided.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(error)
        self._undecided.clear()

    def committed(self, committed: Committed, *, more: bool = False) -> None:
        """Tell everybody of a commit; `more` says that another one follows at once."""
        before, self.revision = self.revision, committed.revision
        if committed.changes:
            self._remember(committed.revision, committed.changes)
            if self._followed:
                for key in {change.key for change in committed.changes} & self._followed.keys():
                    self._untold.setdefault(key, before)
            if any(change.state in TERMINAL for change in committed.changes):
                self._tell()
            elif self._timer is None:
                self._timer = self._tell_later()
        if self._subscription is not None:
            self._subscription.push(committed, more=more)
        for key in committed.decided & self._undecided.keys():
            for future in self._undecided.pop(key):
                if not future.done():
                    future.set_result(None)

    def _remember(self, revision: int, changes: list[JobChange]) -> None:
        self._recent.append((revision, changes))
        self._remembered += len(changes)
        while self._remembered > CHANGES_IN_MEMORY and len(self._recent) > 1:
            self._complete_after, forgotten = self._recent.popleft()
            self._remembered -= len(forgotten)

    def subscribe(self, subscription: Subscription, replaced: Exception) -> None:
        """Send effects to this subscription; an older one is closed with the error."""
        if self._subscription is not None:
            self._subscription.close(replaced)
        self._subscription = subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Send no more to this subscription."""
        if self._subscription is subscription:
            self._subscription = None

    def decision(self, key: JobKey) -> asyncio.Future[None]:
        """Return a future that is done when it is known whether a cancel of the job came in time."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._undecided.setdefault(key, []).append(future)
        return future

    def forget(self, key: JobKey, future: asyncio.Future[None]) -> None:
        """Wait no longer."""
        waiting = self._undecided.get(key, [])
        if future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._undecided[key]

    def changes_after(self, revision: int) -> list[tuple[int, list[JobChange]]] | None:
        """Return the changes of the commits after a revision, or None if memory does not reach back so far."""
        if revision < self._complete_after:
            return None
        newer = []
        for commit in reversed(self._recent):
            if commit[0] <= revision:
                break
            newer.append(commit)
        return newer[::-1]

    async def wait(self) -> None:
        """Wait for a commit that changes a job, at most a few ms longer, or for the store to be opened anew."""
        await self._changed.wait()

    async def wait_for(self, keys: Collection[JobKey]) -> int:
        """Wait for the next commit that changes one of these jobs, or for the store to be opened anew.

        Returns a revision up to which none of them has changed since. Costs nothing while others change.
        """
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        for key in keys:
            self._followed.setdefault(key, set()).add(future)
        try:
            return await future
        finally:
            for key in keys:
                self._followed[key].discard(future)
                if not self._followed[key]:
                    del self._followed[key]

    def _tell_later(self) -> asyncio.TimerHandle | None:
        return asyncio.get_running_loop().call_later(TOLD_AFTER_S, self._tell)

    def _tell(self) -> None:
        """Wake those who watch and follow."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._changed.set()
        self._changed = asyncio.Event()
        untold, self._untold = self._untold, {}
        for key, unchanged_to in untold.items():
            for future in self._followed.get(key, ()):
                if not future.done():
                    future.set_result(unchanged_to)
