"""Keeping web pages out: even on loopback a browser is not a client.

Any page that a user of this machine looks at can send requests to its ports. Three rules stop them, for every
operation, also those that only read:

- The `Host` must be ours. A page whose name was pointed at this machine (DNS rebinding) still sends its own name.
- An `Origin`, which browsers add and AWS clients do not, must be the server's own.
- There must be an Authorization header (see `identity`), which a page of another origin may send only after a
  preflight request; and preflights are never granted.

Health and metrics are free of them: probes and scrapers come by whatever name they like, and change nothing.
"""

from functools import lru_cache
from typing import Final

from batchyard.gateway.aws_errors import AwsError
from batchyard.gateway.config import GatewayConfig
from batchyard.rpc import hosts

_AUTHORITY_CHARACTERS_MAX: Final = 260
"""What a name and a port can take."""
_REMEMBERED_HOSTS: Final = 256


class BrowserRules:
    """The rules for Host and Origin on one server."""

    def __init__(self, config: GatewayConfig) -> None:
        self._names = frozenset(hosts.normal(host) for host in (config.host, *config.allowed_hosts))
        # To be reached by any address of the machine is what listening on all of them means, and rebinding needs a
        # name: a page that was loaded from an address is of that very origin.
        self._any_address = hosts.is_wildcard(hosts.normal(config.host))
        # Clients send the same few over and over.
        self._is_ours = lru_cache(_REMEMBERED_HOSTS)(self._decide)

    def check(self, host: str | None, origin: str | None) -> None:
        """Raise AwsError unless a request with these headers may come from a client or a page of our own."""
        if host is None or len(host) > _AUTHORITY_CHARACTERS_MAX or not self._is_ours(host):
            shown = "" if host is None else f" {host[:100]!r}"
            raise _denied(
                f"The Host{shown} is not a name of this server. Start it with --allowed-host to allow a name."
            )
        if origin is not None and origin.lower() not in {f"http://{host.lower()}", f"https://{host.lower()}"}:
            raise _denied("Web pages of another origin may not use this server.")

    def _decide(self, authority: str) -> bool:
        host = hosts.host_of(authority)
        if host is None:
            return False
        return host in self._names or hosts.is_loopback(host) or (self._any_address and hosts.is_address(host))


def _denied(message: str) -> AwsError:
    return AwsError(403, "AccessDeniedException", message)
