"""What has been committed since a revision: from memory, or from the store where memory does not reach back so far."""

from collections.abc import Collection
from typing import Final

from batchyard.domain.errors import HistoryGoneError
from batchyard.domain.jobs import JobChange, JobKey
from batchyard.jobstore.feed import Feed
from batchyard.jobstore.reading import Reading

COMMITS_A_READ: Final = 200


class History:
    """Commits with their changes of jobs."""

    def __init__(self, feed: Feed, reading: Reading) -> None:
        self._feed = feed
        self._reading = reading

    @property
    def revision(self) -> int:
        """The newest commit."""
        return self._feed.revision

    async def check(self, revision: int) -> None:
        """Raise HistoryGoneError for a revision that this store has never reached.

        One that was restored from a backup may not have: waiting for it would pass over everything up to there.
        """
        newest = await self._reading.ask(lambda reader: reader.revision())
        if revision > newest:
            raise HistoryGoneError(f"revision {revision} is ahead of this job store, which is at {newest}")

    async def after(self, revision: int, limit: int = COMMITS_A_READ) -> tuple[list[tuple[int, list[JobChange]]], int]:
        """Return the next commits with changes, and the revision up to which there are no others.

        Raises HistoryGoneError if events after the revision are no longer kept.
        """
        newest = max(self._feed.revision, revision)
        remembered = self._feed.changes_after(revision)
        if remembered is not None:
            return remembered, newest
        found = await self._reading.ask(lambda reader: reader.changes_after(revision, limit))
        if len(found) == limit:
            return found, found[-1][0]
        return found, max([newest, *(committed for committed, _ in found)])

    async def wait(self, revision: int, keys: Collection[JobKey] = ()) -> int:
        """Wait for a commit after the revision that changes a job, one of these if any are named.

        Returns a revision, at least this one, up to which there is nothing to be seen.
        """
        if revision < self._feed.revision:
            return revision
        if not keys:
            await self._feed.wait()
            return revision
        return max(revision, await self._feed.wait_for(keys))
