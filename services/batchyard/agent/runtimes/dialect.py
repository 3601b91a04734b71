"""What container engines do differently, and nothing else: Docker, or Podman in its place."""

import resource
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from batchyard.agent.launcher.processes import OUT_OF_MEMORY
from batchyard.agent.runtimes.container import RefusedError

KILLED: Final = 137
"""Exit code of what SIGKILL has ended."""

OUT_OF_MEMORY_INFERRED: Final = (
    f"{OUT_OF_MEMORY} (inferred: it was killed, by nobody here, and Podman does not tell of memory on cgroup v1)"
)

OUT_OF_MEMORY_AT_ONCE: Final = (
    f"{OUT_OF_MEMORY} (inferred: it was killed, by nobody here, before Docker had begun to watch its memory)"
)

_UNWATCHED: Final = timedelta(seconds=1)
"""How old a container may be and not be watched yet: Docker begins after the start, and on a busy host not at once."""

_ENDED: Final = ("exited", "dead", "stopped")
_USUAL_LIMITS: Final = (("nofile", resource.RLIMIT_NOFILE, 1_048_576), ("nproc", resource.RLIMIT_NPROC, 32_768))
"""What containers have unless told otherwise, as far as the host lets them: more needs a right that not all have."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a container ended."""

    exit_code: int
    out_of_memory: str = ""
    """The reason, if it was killed for its memory."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How an engine is to be spoken to."""

    is_podman: bool = False
    cgroup_version: str = "1"

    @property
    def name(self) -> str:
        """Name of the engine, for people."""
        return "podman" if self.is_podman else "docker"

    def adapted(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return what is to be created so that this engine makes the same of it; raise RefusedError if it can't."""
        if not self.is_podman:
            return config
        host = dict(config["HostConfig"])
        # It would empty the file, under whoever reads it.
        host["LogConfig"] = {"Type": host["LogConfig"]["Type"]}
        if "DeviceRequests" in host:
            raise RefusedError(
                "CannotCreateContainerError: resourceRequirements GPU: Podman leaves GPUs out without a word"
            )
        if "Ulimits" in host:
            host["Ulimits"] = _with_usual_limits(host["Ulimits"])
        if self.cgroup_version != "1":
            # There is no such thing; Docker passes it over, Podman starts nothing.
            host.pop("MemorySwappiness", None)
        return {**config, "HostConfig": host}

    def has_ended(self, state: Mapping[str, Any]) -> bool:
        """Tell whether a container that was started has ended."""
        return state["Status"] in _ENDED

    def outcome(self, state: Mapping[str, Any], *, is_killed_here: bool) -> Outcome:
        """Return how an ended container ended."""
        exit_code = int(state["ExitCode"])
        # The flag is also set when only a child was killed, and the container went on to its good end.
        if state["OOMKilled"] and exit_code != 0:
            return Outcome(exit_code, OUT_OF_MEMORY)
        if exit_code != KILLED or is_killed_here:
            return Outcome(exit_code)
        if not self.is_podman:
            return Outcome(exit_code, OUT_OF_MEMORY_AT_ONCE if _ran_for(state) < _UNWATCHED else "")
        return Outcome(exit_code, OUT_OF_MEMORY_INFERRED if self.cgroup_version == "1" else "")


def _ran_for(state: Mapping[str, Any]) -> timedelta:
    return datetime.fromisoformat(state["FinishedAt"]) - datetime.fromisoformat(state["StartedAt"])


def _with_usual_limits(ulimits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return limits that name the usual ones, too: for Podman a list replaces all of its own defaults."""
    named = {ulimit["Name"] for ulimit in ulimits}
    rest = []
    for name, number, usual in _USUAL_LIMITS:
        hard = resource.getrlimit(number)[1]
        limit = usual if hard == resource.RLIM_INFINITY else min(usual, hard)
        if name not in named:
            rest.append({"Name": name, "Soft": limit, "Hard": limit})
    return [*ulimits, *rest]
