"""What the owner of an agent decides of its containers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from batchyard.agent.logs import LOG_BYTES_MAX
from batchyard.agent.policy import Policy
from batchyard.agent.runtimes.process import TIMEOUT_GRACE_S
from batchyard.agent.runtimes.secrets import NO_SECRETS, Secrets

PullPolicy = Literal["missing", "always", "never"]

PULL_TIMEOUT_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class PullSettings:
    """When images are fetched."""

    policy: PullPolicy = "missing"
    """missing: those that are not on the host; always: each time, to see whether there is a newer one."""
    timeout_s: float = PULL_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """How containers are run."""

    docker_host: str | None = None
    """The engine's address; None: DOCKER_HOST, or the usual socket."""
    network: str | None = None
    """None: the engine's default."""
    installation: str = "batchyard"
    timeout_grace_s: float = TIMEOUT_GRACE_S
    """Between SIGTERM and SIGKILL when a job runs out of its time."""
    policy: Policy = field(default=Policy())
    """What of the host jobs may have. The engine's own socket is guarded in any case."""
    is_cpu_limited: bool = False
    """Whether vCPUs are a ceiling, and not only a share of what is there."""
    secrets: Secrets = NO_SECRETS
    """What jobs may have as secrets."""
    pulls: PullSettings = field(default=PullSettings())
    log_bytes_max: int = LOG_BYTES_MAX
    """How much of a container's output the engine keeps, about."""
    starter_folder: Path | None = None
    """Where the starter is that is to start the guard; None: the agent does it by itself."""
