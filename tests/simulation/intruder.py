"""An agent that was taken over: it has a certificate of its own, knows everything, and says whatever may do harm.

Nothing that it says of others' runs may have an effect; the checker looks at the store's answers and at what it forges.
"""

from collections.abc import Callable
from sqlite3 import Connection
from typing import Final, NamedTuple

from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import run_pb2
from batchyard.domain.errors import StaleIncarnationError
from simulation.kernel import Kernel, Life
from simulation.network import End, Network

NAME: Final = "intruder"
"""In its certificate."""
AGENT_ID: Final = f"{NAME}.1"
FORGED_EXIT_CODE: Final = 113
"""No process of the simulator ends with it."""

_FORGED: Final = (
    {"state": run_pb2.RUN_STATE_CLAIMED},
    {"state": run_pb2.RUN_STATE_STARTED, "started_ago_ms": 0},
    {"state": run_pb2.RUN_STATE_REVOKED},
    {"state": run_pb2.RUN_STATE_DONE, "end": run_pb2.RUN_END_EXITED, "exit_code": FORGED_EXIT_CODE},
    {"state": run_pb2.RUN_STATE_DONE, "end": run_pb2.RUN_END_EXITED, "exit_code": 0, "started_ago_ms": 5},
    {"state": run_pb2.RUN_STATE_DONE, "end": run_pb2.RUN_END_LOST},
    {"state": run_pb2.RUN_STATE_DONE, "end": run_pb2.RUN_END_NEVER_STARTED},
)


class _Run(NamedTuple):
    """Another agent's run."""

    namespace: str
    job_id: str
    fence: run_pb2.Fence
    agent_id: str
    incarnation: int


class Intruder:
    """The actor; dead until it breaks in."""

    def __init__(self, kernel: Kernel, net: Network, connection: Callable[[], Connection]) -> None:
        self._kernel = kernel
        self._net = net
        self._connection = connection
        self._life = Life(NAME)
        self._life.alive = False
        self._end: End | None = None
        self._incarnation = 1
        self._heartbeat = 0

    def break_in(self) -> None:
        """Begin to do harm."""
        if not self._life.alive:
            self._life = Life(NAME)
            self._act()

    def leave(self) -> None:
        """Stop."""
        self._life.alive = False
        self._end = None
        self._net.died(self._life)

    def _act(self) -> None:
        rng = self._kernel.rng
        runs = self._runs_of_others()
        if self._end is None or not self._end.open:
            self._connect(runs)
        elif runs:
            self._heartbeat += 1
            count = rng.randint(1, min(3, len(runs)))
            reports = [self._forged(run) for run in rng.sample(runs, count)]
            self._end.send(session_pb2.ConnectRequest(heartbeat=self._heartbeat, reports=reports).SerializeToString())
        self._kernel.after(rng.random(), self._life, self._act)

    def _connect(self, runs: list[_Run]) -> None:
        """Register as itself or, where there is somebody to be, as another one; with others' fences as its own."""
        rng = self._kernel.rng
        registration = session_pb2.Registration(
            agent_id=AGENT_ID,
            incarnation=self._incarnation,
            # Room for nothing: it has no runs of its own, so that all that it says is forged.
            capacity=session_pb2.Capacity(vcpus_milli=1, memory_mib=1),
            claimed_before=[run.fence for run in runs if rng.random() < 0.5],
            runs=[self._forged(run) for run in runs if rng.random() < 0.5],
        )
        if runs and rng.random() < 0.5:
            victim = rng.choice(runs)
            registration.agent_id = victim.agent_id
            registration.incarnation = victim.incarnation + rng.randint(0, 2)
        self._end = end = self._net.connect(self._life, NAME, "sessions")
        end.closed = self._refused
        end.send(session_pb2.ConnectRequest(registration=registration, heartbeat=1).SerializeToString())
        self._heartbeat = 1

    def _refused(self, error: Exception | None) -> None:
        if isinstance(error, StaleIncarnationError):
            self._incarnation += 1

    def _forged(self, run: _Run) -> run_pb2.RunReport:
        report = run_pb2.RunReport(fence=run.fence, **self._kernel.rng.choice(_FORGED))
        if self._kernel.chance(0.8):
            report.namespace, report.job_id = run.namespace, run.job_id
        return report

    def _runs_of_others(self) -> list[_Run]:
        rows = self._connection().execute(
            "SELECT namespace, job_id, run_epoch, run_number, run_agent_id, run_incarnation FROM jobs"
            " WHERE run_agent_id IS NOT NULL ORDER BY sequence"
        )
        return [
            _Run(namespace, job_id, run_pb2.Fence(epoch=epoch, number=number), agent_id, incarnation)
            for namespace, job_id, epoch, number, agent_id, incarnation in rows
        ]
