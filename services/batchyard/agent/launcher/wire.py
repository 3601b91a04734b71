"""What the agent and the launcher say to each other: JSON objects, one to a line, over a unix socket.

The agent sends orders, each member optional:

    {"capacity": [vCPU thousandths, MiB, GPUs], "lease": [deadline, start margin], "offers": [...], "revoke": [fence],
     "kill": [[fence, grace]], "forget": [fence], "exit": true}

The launcher says first what it is and all that it knows, then every change:

    {"protocol": 1, "instance": "9f1c...", "namespaced": true, "cgroups": "version 2: ...", "lost": [fence],
     "runs": [...]}
    {"runs": [...]}

Times are seconds of CLOCK_BOOTTIME, durations seconds; a fence is [epoch, number].
"""

from __future__ import annotations

import json
from time import CLOCK_BOOTTIME, clock_gettime

from batchyard.agent.launcher.ledger import Fence, Need, Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 1
MAX_UNREAD_BYTES = 64 * 1024 * 1024

_to_json = json.JSONEncoder(separators=(",", ":")).encode


class StartOrder:
    """How to start a process; the members of an entry of "offers" beside its fence, need and about."""

    __slots__ = ("argv", "env", "log", "memory_mib", "refusal", "rlimits", "timeout_grace_s", "timeout_s", "user")

    def __init__(
        self,
        *,
        argv: list[str],
        env: dict[str, str],
        log: str,
        user: tuple[int, int, bool] | None = None,
        rlimits: list[tuple[str, int, int]] | None = None,
        memory_mib: int = 0,
        timeout_s: float | None = None,
        timeout_grace_s: float = 30.0,
        refusal: str = "",
    ) -> None:
        self.argv = argv
        self.env = env
        self.log = log
        """File that stdout and stderr are appended to."""
        self.user = user
        """Numbers of user and group, and whether the user database knows the user's further groups."""
        self.rlimits = rlimits or []
        """Name as prlimit(1) has it, soft and hard limit; -1 means unlimited."""
        self.memory_mib = memory_mib
        """Hard limit, where the host can enforce one; 0: none."""
        self.timeout_s = timeout_s
        self.timeout_grace_s = timeout_grace_s
        self.refusal = refusal
        """Why the runtime can't start it at all; empty: it can."""


_MEMBERS = frozenset(StartOrder.__slots__)


def now() -> float:
    """Return seconds since boot, time asleep included: the clock of leases."""
    return clock_gettime(CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return the name of this run of the kernel."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def encode(message: dict[str, object]) -> bytes:
    """Return a message as a line."""
    return _to_json(message).encode() + b"\n"


def encode_run(run: Run) -> list[object]:
    """Return what the agent is told of a run."""
    return [run.fence, run.state, run.about, run.started, run.ended, run.exit_code, run.end, run.reason]


def decode_offer(offer: dict[str, Any]) -> Run:
    """Return the run that an entry of "offers" asks for. A newer agent may say more: that is passed over."""
    members = {name: value for name, value in offer.items() if name in _MEMBERS}
    return Run(decode_fence(offer["fence"]), decode_need(offer["need"]), offer["about"], StartOrder(**members))


def decode_fence(pair: list[int]) -> Fence:
    """Return a fence as the ledger has it."""
    return (pair[0], pair[1])


def decode_need(parts: list[int]) -> Need:
    """Return resources as the ledger has them."""
    return (parts[0], parts[1], parts[2])


class LineBuffer:
    """Puts received bytes together to messages."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Return the messages that are complete with these bytes."""
        if b"\n" not in data:
            self._parts.append(data)
            return []
        *lines, rest = b"".join([*self._parts, data]).split(b"\n")
        self._parts = [rest]
        return [json.loads(line) for line in lines]
