"""The agent's core: brings together what the scheduler asks for and what the runtime tells. Pure.

It decides what the runtime is to do, what is to be reported, and what may be forgotten. Messages may come twice, late
or in another order: records only go up, an offer whose fence is known is not passed on again, and what was disowned
is killed and never reported.
"""

from collections.abc import Iterable

from batchyard.agent.launcher.ledger import Fence, RunState
from batchyard.agent.state import Demands, Offer, Orders, RunRecord

RESEND_AFTER_ROUNDS = 3
"""After so many heartbeats without an answer the report of an end is sent again."""


class Reconciler:
    """Every run that the runtime has not been told to forget."""

    def __init__(self, stop_timeout_s: float | None = None) -> None:
        """Begin with nothing. `stop_timeout_s` stands above the grace that comes with the scheduler's kills."""
        self._stop_timeout_s = stop_timeout_s
        self._runs: dict[Fence, RunRecord] = {}
        self._disowned: set[Fence] = set()
        self._unsent: dict[Fence, None] = {}
        self._unanswered: dict[Fence, int] = {}
        self._round = 0
        self._closed = False
        self._store_epoch = 0

    def follow(self, store_epoch: int) -> None:
        """Take no offers of an earlier epoch of the store from now on; they are given back."""
        self._store_epoch = max(self._store_epoch, store_epoch)

    def close(self) -> None:
        """Take no offers any more; the store goes on holding them."""
        self._closed = True

    def demand(self, demands: Demands) -> Orders:
        """Take a message of the scheduler; return what the runtime is to do about it."""
        offers = [offer for offer in demands.offers if self._take(offer)]
        revocations = [fence for fence in demands.revocations if not self._answer(fence)]
        kills = [
            (fence, grace_s if self._stop_timeout_s is None else self._stop_timeout_s)
            for fence, grace_s in demands.kills
            if not self._answer_final(fence)
        ]
        forgotten = [fence for fence in demands.acknowledged if self._acknowledge(fence)]
        for fence in demands.stale:
            if self._acknowledge(fence):
                forgotten.append(fence)
            elif self._disown(fence):
                kills.append((fence, 0.0))
        return Orders(tuple(offers), tuple(revocations), tuple(kills), tuple(forgotten))

    def observe(self, records: Iterable[RunRecord]) -> Orders:
        """Take what the runtime tells, each of which is to be reported; return what it may forget at once."""
        forgotten = []
        for record in records:
            known = self._runs.get(record.fence)
            newest = known.or_newer(record) if known is not None else record
            self._runs[record.fence] = newest
            if record.fence not in self._disowned:
                self._unsent[record.fence] = None
            elif newest.is_final:
                self._drop(record.fence)
                forgotten.append(record.fence)
        return Orders(forgotten=tuple(forgotten))

    def end_all(self, grace_s: float) -> Orders:
        """Return what ends every run."""
        return Orders(kills=tuple((fence, grace_s) for fence, run in self._runs.items() if not run.is_final))

    def is_quiet(self) -> bool:
        """Tell whether no run is left that runs or may start."""
        return all(run.is_final for run in self._runs.values())

    def is_empty(self) -> bool:
        """Tell whether every end has been acknowledged."""
        return not self._runs

    def everything(self) -> list[RunRecord]:
        """Return all that a registration has to tell; it counts as sent."""
        self._unsent.clear()
        told = [run for fence, run in self._runs.items() if fence not in self._disowned]
        for run in told:
            self._sent(run)
        return told

    def has_reports(self) -> bool:
        """Tell whether there is something to report."""
        return bool(self._unsent)

    def take_reports(self, count_max: int) -> list[RunRecord]:
        """Return what is to be reported now, at most `count_max` runs; it counts as sent."""
        taken: list[RunRecord] = []
        while self._unsent and len(taken) < count_max:
            fence = next(iter(self._unsent))
            del self._unsent[fence]
            run = self._runs[fence]
            if run.state is not RunState.OFFERED:
                taken.append(run)
                self._sent(run)
        return taken

    def next_round(self) -> None:
        """Note a heartbeat: ends whose report went unanswered for some rounds are due to be reported again."""
        self._round += 1
        for fence, sent_in in list(self._unanswered.items()):
            if sent_in > self._round - RESEND_AFTER_ROUNDS:
                break
            del self._unanswered[fence]
            self._unsent[fence] = None

    def _sent(self, run: RunRecord) -> None:
        if run.is_final:
            # Always at the end, so that the oldest come first.
            self._unanswered.pop(run.fence, None)
            self._unanswered[run.fence] = self._round

    def _take(self, offer: Offer) -> bool:
        if offer.fence in self._runs:
            self._answer(offer.fence)
            return False
        if self._closed:
            return False
        about = offer.about
        is_outdated = offer.fence[0] < self._store_epoch
        state = RunState.REVOKED if is_outdated else RunState.OFFERED
        self._runs[offer.fence] = RunRecord(
            offer.fence, state, about["namespace"], about["job_id"], about["log_stream_name"]
        )
        if is_outdated:
            self._answer(offer.fence)
        return not is_outdated

    def _answer(self, fence: Fence) -> bool:
        """Report a run that is beyond being given back; return whether it is."""
        run = self._runs.get(fence)
        if run is None or run.state is RunState.OFFERED:
            return False
        if fence not in self._disowned:
            self._unsent[fence] = None
        return True

    def _answer_final(self, fence: Fence) -> bool:
        run = self._runs.get(fence)
        return run is not None and run.is_final and self._answer(fence)

    def _acknowledge(self, fence: Fence) -> bool:
        run = self._runs.get(fence)
        if run is None or not run.is_final:
            return False
        self._drop(fence)
        return True

    def _disown(self, fence: Fence) -> bool:
        if fence not in self._runs or fence in self._disowned:
            return False
        self._disowned.add(fence)
        self._unsent.pop(fence, None)
        return True

    def _drop(self, fence: Fence) -> None:
        del self._runs[fence]
        self._disowned.discard(fence)
        self._unsent.pop(fence, None)
        self._unanswered.pop(fence, None)
