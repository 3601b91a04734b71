"""What the parts of an agent tell each other: offers, orders to a runtime, and records of runs. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batchyard.agent.launcher.ledger import FINAL, Fence, Need, Run, RunEnd, RunState
from batchyard.api.agent.v1 import run_pb2


@dataclass(frozen=True, slots=True)
class Offer:
    """A job offered to this agent."""

    fence: Fence
    attempt: int
    """From 1."""
    spec: run_pb2.JobSpec
    compute_environment: str
    """Name."""
    log_stream_name: str
    array_index: int | None = None
    """Of a child of an array."""

    @property
    def job_id(self) -> str:
        """Id of the job; that of the specification is the array's."""
        return self.spec.job_id if self.array_index is None else f"{self.spec.job_id}:{self.array_index}"

    @property
    def need(self) -> Need:
        """What it reserves."""
        return (self.spec.vcpus_milli, self.spec.memory_mib, self.spec.gpus)

    @property
    def about(self) -> dict[str, str]:
        """What a runtime tells again with every word about the run."""
        return {
            "namespace": self.spec.namespace,
            "job_id": self.job_id,
            "log_stream_name": self.log_stream_name,
        }


@dataclass(frozen=True, slots=True)
class Orders:
    """What a runtime is to do. It carries out the offers first, in order."""

    offers: Sequence[Offer] = ()
    revocations: Sequence[Fence] = ()
    """Offers to give back unless they are claimed; their state is told again."""
    kills: Sequence[tuple[Fence, float]] = ()
    """Runs to end, with the seconds between SIGTERM and SIGKILL."""
    forgotten: Sequence[Fence] = ()
    """Runs whose end has been acknowledged."""

    def __bool__(self) -> bool:
        return bool(self.offers or self.revocations or self.kills or self.forgotten)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """All that a runtime knows of one run. Times are seconds of CLOCK_BOOTTIME."""

    fence: Fence
    state: RunState
    namespace: str = ""
    job_id: str = ""
    log_stream_name: str = ""
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    end: RunEnd | None = None
    reason: str = ""

    @property
    def is_final(self) -> bool:
        """Whether nothing of it runs or ever will."""
        return self.state in FINAL

    def or_newer(self, other: "RunRecord") -> "RunRecord":
        """Return whichever of two records of one run is further on; a final one stays."""
        return self if self.is_final or self.state >= other.state else other


@dataclass(frozen=True, slots=True)
class Demands:
    """What a message of the scheduler asks for."""

    offers: Sequence[Offer] = ()
    revocations: Sequence[Fence] = ()
    kills: Sequence[tuple[Fence, float]] = ()
    acknowledged: Sequence[Fence] = ()
    """Reports of an end that the store has committed."""
    stale: Sequence[Fence] = ()
    """Runs that are not this agent's any more."""


_RUN_STATES = {int(state): state for state in RunState}
_RUN_ENDS = {int(end): end for end in RunEnd}


def record_of(run: Run) -> RunRecord:
    """Return the record of a ledger's run."""
    return RunRecord(
        run.fence, run.state, *_about(run.about), run.started, run.ended, run.exit_code, run.end, run.reason
    )


def record_from_launcher(parts: Sequence[Any]) -> RunRecord:
    """Return the record that the launcher sent as a list; see `launcher.wire.encode_run`."""
    fence, state, about, started, ended, exit_code, end, reason = parts
    return RunRecord(
        (fence[0], fence[1]),
        _RUN_STATES[state],
        *_about(about),
        started,
        ended,
        exit_code,
        _RUN_ENDS[end] if end is not None else None,
        reason,
    )


def _about(about: dict[str, str]) -> tuple[str, str, str]:
    return about.get("namespace", ""), about.get("job_id", ""), about.get("log_stream_name", "")
