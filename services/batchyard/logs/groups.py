"""Log groups by name or ARN, and the ARNs of groups and streams."""

import re
from typing import Final

from batchyard.domain.errors import InvalidRequestError, NotFoundError
from batchyard.domain.names import LOG_GROUP, Caller
from batchyard.storage.log_files import LogFolder

_GROUP: Final = re.compile(r"[.\-_/#A-Za-z0-9]{1,512}")
_GROUP_ARN: Final = re.compile(r"arn:aws:logs:[^:]*:(?P<account>[0-9]{12}):log-group:(?P<name>[^:*]+)(?::\*)?")


def group_arn(caller: Caller, group: str) -> str:
    """Return the ARN of a group."""
    return f"arn:aws:logs:{caller.region}:{caller.namespace}:log-group:{group}"


def stream_arn(caller: Caller, group: str, stream: str) -> str:
    """Return the ARN of a stream."""
    return f"{group_arn(caller, group)}:log-stream:{stream}"


def group_in(identifier: str, caller: Caller) -> str:
    """Return the group that a name or an ARN refers to. Raises NotFoundError for one of another account."""
    if not identifier.startswith("arn:"):
        return _checked(identifier, "logGroupIdentifier")
    match = _GROUP_ARN.fullmatch(identifier)
    if match is None:
        raise InvalidRequestError(f"{identifier} is not the ARN of a log group.", field="logGroupIdentifier")
    if match["account"] != caller.namespace:
        raise group_not_found()
    return _checked(match["name"], "logGroupIdentifier")


def requested_group(name: str, identifier: str, caller: Caller) -> str:
    """Return the group that a request is about: by name or by identifier, one of which must be given."""
    if name and identifier:
        raise InvalidRequestError("Only one of logGroupName and logGroupIdentifier may be given.", field="logGroupName")
    if identifier:
        return group_in(identifier, caller)
    return _checked(name, "logGroupName")


def group_not_found() -> NotFoundError:
    """Return the error about a group that does not exist."""
    return NotFoundError("The specified log group does not exist.")


def stream_not_found() -> NotFoundError:
    """Return the error about a stream that does not exist."""
    return NotFoundError("The specified log stream does not exist.")


def require_group(folder: LogFolder, namespace: str, group: str) -> None:
    """Raise NotFoundError unless a group exists: the usual one, or one that has streams."""
    if group != LOG_GROUP and not any(entry.group == group for entry in folder.entries(namespace)):
        raise group_not_found()


def _checked(name: str, member: str) -> str:
    if not name:
        raise InvalidRequestError("One of logGroupName and logGroupIdentifier is required.", field=member)
    if not _GROUP.fullmatch(name):
        raise InvalidRequestError(
            f"1 validation error detected: Value '{name[:100]}' at '{member}' failed to satisfy constraint: "
            r"Member must satisfy regular expression pattern: [\.\-_/#A-Za-z0-9]+",
            field=member,
        )
    return name
