"""Tells systemd how a service is doing, where it wants to know (Type=notify)."""

import os
import socket
from contextlib import suppress


def notify(state: str) -> None:
    """Send an assignment such as READY=1 to whoever NOTIFY_SOCKET names; do nothing if nobody does."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
