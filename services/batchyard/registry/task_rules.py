"""What the containers of a job of several must be like, together. Pure."""

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Final

from batchyard.api.registry.v1.job_definition_pb2 import ContainerProperties
from batchyard.api.registry.v1.task_properties_pb2 import EcsProperties, EcsTaskProperties, TaskContainerProperties
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.resources import Resources, reserved_resources
from batchyard.registry.container_rules import (
    check_ephemeral_storage,
    check_fargate_pair,
    check_mount_points,
    check_network,
    check_parts,
    check_platform,
    check_secrets,
    check_volumes,
)

CONTAINERS_MAX: Final = 10
TIMEOUT_S_MIN: Final = 2

_CONDITIONS: Final = ("START", "COMPLETE", "SUCCESS")
_LOG_ROUTERS: Final = ("fluentd", "fluentbit")
_IPC_MODES: Final = ("host", "task", "none")
_PID_MODES: Final = ("host", "task")
_FIELD: Final = "ecsProperties.taskProperties"


def check_ecs_properties(properties: EcsProperties, *, fargate: bool) -> None:
    """Raise InvalidRequestError for the first fault."""
    if len(properties.task_properties) != 1:
        raise InvalidRequestError(
            f"Exactly 1 taskProperties must be provided, got {len(properties.task_properties)}.", field=_FIELD
        )
    _check_task(properties.task_properties[0], fargate=fargate)


def _check_task(task: EcsTaskProperties, *, fargate: bool) -> None:
    _check_mode(task.ipc_mode, _IPC_MODES, "ipcMode")
    _check_mode(task.pid_mode, _PID_MODES, "pidMode")
    if task.HasField("network_mode"):
        raise _refused("networkMode is not applicable for EC2 and Fargate.", "networkMode")
    check_network(task.network_configuration, fargate=fargate, is_given=task.HasField("network_configuration"))
    if task.HasField("ephemeral_storage"):
        check_ephemeral_storage(task.ephemeral_storage)
    check_platform(task.runtime_platform)
    check_volumes(task.volumes)
    if len(task.containers) > CONTAINERS_MAX:
        raise _refused(f"Number of containers must be between 1 and {CONTAINERS_MAX}.", "containers")
    reserved = [_check_container(container, task) for container in task.containers]
    _check_names(task.containers)
    _check_dependencies({container.name: container for container in task.containers})
    if fargate:
        vcpus_milli = sum(resources.vcpus_milli for resources in reserved)
        gpus = sum(resources.gpus for resources in reserved)
        check_fargate_pair(Resources(vcpus_milli, sum(resources.memory_mib for resources in reserved), gpus))


def _check_container(container: TaskContainerProperties, task: EcsTaskProperties) -> Resources:
    # One of several containers has the newer form alone.
    reserved = reserved_resources(ContainerProperties(resource_requirements=container.resource_requirements))
    check_parts(container)
    check_mount_points(container.mount_points, task.volumes)
    check_secrets(container, task.execution_role_arn)
    if container.HasField("firelens_configuration") and container.firelens_configuration.type not in _LOG_ROUTERS:
        raise _refused(
            f"Log router {container.firelens_configuration.type} is not valid. "
            f"Valid log routers: [{', '.join(_LOG_ROUTERS)}]",
            "containers.firelensConfiguration.type",
        )
    for member, is_given, seconds in (
        ("startTimeout", container.HasField("start_timeout"), container.start_timeout),
        ("stopTimeout", container.HasField("stop_timeout"), container.stop_timeout),
    ):
        if is_given and seconds < TIMEOUT_S_MIN:
            raise _refused(f"{member} must be at least {TIMEOUT_S_MIN} seconds.", f"containers.{member}")
    return reserved


def _check_names(containers: Sequence[TaskContainerProperties]) -> None:
    names = [container.name for container in containers if container.name]
    if len(set(names)) < len(names):
        raise _refused("Container names must be unique in a task.", "containers.name")
    if not any(_is_essential(container) for container in containers):
        raise _refused("At least one container must be essential.", "containers.essential")


def _check_dependencies(containers: Mapping[str, TaskContainerProperties]) -> None:
    field = "containers.dependsOn"
    for container in containers.values():
        for dependency in container.depends_on:
            other = containers.get(dependency.container_name)
            if other is None:
                raise _refused(f"Container {dependency.container_name} does not exist in the task.", field)
            if dependency.condition not in _CONDITIONS:
                raise _refused(
                    f"Condition {dependency.condition} is not valid. Valid conditions: [{', '.join(_CONDITIONS)}]",
                    field,
                )
            if dependency.condition != "START" and _is_essential(other):
                raise _refused(
                    f"Condition {dependency.condition} cannot be set on the essential container "
                    f"{dependency.container_name}.",
                    field,
                )
    graph = {
        name: {dependency.container_name for dependency in container.depends_on}
        for name, container in containers.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise _refused(f"Containers depend on each other: {' -> '.join(error.args[1])}", field) from None


def _is_essential(container: TaskContainerProperties) -> bool:
    return container.essential or not container.HasField("essential")


def _check_mode(mode: str, valid: Sequence[str], member: str) -> None:
    if mode and mode not in valid:
        raise _refused(f"{member} {mode} is not valid. Valid values: [{', '.join(valid)}]", member)


def _refused(message: str, member: str) -> InvalidRequestError:
    return InvalidRequestError(message, field=f"{_FIELD}.{member}")
