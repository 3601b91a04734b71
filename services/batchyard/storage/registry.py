"""What the registry asks of a storage engine.

An engine keeps resources: a key, the few columns that listings and checks need, and the resource itself as bytes that
it never looks into. Every change has a revision of its own, from one counter over all namespaces that never goes back;
a resource that is deleted stays as a tombstone, so that a reader of changes learns of it, until its name is used again.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from batchyard.domain.names import ResourceKind

DELETED: Final = "DELETED"
"""The status of a tombstone."""


Use = tuple[ResourceKind, str]
"""Kind and name of a resource that a job queue of the same namespace holds on to."""


@dataclass(frozen=True, slots=True)
class ResourceKey:
    """Which resource: names are unique per kind in a namespace."""

    kind: ResourceKind
    namespace: str
    name: str
    number: int = 0
    """The revision of a job definition; 0 for other kinds."""


@dataclass(frozen=True, slots=True)
class StoredResource:
    """A resource after its last change."""

    key: ResourceKey
    status: str
    body: bytes
    """The resource as its readers get it."""
    revision: int
    """Of the last change."""
    before: bytes | None = None
    """The body to go back to, while it is not yet decided whether the last change holds."""
    created: int = 0
    """The revision at which it came to be; 0 for what is older than this number. A tombstone is of what was there."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Which resources a listing shows: those of one kind and namespace that pass every filter that is given."""

    kind: ResourceKind
    namespace: str
    references: Collection[tuple[str, int | None]] | None = None
    """Names, each with the revision of the job definition, or None for all of them. None: no such filter."""
    name: str | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a listing: by name ascending, then by number descending."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing, in its order."""

    resources: Sequence[StoredResource]
    more: bool
    """Further resources follow."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Resources in the order of their last changes."""

    resources: Sequence[StoredResource]
    revision: int
    """Everything up to it is in here, or was before."""


class RegistryReader(Protocol):
    """Reads; those of one transaction see one state."""

    def revision(self) -> int:
        """Return the newest revision, 0 before the first."""
        ...

    def find(self, key: ResourceKey) -> StoredResource | None:
        """Return a resource or its tombstone."""
        ...

    def page(self, listing: Listing, after: Place | None, limit: int) -> Page:
        """Return the next resources of a listing, without tombstones: at most `limit`, fewer if they are large."""
        ...

    def changes(
        self, kinds: Collection[ResourceKind], after_revision: int, limit: int, *, no_tombstones_until: int = 0
    ) -> Changes:
        """Return the next resources that have changed after a revision: at most `limit`, fewer if they are large.

        A resource that has changed several times is there once, as it is now. Tombstones up to a revision can be
        left out, for readers who never saw what was deleted.
        """
        ...

    def queues_using(self, namespace: str, used: Use) -> Sequence[str]:
        """Return the names of the job queues that hold on to a resource, in their order."""
        ...

    def with_status(self, kind: ResourceKind, status: str) -> Sequence[StoredResource]:
        """Return all resources of a kind in a status, over all namespaces. It looks at everything there is."""
        ...

    def undecided(self) -> Sequence[StoredResource]:
        """Return all resources with a `before`, over all namespaces."""
        ...


class RegistryWriter(RegistryReader, Protocol):
    """Reads and writes inside one transaction."""

    def put(
        self,
        key: ResourceKey,
        status: str,
        body: bytes,
        *,
        before: bytes | None = None,
        uses: Collection[Use] = (),
    ) -> StoredResource:
        """Store a resource, new or changed, under the next revision.

        `uses` are the resources that a job queue holds on to from now on.
        """
        ...

    def next_number(self, namespace: str, name: str) -> int:
        """Take the next revision of a job definition's name: 1 at first, never the same twice."""
        ...

    def reserve_revision(self) -> int:
        """Take a revision that no stored change will have."""
        ...


Command = Callable[[RegistryWriter], object]
"""Checks and changes that belong together. It raises to say that it has no effect."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: with a value, or with the error that it raised."""

    value: object = None
    error: Exception | None = None


class RegistryStore(RegistryReader, Protocol):
    """A registry's storage: synchronous, one writer."""

    def apply(self, commands: Sequence[Command], now_ms: int) -> Sequence[Outcome]:
        """Run commands in one transaction, in their order, and commit: durable on return.

        A command that raises is undone and does not touch the others. Raises the engine's error, with nothing
        changed, if the transaction as a whole fails. `now_ms` stamps the changes, for people.
        """
        ...
