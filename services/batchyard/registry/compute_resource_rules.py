"""What the compute resources of a MANAGED environment must be like, new or changed. Pure."""

from collections.abc import Sequence
from typing import Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from batchyard.api.registry.v1.compute_environment_pb2 import (
    ComputeResource,
    ComputeResourceUpdate,
    Ec2Configuration,
    LaunchTemplateSpecification,
    LaunchTemplateSpecificationOverride,
)
from batchyard.domain.compat import Compat
from batchyard.domain.errors import InvalidRequestError

SCALE_DOWN_DELAY_MINUTES: Final = range(20, 10_081)
TEMPLATE_OVERRIDES_MAX: Final = 10
EC2_CONFIGURATIONS_MAX: Final = 2

_FARGATE_TYPES: Final = ("FARGATE", "FARGATE_SPOT")
_RESOURCE_TYPES: Final = ("EC2", "SPOT", *_FARGATE_TYPES)
_ALLOCATION_STRATEGIES: Final = (
    "BEST_FIT",
    "BEST_FIT_PROGRESSIVE",
    "SPOT_CAPACITY_OPTIMIZED",
    "SPOT_PRICE_CAPACITY_OPTIMIZED",
)
_USERDATA_TYPES: Final = ("EKS_BOOTSTRAP_SH", "EKS_NODEADM")
_FARGATE_SUBNETS_MAX: Final = 16
_FARGATE_SECURITY_GROUPS_MAX: Final = 5
_IMAGE_TEXT_LENGTH_MAX: Final = 256

# In the order of the model.
_NOT_FOR_FARGATE: Final = {
    "allocation_strategy": "allocationStrategy",
    "minv_cpus": "minvCpus",
    "desiredv_cpus": "desiredvCpus",
    "instance_types": "instanceTypes",
    "ec2_key_pair": "ec2KeyPair",
    "instance_role": "instanceRole",
    "tags": "tags",
    "placement_group": "placementGroup",
    "bid_percentage": "bidPercentage",
    "spot_iam_fleet_role": "spotIamFleetRole",
    "launch_template": "launchTemplate",
    "ec2_configuration": "ec2Configuration",
}
_OF_MANAGED_INSTANCES: Final = {
    "managed_instances_provider": "managedInstancesProvider",
    "capacity_tags": "capacityTags",
}
_ONLY_IN_UPDATES: Final = frozenset({"update_to_latest_image_version", "cleared_members"})


def is_fargate(resources: ComputeResource) -> bool:
    """Return whether jobs of such an environment run on Fargate, in AWS's terms."""
    return resources.type in _FARGATE_TYPES


def new_compute_resources(given: ComputeResource, compat: Compat) -> ComputeResource:
    """Return compute resources with their defaults; raise InvalidRequestError if they can't be."""
    _check_type(given.type)
    _refuse(given, _OF_MANAGED_INSTANCES, "is not supported by this server: ECS Managed Instances run on AWS alone.")
    resources = ComputeResource()
    resources.CopyFrom(given)
    _check(resources, compat)
    return resources


def updated_compute_resources(
    current: ComputeResource, update: ComputeResourceUpdate, compat: Compat
) -> ComputeResource:
    """Return compute resources as an update makes them; raise InvalidRequestError if they can't be so."""
    _refuse(update, _OF_MANAGED_INSTANCES, "is not supported by this server: ECS Managed Instances run on AWS alone.")
    if is_fargate(current):
        _refuse(update, _NOT_FOR_FARGATE, "is not applicable for Fargate.")
    if update.type:
        _check_type(update.type)
        _require(
            (update.type in _FARGATE_TYPES) is is_fargate(current),
            f"Compute resource type {current.type} cannot be changed to {update.type}.",
            "type",
        )
    if compat is Compat.AWS and update.HasField("desiredv_cpus"):
        _require(
            update.desiredv_cpus >= current.desiredv_cpus,
            "Manually scaling down compute environment is not supported.",
            "desiredvCpus",
        )
    resources = ComputeResource()
    resources.CopyFrom(current)
    _merge(resources, update)
    if not is_fargate(resources) and not update.HasField("desiredv_cpus"):
        # The wish follows the bounds that the caller moves.
        resources.desiredv_cpus = max(resources.minv_cpus, min(resources.desiredv_cpus, resources.maxv_cpus))
    _check(resources, compat)
    return resources


def _merge(resources: ComputeResource, update: ComputeResourceUpdate) -> None:
    """Put the members that an update has in place of the old ones; empty ones take them away."""
    # The generated type takes literal names only.
    merged: Message = resources
    for field, value in update.ListFields():
        if field.name in _ONLY_IN_UPDATES:
            continue
        merged.ClearField(field.name)
        if field.is_repeated:
            getattr(merged, field.name).MergeFrom(value)
        elif field.message_type is not None:
            if not _is_removal(value):
                getattr(merged, field.name).CopyFrom(value)
        elif value != "":
            setattr(merged, field.name, value)
    for field in _cleared(update):
        # On Fargate an empty list is as good as none, for what it must have.
        if not (is_fargate(resources) and field.name in ("subnets", "security_group_ids")):
            merged.ClearField(field.name)


def _cleared(update: ComputeResourceUpdate) -> list[FieldDescriptor]:
    fields = {field.json_name: field for field in update.DESCRIPTOR.fields if field.is_repeated}
    return [fields[name] for name in update.cleared_members if name in fields and name != "clearedMembers"]


def _is_removal(value: object) -> bool:
    """Return whether a launch template is sent to take the old one away: with an empty id or name."""
    if not isinstance(value, LaunchTemplateSpecification):
        return False
    return not value.launch_template_id and not value.launch_template_name


def _check(resources: ComputeResource, compat: Compat) -> None:
    if is_fargate(resources):
        _check_fargate(resources)
    else:
        _check_instances(resources, compat)
    if resources.HasField("scaling_policy"):
        delay = resources.scaling_policy.min_scale_down_delay_minutes
        _require(
            delay == 0 or delay in SCALE_DOWN_DELAY_MINUTES,
            "minScaleDownDelayMinutes must be 0 or between 20 and 10080.",
            "scalingPolicy.minScaleDownDelayMinutes",
        )


def _check_type(kind: str) -> None:
    _require(
        kind in _RESOURCE_TYPES,
        f"Compute resource type {kind} is not valid. Valid types: [{', '.join(_RESOURCE_TYPES)}]",
        "type",
    )


def _check_fargate(given: ComputeResource) -> None:
    _refuse(given, _NOT_FOR_FARGATE, "is not applicable for Fargate.")
    _require(given.HasField("maxv_cpus"), "Resource maxvCpus is required.", "maxvCpus")
    _require(given.maxv_cpus >= 1, "maxvCpus should be greater than or equal to 1.", "maxvCpus")
    _require(bool(given.subnets), "subnets is required.", "subnets")
    _require(
        len(given.subnets) <= _FARGATE_SUBNETS_MAX,
        f"Number of subnets must not exceed {_FARGATE_SUBNETS_MAX} for Fargate.",
        "subnets",
    )
    _require(bool(given.security_group_ids), "Security group ids are required.", "securityGroupIds")
    _require(
        len(given.security_group_ids) <= _FARGATE_SECURITY_GROUPS_MAX,
        f"Number of security group ids must not exceed {_FARGATE_SECURITY_GROUPS_MAX} for Fargate.",
        "securityGroupIds",
    )


def _check_instances(given: ComputeResource, compat: Compat) -> None:
    """Check the members that EC2 and SPOT need, in the order of the model, then how they relate."""
    _require(
        not given.HasField("allocation_strategy") or given.allocation_strategy in _ALLOCATION_STRATEGIES,
        f"Allocation strategy {given.allocation_strategy} is not valid. "
        f"Valid strategies: [{', '.join(_ALLOCATION_STRATEGIES)}]",
        "allocationStrategy",
    )
    _require(given.HasField("minv_cpus"), "Resource minvCpus is required.", "minvCpus")
    _require(given.minv_cpus >= 0, "minvCpus should be greater than or equal to 0.", "minvCpus")
    _require(given.HasField("maxv_cpus"), "Resource maxvCpus is required.", "maxvCpus")
    _require(bool(given.instance_types), "Resource instanceTypes are required.", "instanceTypes")
    _require(bool(given.subnets), "subnets is required.", "subnets")
    _require(
        bool(given.security_group_ids) or given.HasField("launch_template"),
        "Security group ids are required.",
        "securityGroupIds",
    )
    _require(bool(given.instance_role), "Instance role is required.", "instanceRole")
    _require(0 <= given.bid_percentage <= 100, "Bid percentage must be between 0 to 100.", "bidPercentage")
    if given.HasField("launch_template"):
        _check_launch_template(given.launch_template)
    _check_ec2_configuration(given.ec2_configuration)
    # The seed has the fleet role optional and knows no strategies: only who names BEST_FIT gets today's rule there.
    strategies_with_fleet_role = ("BEST_FIT",) if compat is Compat.SEED else ("BEST_FIT", "")
    _require(
        given.type != "SPOT"
        or given.allocation_strategy not in strategies_with_fleet_role
        or bool(given.spot_iam_fleet_role),
        "compute resource spotIamFleetRole is required.",
        "spotIamFleetRole",
    )
    if not given.HasField("desiredv_cpus"):
        given.desiredv_cpus = given.minv_cpus
    _require(given.maxv_cpus >= given.minv_cpus, "maxvCpus should be greater than or equal to minvCpus.", "maxvCpus")
    _require(
        given.minv_cpus <= given.desiredv_cpus <= given.maxv_cpus,
        "desiredvCpus should be between minvCpus and maxvCpus.",
        "desiredvCpus",
    )


def _check_launch_template(template: LaunchTemplateSpecification) -> None:
    _check_template_name(template, "launchTemplate")
    _require(
        len(template.overrides) <= TEMPLATE_OVERRIDES_MAX,
        f"Number of launch template overrides must not exceed {TEMPLATE_OVERRIDES_MAX}.",
        "launchTemplate.overrides",
    )
    for override in template.overrides:
        _check_template_name(override, "launchTemplate.overrides")
        _require(
            bool(override.target_instance_types),
            "targetInstanceTypes is required in a launch template override.",
            "launchTemplate.overrides.targetInstanceTypes",
        )


def _check_template_name(
    template: LaunchTemplateSpecification | LaunchTemplateSpecificationOverride, field: str
) -> None:
    _require(
        bool(template.launch_template_id) is not bool(template.launch_template_name),
        "Either launchTemplateId or launchTemplateName is required, not both.",
        field,
    )
    _require(
        not template.HasField("userdata_type") or template.userdata_type in _USERDATA_TYPES,
        f"Userdata type {template.userdata_type} is not valid. Valid types: [{', '.join(_USERDATA_TYPES)}]",
        f"{field}.userdataType",
    )


def _check_ec2_configuration(configurations: Sequence[Ec2Configuration]) -> None:
    field = "ec2Configuration"
    _require(
        len(configurations) <= EC2_CONFIGURATIONS_MAX,
        f"Number of ec2Configuration entries must not exceed {EC2_CONFIGURATIONS_MAX}.",
        field,
    )
    for configuration in configurations:
        for member, text in (
            ("imageType", configuration.image_type),
            ("imageIdOverride", configuration.image_id_override),
            ("imageKubernetesVersion", configuration.image_kubernetes_version),
        ):
            _require(
                len(text) <= _IMAGE_TEXT_LENGTH_MAX,
                f"{member} must not exceed {_IMAGE_TEXT_LENGTH_MAX} characters.",
                f"{field}.{member}",
            )


def _refuse(given: ComputeResource | ComputeResourceUpdate, members: dict[str, str], why: str) -> None:
    """Refuse the first of some members that is there."""
    present = {descriptor.name for descriptor, _ in given.ListFields()}
    for field, member in members.items():
        _require(field not in present, f"{member} {why}", member)


def _require(holds: bool, message: str, field: str) -> None:
    if not holds:
        raise InvalidRequestError(message, field=f"computeResources.{field}")
