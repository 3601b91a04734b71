"""Who is at the other end of a connection: what its certificate says.

A certificate names its holder by one URI among its alternative names: `batchyard://service/NAME`,
`batchyard://agent/NAME` or `batchyard://client/NAME`, a client's perhaps with `?account=DIGITS`. Connections without
certificates, which are those of a process with itself, over local sockets and on loopback, have no peer: whoever can
make one is trusted.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

_SCHEME: Final = "batchyard://"
_URI: Final = re.compile(
    rf"{_SCHEME}(?P<role>service|agent|client)/(?P<name>[A-Za-z0-9_-]{{1,64}})(?:\?account=(?P<account>[0-9]{{12}}))?"
)
PEER_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_AGENT_SUFFIX: Final = re.compile(r"[A-Za-z0-9]{1,32}")
_ALTERNATIVE_NAMES: Final = "x509_subject_alternative_name"


class Role(StrEnum):
    """What the holder of a certificate is."""

    SERVICE = "service"
    """A part of the control plane."""
    AGENT = "agent"
    """A host that runs jobs."""
    CLIENT = "client"
    """Who calls the public services."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The holder of a certificate."""

    role: Role
    name: str
    account: str | None = None
    """The only account that a client may act for; None: any."""

    def __str__(self) -> str:
        return f"{self.role} {self.name}"

    @property
    def uri(self) -> str:
        """The name in its certificate."""
        return f"{_SCHEME}{self.role}/{self.name}" + (f"?account={self.account}" if self.account else "")

    def is_agent(self, agent_id: str) -> bool:
        """Tell whether it is this agent, whose id is its name, perhaps with a dot and letters and digits behind it."""
        name, dot, rest = agent_id.partition(".")
        is_own = name == self.name and (not dot or _AGENT_SUFFIX.fullmatch(rest) is not None)
        return self.role is Role.AGENT and is_own


EVERY_CLIENT: Final = frozenset({Role.SERVICE, Role.CLIENT})


def peer_in(alternative_names: Iterable[str]) -> Peer | None:
    """Return the peer that a certificate with these names is of, or None if it is not of exactly one."""
    ours = [name for name in alternative_names if name.startswith(_SCHEME)]
    match = _URI.fullmatch(ours[0]) if len(ours) == 1 else None
    if match is None or (match["account"] and match["role"] != Role.CLIENT):
        return None
    return Peer(Role(match["role"]), match["name"], match["account"])


class _Authenticated(Protocol):
    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...


def peer_of(context: _Authenticated) -> Peer | None:
    """Return who calls; None for a connection without certificates."""
    names = context.auth_context().get(_ALTERNATIVE_NAMES, ())
    return peer_in(name.decode("utf-8", "replace") for name in names)
