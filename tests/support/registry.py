"""Requests to the registry that say only what matters to a test."""

from typing import Any

from batchyard.api.registry.v1.compute_environment_pb2 import ComputeEnvironmentType, ComputeResource
from batchyard.api.registry.v1.job_definition_pb2 import ContainerProperties
from batchyard.api.registry.v1.job_queue_pb2 import ComputeEnvironmentOrder
from batchyard.api.registry.v1.registry_service_pb2 import (
    CreateComputeEnvironmentRequest,
    CreateJobQueueRequest,
    RegisterJobDefinitionRequest,
)

MANAGED = ComputeEnvironmentType.COMPUTE_ENVIRONMENT_TYPE_MANAGED
UNMANAGED = ComputeEnvironmentType.COMPUTE_ENVIRONMENT_TYPE_UNMANAGED


def ec2_resources(**members: Any) -> ComputeResource:
    """What a MANAGED environment needs on EC2; a member that is None is left out."""
    complete: dict[str, Any] = {
        "type": "EC2",
        "minv_cpus": 0,
        "maxv_cpus": 16,
        "instance_types": ["optimal"],
        "subnets": ["subnet-1"],
        "security_group_ids": ["sg-1"],
        "instance_role": "ecsInstanceRole",
    }
    return ComputeResource(**(complete | members))


def fargate_resources(**members: Any) -> ComputeResource:
    """What a MANAGED environment needs on Fargate; a member that is None is left out."""
    complete: dict[str, Any] = {
        "type": "FARGATE",
        "maxv_cpus": 16,
        "subnets": ["subnet-1"],
        "security_group_ids": ["sg-1"],
    }
    return ComputeResource(**(complete | members))


def an_environment(name: str = "environment", **members: Any) -> CreateComputeEnvironmentRequest:
    """An UNMANAGED environment, or a MANAGED one if there are resources."""
    kind = MANAGED if "compute_resources" in members else UNMANAGED
    complete: dict[str, Any] = {"compute_environment_name": name, "type": kind}
    return CreateComputeEnvironmentRequest(**(complete | members))


def an_order(*environments: str) -> list[ComputeEnvironmentOrder]:
    """Environments in the order of their trial."""
    return [
        ComputeEnvironmentOrder(order=place, compute_environment=name)
        for place, name in enumerate(environments, start=1)
    ]


def a_queue(name: str = "queue", *environments: str, **members: Any) -> CreateJobQueueRequest:
    """A queue over environments, by default over `environment`."""
    complete: dict[str, Any] = {
        "job_queue_name": name,
        "priority": 1,
        "compute_environment_order": an_order(*(environments or ("environment",))),
    }
    return CreateJobQueueRequest(**(complete | members))


def a_container(**members: Any) -> ContainerProperties:
    """A container that may run; a member that is None is left out."""
    complete: dict[str, Any] = {"image": "busybox", "vcpus": 1, "memory": 128}
    return ContainerProperties(**(complete | members))


def a_definition(name: str = "definition", **members: Any) -> RegisterJobDefinitionRequest:
    """A definition that may run."""
    complete: dict[str, Any] = {"job_definition_name": name, "type": "container", "container_properties": a_container()}
    return RegisterJobDefinitionRequest(**(complete | members))
