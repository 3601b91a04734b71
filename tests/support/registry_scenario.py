"""What a registry does when it may die at any moment: creations, updates and deletions in a fixed order, in a child."""

import asyncio
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import MessageToDict, ParseDict

from batchyard.api.registry.v1 import registry_service_pb2 as api
from support.control_plane import ControlPlane, control_plane
from support.waiting import eventually

_CONTAINER: Final = {"image": "busybox", "vcpus": 1, "memory": 16, "command": ["true"]}
_ORDER: Final = [{"order": 1, "computeEnvironment": "one"}]
_DISABLED: Final = "RESOURCE_STATE_DISABLED"

OPERATIONS: Final[list[tuple[str, dict[str, Any]]]] = [
    *(
        ("CreateComputeEnvironment", {"computeEnvironmentName": name, "type": "COMPUTE_ENVIRONMENT_TYPE_UNMANAGED"})
        for name in ("one", "two")
    ),
    *(
        ("CreateJobQueue", {"jobQueueName": name, "priority": 1, "computeEnvironmentOrder": _ORDER})
        for name in ("queue", "leaving")
    ),
    ("RegisterJobDefinition", {"jobDefinitionName": "job", "type": "container", "containerProperties": _CONTAINER}),
    ("UpdateJobQueue", {"jobQueue": "queue", "priority": 7}),
    ("UpdateComputeEnvironment", {"computeEnvironment": "two", "state": _DISABLED}),
    ("RegisterJobDefinition", {"jobDefinitionName": "job", "type": "container", "containerProperties": _CONTAINER}),
    ("DeregisterJobDefinition", {"jobDefinition": "job:1"}),
    ("UpdateJobQueue", {"jobQueue": "leaving", "state": _DISABLED}),
    ("DeleteJobQueue", {"jobQueue": "leaving"}),
    ("DeleteComputeEnvironment", {"computeEnvironment": "two"}),
]

Resources = dict[str, tuple[Any, ...]]
"""State, status and more of each resource, by kind and name."""


async def operate(plane: ControlPlane, number: int) -> None:
    """Carry out an operation; it is acknowledged when this returns."""
    name, members = OPERATIONS[number]
    await getattr(plane.registry, name)(ParseDict(members, getattr(api, f"{name}Request")()))


async def resources(plane: ControlPlane) -> Resources:
    """Return all that the registry has."""
    environments = await plane.registry.DescribeComputeEnvironments(api.DescribeComputeEnvironmentsRequest())
    queues = await plane.registry.DescribeJobQueues(api.DescribeJobQueuesRequest())
    definitions = await plane.registry.DescribeJobDefinitions(api.DescribeJobDefinitionsRequest())
    found: Resources = {}
    for entry in MessageToDict(environments).get("computeEnvironments", ()):
        found[f"environment {entry['computeEnvironmentName']}"] = (entry["state"], entry["status"])
    for entry in MessageToDict(queues).get("jobQueues", ()):
        found[f"queue {entry['jobQueueName']}"] = (entry["state"], entry["status"], entry["priority"])
    for entry in MessageToDict(definitions).get("jobDefinitions", ()):
        found[f"definition {entry['jobDefinitionName']}:{entry['revision']}"] = (entry["status"],)
    return found


async def settled(plane: ControlPlane) -> Resources:
    """Return what the registry has once nothing is under way any more."""
    found: Resources = {}

    async def is_at_rest() -> bool:
        nonlocal found
        found = await resources(plane)
        return not any(str(value).endswith("ING") for values in found.values() for value in values)

    await eventually(is_at_rest, "nothing is under way")
    return found


def child(folder: Path, parent: Connection) -> None:
    """Carry out every operation once the parent says so; tell ("acknowledged", how many) after each, then ("over",)."""
    parent.send(("ready",))
    parent.recv()
    asyncio.run(_play(folder, parent))


async def _play(folder: Path, parent: Connection) -> None:
    async with control_plane(folder) as plane:
        for number in range(len(OPERATIONS)):
            await operate(plane, number)
            parent.send(("acknowledged", number + 1))
            await settled(plane)
        parent.send(("over",))
