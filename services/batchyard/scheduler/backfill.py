"""What may run on a host that is held for another line, without making that wait longer.

By the time limits of what runs there it is known when the holder has its room at the latest. A job behind it may use
the host meanwhile if it is over by then, by its own time limit, or if there is room for both then. Of runs without a
time limit nothing is known, so a host on which the holder has to wait for such ones is left alone.
"""

from math import inf
from typing import Final

from batchyard.scheduler.holds import is_behind
from batchyard.scheduler.hosts import Host
from batchyard.scheduler.lines import Line

SLACK_S: Final = 35.0
"""How much longer than its time limit a run may take: to reach its host, and to be killed when it does not end."""


def ends_by(now: float, time_limit_s: int | None) -> float:
    """Return when a run that is placed now has ended at the latest; infinity if that is not known."""
    return inf if time_limit_s is None else now + time_limit_s + SLACK_S


def may_take(host: Host, line: Line, now: float) -> bool:
    """Tell whether a line may be placed on a host that has room for it, for all that is held there."""
    holder = host.holder
    if holder is None or not is_behind(line, holder):
        return True
    opening = host.opening(holder.need)
    if opening.at == inf:
        return False
    return ends_by(now, line.time_limit_s) <= opening.at or holder.need.plus(line.need).fits_in(opening.room)


def may_ever_take(host: Host, line: Line) -> bool:
    """Tell whether `may_take` may say yes, whatever time it is."""
    holder = host.holder
    if holder is None or not is_behind(line, holder):
        return True
    opening = host.opening(holder.need)
    return opening.at < inf and (line.time_limit_s is not None or holder.need.plus(line.need).fits_in(opening.room))
