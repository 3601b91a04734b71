"""Secrets that the owner of an agent gives to jobs: by name, from the agent's environment or from files."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from batchyard.api.common.v1.container_pb2 import Secret

FORM: Final = "NAME=env:VARIABLE or NAME=file:PATH"


class SecretError(Exception):
    """A job asks for a secret that it can't have; the text is AWS's form of the container's reason, without secrets."""


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where the value of a secret is. It is read whenever a job starts, so that it may change."""

    place: str
    """Name of a variable of the agent, or path of a file."""
    is_file: bool

    def read(self) -> str:
        """Return the value, of a file without the end of its last line; raise SecretError if there is none."""
        try:
            value = Path(self.place).read_text(encoding="utf-8") if self.is_file else os.environ[self.place]
        except (KeyError, OSError, UnicodeError) as error:
            # Not the error's own text: it may quote what was read.
            raise SecretError(f"{self} can't be read ({type(error).__name__})") from error
        if "\0" in value:
            raise SecretError(f"{self} holds a NUL, which no variable can")
        return value.removesuffix("\n") if self.is_file else value

    def __str__(self) -> str:
        return f"{'file' if self.is_file else 'env'}:{self.place}"


@dataclass(frozen=True, slots=True)
class Secrets:
    """All that jobs may have, by the name that `valueFrom` gives."""

    sources: Mapping[str, SecretSource] = field(default_factory=dict)

    def variables(self, wanted: Iterable[Secret]) -> dict[str, str]:
        """Return the variables that a job asks for; raise SecretError for one that it may not or cannot have."""
        found = {}
        for secret in wanted:
            source = self.sources.get(secret.value_from)
            if source is None:
                raise SecretError(
                    f"ResourceInitializationError: this agent has no secret for {secret.name}: it takes"
                    f" --secret NAME=env:VARIABLE or NAME=file:PATH, of name {secret.value_from}"
                )
            try:
                found[secret.name] = source.read()
            except SecretError as error:
                raise SecretError(f"ResourceInitializationError: secret {secret.name}: {error}") from error
        return found


NO_SECRETS: Final = Secrets()


def parse_secrets(texts: Iterable[str]) -> Secrets:
    """Return what `NAME=env:VARIABLE` and `NAME=file:PATH` say; raise ValueError, with the text, for anything else."""
    sources: dict[str, SecretSource] = {}
    for text in texts:
        name, _, source = text.partition("=")
        kind, _, place = source.partition(":")
        if not name or not place or kind not in ("env", "file"):
            raise ValueError(f"{text!r} is not {FORM}")
        if kind == "file" and not place.startswith("/"):
            raise ValueError(f"{text!r}: the path must be absolute")
        if name in sources:
            raise ValueError(f"{name!r} is given twice")
        sources[name] = SecretSource(place, is_file=kind == "file")
    return Secrets(sources)
