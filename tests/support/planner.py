"""Telling a planner stories."""

from batchyard.domain.compat import Compat
from batchyard.domain.jobs import Fence
from batchyard.scheduler.model import Plan
from batchyard.scheduler.planner import Planner
from support.scheduler import a_queue, an_environment


def a_planner(*, compat: Compat = Compat.SEED, environments: tuple[str, ...] = ("default",)) -> Planner:
    """Return a planner with a queue named default over environments."""
    planner = Planner(compat=compat, starvation_bound_s=300, reason_delay_s=1)
    for name in environments:
        planner.put_environment(an_environment(name))
    planner.put_queue(a_queue(environments=environments))
    return planner


def placed(plan: Plan) -> list[str]:
    return [offer.job.job_id for offer in plan.offers]


def places(plan: Plan) -> dict[str, str]:
    return {offer.job.job_id: offer.agent_id for offer in plan.offers}


def accept(planner: Planner, plan: Plan) -> dict[str, Fence]:
    """Commit a plan's offers; return their fences by job."""
    fences: dict[str, Fence] = {}
    for offer in plan.offers:
        fence = fences[offer.job.job_id] = Fence(1, int(offer.job.job_id.rpartition("-")[2] or 0))
        planner.offer_accepted(offer.job, fence)
    return fences
