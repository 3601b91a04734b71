"""Members of a request that stand in its path or its query, not in its body."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, unquote

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from batchyard.gateway.routes import Route
from batchyard.gateway.transcoder import member_name

Members: TypeAlias = dict[str, Any]
"""By AWS name, as JSON values."""

_BODILESS: Final = frozenset({"GET", "DELETE"})
"""Verbs whose requests have no body: what is not in the path is in the query."""


def compile_rest_members(route: Route) -> Callable[[str, str], Members] | None:
    """Return a function from a raw path and a raw query to the members that they hold; None if they hold none.

    It decodes what is percent-encoded, once; raises ValueError for what is not UTF-8 then.
    """
    if route.path_member is None:
        return None
    queried = _queried(route)
    prefix, path_member = route.path_prefix, route.path_member

    def members(path: str, query: str) -> Members:
        found = _in_query(query, queried) if queried else {}
        found[path_member] = unquote(path.removeprefix(prefix).removesuffix("/"), errors="strict")
        return found

    return members


def has_body(route: Route) -> bool:
    """Return whether members of a request can stand in its body."""
    return route.verb not in _BODILESS


def _queried(route: Route) -> Mapping[str, FieldDescriptor]:
    """Return the fields that are read from the query, by AWS name."""
    if has_body(route):
        return {}
    request: Descriptor = route.method.input_type
    fields = {member_name(field): field for field in request.fields if member_name(field) != route.path_member}
    for field in fields.values():
        if field.type != FieldDescriptor.TYPE_STRING:
            raise TypeError(f"{field.full_name} is of a type that a query has no form for here")
    return fields


def _in_query(query: str, fields: Mapping[str, FieldDescriptor]) -> Members:
    members: Members = {}
    for name, value in parse_qsl(query, keep_blank_values=True, errors="strict"):
        field = fields.get(name)
        if field is None:
            continue
        if field.is_repeated:
            members.setdefault(name, []).append(value)
        else:
            members[name] = value
    return members
