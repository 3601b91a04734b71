"""Where a cluster's processes live: each on a host of its own (a network namespace), or all of them on loopback."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

Direction = Literal["both", "in", "out"]

PROBE_PATIENCE_S: Final = 30.0
_NETEM: Final = (*("delay", "30ms", "20ms"), *("loss", "4%"), *("duplicate", "2%"), *("reorder", "20%"))
_SOME: Final = ("-m", "statistic", "--mode", "random", "--probability", "0.04")
"""How much becomes of packets, each way."""
_LISTEN: Final = (
    "import socket,sys;s=socket.create_server((sys.argv[1],0));print(s.getsockname()[1],flush=True);s.accept()"
)


class NotPossibleError(Exception):
    """There can be no namespaces here; the text begins with `kernel:` where no package would help."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What a network does not let through: packets from, to, or both, of one host, with one peer or with all."""

    host: str
    direction: Direction = "both"
    peer: str | None = None

    def __str__(self) -> str:
        way = {"both": "whole", "in": "one-way, nothing in", "out": "one-way, nothing out"}[self.direction]
        return f"partition ({way}{', one pair' if self.peer else ''})"


class Network(Protocol):
    """Hosts by name."""

    description: str
    directions: Sequence[Direction]
    """What can be cut; nothing, if empty."""
    disturbance: str
    """What `disturb` does; nothing, if empty."""
    has_delays: bool
    """Whether that includes delays, duplicates and another order."""

    def address(self, host: str) -> str:
        """Return the address of a host."""
        ...

    def inside(self, host: str) -> list[str]:
        """Return the command that runs its arguments on a host."""
        ...

    def cut(self, cut: Cut) -> None:
        """Let packets through no longer."""
        ...

    def disturb(self, host: str) -> None:
        """Lose some of the packets from and to a host, and where that can be, have others come late or twice."""
        ...

    def heal(self) -> None:
        """Let everything through."""
        ...

    def close(self) -> None:
        """Take it down."""
        ...

    def leftovers(self) -> list[str]:
        """Return what is left of it after it was taken down."""
        ...


class Loopback:
    """All processes on one address; nothing can be cut."""

    directions: Sequence[Direction] = ()
    disturbance = ""
    has_delays = False

    def __init__(self, why: str) -> None:
        self.description = f"loopback only: {why}"

    def address(self, host: str) -> str:
        return "127.0.0.1"

    def inside(self, host: str) -> list[str]:
        return []

    def cut(self, cut: Cut) -> None:
        raise ValueError(f"{cut}: nothing can be cut on loopback")

    def disturb(self, host: str) -> None:
        raise ValueError(f"{host}: nothing can be disturbed on loopback")

    def heal(self) -> None:
        pass

    def close(self) -> None:
        pass

    def leftovers(self) -> list[str]:
        return []


class Namespaces:
    """A namespace for each host, joined by a bridge in another one, which this process reaches by a pair of veths.

    The bridge is not in the namespace of the machine: its packet filter has no say.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        """Build it; raise NotPossibleError, leaving nothing behind, if that cannot be done here."""
        if os.geteuid() != 0:
            raise NotPossibleError("network namespaces need root")
        if not shutil.which("ip") or not shutil.which("nsenter"):
            raise NotPossibleError("network namespaces need ip (iproute2) and nsenter (util-linux)")
        self._prefix = f"by{os.getpid():x}"
        self._hub = f"{self._prefix}-hub"
        self._net = _free_net()
        self._places = {host: place for place, host in enumerate(hosts, 10)}
        self.directions: Sequence[Direction] = ("both",)
        self.disturbance = ""
        self.has_delays = False
        try:
            self._build()
            self._probe()
            if self._filters_packets():
                self.directions = ("both", "in", "out")
            self._find_disturbance()
        except (subprocess.SubprocessError, OSError) as error:
            self.close()
            said = error.stderr.decode().strip() if isinstance(error, subprocess.CalledProcessError) else ""
            raise NotPossibleError(f"kernel: no network namespaces: {said or error}") from error
        one_way = "" if "in" in self.directions else ", without a packet filter: no one-way partitions"
        self.description = f"{len(hosts)} network namespaces on a bridge{one_way}"

    def _build(self) -> None:
        _ip("netns", "add", self._hub)
        _ip("-n", self._hub, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "bridge0", "up")
        _ip("link", "add", self._prefix, "type", "veth", "peer", "name", "root", "netns", self._hub)
        _ip("-n", self._hub, "link", "set", "root", "master", "bridge0", "up")
        _ip("addr", "add", f"{self._net}.1/24", "dev", self._prefix)
        _ip("link", "set", self._prefix, "up")
        for host, place in self._places.items():
            name = self._namespace(host)
            _ip("netns", "add", name)
            _ip("-n", self._hub, "link", "add", f"p{place}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", self._hub, "link", "set", f"p{place}", "master", "bridge0", "up")
            _ip("-n", name, "addr", "add", f"{self._net}.{place}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def _probe(self) -> None:
        """Connect once: a machine may have everything, and let nothing through."""
        host = next(iter(self._places))
        listen = [*self.inside(host), sys.executable, "-c", _LISTEN, self.address(host)]
        with subprocess.Popen(listen, stdout=subprocess.PIPE) as listener:
            try:
                assert listener.stdout is not None
                port = int(listener.stdout.readline() or -1)
                socket.create_connection((self.address(host), port), PROBE_PATIENCE_S).close()
            finally:
                listener.kill()

    def _filters_packets(self) -> bool:
        probe = [*self.inside(next(iter(self._places))), "iptables", "-w", "-A", "INPUT", "-j", "ACCEPT"]
        if not shutil.which("iptables") or subprocess.run(probe, check=False, capture_output=True).returncode != 0:
            return False
        self.heal()
        return True

    def _find_disturbance(self) -> None:
        host = next(iter(self._places))
        for has_delays, what in ((True, "packets lost, late, twice and out of order"), (False, "packets lost")):
            self.disturbance, self.has_delays = what, has_delays
            try:
                self.disturb(host)
            except (subprocess.SubprocessError, FileNotFoundError):
                self.disturbance, self.has_delays = "", False
            else:
                self.heal()
                return

    def address(self, host: str) -> str:
        return f"{self._net}.{self._places[host]}"

    def inside(self, host: str) -> list[str]:
        # Not `ip netns exec`: it hides the machine's cgroups.
        return ["nsenter", f"--net=/run/netns/{self._namespace(host)}", "--"]

    def cut(self, cut: Cut) -> None:
        if cut.direction == "both" and cut.peer is None:
            self._set_port(cut.host, "down")
            return
        if cut.direction in ("both", "in"):
            peer = ["-s", self.address(cut.peer)] if cut.peer else ["-i", "eth0"]
            self._filter(cut.host, "-A", "INPUT", *peer, "-j", "DROP")
        if cut.direction in ("both", "out"):
            peer = ["-d", self.address(cut.peer)] if cut.peer else ["-o", "eth0"]
            self._filter(cut.host, "-A", "OUTPUT", *peer, "-j", "DROP")

    def disturb(self, host: str) -> None:
        if self.has_delays:
            # What leaves the port on the bridge is what comes to the host.
            for where in (["-n", self._namespace(host)], ["-n", self._hub]):
                device = "eth0" if where[1] != self._hub else f"p{self._places[host]}"
                _tc(*where, "qdisc", "add", "dev", device, "root", "netem", *_NETEM)
        else:
            for chain in ("INPUT", "OUTPUT"):
                self._filter(host, "-A", chain, *_SOME, "-j", "DROP")

    def heal(self) -> None:
        for host, place in self._places.items():
            self._set_port(host, "up")
            if self.has_delays:
                for name, device in ((self._namespace(host), "eth0"), (self._hub, f"p{place}")):
                    with suppress(subprocess.CalledProcessError):
                        _tc("-n", name, "qdisc", "del", "dev", device, "root")
            if shutil.which("iptables"):
                self._filter(host, "-F")

    def close(self) -> None:
        # With a namespace go the ends of the pairs in it, and with them the other ends.
        for name in (*map(self._namespace, self._places), self._hub):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self._prefix], check=False, capture_output=True)

    def leftovers(self) -> list[str]:
        places = (Path("/run/netns"), Path("/sys/class/net"))
        return [str(path) for place in places for path in place.glob(f"{self._prefix}*")]

    def _set_port(self, host: str, state: str) -> None:
        _ip("-n", self._hub, "link", "set", f"p{self._places[host]}", state)

    def _filter(self, host: str, *rule: str) -> None:
        subprocess.run([*self.inside(host), "iptables", "-w", *rule], check=True, capture_output=True)

    def _namespace(self, host: str) -> str:
        return f"{self._prefix}-{host}"


def open_network(hosts: Sequence[str]) -> Network:
    """Return the best network that there can be here."""
    try:
        return Namespaces(hosts)
    except NotPossibleError as error:
        return Loopback(str(error))


def _tc(*arguments: str) -> None:
    subprocess.run(["tc", *arguments], check=True, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _free_net() -> str:
    """Return the first three numbers of a network that this machine has no route to."""
    found = subprocess.run(["ip", "-4", "-json", "route"], check=True, capture_output=True).stdout
    taken = {".".join(route["dst"].split(".")[:3]) for route in json.loads(found or b"[]")}
    return next(net for net in _nets() if net not in taken)


def _nets() -> Iterable[str]:
    while True:
        yield f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}"
