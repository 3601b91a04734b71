"""The access keys that may sign requests: a file in TOML, one table for each.

[keys.AKIDEXAMPLE]
secret = "…"
account = "210987654321"         # for whom it acts; default: the server's
session_token = "…"              # clients must send it too
expires = 2030-01-31T12:00:00Z   # from then on it is refused
"""

import logging
import re
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from batchyard.rpc.private_files import PrivateFileError, read_private

_ID: Final = re.compile(r"[!-+.:-<>-~0-9-]{1,128}")
"""Visible ASCII without commas, slashes and equals signs, which have a meaning in the Authorization header."""
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_SECRET_CHARACTERS_MIN: Final = 16
_LOOK_INTERVAL_S: Final = 1.0
_MEMBERS: Final = frozenset({"secret", "account", "session_token", "expires"})

_log = logging.getLogger(__name__)


class AccessKeysError(ValueError):
    """A file of access keys that cannot be used; the text lists everything that is wrong with it, and no secret."""


@dataclass(frozen=True, slots=True)
class AccessKey:
    """What signs requests, and for whom."""

    secret: str = field(repr=False)
    namespace: str | None = None
    """The account that it acts for; None: the server's."""
    session_token: str = field(default="", repr=False)
    """What clients send as X-Amz-Security-Token; empty: nothing."""
    expires: datetime | None = None


def read_access_keys(path: Path) -> Mapping[str, AccessKey]:
    """Return the keys in a file, by their id; raise AccessKeysError if it is wrong, or others may read it."""
    try:
        content = tomllib.loads(read_private(path).decode())
    except PrivateFileError as error:
        raise AccessKeysError(str(error)) from error
    except ValueError as error:
        raise AccessKeysError(f"{path} is not TOML: {error}") from error
    problems = list(_problems(content))
    if problems:
        raise AccessKeysError(f"{path}: {'; '.join(problems)}")
    return {key_id: _key_of(record) for key_id, record in content["keys"].items()}


class AccessKeyFile(Mapping[str, AccessKey]):
    """The keys that are in a file now: it is read again when it has changed, looked at once a second at most."""

    def __init__(self, path: Path, now_s: Callable[[], float] = time.monotonic) -> None:
        """Read it. Raises AccessKeysError."""
        self._path = path
        self._now_s = now_s
        self._looked_at = now_s()
        self._seen = _state_of(path)
        self._keys = read_access_keys(path)

    def __getitem__(self, key_id: str) -> AccessKey:
        return self._current()[key_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._current())

    def __len__(self) -> int:
        return len(self._current())

    def _current(self) -> Mapping[str, AccessKey]:
        if self._now_s() - self._looked_at >= _LOOK_INTERVAL_S:
            self._looked_at = self._now_s()
            state = _state_of(self._path)
            if state != self._seen:
                self._seen = state
                self._read_again()
        return self._keys

    def _read_again(self) -> None:
        try:
            self._keys = read_access_keys(self._path)
        except AccessKeysError as error:
            _log.error("the access keys stay as they were: %s", error)
        else:
            _log.info("new access keys are in use: %s", self._path)


def _state_of(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


def _key_of(record: Mapping[str, Any]) -> AccessKey:
    return AccessKey(record["secret"], record.get("account"), record.get("session_token", ""), record.get("expires"))


def _problems(content: Mapping[str, Any]) -> Iterator[str]:
    keys = content.get("keys")
    if content.keys() - {"keys"} or not isinstance(keys, dict) or not keys:
        yield "must have tables [keys.ACCESS_KEY_ID], and nothing else"
        return
    for key_id, record in keys.items():
        if not _ID.fullmatch(key_id):
            yield f"{key_id!r} is no access key id: visible ASCII characters other than , / and ="
        elif not isinstance(record, dict):
            yield f"keys.{key_id} must be a table"
        else:
            yield from (f"keys.{key_id}: {problem}" for problem in _problems_of(record))


def _problems_of(record: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(record.keys() - _MEMBERS):
        yield f"has no {name}: it may have {', '.join(sorted(_MEMBERS))}"
    secret = record.get("secret")
    if not isinstance(secret, str) or len(secret) < _SECRET_CHARACTERS_MIN:
        yield f"secret must be a text of {_SECRET_CHARACTERS_MIN} characters or more"
    account = record.get("account", "0" * 12)
    if not isinstance(account, str) or not _ACCOUNT.fullmatch(account):
        yield f"account must be a text of 12 digits, not {account!r}"
    token = record.get("session_token", "x")
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
        yield "session_token must be a text of printable ASCII characters"
    expires = record.get("expires")
    if expires is not None and not (isinstance(expires, datetime) and expires.tzinfo is not None):
        yield f"expires must be a time with its zone, as in 2030-01-31T12:00:00Z, not {expires}"
