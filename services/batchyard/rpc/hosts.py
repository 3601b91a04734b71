"""Host names and addresses, as they stand in a `Host` header, an `Origin` or a listening address."""

import ipaddress
import re
from typing import Final

_AUTHORITY: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:/?#@\s]+))(?::[0-9]{0,5})?")
_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,252})")


def host_of(authority: str) -> str | None:
    """Return the host of `host`, `host:port` or `[address]:port` in its normal form, or None if it is none of them."""
    match = _AUTHORITY.fullmatch(authority)
    return normal(match["v6"] or match["name"]) if match else None


def normal(host: str) -> str:
    """Return a host in the one form in which hosts are compared: lower case, addresses written the short way."""
    address = _address(host)
    return host.lower().removesuffix(".") if address is None else str(address)


def is_valid(host: str) -> bool:
    """Tell whether a host in its normal form is an address or can be a name."""
    return is_address(host) or _NAME.fullmatch(host) is not None


def is_address(host: str) -> bool:
    """Tell an IP address from a name."""
    return _address(host) is not None


def is_loopback(host: str) -> bool:
    """Tell whether a host can only be this machine, whoever asks."""
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback


def is_wildcard(host: str) -> bool:
    """Tell whether listening on this address is listening on all of them."""
    address = _address(host)
    return address is not None and address.is_unspecified


def authority(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
