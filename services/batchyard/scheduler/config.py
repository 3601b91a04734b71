"""How the scheduler is set up."""

from dataclasses import dataclass

from batchyard.domain.compat import Compat


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """What an operator may choose. Raises ValueError, with every problem in it, when something cannot be."""

    compat: Compat = Compat.SEED
    """Which queues go first: those with the lower priority number (SEED) or the higher (AWS)."""
    heartbeat_interval_s: float = 5.0
    """How often an agent must send a heartbeat."""
    lease_s: float = 600.0
    """How long an agent may run jobs after it sent a heartbeat that was answered."""
    kill_budget_s: float = 15.0
    """How long an agent whose lease is over needs to end its jobs."""
    suspicion_s: float = 15.0
    """How long an agent may be silent before it is offered nothing more."""
    starvation_bound_s: float = 300.0
    """How long a job that does not fit may be passed by smaller ones before room is held for it."""
    jobs_a_line: int = 2000
    """Of so many jobs that need the same it knows the order at least, if there are more: the others the store has."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be more than 0, not {value:g}"
            for name, value in (
                ("heartbeat_interval_s", self.heartbeat_interval_s),
                ("lease_s", self.lease_s),
                ("kill_budget_s", self.kill_budget_s),
                ("suspicion_s", self.suspicion_s),
                ("starvation_bound_s", self.starvation_bound_s),
                ("jobs_a_line", self.jobs_a_line),
            )
            if not value > 0
        ]
        if self.suspicion_s <= self.heartbeat_interval_s:
            problems.append("suspicion_s must be more than heartbeat_interval_s")
        if self.lease_s <= self.suspicion_s:
            problems.append("lease_s must be more than suspicion_s")
        if problems:
            raise ValueError("; ".join(problems))
