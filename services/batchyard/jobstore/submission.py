"""From a SubmitJob request and the definition that it names to what is stored.

Everything that is frozen at submission is merged here, once: definition, overrides, parameters. What comes out is the
serialized JobSpec, which is stored and handed on untouched, and the few columns that change or that placing needs.

A request has members of its own, and a shape: all the others, which many requests have in common. What follows from the
shape is a `Frame`; what is a request's own is put behind it, as the bytes of two messages, one after the other, are the
bytes of both merged.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from batchyard.api.agent.v1.run_pb2 import JobSpec
from batchyard.api.common.v1.container_pb2 import KeyValuePair, ResourceRequirement
from batchyard.api.jobs.v1.jobs_pb2 import ContainerDetail, ContainerOverrides, JobDependency
from batchyard.api.jobs.v1.jobs_service_pb2 import SubmitJobRequest
from batchyard.api.registry.v1.job_definition_pb2 import ContainerProperties, JobDefinition
from batchyard.domain.arrays import SIZE_MAX, SIZE_MIN
from batchyard.domain.compat import Compat
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.jobs import Job, JobId, JobKey
from batchyard.domain.names import JOB_NAME, Caller, ResourceKind, name_in_reference
from batchyard.domain.resources import (
    TAGS_MAX,
    check_environment,
    check_scheduling_priority,
    check_share_identifier,
    check_tags,
    check_timeout,
    requirement_amounts,
    reserved_resources,
)
from batchyard.domain.retries import check_retry_strategy, exit_rules
from batchyard.jobstore.group import Submission
from batchyard.storage.jobs import QueueCopy

DEPENDENCIES_MAX: Final = 100
N_TO_N: Final = "N_TO_N"
SEQUENTIAL: Final = "SEQUENTIAL"
JOB_BYTES_MAX: Final = 30 * 1024
SPEC_BYTES_MAX: Final = 128 * 1024
"""Of a job merged with its definition and parameters: every offer of it must fit into a message, and a parameter may
stand in its command any number of times."""

_REFERENCE = re.compile(r"Ref::([A-Za-z0-9_-]+)")

_LEGACY: Final[tuple[tuple[str, Literal["vcpus", "memory"]], ...]] = (("VCPU", "vcpus"), ("MEMORY", "memory"))
"""The older members for an amount, by the type of the resource requirement that replaced them."""


def check_request(request: SubmitJobRequest) -> None:
    """Check all that can be checked without looking anything up; raise InvalidRequestError for the first fault."""
    _check_job_name(request)
    name_in_reference(request.job_queue, ResourceKind.JOB_QUEUE, "")
    if request.HasField("share_identifier"):
        check_share_identifier(request.share_identifier)
    if request.HasField("scheduling_priority_override"):
        check_scheduling_priority(request.scheduling_priority_override, "schedulingPriorityOverride")
    _check_number_of_dependencies(request)
    if request.array_properties.HasField("size") and not SIZE_MIN <= request.array_properties.size <= SIZE_MAX:
        raise InvalidRequestError(
            f"Array size must be between {SIZE_MIN} and {SIZE_MAX}, got {request.array_properties.size}",
            field="arrayProperties.size",
        )
    _check_dependencies(request)
    name_in_reference(request.job_definition, ResourceKind.JOB_DEFINITION, "")
    _check_overrides(request)
    if request.HasField("retry_strategy"):
        strategy = request.retry_strategy
        attempts = strategy.attempts if strategy.HasField("attempts") else None
        check_retry_strategy(attempts, strategy.evaluate_on_exit)
    if request.timeout.HasField("attempt_duration_seconds"):
        check_timeout(request.timeout.attempt_duration_seconds)
    _check_tags_and_size(request)


def check_own_members(request: SubmitJobRequest) -> None:
    """Do the same for a request of a shape that has passed: only what is its own can be wrong."""
    _check_job_name(request)
    _check_number_of_dependencies(request)
    _check_dependencies(request)
    _check_tags_and_size(request)


def shape_of(request: SubmitJobRequest) -> bytes:
    """Return the shape of a request: all but the members of its own."""
    shape = SubmitJobRequest()
    shape.CopyFrom(request)
    shape.ClearField("job_name")
    shape.ClearField("depends_on")
    shape.ClearField("tags")
    return shape.SerializeToString(deterministic=True)


def _check_job_name(request: SubmitJobRequest) -> None:
    if not JOB_NAME.fullmatch(request.job_name):
        raise InvalidRequestError(
            f"Job name should match valid pattern {JOB_NAME.pattern}, got {request.job_name!r}", field="jobName"
        )


def _check_number_of_dependencies(request: SubmitJobRequest) -> None:
    if len(request.depends_on) > DEPENDENCIES_MAX:
        raise InvalidRequestError(f"Number of job dependencies must not exceed {DEPENDENCIES_MAX}", field="dependsOn")


def _check_dependencies(request: SubmitJobRequest) -> None:
    for dependency in request.depends_on:
        _check_dependency(dependency, is_array=request.array_properties.HasField("size"))


def _check_tags_and_size(request: SubmitJobRequest) -> None:
    check_tags(request.tags)
    if (size := request.ByteSize()) > JOB_BYTES_MAX:
        raise InvalidRequestError(f"Job size must be less than 30 KiB, got {-(-size // 1024)} KiB")


def _check_dependency(dependency: JobDependency, *, is_array: bool) -> None:
    if dependency.type not in ("", SEQUENTIAL, N_TO_N):
        raise InvalidRequestError(
            f"Dependency type {dependency.type} is not valid. Valid types: [{N_TO_N}, {SEQUENTIAL}]",
            field="dependsOn.type",
        )
    if dependency.type == N_TO_N and not is_array:
        raise InvalidRequestError(
            "N_TO_N dependency requires array jobs of the same size: this job has no arrayProperties",
            field="dependsOn.type",
        )
    if not dependency.job_id and not (dependency.type == SEQUENTIAL and is_array):
        raise InvalidRequestError(
            "jobId is required. Only a SEQUENTIAL dependency of an array job has none.", field="dependsOn.jobId"
        )


_OTHER_OVERRIDES: Final[
    tuple[tuple[Literal["node_overrides", "eks_properties_override", "ecs_properties_override"], str, str], ...]
] = (
    ("node_overrides", "nodeOverrides", "multi-node parallel jobs"),
    ("eks_properties_override", "eksPropertiesOverride", "jobs on Kubernetes"),
    ("ecs_properties_override", "ecsPropertiesOverride", "jobs of several containers"),
)
"""Overrides of jobs that cannot be submitted here: their field, AWS's name, and what they are for."""


def _check_overrides(request: SubmitJobRequest) -> None:
    _check_container_overrides(request.container_overrides)
    for field, member, jobs in _OTHER_OVERRIDES:
        if request.HasField(field):
            raise InvalidRequestError(f"{member} is for {jobs}, which this server does not support.", field=member)
    if request.consumable_resource_properties_override.consumable_resource_list:
        raise InvalidRequestError(
            "Consumable resources are not supported by this server yet.", field="consumableResourcePropertiesOverride"
        )


def _check_container_overrides(overrides: ContainerOverrides) -> None:
    for position, element in enumerate(overrides.command):
        if not element:
            raise InvalidRequestError(
                f"Command cannot be empty: element {position} is an empty string.", field="containerOverrides.command"
            )
    if overrides.HasField("instance_type"):
        raise InvalidRequestError(
            "instanceType is for multi-node parallel jobs, which this server does not support.",
            field="containerOverrides.instanceType",
        )
    check_environment(overrides.environment)
    required = requirement_amounts(overrides.resource_requirements)
    for kind, member in _LEGACY:
        if kind in required and overrides.HasField(member):
            raise InvalidRequestError(
                f"Cannot use both ECS containerProperties {member} and resourceRequirement {kind}.",
                field=f"containerOverrides.{member}",
            )


@dataclass(frozen=True, slots=True)
class Frame:
    """What jobs of one shape have in common, for one caller, queue and definition."""

    caller: Caller
    definition: JobDefinition
    spec: bytes
    """A serialized JobSpec without the members that are a job's own."""
    job: Job
    """Without id and name."""
    array_size: int | None
    propagates_tags: bool

    def submission(
        self, request: SubmitJobRequest, *, job_id: JobId, depends_on: Sequence[JobKey | None]
    ) -> Submission:
        """Return the job of a request that has passed the checks, ready to be stored.

        `depends_on` are the jobs of the request's dependencies; None for one that is on the job itself.
        Raises InvalidRequestError for too many tags, and for a job of more than `SPEC_BYTES_MAX`.
        """
        caller = self.caller
        own = JobSpec(job_id=job_id, job_name=request.job_name, job_arn=caller.arn(ResourceKind.JOB, job_id))
        waits: list[tuple[JobKey | None, str]] = []
        if request.depends_on:
            waits = [(key, dependency.type) for key, dependency in zip(depends_on, request.depends_on, strict=True)]
            own.depends_on.extend(_resolved(request.depends_on, depends_on))
        if request.tags:
            own.tags.update(request.tags)
        if self.propagates_tags:
            own.container_tags.update(_propagated_tags(self.definition, request))
        spec = self.spec + own.SerializeToString()
        if len(spec) > SPEC_BYTES_MAX:
            raise _too_large()
        job = self.job.copy()
        job.key, job.job_name = JobKey(caller.namespace, job_id), request.job_name
        return Submission(
            job,
            spec,
            depends_on=tuple(key for key, kind in waits if key is not None and kind != N_TO_N),
            array_size=self.array_size,
            sequential=(None, SEQUENTIAL) in waits,
            paired_with=tuple(key for key, kind in waits if key is not None and kind == N_TO_N),
        )


def frame_of(
    request: SubmitJobRequest, *, caller: Caller, queue: QueueCopy, definition: JobDefinition, compat: Compat
) -> Frame:
    """Merge everything that follows from the shape of a request.

    Raises InvalidRequestError for a `Ref::` without a value, for overrides that leave the job without a sensible amount
    of vCPUs or memory, and for what this definition or this queue does not allow.
    """
    _check_can_run(definition)
    _check_capability(request, definition, queue)
    parameters = {**definition.parameters, **request.parameters}
    container = _merged_container(definition.container_properties, request.container_overrides, compat)
    container.command[:] = substitute(container.command, parameters)
    reserved = reserved_resources(container)
    retry = request.retry_strategy if request.HasField("retry_strategy") else definition.retry_strategy
    array_size = request.array_properties.size if request.array_properties.HasField("size") else None
    spec = JobSpec(
        namespace=caller.namespace,
        job_queue_name=queue.key.name,
        job_queue_arn=queue.arn,
        job_definition_name=definition.job_definition_name,
        job_definition_arn=definition.job_definition_arn,
        parameters=parameters,
        container=container,
        vcpus_milli=reserved.vcpus_milli,
        memory_mib=reserved.memory_mib,
        gpus=reserved.gpus,
        array_size=array_size,
    )
    _set_share(spec, request, definition, queue)
    spec.propagate_tags = (request if request.HasField("propagate_tags") else definition).propagate_tags
    spec.platform_capabilities.extend(definition.platform_capabilities)
    spec.retry_strategy.CopyFrom(retry)
    spec.retry_strategy.attempts = retry.attempts or 1
    timeout = request.timeout if request.HasField("timeout") else definition.timeout
    if timeout.attempt_duration_seconds:
        spec.timeout.CopyFrom(timeout)
    job = Job(
        key=JobKey(caller.namespace, JobId("")),
        sequence=0,
        job_name="",
        job_queue=spec.job_queue_name,
        job_definition=spec.job_definition_arn,
        vcpus_milli=reserved.vcpus_milli,
        memory_mib=reserved.memory_mib,
        gpus=reserved.gpus,
        attempts_allowed=spec.retry_strategy.attempts,
        created_at=0,
        exit_rules=exit_rules(retry.evaluate_on_exit),
        share_identifier=spec.share_identifier or None,
        scheduling_priority=spec.scheduling_priority,
        timeout_s=spec.timeout.attempt_duration_seconds or None,
    )
    return Frame(caller, definition, spec.SerializeToString(), job, array_size, spec.propagate_tags)


def _propagated_tags(definition: JobDefinition, request: SubmitJobRequest) -> dict[str, str]:
    """Return the tags of definition and job together; AWS takes a job with too many of them, and fails it."""
    tags = {**definition.tags, **request.tags}
    if len(tags) > TAGS_MAX:
        raise InvalidRequestError(
            f"Number of tags of job and job definition together must not exceed {TAGS_MAX} with propagateTags, "
            f"got {len(tags)}.",
            field="tags",
        )
    return tags


def _check_capability(request: SubmitJobRequest, definition: JobDefinition, queue: QueueCopy) -> None:
    is_fargate = list(definition.platform_capabilities) == ["FARGATE"]
    if queue.fargate and not is_fargate:
        raise InvalidRequestError(
            "Job Queue is attached to Compute Environment that can not run Jobs with capability EC2.",
            field="jobDefinition",
        )
    for _, member in _LEGACY:
        if is_fargate and request.container_overrides.HasField(member):
            raise InvalidRequestError(
                f"{member} is not applicable for Fargate. Use resource requirements instead.",
                field=f"containerOverrides.{member}",
            )


def _set_share(spec: JobSpec, request: SubmitJobRequest, definition: JobDefinition, queue: QueueCopy) -> None:
    has_share, has_priority = request.HasField("share_identifier"), request.HasField("scheduling_priority_override")
    if not queue.fair_share:
        if has_share or has_priority:
            raise InvalidRequestError(
                "Job with shareIdentifier or schedulingPriority can only be submitted to job queue with fair share "
                "scheduling policy.",
                field="shareIdentifier" if has_share else "schedulingPriorityOverride",
            )
        return
    missing = []
    if not has_share:
        missing.append("shareIdentifier must be specified.")
    if not has_priority and not definition.HasField("scheduling_priority"):
        missing.append("Either schedulingPriority in job definition or schedulingPriorityOverride is required.")
    if missing:
        raise InvalidRequestError(
            " ".join(missing), field="schedulingPriorityOverride" if has_share else "shareIdentifier"
        )
    spec.share_identifier = request.share_identifier
    spec.scheduling_priority = request.scheduling_priority_override if has_priority else definition.scheduling_priority


def _check_can_run(definition: JobDefinition) -> None:
    """Raise InvalidRequestError for a definition that can be registered, and whose jobs this server cannot run yet."""
    what = ""
    if definition.type == "multinode":
        what = "is of type multinode (a multi-node parallel job)"
    elif definition.HasField("ecs_properties"):
        what = "has ecsProperties"
    elif definition.consumable_resource_properties.consumable_resource_list:
        what = "has consumableResourceProperties"
    if what:
        raise InvalidRequestError(
            f"JobDefinition {definition.job_definition_arn} {what}: such jobs are not supported by this server yet.",
            field="jobDefinition",
        )


def substitute(command: Sequence[str], parameters: Mapping[str, str]) -> list[str]:
    """Return the command with each `Ref::name` replaced by the parameter of that name.

    Several in one element and as parts of it are allowed, values are not searched again. Raises InvalidRequestError
    for a name without a parameter, and for more text than any job may hold.
    """
    room = SPEC_BYTES_MAX

    def value(match: re.Match[str]) -> str:
        nonlocal room
        found = parameters.get(match[1])
        if found is None:
            raise InvalidRequestError(
                f"Unable to substitute value. No parameter found for reference {match[1]}", field="parameters"
            )
        room -= len(found)
        if room < 0:
            raise _too_large()
        return found

    return [_REFERENCE.sub(value, element) if "Ref::" in element else element for element in command]


def _too_large() -> InvalidRequestError:
    return InvalidRequestError(
        f"Job size must be less than {SPEC_BYTES_MAX // 1024} KiB with its definition and its parameters in place",
        field="parameters",
    )


def _resolved(given: Sequence[JobDependency], keys: Sequence[JobKey | None]) -> list[JobDependency]:
    """Return the dependencies with ids in place of names, each once."""
    resolved: dict[tuple[JobKey | None, str], JobDependency] = {}
    for dependency, key in zip(given, keys, strict=True):
        entry = JobDependency(job_id=key.job_id if key is not None else None, type=dependency.type or None)
        resolved.setdefault((key, dependency.type), entry)
    return list(resolved.values())


def _merged_container(
    properties: ContainerProperties, overrides: ContainerOverrides, compat: Compat
) -> ContainerDetail:
    container = ContainerDetail()
    for field, value in properties.ListFields():
        # Every member of ContainerProperties stands in ContainerDetail by the same name.
        if field.is_repeated:
            getattr(container, field.name).extend(value)
        elif field.message_type is not None:
            getattr(container, field.name).CopyFrom(value)
        else:
            setattr(container, field.name, value)
    if overrides.command:
        container.command[:] = overrides.command
    if overrides.environment:
        # A name keeps its place: the definition's variables come first.
        merged = {variable.name: variable for variable in (*container.environment, *overrides.environment)}
        environment = [KeyValuePair(name=name, value=variable.value) for name, variable in merged.items()]
        del container.environment[:]
        container.environment.extend(environment)
    for kind, member in _LEGACY:
        if overrides.HasField(member):
            _override_legacy(container, kind, member, getattr(overrides, member), compat)
    for requirement in overrides.resource_requirements:
        _override_requirement(container, requirement)
    return container


def _override_legacy(
    container: ContainerDetail, kind: str, member: Literal["vcpus", "memory"], amount: int, compat: Compat
) -> None:
    """Apply `vcpus` or `memory` of the overrides; to a definition in the newer form too, save in the `aws` profile."""
    for requirement in container.resource_requirements:
        if requirement.type == kind:
            if compat is not Compat.AWS:
                requirement.value = str(amount)
            return
    setattr(container, member, amount)


def _override_requirement(container: ContainerDetail, override: ResourceRequirement) -> None:
    for requirement in container.resource_requirements:
        if requirement.type == override.type:
            requirement.value = override.value
            return
    for kind, member in _LEGACY:
        if kind == override.type:
            container.ClearField(member)
    container.resource_requirements.append(override)
