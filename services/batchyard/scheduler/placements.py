"""What a job takes up from when it is proposed to when its run is over."""

from math import inf

from batchyard.domain.jobs import JobKey
from batchyard.scheduler.model import LineKey, QueuedJob, ResourceKey, Resources
from batchyard.scheduler.queues import Share


class Placement:
    """A job that takes up room, or is fed ahead: proposed, or held under a fence."""

    __slots__ = ("agent_id", "ends_by", "environment", "job", "need", "requeued", "share", "time_limit_s")

    def __init__(
        self,
        job: JobKey,
        agent_id: str,
        environment: ResourceKey,
        need: Resources,
        share: Share | None,
        time_limit_s: int | None,
    ) -> None:
        self.job = job
        self.agent_id = agent_id
        self.environment = environment
        self.need = need
        self.share = share
        """None if it is not known."""
        self.time_limit_s = time_limit_s
        self.ends_by = inf
        """When it has ended at the latest."""
        self.requeued: QueuedJob | None = None
        """The job as it became while the proposal was under way."""

    def line(self, share: Share) -> LineKey:
        """Return the line in which it stood."""
        return LineKey(share.queue.key, share.identifier, self.need, self.time_limit_s)
