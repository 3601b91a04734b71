"""What a gateway is told at its start."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from batchyard.domain.names import DEFAULT_NAMESPACE, DEFAULT_REGION
from batchyard.gateway.access_keys import AccessKey
from batchyard.rpc import hosts
from batchyard.rpc.tls import Tls

ACCOUNT: Final = re.compile(r"[0-9]{12}")
REGION: Final = re.compile(r"[A-Za-z0-9-]{1,63}")


class InvalidConfigError(ValueError):
    """A configuration that no gateway can start with; the text lists everything that is wrong with it."""


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Where a gateway listens and for whom. Raises InvalidConfigError when made of what cannot work."""

    host: str = "127.0.0.1"
    """Address or name to listen on, for HTTP and gRPC."""
    port: int = 8080
    """HTTP port; 0 for any free one."""
    grpc_port: int = 8081
    """Port of the public gRPC services; 0 for any free one."""
    account: str = DEFAULT_NAMESPACE
    """Namespace of callers who name none: 12 digits."""
    region: str = DEFAULT_REGION
    """Region of callers who name none."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names and addresses under which clients reach this server, without port."""
    insecure: bool = False
    """Listen beyond loopback although not everybody is asked who it is."""
    reuse_port: bool = False
    """Let another gateway listen on the same ports, so that it can take over without a gap."""
    access_keys: Mapping[str, AccessKey] | None = field(default=None, repr=False)
    """Who may sign requests, by access key id; None: signatures are parsed and not verified."""
    clock_skew_s: float = 900.0
    """How far apart the clocks of client and server may be when signatures are verified."""
    tls: Tls | None = None
    """Serve HTTPS, and gRPC to those who have a certificate; None: neither is protected."""
    deadline_s: float = 60.0
    """How long a request may take to arrive, and then to be answered."""

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise InvalidConfigError(f"the gateway cannot start: {'; '.join(problems)}")

    def _problems(self) -> Iterator[str]:
        if not hosts.is_valid(hosts.normal(self.host)):
            yield f"host {self.host!r} is neither a name nor an address"
        elif not hosts.is_loopback(hosts.normal(self.host)) and not self.insecure:
            open_doors = [
                *(("signatures are not checked without --access-keys",) if self.access_keys is None else ()),
                *(("whoever calls by gRPC is not asked for a certificate without --tls-cert",) if not self.tls else ()),
            ]
            if open_doors:
                yield (
                    f"host {self.host!r} can be reached from other machines and {', and '.join(open_doors)}, so anybody"
                    " there could run jobs here: listen on 127.0.0.1, or allow it with --insecure"
                )
        for name, port in (("port", self.port), ("grpc_port", self.grpc_port)):
            if not 0 <= port <= 65535:
                yield f"{name} {port} is not between 0 and 65535"
        if self.port == self.grpc_port != 0:
            yield f"port and grpc_port are both {self.port}"
        if not ACCOUNT.fullmatch(self.account):
            yield f"account {self.account!r} is not 12 digits"
        if not REGION.fullmatch(self.region):
            yield f"region {self.region!r} is not 1 to 63 letters, digits and hyphens"
        if self.reuse_port and 0 in (self.port, self.grpc_port):
            yield "reuse_port needs ports that are not 0"
        for host in self.allowed_hosts:
            if not hosts.is_valid(hosts.normal(host)):
                yield f"allowed host {host!r} is neither a name nor an address (without scheme and port)"
        for name, seconds in (("deadline_s", self.deadline_s), ("clock_skew_s", self.clock_skew_s)):
            if not (seconds > 0 and math.isfinite(seconds)):
                yield f"{name} {seconds} is not a positive number of seconds"
