"""What of its host an agent gives to jobs: nothing, unless its owner has said so."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final

from batchyard.api.common.v1.container_pb2 import Device, Volume
from batchyard.api.jobs.v1.jobs_pb2 import ContainerDetail

ENGINE_SOCKETS: Final = (
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    f"/run/user/{os.geteuid()}/docker.sock",
    f"/run/user/{os.geteuid()}/podman/podman.sock",
)
"""Where engines usually listen. Who can speak to one of them has the whole host."""

Resolve = Callable[[str], str]
"""Returns a path without `..` and symbolic links; what does not exist stays as it is."""


def resolve(path: str) -> str:
    """Return a path without `..` and symbolic links: what was checked is what an engine must be given.

    Otherwise a job could put a link in the place of what it asks for.
    """
    return "/" + os.path.realpath(path).lstrip("/")


@dataclass(frozen=True, slots=True)
class Policy:
    """What the owner of the host has allowed."""

    allow_privileged: bool = False
    host_paths: tuple[str, ...] = ()
    """What containers may have of the host's files: these paths and all below."""
    devices: tuple[str, ...] = ()
    """What containers may have of the host's devices: these paths and all below."""
    guarded: tuple[str, ...] = ENGINE_SOCKETS
    """What an allowed path does not include, unless it is named itself: sockets of engines, folders of the agent."""

    def guarding(self, *paths: str) -> "Policy":
        """Return this policy with more paths that must be named themselves."""
        return replace(self, guarded=(*self.guarded, *paths))

    def refusal(self, container: ContainerDetail, resolve: Resolve = resolve) -> str | None:
        """Return why a job may not have what it asks for, with each member and the flag that allows it; None if it may.

        Paths are those of the file system that `resolve` looks at, which must be that of the engine.
        """
        found = [*self._privileged(container)]
        host_paths, guarded = _resolved(self.host_paths, resolve), _resolved(self.guarded, resolve)
        for volume in container.volumes:
            found += _volume(volume, host_paths, guarded, resolve)
        devices = _resolved(self.devices, resolve)
        for device in container.linux_parameters.devices:
            found += _device(device, devices, resolve)
        return "; ".join(found) or None

    def _privileged(self, container: ContainerDetail) -> Iterator[str]:
        if container.privileged and not self.allow_privileged:
            yield "privileged is not allowed on this agent (--allow-privileged)"


def _volume(
    volume: Volume, allowed: Sequence[PurePosixPath], guarded: Sequence[PurePosixPath], resolve: Resolve
) -> Iterator[str]:
    source = volume.host.source_path
    if not source:
        return
    # The path comes last: long reasons are cut.
    member = f"volumes[{volume.name}].host.sourcePath"
    if not source.startswith("/") or "\0" in source:
        yield f"{member} must be an absolute path: {source!r}"
        return
    path = PurePosixPath(resolve(source))
    if not any(path.is_relative_to(root) for root in allowed):
        yield f"{member} is not allowed on this agent (--allow-host-path): {_say(source, path)}"
    elif any(_gives_away(path, secret, allowed) for secret in guarded):
        yield (
            f"{member} holds a container engine's socket or the agent's own files, which --allow-host-path must name"
            f" themselves: {_say(source, path)}"
        )


def _gives_away(path: PurePosixPath, secret: PurePosixPath, allowed: Sequence[PurePosixPath]) -> bool:
    """Tell whether a mounted path shows a guarded one, or a part of it, that is not allowed by its own name."""
    if secret.is_relative_to(path):
        return secret not in allowed
    if path.is_relative_to(secret):
        return not any(path.is_relative_to(root) and root.is_relative_to(secret) for root in allowed)
    return False


def _device(device: Device, allowed: Sequence[PurePosixPath], resolve: Resolve) -> Iterator[str]:
    source = device.host_path
    member = "linuxParameters.devices[].hostPath"
    if not source.startswith("/") or "\0" in source:
        yield f"{member} must be an absolute path: {source!r}"
        return
    path = PurePosixPath(resolve(source))
    if not any(path.is_relative_to(root) for root in allowed):
        yield f"{member} is not allowed on this agent (--allow-device): {_say(source, path)}"


def _resolved(paths: Sequence[str], resolve: Resolve) -> list[PurePosixPath]:
    return [PurePosixPath(resolve(path)) for path in paths]


def _say(asked: str, resolved: PurePosixPath) -> str:
    return asked if asked == str(resolved) else f"{asked} (that is {resolved})"
