"""What is remembered of shapes: jobs are as they would be if nothing were."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from batchyard.api.agent.v1.run_pb2 import JobSpec
from batchyard.api.jobs.v1.jobs_service_pb2 import SubmitJobRequest
from batchyard.api.registry.v1.job_definition_pb2 import JobDefinition
from batchyard.domain.compat import Compat
from batchyard.domain.errors import BatchyardError
from batchyard.domain.jobs import JobId, JobKey
from batchyard.domain.names import Caller
from batchyard.jobstore import frames, submission
from batchyard.jobstore.frames import Frames
from batchyard.storage.jobs import QueueCopy
from support.jobs import QUEUE

CALLERS = [Caller(), Caller(region="eu-west-1")]
QUEUES = [QUEUE, replace(QUEUE, fair_share=True), replace(QUEUE, arn="arn:other")]


def a_definition(**members: object) -> JobDefinition:
    container = {"image": "busybox", "vcpus": 1, "memory": 128, "command": ["echo", "Ref::word"]}
    described = {"jobDefinitionName": "definition", "containerProperties": container, **members}
    return ParseDict(described, JobDefinition())


DEFINITIONS = [
    a_definition(parameters={"word": "hello"}),
    a_definition(tags={f"key-{number}": "" for number in range(50)}, timeout={"attemptDurationSeconds": 70}),
    a_definition(parameters={"word": "hello"}, retryStrategy={"attempts": 3}, propagateTags=True, tags={"from": "it"}),
]

REQUESTS = st.fixed_dictionaries(
    {"jobName": st.sampled_from(["a", "b", "_", "a" * 129]), "jobQueue": st.sampled_from(["queue", "."])},
    optional={
        "dependsOn": st.sampled_from(
            [[{"jobId": "x"}], [{"jobId": "x", "type": "N_TO_N"}], [{}], [{"jobId": "y"}] * 101]
        ),
        "tags": st.sampled_from([{"x": "y"}, {"": ""}, {"long": "z" * 256}, {str(n): "a" * 250 for n in range(49)}]),
        "parameters": st.sampled_from([{"word": "bye"}, {"word": "w" * 31_000}]),
        "propagateTags": st.booleans(),
        "shareIdentifier": st.sampled_from(["share", "."]),
        "schedulingPriorityOverride": st.sampled_from([5, -1]),
        "arrayProperties": st.sampled_from([{"size": 2}, {"size": 1}]),
        "retryStrategy": st.sampled_from([{"attempts": 2}, {"attempts": 11}]),
        "timeout": st.sampled_from([{"attemptDurationSeconds": 60}, {"attemptDurationSeconds": 1}]),
        "containerOverrides": st.sampled_from([{"vcpus": 2}, {"command": ["Ref::missing"]}, {"command": [""]}]),
    },
)
STEPS = st.tuples(REQUESTS, st.sampled_from(CALLERS), st.sampled_from(QUEUES), st.sampled_from(DEFINITIONS))


def taken(
    memory: Frames, members: Mapping[str, Any], caller: Caller, queue: QueueCopy, definition: JobDefinition
) -> object:
    """Return all that follows from a request, or the error's text."""
    request = ParseDict({"jobDefinition": "definition", **members}, SubmitJobRequest())
    try:
        shape = memory.check(caller, request)
        frame = memory.frame(shape, request, queue, definition)
        depends_on = [JobKey(caller.namespace, JobId(entry.job_id)) for entry in request.depends_on]
        made = frame.submission(request, job_id=JobId("id"), depends_on=depends_on)
    except BatchyardError as error:
        return error.message, error.field
    return JobSpec.FromString(made.spec), replace(made, spec=b"")


@given(frames_max=st.sampled_from([1, 3, 256]), steps=st.lists(STEPS, min_size=2, max_size=8))
def test_a_job_is_the_same_whatever_came_before_it(frames_max: int, steps: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "FRAMES_MAX", frames_max)
        memory = Frames(Compat.SEED)
        for step in [*steps, *steps]:
            assert taken(memory, *step) == taken(Frames(Compat.SEED), *step)


def test_a_shape_is_merged_once_for_a_queue_and_a_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    merged: list[JobDefinition] = []

    def counting(request: SubmitJobRequest, **rest: Any) -> submission.Frame:
        merged.append(rest["definition"])
        return submission.frame_of(request, **rest)

    monkeypatch.setattr(frames, "frame_of", counting)
    memory = Frames(Compat.SEED)
    for definition in (DEFINITIONS[0], DEFINITIONS[2]):
        for name in ("one", "two", "three"):
            own = {"jobName": name, "tags": {"name": name}, "dependsOn": [{"jobId": name}]}
            taken(memory, {"jobQueue": "queue", **own}, CALLERS[0], QUEUE, definition)
    assert merged == [DEFINITIONS[0], DEFINITIONS[2]]


def test_a_job_that_was_changed_changes_no_other() -> None:
    memory = Frames(Compat.SEED)
    request = SubmitJobRequest(job_name="job", job_queue="queue", job_definition="definition")
    frame = memory.frame(memory.check(CALLERS[0], request), request, QUEUE, DEFINITIONS[0])
    first = frame.submission(request, job_id=JobId("1"), depends_on=[]).job
    first.attempts_made, first.faults = 7, "1:oom"
    second = frame.submission(request, job_id=JobId("2"), depends_on=[]).job
    assert (second.attempts_made, second.faults, second.key.job_id) == (0, None, "2")


def test_a_large_shape_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "FRAME_BYTES_MAX", 10)
    memory = Frames(Compat.SEED)
    taken(memory, {"jobName": "a", "jobQueue": "queue"}, CALLERS[0], QUEUE, DEFINITIONS[0])
    assert not memory._known
