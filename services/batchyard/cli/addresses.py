"""Addresses that services listen on."""

import ipaddress
from typing import Final

from batchyard.cli.errors import CannotStartError

_LOOPBACK_NAMES: Final = frozenset({"localhost", "localhost."})


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() in _LOOPBACK_NAMES


def require_loopback_or_consent(host: str, *, authenticated: bool, insecure: bool) -> None:
    """Raise CannotStartError for an address that others can reach, unless the user has said that this is meant."""
    if not (authenticated or insecure or is_loopback(host)):
        raise CannotStartError(
            f"--host {host} can be reached from other machines, and nobody is asked who it is: give certificates with "
            "--tls-cert, --tls-key and --tls-ca, or add --insecure if everybody who can reach it may use it"
        )


def address(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"
