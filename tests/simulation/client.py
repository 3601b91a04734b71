"""A client that submits, cancels and terminates, and remembers every acknowledgement."""

import pickle
from collections.abc import Callable

from batchyard.api.agent.v1 import run_pb2
from batchyard.domain.jobs import Job, JobId, JobKey
from batchyard.jobstore.group import Submission
from simulation.checker import Checker
from simulation.kernel import Kernel, Life
from simulation.network import Network
from support.jobs import NAMESPACE

SITE = "client"


class Client:
    """The actor."""

    def __init__(
        self, kernel: Kernel, net: Network, checker: Checker, queues: tuple[str, ...], *, jobs: int, within_s: float
    ) -> None:
        self._kernel = kernel
        self._net = net
        self._checker = checker
        self._queues = queues
        self._life = Life("client")
        self._known: list[JobKey] = []
        for number in range(1, jobs + 1):
            kernel.after(kernel.rng.random() * within_s, self._life, lambda number=number: self._submit(number))  # type: ignore[misc]
        for _ in range(jobs // 4):
            kernel.after(kernel.rng.random() * within_s * 1.1, self._life, self._stop_any)

    def _submit(self, number: int) -> None:
        rng = self._kernel.rng
        count = rng.choice((0, 0, 0, 1, 2))
        depends_on = tuple(rng.sample(self._known, min(count, len(self._known))))
        key = JobKey(NAMESPACE, JobId(f"job-{number:04}"))
        queue = rng.choice(self._queues)
        vcpus_milli, memory_mib = rng.choice((500, 1000, 1000, 2000)), rng.choice((64, 128, 512))
        spec = run_pb2.JobSpec(namespace=NAMESPACE, job_id=key.job_id, vcpus_milli=vcpus_milli, memory_mib=memory_mib)
        if rng.random() < 0.2:
            spec.timeout.attempt_duration_seconds = rng.choice((1, 10, 60))
        job = Job(
            key=key,
            sequence=0,
            job_name=key.job_id,
            job_queue=queue,
            job_definition="arn:aws:batch:us-east-1:123456789012:job-definition/definition:1",
            vcpus_milli=vcpus_milli,
            memory_mib=memory_mib,
            gpus=0,
            attempts_allowed=rng.choice((1, 2, 3)),
            created_at=0,
        )
        self._checker.dependencies[key.job_id] = [dependency.job_id for dependency in depends_on]

        def answered() -> None:
            self._known.append(key)
            self._checker.acknowledged.add(key.job_id)
            if rng.random() < 0.2:
                # About when it is offered, so that the two race each other.
                self._kernel.after(rng.random() * 0.05, self._life, lambda: self._stop(key))

        self._call(("submit", Submission(job, spec.SerializeToString(), depends_on)), answered)

    def _stop_any(self) -> None:
        if self._known:
            self._stop(self._kernel.rng.choice(self._known))

    def _stop(self, key: JobKey) -> None:
        kind = self._kernel.rng.choice(("cancel", "terminate"))

        def answered() -> None:
            self._checker.stop_acknowledged(key.job_id, terminated=kind == "terminate")

        self._kernel.note(f"client: {kind} {key.job_id}")
        self._call((kind, key), answered)

    def _call(self, request: tuple[str, object], answered: Callable[[], None]) -> None:
        end = self._net.connect(self._life, SITE, "jobs")

        def received(data: bytes) -> None:
            error = pickle.loads(data)
            self._kernel.note(f"client: {request[0]} answered, {error or 'done'}")
            if error is None:
                answered()

        end.received = received
        end.send(pickle.dumps(request))
