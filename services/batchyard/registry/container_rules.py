"""What a container of a job definition must be like, in a job of one container or of several. Pure."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from batchyard.api.common.v1.container_pb2 import (
    ConsumableResourceRequirement,
    EphemeralStorage,
    LinuxParameters,
    LogConfiguration,
    MountPoint,
    NetworkConfiguration,
    RuntimePlatform,
    Secret,
    Ulimit,
    Volume,
)
from batchyard.api.registry.v1.job_definition_pb2 import ContainerProperties
from batchyard.api.registry.v1.task_properties_pb2 import TaskContainerProperties
from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.resources import Resources, check_environment, reserved_resources

ROOT_DIRECTORY_LENGTH_MAX: Final = 4096
EPHEMERAL_STORAGE_GIB: Final = range(21, 201)
CONSUMABLE_RESOURCES_MAX: Final = 5

_UNLIMITED: Final = -1
# fmt: off
_ULIMITS: Final = frozenset((
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
    "rttime", "sigpending", "stack",
))
_LOG_DRIVERS: Final = (
    "json-file", "syslog", "journald", "gelf", "fluentd", "awslogs", "splunk", "awsfirelens",
)
_AWSLOGS_OPTIONS: Final = frozenset((
    "awslogs-group", "awslogs-region", "awslogs-stream-prefix", "awslogs-datetime-format", "awslogs-multiline-pattern",
    "awslogs-create-group",
))
_OPERATING_SYSTEMS: Final = (
    "LINUX", "WINDOWS_SERVER_2019_CORE", "WINDOWS_SERVER_2019_FULL", "WINDOWS_SERVER_2022_CORE",
    "WINDOWS_SERVER_2022_FULL",
)
# fmt: on
_CPU_ARCHITECTURES: Final = ("X86_64", "ARM64")
_PERMISSIONS: Final = ("READ", "WRITE", "MKNOD")
_SWITCH: Final = ("ENABLED", "DISABLED")
_VOLUME_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
_USER: Final = re.compile(r"[a-z0-9_][a-z0-9_-]{0,30}(:[a-z0-9_][a-z0-9_-]{0,30})?")
_PORTS: Final = range(65_536)

_FARGATE_MEMORY_MIB: Final = {
    250: (512, 1024, 2048),
    500: range(1024, 4097, 1024),
    1000: range(2048, 8193, 1024),
    2000: range(4096, 16_385, 1024),
    4000: range(8192, 30_721, 1024),
    8000: range(16_384, 61_441, 4096),
    16_000: range(32_768, 122_881, 8192),
}
"""What Fargate has: memory by thousandths of a vCPU."""


def check_container(container: ContainerProperties, *, fargate: bool) -> None:
    """Check the container of a job; raise InvalidRequestError for the first fault, in the order of the model."""
    if not container.image:
        raise InvalidRequestError("ECS Container Image must be provided.", field="image")
    reserved = reserved_resources(container)
    check_volumes(container.volumes)
    check_mount_points(container.mount_points, container.volumes)
    check_parts(container)
    check_secrets(container, container.execution_role_arn)
    check_network(
        container.network_configuration, fargate=fargate, is_given=container.HasField("network_configuration")
    )
    if container.HasField("ephemeral_storage"):
        check_ephemeral_storage(container.ephemeral_storage)
    check_platform(container.runtime_platform)
    if fargate:
        for member, amount in (("vcpus", container.vcpus), ("memory", container.memory)):
            if amount:
                raise InvalidRequestError(
                    f"{member} is not applicable for Fargate. Use resource requirements instead.", field=member
                )
        check_fargate_pair(reserved)


def check_parts(container: ContainerProperties | TaskContainerProperties) -> None:
    """Check the members that the containers of every kind of job have alike."""
    check_environment(container.environment)
    _check_ulimits(container.ulimits)
    if container.user and not _USER.fullmatch(container.user):
        raise InvalidRequestError(f"User '{container.user}' does not match regex", field="user")
    _check_linux_parameters(container.linux_parameters)
    if container.HasField("log_configuration"):
        _check_log_configuration(container.log_configuration)


def check_secrets(container: ContainerProperties | TaskContainerProperties, execution_role_arn: str) -> None:
    """Check that there is a role by which secrets can be read."""
    secrets: list[Secret] = [*container.secrets, *container.log_configuration.secret_options]
    if secrets and not execution_role_arn:
        raise InvalidRequestError(
            "executionRoleArn cannot be empty when using secrets or secretOptions", field="executionRoleArn"
        )


def check_volumes(volumes: Sequence[Volume]) -> None:
    """Check data volumes."""
    for volume in volumes:
        if not _VOLUME_NAME.fullmatch(volume.name):
            raise InvalidRequestError("Volume name should match a valid pattern.", field="volumes")
        kinds = ("host", "efs_volume_configuration", "s3files_volume_configuration")
        if sum(descriptor.name in kinds for descriptor, _ in volume.ListFields()) > 1:
            raise InvalidRequestError(
                "When the volume parameter is specified, only one volume configuration type should be used.",
                field="volumes",
            )
        _check_efs(volume)
        for remote in (volume.efs_volume_configuration, volume.s3files_volume_configuration):
            if remote.transit_encryption_port not in _PORTS:
                raise InvalidRequestError("transitEncryptionPort must be between 0 and 65535.", field="volumes")
            if len(remote.root_directory) > ROOT_DIRECTORY_LENGTH_MAX:
                raise InvalidRequestError(
                    f"rootDirectory must not exceed {ROOT_DIRECTORY_LENGTH_MAX} characters.", field="volumes"
                )
    if len({volume.name for volume in volumes}) < len(volumes):
        raise InvalidRequestError("Duplicate volume names.", field="volumes")


def check_mount_points(mount_points: Iterable[MountPoint], volumes: Iterable[Volume]) -> None:
    """Check that what is mounted is there."""
    names = {volume.name for volume in volumes}
    for mount_point in mount_points:
        if not mount_point.container_path:
            raise InvalidRequestError("containerPath is required.", field="mountPoints")
        if not mount_point.source_volume:
            raise InvalidRequestError("sourceVolume is required.", field="mountPoints")
        if mount_point.source_volume not in names:
            raise InvalidRequestError(
                f"Source volume {mount_point.source_volume} of a mount point is not among the volumes.",
                field="mountPoints",
            )


def check_network(network: NetworkConfiguration, *, fargate: bool, is_given: bool) -> None:
    """Check a network configuration, which is for Fargate only."""
    if not is_given:
        return
    if not fargate:
        raise InvalidRequestError("networkConfiguration not applicable for EC2.", field="networkConfiguration")
    if network.HasField("assign_public_ip"):
        _check_word(network.assign_public_ip, _SWITCH, "assignPublicIp", "networkConfiguration")


def check_ephemeral_storage(storage: EphemeralStorage) -> None:
    """Check the size of a task's disk."""
    if storage.size_in_gi_b not in EPHEMERAL_STORAGE_GIB:
        raise InvalidRequestError("Ephemeral storage size must be between 21 and 200 GiB.", field="ephemeralStorage")


def check_platform(platform: RuntimePlatform) -> None:
    """Check what an image is made for."""
    if platform.HasField("operating_system_family"):
        _check_word(platform.operating_system_family, _OPERATING_SYSTEMS, "operatingSystemFamily", "runtimePlatform")
    if platform.HasField("cpu_architecture"):
        _check_word(platform.cpu_architecture, _CPU_ARCHITECTURES, "cpuArchitecture", "runtimePlatform")


def check_consumable_resources(requirements: Sequence[ConsumableResourceRequirement]) -> None:
    """Check what a job holds of resources that are counted."""
    field = "consumableResourceProperties"
    if len(requirements) > CONSUMABLE_RESOURCES_MAX:
        raise InvalidRequestError(
            f"Each ConsumableResourceProperty can have at most {CONSUMABLE_RESOURCES_MAX} consumableResources",
            field=field,
        )
    for requirement in requirements:
        if not requirement.consumable_resource:
            raise InvalidRequestError("consumableResource is required.", field=field)
        if requirement.quantity < 1:
            raise InvalidRequestError("quantity of a consumableResource must be at least 1.", field=field)
    if len({requirement.consumable_resource for requirement in requirements}) < len(requirements):
        raise InvalidRequestError(
            "Cannot have duplicate consumableResource in consumableResourceProperties", field=field
        )


def check_fargate_pair(reserved: Resources) -> None:
    """Check that Fargate has these vCPUs with this memory."""
    if reserved.gpus:
        raise InvalidRequestError("GPU is not applicable for Fargate.", field="resourceRequirements")
    memories = _FARGATE_MEMORY_MIB.get(reserved.vcpus_milli)
    if memories is None:
        valid = ", ".join(f"{vcpus_milli / 1000:g}" for vcpus_milli in _FARGATE_MEMORY_MIB)
        raise InvalidRequestError(
            f"vCPU {reserved.vcpus_milli / 1000:g} is not valid for Fargate. Valid values: [{valid}]",
            field="resourceRequirements",
        )
    if reserved.memory_mib not in memories:
        step = f" in steps of {memories.step}" if isinstance(memories, range) else ""
        raise InvalidRequestError(
            f"Memory {reserved.memory_mib} MiB is not valid for Fargate with {reserved.vcpus_milli / 1000:g} vCPU. "
            f"Valid are {memories[0]} to {memories[-1]} MiB{step}.",
            field="resourceRequirements",
        )


def _check_efs(volume: Volume) -> None:
    efs = volume.efs_volume_configuration
    field = "volumes.efsVolumeConfiguration"
    if efs.HasField("transit_encryption"):
        _check_word(efs.transit_encryption, _SWITCH, "transitEncryption", field)
    if efs.authorization_config.HasField("iam"):
        _check_word(efs.authorization_config.iam, _SWITCH, "iam", field)
    if efs.authorization_config.iam == "ENABLED" and efs.transit_encryption != "ENABLED":
        raise InvalidRequestError("transitEncryption must be ENABLED when iam is ENABLED.", field=field)


def _check_ulimits(ulimits: Iterable[Ulimit]) -> None:
    for ulimit in ulimits:
        if ulimit.name not in _ULIMITS:
            raise InvalidRequestError(
                f"Ulimit name {ulimit.name} is not valid. Valid names: [{', '.join(sorted(_ULIMITS))}]",
                field="ulimits",
            )
        if ulimit.hard_limit != _UNLIMITED and not 0 <= ulimit.soft_limit <= ulimit.hard_limit:
            raise InvalidRequestError("Ulimit softLimit must be between 0 and hardLimit.", field="ulimits")


def _check_linux_parameters(parameters: LinuxParameters) -> None:
    field = "linuxParameters"
    for device in parameters.devices:
        for permission in device.permissions:
            _check_word(permission, _PERMISSIONS, "permissions", f"{field}.devices")
    if parameters.shared_memory_size < 0:
        raise InvalidRequestError(
            f"Invalid shared memory size: {parameters.shared_memory_size}, must be non-negative.",
            field=f"{field}.sharedMemorySize",
        )
    for tmpfs in parameters.tmpfs:
        if tmpfs.size <= 0:
            raise InvalidRequestError(
                "Size of a tmpfs is invalid. The size is required and must be a positive integer.",
                field=f"{field}.tmpfs.size",
            )
    if parameters.max_swap < 0:
        raise InvalidRequestError(
            f"Invalid swap memory size: {parameters.max_swap}, must be non-negative.", field=f"{field}.maxSwap"
        )
    if not 0 <= parameters.swappiness <= 100:
        raise InvalidRequestError(
            f"Invalid swappiness: {parameters.swappiness}, must be between 0 and 100.", field=f"{field}.swappiness"
        )
    if parameters.HasField("max_swap") and not parameters.HasField("swappiness"):
        raise InvalidRequestError(
            "When container specified swap memory, swappiness value is required.", field=f"{field}.swappiness"
        )


def _check_log_configuration(configuration: LogConfiguration) -> None:
    _check_word(configuration.log_driver, _LOG_DRIVERS, "logDriver", "logConfiguration")
    strange = sorted(set(configuration.options) - _AWSLOGS_OPTIONS)
    if configuration.log_driver == "awslogs" and strange:
        raise InvalidRequestError(
            f"Log driver awslogs disallows options: {', '.join(strange)}", field="logConfiguration.options"
        )


def _check_word(word: str, valid: Sequence[str], member: str, within: str) -> None:
    if word not in valid:
        raise InvalidRequestError(
            f"{member} {word} is not valid. Valid values: [{', '.join(valid)}]", field=f"{within}.{member}"
        )
