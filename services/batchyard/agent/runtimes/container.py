"""What of a job an engine is asked to create: every member of its container properties, in the engine's words. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from batchyard.agent.logs import LOG_BYTES_MAX
from batchyard.agent.policy import Resolve, resolve
from batchyard.agent.runtimes.environment import fence_text, job_variables
from batchyard.agent.runtimes.secrets import NO_SECRETS, SecretError, Secrets
from batchyard.agent.state import Offer
from batchyard.api.common.v1.container_pb2 import Device, LinuxParameters, MountPoint, Tmpfs, Volume

MIB: Final = 1024 * 1024
LABEL: Final = "batchyard."
CPU_PERIOD_US: Final = 100_000
CPU_QUOTA_US_MIN: Final = 1000
"""Less than this no kernel takes."""

_PERMISSIONS: Final = {"READ": "r", "WRITE": "w", "MKNOD": "m"}


class RefusedError(Exception):
    """A job that can't be started; the text is AWS's form of the container's reason."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose containers they are."""

    installation: str
    agent_id: str

    def labels(self) -> dict[str, str]:
        """Return the labels that all of them carry."""
        return {f"{LABEL}installation": self.installation, f"{LABEL}agent": self.agent_id}

    def label_filters(self) -> list[str]:
        """Return what the engine finds all of them by."""
        return [f"{name}={value}" for name, value in self.labels().items()]


@dataclass(frozen=True, slots=True)
class Given:
    """What the agent adds to what a job asks for."""

    network: str | None = None
    """None: the engine's default."""
    is_cpu_limited: bool = False
    """Whether a container gets no more CPU time than its vCPUs, even while others leave theirs."""
    secrets: Secrets = NO_SECRETS
    gpus: Sequence[int] = ()
    """Numbers of the devices that are the run's own."""
    log_bytes_max: int = LOG_BYTES_MAX
    """How much of its output the engine keeps in a file; there are two."""
    resolve: Resolve = resolve
    """What turns a path of the host into the one that was looked at when it was allowed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be created for a run."""

    name: str
    """The one name that its container can have: an engine makes none twice."""
    config: dict[str, Any]
    """As the engine's API takes it."""
    volumes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Volumes that live as long as the container: their names, with their labels."""


def plan_of(offer: Offer, owner: Owner, given: Given = Given()) -> Plan:
    """Return what to create for a run; raise RefusedError for what no engine can be asked for."""
    spec, container = offer.spec, offer.spec.container
    name = container_name(offer, owner)
    labels = {**owner.labels(), f"{LABEL}job": offer.job_id, f"{LABEL}fence": fence_text(offer)}
    try:
        variables = job_variables(offer, owner.agent_id, given.secrets)
    except SecretError as error:
        raise RefusedError(str(error)) from error
    binds, volumes = _mounts(container.volumes, container.mount_points, name, given.resolve)
    host = {
        **_resources(offer, given),
        **_linux(container.linux_parameters, spec.memory_mib, given.resolve),
        "ReadonlyRootfs": container.readonly_root_filesystem,
        "Privileged": container.privileged,
        # Whatever the engine's default is: from this one the output can be read. What is copied may go.
        "LogConfig": {"Type": "json-file", "Config": {"max-size": str(given.log_bytes_max), "max-file": "2"}},
    }
    if binds:
        host["Binds"] = binds
    if given.network is not None:
        host["NetworkMode"] = given.network
    config: dict[str, Any] = {
        "Image": container.image,
        "Env": [f"{variable}={value}" for variable, value in variables.items()],
        "Labels": {**spec.container_tags, **labels, **_gpu_label(given.gpus)},
        "HostConfig": host,
    }
    if container.command:
        config["Cmd"] = list(container.command)
    if container.user:
        config["User"] = container.user
    return Plan(name, config, dict.fromkeys(volumes, labels))


def container_name(offer: Offer, owner: Owner) -> str:
    """Return the name of a run's container."""
    # Engines take no colon in a name.
    return f"by-{owner.installation}-{offer.job_id.replace(':', '.')}-{fence_text(offer)}"


def gpus_of(labels: Mapping[str, str]) -> tuple[int, ...]:
    """Return the devices of a container that carries these labels."""
    return tuple(int(number) for number in filter(None, labels.get(f"{LABEL}gpus", "").split(",")))


def _gpu_label(gpus: Sequence[int]) -> dict[str, str]:
    return {f"{LABEL}gpus": ",".join(map(str, gpus))} if gpus else {}


def _resources(offer: Offer, given: Given) -> dict[str, Any]:
    spec = offer.spec
    host: dict[str, Any] = {
        "Memory": spec.memory_mib * MIB,
        # With the memory: no swap, unless the job asks for some.
        "MemorySwap": spec.memory_mib * MIB,
        # A share, not a ceiling: 1024 a vCPU, as AWS gives.
        "CpuShares": max(2, spec.vcpus_milli * 1024 // 1000),
    }
    if given.is_cpu_limited:
        host["CpuPeriod"] = CPU_PERIOD_US
        host["CpuQuota"] = max(CPU_QUOTA_US_MIN, spec.vcpus_milli * CPU_PERIOD_US // 1000)
    if spec.container.ulimits:
        host["Ulimits"] = [
            {"Name": ulimit.name, "Soft": ulimit.soft_limit, "Hard": ulimit.hard_limit}
            for ulimit in spec.container.ulimits
        ]
    if given.gpus:
        # By number: asked for a count, an engine gives everybody the first ones.
        host["DeviceRequests"] = [{"DeviceIDs": [str(number) for number in given.gpus], "Capabilities": [["gpu"]]}]
    return host


def _linux(parameters: LinuxParameters, memory_mib: int, resolve: Resolve) -> dict[str, Any]:
    host: dict[str, Any] = {}
    if parameters.init_process_enabled:
        host["Init"] = True
    if parameters.HasField("shared_memory_size"):
        host["ShmSize"] = parameters.shared_memory_size * MIB
    if parameters.tmpfs:
        host["Tmpfs"] = {tmpfs.container_path: _tmpfs_options(tmpfs) for tmpfs in parameters.tmpfs}
    if parameters.devices:
        host["Devices"] = [_device(device, resolve) for device in parameters.devices]
    if parameters.HasField("max_swap"):
        host["MemorySwap"] = (memory_mib + parameters.max_swap) * MIB
        # AWS heeds it only beside maxSwap.
        if parameters.HasField("swappiness"):
            host["MemorySwappiness"] = parameters.swappiness
    return host


def _tmpfs_options(tmpfs: Tmpfs) -> str:
    size = [f"size={tmpfs.size}m"] if tmpfs.HasField("size") else []
    return ",".join([*size, *tmpfs.mount_options])


def _device(device: Device, resolve: Resolve) -> dict[str, str]:
    permissions = device.permissions or list(_PERMISSIONS)
    return {
        "PathOnHost": resolve(device.host_path),
        "PathInContainer": device.container_path or device.host_path,
        "CgroupPermissions": "".join(_PERMISSIONS.get(permission, "") for permission in permissions),
    }


def _mounts(
    volumes: Sequence[Volume], mount_points: Sequence[MountPoint], prefix: str, resolve: Resolve
) -> tuple[list[str], list[str]]:
    """Return the engine's words for the mount points, and the names of volumes that are the run's own."""
    by_name = {volume.name: (number, volume) for number, volume in enumerate(volumes)}
    binds: list[str] = []
    own: dict[str, None] = {}
    for mount in mount_points:
        found = by_name.get(mount.source_volume)
        if found is None:
            raise RefusedError(f"CannotCreateContainerError: mountPoints: no volume is named {mount.source_volume!r}")
        number, volume = found
        for member in ("efs_volume_configuration", "s3files_volume_configuration"):
            if volume.HasField(member):
                camel = {"efs_volume_configuration": "efsVolumeConfiguration"}.get(member, "s3filesVolumeConfiguration")
                raise RefusedError(f"CannotCreateContainerError: volumes[{volume.name}].{camel} can't be mounted here")
        if volume.host.source_path:
            source = resolve(volume.host.source_path)
        else:
            source = f"{prefix}-{number}"
            own[source] = None
        for path in (source, mount.container_path):
            if ":" in path:
                raise RefusedError(f"CannotCreateContainerError: no engine mounts a path with a colon: {path!r}")
        binds.append(f"{source}:{mount.container_path}" + (":ro" if mount.read_only else ""))
    return binds, list(own)
