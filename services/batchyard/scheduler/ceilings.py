"""Whether a compute environment lets a job in: its ceiling, what is held below it, what is kept for other shares."""

from batchyard.scheduler.environments import Environment
from batchyard.scheduler.holds import is_behind
from batchyard.scheduler.lines import Line


def lets_in(environment: Environment, line: Line) -> bool:
    """Tell whether the head of a line may be placed in an environment, as far as vCPUs are counted there."""
    return _is_below_ceiling(environment, line) and not is_kept_for_others(environment, line)


def _is_below_ceiling(environment: Environment, line: Line) -> bool:
    room = environment.room_milli
    return room is None or line.need.vcpus_milli <= room - _held(environment, line)


def is_kept_for_others(environment: Environment, line: Line) -> bool:
    """Tell whether a part of an environment that a job would need is kept back for shares that are not active.

    One job may always run: else one that needs more than the rest would wait for ever.
    """
    queue = line.queue
    base = environment.spec.reserve_base_milli if environment.spec is not None else None
    if queue.fair is None or not queue.fair.reserves or base is None:
        return False
    used = queue.used_milli.get(environment.key.name, 0)
    holder = environment.holder
    held = _held(environment, line) if holder is not None and holder.queue is queue else 0
    return used > 0 and used + held + line.need.vcpus_milli > queue.fair.usable_milli(base, queue.active_shares())


def _held(environment: Environment, line: Line) -> int:
    """Return how much is held for another line that goes before this one."""
    holder = environment.holder
    return holder.need.vcpus_milli if holder is not None and is_behind(line, holder) else 0
