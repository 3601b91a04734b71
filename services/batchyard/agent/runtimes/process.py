"""Plain processes: turns a job's specification into what the launcher is to start.

The image is ignored. What a process can't have is refused, with the members' names as the reason.
"""

import grp
import os
import pwd
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from batchyard.agent.runtimes.environment import job_variables
from batchyard.agent.runtimes.secrets import NO_SECRETS, SecretError, Secrets
from batchyard.agent.state import Offer
from batchyard.api.common.v1.container_pb2 import Ulimit
from batchyard.api.jobs.v1.jobs_pb2 import ContainerDetail

TIMEOUT_GRACE_S: Final = 30.0
"""Between SIGTERM and SIGKILL when a job runs out of its time."""

ULIMITS: Final = frozenset(
    {
        *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"),
        *("rss", "rtprio", "rttime", "sigpending", "stack"),
    }
)

_INHERITED: Final = ("PATH", "LANG", "LC_ALL", "TZ")
_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CAP_SYS_RESOURCE: Final = 24
_FILES_MAX: Final = Path("/proc/sys/fs/nr_open")
_ID_MAX: Final = 2**31 - 1


class RefusedError(Exception):
    """A job that can't be started as it stands."""


@dataclass(frozen=True, slots=True)
class User:
    """As whom a process runs."""

    uid: int
    gid: int
    is_known: bool
    """Whether the user database knows it, and so its further groups."""
    name: str = ""
    home: str = "/"


def start_order(
    offer: Offer,
    *,
    agent_id: str,
    log: str | None,
    environ: Mapping[str, str],
    timeout_grace_s: float = TIMEOUT_GRACE_S,
    secrets: Secrets = NO_SECRETS,
) -> dict[str, Any]:
    """Return an entry of the launcher's "offers"; see `launcher.wire`. Without a log the job is refused.

    `environ` is the agent's own environment, of which a few variables are passed on.
    """
    container = offer.spec.container
    order: dict[str, Any] = {
        "fence": offer.fence,
        "need": offer.need,
        "about": offer.about,
        "argv": list(container.command),
        "log": log or os.devnull,
        "memory_mib": offer.spec.memory_mib,
    }
    if offer.spec.timeout.HasField("attempt_duration_seconds"):
        order["timeout_s"] = offer.spec.timeout.attempt_duration_seconds
        order["timeout_grace_s"] = timeout_grace_s
    user, variables = None, {}
    try:
        variables = job_variables(offer, agent_id, secrets)
        if log is None:
            raise RefusedError(f"its log can't be named {offer.log_stream_name!r}")
        _refuse_unsupported(container)
        if container.user:
            user = find_user(container.user)
            if user.uid != os.geteuid() or user.gid != os.getegid():
                order["user"] = _switch_to(user)
        if container.ulimits:
            order["rlimits"] = rlimits(container.ulimits)
    except (RefusedError, SecretError) as error:
        order["refusal"] = str(error)
    order["env"] = _base_variables(user, environ) | variables
    return order


def _refuse_unsupported(container: ContainerDetail) -> None:
    asked_for = {
        "volumes": container.volumes,
        "mountPoints": container.mount_points,
        "readonlyRootFilesystem": container.readonly_root_filesystem,
        "privileged": container.privileged,
    }
    if container.HasField("linux_parameters"):
        linux = container.linux_parameters
        asked_for |= {
            "linuxParameters.devices": linux.devices,
            "linuxParameters.tmpfs": linux.tmpfs,
            "linuxParameters.sharedMemorySize": linux.shared_memory_size,
            "linuxParameters.maxSwap": linux.max_swap,
        }
    if unsupported := [name for name, value in asked_for.items() if value]:
        raise RefusedError(f"the process runtime cannot honour {', '.join(unsupported)}")


def _base_variables(user: User | None, environ: Mapping[str, str]) -> dict[str, str]:
    variables = {name: environ[name] for name in _INHERITED if name in environ}
    variables.setdefault("PATH", _DEFAULT_PATH)
    variables["HOME"] = user.home if user is not None else environ.get("HOME", "/")
    name = user.name if user is not None else environ.get("USER", "")
    if name:
        variables["USER"] = variables["LOGNAME"] = name
    return variables


def find_user(text: str) -> User:
    """Return whom `user`, `uid`, `user:group` or `uid:gid` names; raise RefusedError for an unknown name."""
    name, _, group = text.partition(":")
    try:
        entry = pwd.getpwuid(_id(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        if not name.isdigit():
            raise RefusedError(f"unable to find user {name}: no matching entries in passwd file") from None
        user = User(_id(name), 0, is_known=False)
    else:
        user = User(entry.pw_uid, entry.pw_gid, True, entry.pw_name, entry.pw_dir)
    if not group:
        return user
    return User(user.uid, _find_group(group), False, user.name, user.home)


def _find_group(text: str) -> int:
    if text.isdigit():
        return _id(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise RefusedError(f"unable to find group {text}: no matching entries in group file") from None


def _id(digits: str) -> int:
    number = int(digits)
    if number > _ID_MAX:
        raise RefusedError(f"uids and gids must be in range 0-{_ID_MAX}")
    return number


def _switch_to(user: User) -> tuple[int, int, bool]:
    if os.geteuid() != 0:
        raise RefusedError(f"the agent runs as uid {os.geteuid()} and cannot start a process as uid {user.uid}")
    return (user.uid, user.gid, user.is_known)


def rlimits(ulimits: Sequence[Ulimit]) -> list[tuple[str, int, int]]:
    """Return the limits as the launcher sets them; raise RefusedError for one that can't be set."""
    found = []
    for ulimit in ulimits:
        name, soft, hard = ulimit.name, ulimit.soft_limit, ulimit.hard_limit
        if name not in ULIMITS:
            raise RefusedError(f"invalid ulimit type: {name}")
        if _exceeds(soft, hard):
            raise RefusedError(f"ulimit {name}: soft limit {soft} is higher than hard limit {hard}")
        if not _may_be_set(name, hard):
            raise RefusedError(f"error setting rlimit {name} to {hard}: operation not permitted")
        found.append((name, soft, hard))
    return found


def _may_be_set(name: str, hard: int) -> bool:
    number = getattr(resource, f"RLIMIT_{name.upper()}", None)
    if number is None:
        return True
    # Nobody may have more files open than this, whatever the capabilities.
    is_too_much = name == "nofile" and _exceeds(hard, int(_FILES_MAX.read_text()))
    return not is_too_much and (not _exceeds(hard, resource.getrlimit(number)[1]) or _may_raise_limits())


def _exceeds(left: int, right: int) -> bool:
    return right != resource.RLIM_INFINITY and (left == resource.RLIM_INFINITY or left > right)


def _may_raise_limits() -> bool:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return False
