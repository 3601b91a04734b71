"""A client that submits, cancels and terminates, and remembers every acknowledgement."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from batchyard.api.agent.v1 import run_pb2
from batchyard.domain.errors import UnavailableError
from batchyard.domain.jobs import Job, JobId, JobKey
from batchyard.jobstore.group import Submission
from batchyard.storage.jobs import RequestKey
from simulation.arrays import ArrayRequest
from simulation.checker import Checker
from simulation.kernel import Kernel, Life
from simulation.network import Network
from support.jobs import NAMESPACE

SITE: Final = "client"
TRIES_MAX: Final = 5
ARRAYS: Final = 0.12
"""Share of arrays among the submits."""
ARRAY_SIZES: Final = (3, 8)


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
        """Submit a job, and again as an SDK does it while there is no answer: the same request, the same key."""
        rng = self._kernel.rng
        name = f"job-{number:04}"
        count = rng.choice((0, 0, 0, 1, 2))
        depends_on = tuple(rng.sample(self._known, min(count, len(self._known))))
        vcpus_milli, memory_mib = rng.choice((500, 1000, 1000, 2000)), rng.choice((64, 128, 512))
        spec = run_pb2.JobSpec(namespace=NAMESPACE, job_id=name, vcpus_milli=vcpus_milli, memory_mib=memory_mib)
        if rng.random() < 0.2:
            spec.timeout.attempt_duration_seconds = rng.choice((1, 10, 60))
        job = Job(
            key=JobKey(NAMESPACE, JobId(name)),
            sequence=0,
            job_name=name,
            job_queue=rng.choice(self._queues),
            job_definition="arn:aws:batch:us-east-1:123456789012:job-definition/definition:1",
            vcpus_milli=vcpus_milli,
            memory_mib=memory_mib,
            gpus=0,
            attempts_allowed=rng.choice((1, 2, 3)),
            created_at=0,
        )
        self._try(self._array(Submission(job, b"", depends_on), spec), spec, 1)

    def _array(self, submission: Submission, spec: run_pb2.JobSpec) -> Submission:
        """Make an array of some jobs, which may wait child by child for each other or for an earlier array."""
        if not self._kernel.chance(ARRAYS):
            return submission
        size = self._kernel.rng.choice(ARRAY_SIZES)
        spec.array_size = size
        alike = [key for key in self._known if len(self._checker.arrays.children(key.job_id)) == size]
        paired_with = (self._kernel.rng.choice(alike),) if alike and self._kernel.chance(0.6) else ()
        return replace(submission, array_size=size, sequential=self._kernel.chance(0.3), paired_with=paired_with)

    def _try(self, submission: Submission, spec: run_pb2.JobSpec, tries: int) -> None:
        # Each try gets an id of its own; only that of the first one that was taken in may come to life.
        name = submission.job.job_name
        key = JobKey(NAMESPACE, JobId(name if tries == 1 else f"{name}.{tries}"))
        spec.job_id = key.job_id
        self._checker.dependencies[key.job_id] = [dependency.job_id for dependency in submission.depends_on]
        if submission.array_size:
            self._checker.arrays.requests[key.job_id] = ArrayRequest(
                submission.array_size, submission.sequential, [other.job_id for other in submission.paired_with]
            )
        mine = replace(submission, job=replace(submission.job, key=key), spec=spec.SerializeToString())

        def answered(answer: object) -> None:
            assert isinstance(answer, bytes)
            self._acknowledged(JobKey(NAMESPACE, JobId(answer.decode())), name)

        def failed() -> None:
            if tries < TRIES_MAX:
                delay_s = self._kernel.rng.random() * 2**tries
                self._kernel.after(delay_s, self._life, lambda: self._try(submission, spec, tries + 1))

        self._call(("submit", (mine, RequestKey(name.encode()))), answered, failed)

    def _acknowledged(self, key: JobKey, name: str) -> None:
        self._known.append(key)
        self._checker.submit_acknowledged(key.job_id, name)
        if self._kernel.chance(0.2):
            # About when it is offered, so that the two race each other.
            self._kernel.after(self._kernel.rng.random() * 0.05, self._life, lambda: self._stop(key))

    def _stop_any(self) -> None:
        if self._known:
            self._stop(self._kernel.rng.choice(self._known))

    def _stop(self, key: JobKey) -> None:
        children = self._checker.arrays.children(key.job_id)
        if children and self._kernel.chance(0.5):
            key = JobKey(NAMESPACE, self._kernel.rng.choice(children))
        kind = self._kernel.rng.choice(("cancel", "terminate"))

        def answered(_: object) -> None:
            self._checker.stop_acknowledged(key.job_id, terminated=kind == "terminate")

        self._kernel.note(f"client: {kind} {key.job_id}")
        self._call((kind, key), answered)

    def _call(
        self,
        request: tuple[str, object],
        answered: Callable[[object], None],
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        end = self._net.connect(self._life, SITE, "jobs")
        is_settled = False

        def received(data: bytes) -> None:
            nonlocal is_settled
            is_settled = True
            times_set_back, answer = pickle.loads(data)
            error = answer if isinstance(answer, Exception) else None
            self._kernel.note(f"client: {request[0]} answered, {error or 'done'}")
            if error is None:
                # An answer that was on its way while the store was set back is about what is forgotten.
                if times_set_back == self._checker.times_set_back:
                    answered(answer)
            elif isinstance(error, UnavailableError):
                failed()

        def closed(_: object) -> None:
            if not is_settled:
                failed()

        end.received, end.closed = received, closed
        end.send(pickle.dumps(request))
