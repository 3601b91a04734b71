"""Certificates of an authority that lives for one test run."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from batchyard.rpc.authority import KeyPair, create_authority, issue
from batchyard.rpc.peers import Peer, Role
from batchyard.rpc.tls import Tls, TlsFiles

HOSTS: Final = ("localhost", "127.0.0.1")
A_DAY: Final = timedelta(days=1)


def put(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put a file in the place of another: by another inode, as times of files are too coarse for a quick test."""
    fresh = path.with_name(f"{path.name}.fresh")
    fresh.write_bytes(content)
    fresh.chmod(mode)
    fresh.replace(path)


def an_authority(name: str = "tests") -> KeyPair:
    return create_authority(name, datetime.now(UTC), 60 * A_DAY)


@dataclass
class Certificates:
    """Makes certificates in a folder."""

    folder: Path
    authority: KeyPair = field(default_factory=an_authority)

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        path = self.folder / "ca.pem"
        if not path.exists():
            path.write_bytes(self.authority.cert)
        return path

    def pair(self, peer: Peer, *, authority: KeyPair | None = None, valid: timedelta = 30 * A_DAY) -> KeyPair:
        """Return a new certificate of a peer."""
        return issue(authority or self.authority, peer, HOSTS, datetime.now(UTC), valid)

    def files(self, peer: Peer, pair: KeyPair | None = None) -> TlsFiles:
        """Return files of a peer, with a new certificate unless one is given."""
        pair = pair or self.pair(peer)
        name = f"{peer.role}-{peer.name}"
        files = TlsFiles(self.folder / f"{name}.pem", self.folder / f"{name}.key", self.ca)
        put(files.cert, pair.cert)
        put(files.key, pair.key, 0o600)
        return files

    def tls(self, role: Role, name: str, account: str | None = None) -> Tls:
        """Return what a peer uses."""
        return Tls(self.files(Peer(role, name, account)))
