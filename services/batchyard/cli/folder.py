"""The data folder: who uses it, and where what lies in it."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from batchyard.cli.errors import CannotStartError


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Names of the files that services keep. A service finds the same file whether it runs alone or in `up`."""

    root: Path

    @property
    def registry_database(self) -> Path:
        """Where the registry keeps its resources."""
        return self.root / "registry.db"

    @property
    def job_database(self) -> Path:
        """Where the job store keeps its jobs."""
        return self.root / "jobs.db"

    @property
    def logs(self) -> Path:
        """Where the logs service keeps what jobs printed."""
        return self.root / "logs"

    @property
    def agent(self) -> Path:
        """Where the local agent of `up` keeps its journal."""
        return self.root / "agent"

    @property
    def defaults_made(self) -> Path:
        """Is there once the default resources have been created: they are never created twice."""
        return self.root / "defaults-made"

    @property
    def endpoint(self) -> Path:
        """Where a running `up` says how to reach it."""
        return self.root / "endpoint.json"

    def create(self) -> None:
        """Make the folder, for its owner only: it will hold everything that jobs are told and print."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise CannotStartError(f"cannot make the data folder {self.root}: {error.strerror}") from error

    @contextmanager
    def locked(self, *services: str) -> Iterator[None]:
        """Hold these services' parts of the folder; raise CannotStartError if another process holds one of them."""
        self.create()
        with ExitStack() as held:
            for service in services:
                held.callback(os.close, _lock(self.root, service))
            yield


def _lock(root: Path, service: str) -> int:
    """Return a file descriptor that holds a service's part of the folder for as long as it is open."""
    try:
        descriptor = os.open(root / f"{service}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotStartError(f"cannot write to the data folder {root}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode().strip()
        os.close(descriptor)
        raise CannotStartError(
            f"the data folder {root} is in use: process {holder} runs its {service}. "
            "Stop that process, or name another folder with --data-dir."
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach a running `up`."""

    http: str
    grpc: str

    def write(self, path: Path) -> None:
        """Put it where `batchyard run` looks; never half of it."""
        fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        fresh.write_text(json.dumps({"http": self.http, "grpc": self.grpc}))
        fresh.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Endpoint | None":
        """Return what a running `up` wrote, or None if none does run; raise CannotStartError if it is damaged."""
        try:
            fields = json.loads(path.read_text())
            return cls(http=str(fields["http"]), grpc=str(fields["grpc"]))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CannotStartError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, LookupError, TypeError) as error:
            raise CannotStartError(
                f"{path} is damaged: start `batchyard up` on that folder again, or name a server with --endpoint"
            ) from error
