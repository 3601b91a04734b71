"""Random sequences of calls, each answer held against a small model of what the API promises.

What is tried is the same each time. `BATCHYARD_MODEL_EXAMPLES=500 pytest tests/acceptance/test_model.py` tries so many
sequences that nobody has seen before; a failure is shown as the calls that lead to it, made as few as possible.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, get_args
from urllib.parse import quote, urlencode

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from support.aws import STATUSES, TERMINAL, Json
from support.installation import Installation, start_up
from support.job_model import Job, Jobs, Kind, is_forward
from support.waiting import soon
from support.wire import Wire

EXAMPLES: Final = int(os.environ.get("BATCHYARD_MODEL_EXAMPLES", "0"))

NAMES: Final = st.sampled_from(["a", "b"])
STATES: Final = st.sampled_from(["ENABLED", "DISABLED"])
ORDERS: Final = st.lists(NAMES, min_size=1, max_size=2)
KINDS: Final[Sequence[Kind]] = get_args(Kind)
COMMANDS: Final[Mapping[Kind, Sequence[str]]] = {
    "succeeds": ["true"],
    "fails": ["false"],
    "holds": ["sleep", "600"],
    "waits": ["true"],
}
VCPUS: Final[Mapping[Kind, int]] = {"succeeds": 1, "fails": 1, "holds": 1, "waits": 1000}
UNKNOWN_JOB: Final = "00000000-0000-7000-8000-000000000000"
WHICH: Final = st.integers(0, 12)
"""One of what there is: its place, counted round and round from the newest; 0 for one that is not there."""
DEPENDENCIES: Final = st.lists(
    st.tuples(st.sampled_from([None, None, "N_TO_N"]), WHICH)
    | st.tuples(st.just("SEQUENTIAL"), st.none() | WHICH)
    | st.just((None, None)),
    max_size=2,
)

_accounts: Final = count(600_000_000_001)


@dataclass(slots=True)
class Environment:
    """A compute environment."""

    state: str
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Queue:
    """A job queue."""

    state: str
    priority: int
    order: list[str]
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Revision:
    """A revision of a job definition."""

    active: bool = True
    tags: dict[str, str] = field(default_factory=dict)


class Batch(RuleBasedStateMachine):
    """One account, and the model of what is in it."""

    installation: Installation

    def __init__(self) -> None:
        super().__init__()
        self.account = str(next(_accounts))
        self.wire = Wire(self.installation.http_url, self.account)
        self.environments: dict[str, Environment] = {}
        self.queues: dict[str, Queue] = {}
        self.definitions: dict[Kind, list[Revision]] = {kind: [] for kind in KINDS}
        self.jobs = Jobs()
        self.job_tags: dict[str, dict[str, str]] = {}

    # Talking

    def ask(self, operation: str, refusal: str | None = None, /, **members: Any) -> Json:
        """Call an operation; expect success, or a refusal with this text in it."""
        return self.answered("POST", f"/v1/{operation}", refusal, members)

    def answered(self, verb: str, path: str, refusal: str | None, members: Json | None = None) -> Json:
        """Send a request; expect success, or a refusal with this text in it."""
        body = b"" if members is None else msgspec.json.encode(members)
        response = self.wire.send(verb, path, body)
        if refusal is None:
            assert response.status == 200, response.body
            return response.members
        assert response.status == 400, f"expected to be refused: {refusal}; answered {response.body!r}"
        _, error, message = response.error
        assert (error, refusal in message) == ("ClientException", True), f"expected: {refusal}; got {message}"
        return {}

    def arn(self, kind: str, name: str) -> str:
        """Return the ARN of a resource."""
        return f"arn:aws:batch:eu-central-1:{self.account}:{kind}/{name}"

    # Environments and queues

    @initialize()
    def begin(self) -> None:
        """Most sequences need a queue, and something to run."""
        self.create_environment("a", "ENABLED")
        self.create_queue("a", "ENABLED", 1, ["a"])
        for kind in KINDS:
            self.register(kind)

    @rule(name=NAMES, state=STATES)
    def create_environment(self, name: str, state: str) -> None:
        refusal = "Object already exists" if name in self.environments else None
        members = {"computeEnvironmentName": name, "type": "UNMANAGED", "state": state}
        self.ask("createcomputeenvironment", refusal, **members)
        self.environments.setdefault(name, Environment(state))

    @rule(name=NAMES, state=STATES)
    def update_environment(self, name: str, state: str) -> None:
        environment = self.environments.get(name)
        refusal = f"{self.arn('compute-environment', name)} does not exist" if environment is None else None
        self.ask("updatecomputeenvironment", refusal, computeEnvironment=name, state=state)
        if environment:
            environment.state = state

    @rule(name=NAMES)
    def delete_environment(self, name: str) -> None:
        refusal = None
        if name in self.environments:
            if self.environments[name].state == "ENABLED":
                refusal = "Cannot delete, compute environment must be DISABLED"
            elif any(name in queue.order for queue in self.queues.values()):
                refusal = "Cannot delete, found existing JobQueue relationship"
        self.ask("deletecomputeenvironment", refusal, computeEnvironment=name)
        if refusal is None:
            self.environments.pop(name, None)

    def order_refusal(self, order: Sequence[str]) -> str | None:
        """Return why no queue can have its jobs placed in these environments."""
        if len(set(order)) < len(order):
            return "Duplicate ComputeEnvironments within order list."
        if not set(order) <= set(self.environments):
            return "Compute Environments must be created and valid before attaching them to a job queue"
        return None

    @rule(name=NAMES, state=STATES, priority=st.integers(0, 3), order=ORDERS)
    def create_queue(self, name: str, state: str, priority: int, order: list[str]) -> None:
        refusal = self.order_refusal(order) or ("Object already exists" if name in self.queues else None)
        members = {"jobQueueName": name, "state": state, "priority": priority}
        self.ask("createjobqueue", refusal, computeEnvironmentOrder=_order(order), **members)
        if refusal is None:
            self.queues[name] = Queue(state, priority, order)

    @rule(name=NAMES, state=st.none() | STATES, priority=st.none() | st.integers(0, 3), order=st.none() | ORDERS)
    def update_queue(self, name: str, state: str | None, priority: int | None, order: list[str] | None) -> None:
        queue = self.queues.get(name)
        refusal = None
        if order and len(set(order)) < len(order):
            refusal = self.order_refusal(order)
        elif queue is None:
            refusal = f"{self.arn('job-queue', name)} does not exist"
        elif order:
            refusal = self.order_refusal(order)
        members = {"state": state, "priority": priority, "computeEnvironmentOrder": order and _order(order)}
        self.ask("updatejobqueue", refusal, jobQueue=name, **members)
        if queue and refusal is None:
            queue.state = queue.state if state is None else state
            queue.priority = queue.priority if priority is None else priority
            queue.order = queue.order if order is None else order

    @rule(name=NAMES)
    def delete_queue(self, name: str) -> None:
        now = self.jobs.now()
        ends = [now[job] for job in self.jobs.of(name)]
        if name in self.queues and self.queues[name].state == "ENABLED":
            self.ask("deletejobqueue", "Cannot delete, job queue must be DISABLED", jobQueue=name)
        elif name in self.queues and any(not where & TERMINAL for where in ends):
            self.ask("deletejobqueue", "Cannot delete, job queue has jobs that have not completed", jobQueue=name)
        elif all(where <= TERMINAL for where in ends):
            self.ask("deletejobqueue", jobQueue=name)
            self.queues.pop(name, None)

    @rule(name=NAMES)
    def retire_queue(self, name: str) -> None:
        self.update_queue(name, "DISABLED", None, None)
        self.delete_queue(name)

    # Job definitions

    @rule(kind=st.sampled_from(KINDS))
    def register(self, kind: Kind) -> None:
        revisions = self.definitions[kind]
        container = {"image": "busybox", "vcpus": VCPUS[kind], "memory": 16, "command": COMMANDS[kind]}
        members = {"jobDefinitionName": kind, "type": "container", "containerProperties": container}
        answer = self.ask("registerjobdefinition", **members)
        revisions.append(Revision())
        assert answer["revision"] == len(revisions)

    @rule(kind=st.sampled_from(KINDS), revision=st.integers(1, 3))
    def deregister(self, kind: Kind, revision: int) -> None:
        reference = f"{kind}:{revision}"
        known = revision <= len(self.definitions[kind])
        refusal = None if known else f"JobDefinition {reference} not found."
        self.ask("deregisterjobdefinition", refusal, jobDefinition=reference)
        if known:
            self.definitions[kind][revision - 1].active = False

    def definition_refusal(self, kind: Kind, revision: int | None) -> str | None:
        """Return why no job can be submitted with this revision, or with the newest."""
        revisions = self.definitions[kind]
        if revision is not None and revision > len(revisions):
            return f"JobDefinition {kind}:{revision} not found."
        if revision is None:
            usable, reference = any(known.active for known in revisions), str(kind)
        else:
            usable, reference = revisions[revision - 1].active, f"{kind}:{revision}"
        return None if usable else f"JobDefinition name {reference} does not exist or is not in ACTIVE status"

    # Jobs

    def job_id(self, which: int) -> str:
        """Return the id of a job or child, counted from the newest; at 0, of none."""
        job_ids = [job.job_id for job in self.jobs][::-1]
        return job_ids[(which - 1) % len(job_ids)] if which and job_ids else UNKNOWN_JOB

    @rule(
        queue=st.sampled_from(["a", "a", "a", "b"]),
        kind=st.sampled_from(KINDS),
        revision=st.none() | st.integers(1, 2),
        size=st.sampled_from([0, 0, 1, 2, 2, 3]),
        dependencies=DEPENDENCIES,
    )
    def submit(
        self,
        queue: str,
        kind: Kind,
        revision: int | None,
        size: int,
        dependencies: list[tuple[str | None, int | None]],
    ) -> None:
        depends_on = [(kind, None if which is None else self.job_id(which)) for kind, which in dependencies]
        refusal = (
            self.form_refusal(size, depends_on)
            or (None if queue in self.queues else f"JobQueue {queue} not found.")
            or self.definition_refusal(kind, revision)
            or next((f"Job {job_id} does not exist" for _, job_id in depends_on if job_id == UNKNOWN_JOB), None)
            or (None if self.queues[queue].state == "ENABLED" else f"JobQueue {queue} is not in ENABLED state")
            or self.pairing_refusal(size, depends_on)
        )
        answer = self.ask(
            "submitjob",
            refusal,
            jobName=kind,
            jobQueue=queue,
            jobDefinition=kind if revision is None else f"{kind}:{revision}",
            dependsOn=[{"type": kind, "jobId": job_id} for kind, job_id in depends_on],
            arrayProperties={"size": size} if size else None,
        )
        if refusal is None:
            pairs = self.found(job_id for kind, job_id in depends_on if kind == "N_TO_N")
            needs = self.found(job_id for kind, job_id in depends_on if job_id and kind != "N_TO_N")
            chain = ("SEQUENTIAL", None) in depends_on
            self.jobs.submit(answer["jobId"], queue, kind, size, needs, pairs, chain=chain)
            self.job_tags[answer["jobId"]] = {}

    @rule(kind=st.sampled_from(KINDS), size=st.sampled_from([0, 2]), which=st.integers(1, 4), pairs=st.booleans())
    def submit_after_another(self, kind: Kind, size: int, which: int, *, pairs: bool) -> None:
        self.submit("a", kind, None, size, [("N_TO_N" if pairs and size else None, which)])

    def found(self, job_ids: Iterator[str | None]) -> list[Job]:
        """Return the jobs with these ids."""
        return [job for job_id in job_ids if job_id and (job := self.jobs.named(job_id))]

    def form_refusal(self, size: int, depends_on: Sequence[tuple[str | None, str | None]]) -> str | None:
        """Return what is wrong with a submission, whatever there is."""
        if size == 1:
            return "Array size must be between 2 and 10000"
        for kind, job_id in depends_on:
            if kind == "N_TO_N" and not size:
                return "N_TO_N dependency requires array jobs of the same size"
            if job_id is None and not (kind == "SEQUENTIAL" and size):
                return "jobId is required"
        return None

    def pairing_refusal(self, size: int, depends_on: Sequence[tuple[str | None, str | None]]) -> str | None:
        """Return why an array cannot wait for others child by child."""
        for array in self.found(job_id for kind, job_id in depends_on if kind == "N_TO_N"):
            if len(array.children) != size:
                return "N_TO_N dependency requires array jobs of the same size"
        return None

    @rule(operation=st.sampled_from(["canceljob", "terminatejob"]), which=WHICH, reason=st.sampled_from(["x", "y"]))
    def end_job(self, operation: str, which: int, reason: str) -> None:
        job_id = self.job_id(which)
        self.ask(operation, jobId=job_id, reason=reason)
        self.jobs.end(job_id, reason)

    @rule(operation=st.sampled_from(["canceljob", "terminatejob"]), which=st.integers(1, 4))
    def end_new_job(self, operation: str, which: int) -> None:
        self.end_job(operation, which, "z")

    # Tags

    def tagged(self, kind: str, which: int) -> tuple[str, dict[str, str] | None, str | None]:
        """Return the ARN of something, its tags, and why it can have none."""
        tags: dict[str, str] | None
        if kind == "job":
            job_id = self.job_id(which)
            arn, tags = self.arn("job", job_id), self.job_tags.get(job_id)
            if ":" in job_id:
                return arn, None, "cannot have tags: it is a child of an array job"
        elif kind == "job-definition":
            revision = which // len(KINDS) + 1
            revisions = self.definitions[KINDS[which % len(KINDS)]]
            arn = self.arn(kind, f"{KINDS[which % len(KINDS)]}:{revision}")
            tags = revisions[revision - 1].tags if revision <= len(revisions) else None
        else:
            found = (self.queues if kind == "job-queue" else self.environments).get(name := "ab"[which % 2])
            arn, tags = self.arn(kind, name), found.tags if found else None
        return arn, tags, f"Resource {arn} does not exist" if tags is None else None

    @rule(
        kind=st.sampled_from(["job", "job-definition", "job-queue", "compute-environment"]),
        which=WHICH,
        sets=st.dictionaries(st.sampled_from("kl"), st.sampled_from(["", "v"]), min_size=1),
        removes=st.booleans(),
    )
    def change_tags(self, kind: str, which: int, sets: dict[str, str], *, removes: bool) -> None:
        arn, tags, refusal = self.tagged(kind, which)
        path = f"/v1/tags/{quote(arn, safe='')}"
        if removes:
            self.answered("DELETE", f"{path}?{urlencode([('tagKeys', key) for key in sets])}", refusal)
        else:
            self.answered("POST", path, refusal, {"tags": sets})
        if tags is not None:
            kept = {key: value for key, value in tags.items() if key not in sets}
            tags.clear()
            tags.update(kept if removes else kept | sets)
        answer = self.answered("GET", path, refusal)
        assert refusal or answer == {"tags": tags}

    # Looking

    def describe_jobs(self) -> dict[str, Json]:
        """Return all jobs by id, checked."""
        job_ids = [job.job_id for job in self.jobs]
        described = self.ask("describejobs", jobs=[*job_ids, UNKNOWN_JOB])["jobs"] if job_ids else []
        self.jobs.look(described)
        assert {job["jobId"]: job["tags"] for job in described if ":" not in job["jobId"]} == self.job_tags
        return {job["jobId"]: job for job in described}

    @invariant()
    def jobs_are_where_they_may_be(self) -> None:
        self.describe_jobs()

    @rule()
    def look_at_resources(self) -> None:
        environments = self.ask("describecomputeenvironments")["computeEnvironments"]
        assert all(entry["status"] == "VALID" for entry in environments)
        found = {entry["computeEnvironmentName"]: Environment(entry["state"], entry["tags"]) for entry in environments}
        assert found == self.environments
        queues = {entry["jobQueueName"]: entry for entry in self.ask("describejobqueues")["jobQueues"]}
        assert all(entry["status"] == "VALID" for entry in queues.values())
        assert {name: _queue(entry) for name, entry in queues.items()} == self.queues
        told = self.ask("describejobdefinitions")["jobDefinitions"]
        revisions = {(entry["jobDefinitionName"], entry["revision"]): entry for entry in told}
        assert {key: Revision(entry["status"] == "ACTIVE", entry["tags"]) for key, entry in revisions.items()} == {
            (kind, number): revision
            for kind, revisions in self.definitions.items()
            for number, revision in enumerate(revisions, 1)
        }

    @rule(queue=NAMES, status=st.sampled_from(STATUSES))
    def list_jobs(self, queue: str, status: str) -> None:
        refusal = None if queue in self.queues else f"{queue} does not exist"
        before = self.describe_jobs()
        everything = {"name": "JOB_NAME", "values": ["*"]}
        listed = self.ask("listjobs", refusal, jobQueue=queue, filters=[everything])
        chosen = self.ask("listjobs", refusal, jobQueue=queue, jobStatus=status)
        if refusal is None:
            after = self.describe_jobs()
            self.check_listed(listed["jobSummaryList"], self.jobs.of(queue), before, after)
            chosen_ids = {summary["jobId"] for summary in chosen["jobSummaryList"]}
            assert all(summary["status"] == status for summary in chosen["jobSummaryList"])
            for job in self.jobs.of(queue):
                if before[job.job_id]["status"] == after[job.job_id]["status"]:
                    assert (job.job_id in chosen_ids) == (before[job.job_id]["status"] == status)

    @rule(which=WHICH)
    def list_children(self, which: int) -> None:
        array = self.jobs.named(self.job_id(which))
        if array is not None and array.children:
            before = self.describe_jobs()
            summaries: list[Json] = []
            # Against the way that jobs go: one that moves on meanwhile is missed, never met twice.
            for status in STATUSES[::-1]:
                summaries += self.ask("listjobs", arrayJobId=array.job_id, jobStatus=status)["jobSummaryList"]
            after = self.describe_jobs()
            still = [job for job in array.children if before[job.job_id]["status"] == after[job.job_id]["status"]]
            found = {summary["jobId"]: summary["status"] for summary in summaries}
            assert {job.job_id for job in still} <= set(found) <= {job.job_id for job in array.children}
            assert all(found[job.job_id] == after[job.job_id]["status"] for job in still)

    def check_listed(
        self, summaries: Sequence[Json], jobs: Sequence[Job], before: Mapping[str, Json], after: Mapping[str, Json]
    ) -> None:
        """What is listed is what was described just before and after, the newest first."""
        assert [summary["jobId"] for summary in summaries] == [job.job_id for job in reversed(jobs)]
        for summary in summaries:
            job_id, status = summary["jobId"], summary["status"]
            assert is_forward(before[job_id]["status"], status)
            assert is_forward(status, after[job_id]["status"])
            for member in ("jobArn", "jobName", "jobDefinition", "createdAt"):
                assert summary[member] == after[job_id][member]

    # The end

    def teardown(self) -> None:
        """Every job ends, as it may."""
        with closing(self.wire):
            for name in self.environments:
                self.update_environment(name, "ENABLED")
            for job in self.jobs:
                if not job.children and job.kind in {"holds", "waits"} and job.seen not in TERMINAL:
                    self.ask("terminatejob", jobId=job.job_id, reason="the end")
                    self.jobs.end(job.job_id, "the end")
            soon(self.all_ended, "the end of all jobs")
            self.look_at_resources()
            for name in self.queues:
                self.list_jobs(name, "SUCCEEDED")

    def all_ended(self) -> bool:
        """Whether every job has ended."""
        return all(job["status"] in TERMINAL for job in self.describe_jobs().values())


def _order(names: Sequence[str]) -> list[Json]:
    return [{"order": place, "computeEnvironment": name} for place, name in enumerate(names)]


def _queue(entry: Json) -> Queue:
    order = sorted(entry["computeEnvironmentOrder"], key=lambda place: int(place["order"]))
    names = [place["computeEnvironment"].rpartition("/")[2] for place in order]
    return Queue(entry["state"], entry["priority"], names, entry["tags"])


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[Batch]]:
    """An installation on which each example gets an account of its own."""
    with closing(start_up(tmp_path_factory.mktemp("model") / "data")) as running:
        yield type("BatchHere", (Batch,), {"installation": running})


# As many examples as asked for take their time.
@pytest.mark.timeout(0 if EXAMPLES else 240)
def test_answers_are_those_of_the_model(machine: type[Batch]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES or 20,
            stateful_step_count=25,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
