"""What the nodes of a multi-node job must be like. Pure."""

import re
from typing import Final

from batchyard.api.registry.v1.job_definition_pb2 import NodeProperties, NodeRangeProperty
from batchyard.domain.errors import InvalidRequestError
from batchyard.registry.container_rules import check_consumable_resources, check_container
from batchyard.registry.task_rules import check_ecs_properties

NODES_MAX: Final = 1000
RANGES_MAX: Final = 5

_RANGE: Final = re.compile(r"(?P<first>[0-9]{0,4})(?P<colon>:?)(?P<last>[0-9]{0,4})")
_FIELD: Final = "nodeProperties"


def check_nodes(nodes: NodeProperties, *, fargate: bool) -> None:
    """Raise InvalidRequestError for the first fault."""
    if not 1 <= nodes.num_nodes <= NODES_MAX:
        raise _refused(f"Number of nodes must be between 1 and {NODES_MAX}.", "numNodes")
    if not 0 <= nodes.main_node < nodes.num_nodes:
        raise _refused("Main node index is out of range, must be less than numNodes.", "mainNode")
    if len(nodes.node_range_properties) > RANGES_MAX:
        raise _refused(f"Maximum allowed size of node range properties is {RANGES_MAX}", "nodeRangeProperties")
    covered: set[int] = set()
    for entry in nodes.node_range_properties:
        covered.update(node_range(entry.target_nodes, nodes.num_nodes))
        _check_content(entry, fargate=fargate)
    missing = sorted(set(range(nodes.num_nodes)) - covered)
    if missing:
        raise _refused(f"Node ranges must cover all nodes: there is none for node {missing[0]}.", "targetNodes")


def node_range(target_nodes: str, num_nodes: int) -> range:
    """Return the indices that `a:b`, `a:`, `:b` or `a` stands for. Raises InvalidRequestError."""
    match = _RANGE.fullmatch(target_nodes)
    if match is None or not (match["first"] or match["colon"]) or (match["last"] and not match["colon"]):
        raise _refused("targetNodes should contain only digits.", "targetNodes")
    first = int(match["first"] or 0)
    last = int(match["last"] or num_nodes - 1) if match["colon"] else first
    if not first <= last < num_nodes:
        raise _refused(f"Node range {target_nodes} is out of range, must go up and end below numNodes.", "targetNodes")
    return range(first, last + 1)


def _check_content(entry: NodeRangeProperty, *, fargate: bool) -> None:
    field = "nodeRangeProperties"
    if entry.HasField("eks_properties"):
        raise _refused("eksProperties is not supported by this server: it has no Kubernetes.", field)
    has_container, has_task = entry.HasField("container"), entry.HasField("ecs_properties")
    if not has_container and not has_task:
        raise _refused(f"Must specify container for node range {entry.target_nodes}", field)
    if has_container and has_task:
        raise _refused("Cannot use both ECS containerProperties and ecsProperties", field)
    if entry.instance_types and not has_task:
        raise _refused("instanceTypes can only be used with ecsProperties.", field)
    if len(entry.instance_types) > 1:
        raise _refused("Number of instanceTypes of a node range must not exceed 1.", field)
    if has_container:
        check_container(entry.container, fargate=fargate)
    else:
        check_ecs_properties(entry.ecs_properties, fargate=fargate)
    check_consumable_resources(entry.consumable_resource_properties.consumable_resource_list)


def _refused(message: str, member: str) -> InvalidRequestError:
    return InvalidRequestError(message, field=f"{_FIELD}.{member}")
