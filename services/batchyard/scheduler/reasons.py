"""Why the jobs of a line wait, in words.

The texts with a code are AWS's, which clients match; numbers follow them. Ordinary waiting has plain text, without
numbers that change from one moment to the next.
"""

from collections.abc import Sequence
from typing import Final

from batchyard.scheduler.ceilings import is_kept_for_others
from batchyard.scheduler.environments import Environments
from batchyard.scheduler.hosts import Hosts
from batchyard.scheduler.lines import Line
from batchyard.scheduler.model import ComputeEnvironment, ResourceKey, Resources

RESOURCE_REQUIREMENT: Final = (
    "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - The job resource requirement (vCPU/memory/GPU) is higher than that "
    "can be met by the CE(s) attached to the job queue."
)
MAX_RESOURCE: Final = (
    "MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE - CE(s) associated with the job queue cannot meet the CPU "
    "requirement of the job."
)
INVALID: Final = "ACTION_REQUIRED - CE(s) associated with the job queue are invalid."
DISABLED: Final = "ACTION_REQUIRED - CE(s) associated with the job queue are disabled."


NO_CAPACITY: Final = (
    "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - Service cannot fulfill the capacity requested for instance type"
)
_ORDINARY: Final = "Waiting"


def is_ordinary(reason: str) -> bool:
    """Tell whether jobs that wait for this reason may well be placed without anything else being done."""
    return reason.startswith(_ORDINARY)


def why_waiting(line: Line, environments: Environments, hosts: Hosts) -> str:
    """Return why the jobs of a line wait, the head of which found no room."""
    if line.queue.spec is None:
        return f"Waiting: job queue {line.queue.key.name} is not known to the scheduler."
    if environments.held_back:
        return environments.held_back
    attached = _attached(line, environments)
    usable = [environment for environment in attached if environment.usable]
    if not usable:
        return _no_usable_environment(line, attached)
    need = line.need
    large_enough = [environment for environment in usable if environment.may_ever_hold(need)]
    if not large_enough:
        ceiling = max(environment.max_vcpus_milli or 0 for environment in usable)
        return f"{MAX_RESOURCE} It asks for {_vcpus(need)}; the highest maxvCpus is {ceiling // 1000}."
    names = [environment.key.name for environment in large_enough]
    return _refused(line, names, environments) or _short_of_room(line, names, environments, hosts)


def _refused(line: Line, names: Sequence[str], environments: Environments) -> str | None:
    """Return why the job store refuses what the scheduler thinks possible, if it does so everywhere."""
    pauses = []
    for name in names:
        environment = environments.get(ResourceKey(line.queue.key.namespace, name))
        pauses.append(environment.paused.get(line.queue.key) if environment is not None else None)
    reasons = [pause.reason for pause in pauses if pause is not None]
    return f"Waiting: {'; '.join(reasons)}." if len(reasons) == len(names) else None


def _short_of_room(line: Line, names: Sequence[str], environments: Environments, hosts: Hosts) -> str:
    need = line.need
    drained = [host for name in names for host in hosts.drained_serving(name)]
    if not any(hosts.is_served(name) for name in names):
        if drained:
            return f"Waiting for an agent: those that serve {_listed(names)} are drained."
        return f"{NO_CAPACITY} [{_amount(need)}]. No agent is connected that serves {_listed(names)}."
    if not any(hosts.could_ever_serve(name, need) for name in names):
        if any(host.capacity is not None and need.fits_in(host.capacity) for host in drained):
            return f"Waiting for an agent: needs {_amount(need)}, and those that are large enough are drained."
        sizes = [size for name in names if (size := hosts.largest_serving(name)) is not None]
        largest = Resources(*(max(amounts) for amounts in zip(*sizes, strict=True)))
        return (
            f"{RESOURCE_REQUIREMENT} It asks for {_amount(need)}; the largest that agents offer is {_amount(largest)}."
        )
    if line.starving:
        return f"Waiting for room: needs {_amount(need)}, and room is being held."
    if not line.short_of_hosts:
        keys = [ResourceKey(line.queue.key.namespace, name) for name in names]
        known = [environment for key in keys if (environment := environments.get(key)) is not None]
        if any(is_kept_for_others(environment, line) for environment in known):
            return (
                f"Waiting for room: needs {_amount(need)}, and the rest of {_listed(names)} is kept for other shares."
            )
        return f"Waiting for room: needs {_amount(need)}, and {_listed(names)} is at its maxvCpus."
    return f"Waiting for room: needs {_amount(need)}."


def _attached(line: Line, environments: Environments) -> list[ComputeEnvironment]:
    found = (environments.get(ResourceKey(line.queue.key.namespace, name)) for name in line.queue.environments)
    return [environment.spec for environment in found if environment is not None and environment.spec is not None]


def _no_usable_environment(line: Line, attached: Sequence[ComputeEnvironment]) -> str:
    invalid = [environment.key.name for environment in attached if not environment.valid]
    disabled = [environment.key.name for environment in attached if environment.valid]
    known = {environment.key.name for environment in attached}
    missing = [name for name in line.queue.environments if name not in known]
    details = [
        f"{word}: {', '.join(names)}."
        for word, names in (("Invalid", invalid), ("Disabled", disabled), ("Missing", missing))
        if names
    ]
    text = DISABLED if disabled and not invalid and not missing else INVALID
    return " ".join((text, *details))


def _listed(names: Sequence[str]) -> str:
    return f"compute environment {' or '.join(names)}"


def _amount(resources: Resources) -> str:
    parts = [_vcpus(resources), f"{resources.memory_mib} MiB"]
    if resources.gpus:
        parts.append(f"{resources.gpus} GPU")
    return " and ".join((", ".join(parts[:-1]), parts[-1]))


def _vcpus(resources: Resources) -> str:
    return f"{resources.vcpus_milli / 1000:g} vCPU"
