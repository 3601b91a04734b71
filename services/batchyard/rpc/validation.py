"""The check that the required members of a request are there, compiled once for each kind of message.

Which members are required is said in the protos, by `(batchyard.api.common.v1.rules).required`. Empty strings and
lists, and values that an enum does not have, count as missing; but not a list that a field with the rule
`takes_cleared` says was sent empty.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any, Final, TypeAlias, cast

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from batchyard.api.common.v1 import annotations_pb2
from batchyard.domain.errors import InvalidRequestError
from batchyard.rpc.interception import Behavior, CallInterceptor, Context, Method

Check: TypeAlias = Callable[[Message], str | None]
"""Returns the path of the first member that a message lacks, such as `a.b[0].c`, or None."""

_checks: Final[dict[Descriptor, Check | None]] = {}


def check_required(message: Message) -> None:
    """Raise InvalidRequestError for the first required member, in the order of declaration, that a message lacks.

    Looks into nested messages too, where they are present; but not into requests of other methods, as a batch holds
    them: each of those is judged alone by whoever acts on it.
    """
    check = check_for(cast("Descriptor", message.DESCRIPTOR))
    if check is not None:
        _raise_if_missing(check(message))


def check_for(descriptor: Descriptor) -> Check | None:
    """Return the check of a kind of message; None if nothing in it is ever required."""
    try:
        return _checks[descriptor]
    except KeyError:
        return _compile(descriptor)


class RequiredMembers(CallInterceptor):
    """Refuses requests without their required members before the service sees them."""

    def around(self, method: Method, behavior: Behavior) -> Behavior:
        """Check the requests of a method, if anything in them is required; not of one that only passes them on."""
        if not method.parses:
            return behavior
        try:
            descriptor = descriptor_pool.Default().FindMethodByName(method.path[1:].replace("/", "."))
        except KeyError:
            return behavior
        check = check_for(descriptor.input_type)
        if check is None:
            return behavior
        if method.request_streaming:

            async def checked_each(requests: Any, context: Context) -> Any:
                return await behavior(_each_checked(requests, check), context)

            return checked_each

        async def checked(request: Any, context: Context) -> Any:
            _raise_if_missing(check(request))
            return await behavior(request, context)

        return checked


async def _each_checked(requests: AsyncIterator[Message], check: Check) -> AsyncIterator[Message]:
    async for request in requests:
        _raise_if_missing(check(request))
        yield request


def _raise_if_missing(path: str | None) -> None:
    if path is not None:
        raise InvalidRequestError(f"{path.rpartition('.')[2]} is required.", field=path)


def _compile(descriptor: Descriptor) -> Check | None:
    if not _has_rules(descriptor, set()):
        _checks[descriptor] = None
        return None
    checks: list[Check] = []

    def check_all(message: Message) -> str | None:
        for check in checks:
            missing = check(message)
            if missing is not None:
                return missing
        return None

    # Known before its fields are looked at: a message may hold others of its kind.
    _checks[descriptor] = check_all
    for field in descriptor.fields:
        if _rules(field).required:
            checks.append(_presence_check(field))
        kind = _nested_kind(field)
        nested = check_for(kind) if kind is not None else None
        if nested is not None:
            checks.append(_nested_check(field, nested))
    return check_all


def _has_rules(descriptor: Descriptor, seen: set[Descriptor]) -> bool:
    if descriptor in seen:
        return False
    seen.add(descriptor)
    for field in descriptor.fields:
        kind = _nested_kind(field)
        if _rules(field).required or (kind is not None and _has_rules(kind, seen)):
            return True
    return False


def _nested_kind(field: FieldDescriptor) -> Descriptor | None:
    """Return the kind of the messages in a field that are to be checked with the one that holds them."""
    kind = field.message_type
    if kind is None or kind.GetOptions().map_entry or kind.name.endswith("Request"):
        return None
    return kind


def _rules(field: FieldDescriptor) -> annotations_pb2.FieldRules:
    return field.GetOptions().Extensions[annotations_pb2.rules]


def _member_name(field: FieldDescriptor) -> str:
    return _rules(field).aws_name or field.json_name


def _presence_check(field: FieldDescriptor) -> Check:
    name, member = field.name, _member_name(field)
    if field.enum_type is not None and not field.is_repeated:
        known = frozenset(field.enum_type.values_by_number) - {0}
        return lambda message: None if getattr(message, name) in known else member
    if field.is_repeated and (cleared := _cleared_field(field.containing_type)) is not None:
        return lambda message: None if getattr(message, name) or member in getattr(message, cleared) else member
    if field.is_repeated or field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        return lambda message: None if getattr(message, name) else member
    return lambda message: None if message.HasField(name) else member


def _cleared_field(descriptor: Descriptor | None) -> str | None:
    fields = descriptor.fields if descriptor is not None else ()
    return next((field.name for field in fields if _rules(field).takes_cleared), None)


def _nested_check(field: FieldDescriptor, check: Check) -> Check:
    name, member = field.name, _member_name(field)

    def check_one(message: Message) -> str | None:
        if not message.HasField(name):
            return None
        missing = check(getattr(message, name))
        return missing and f"{member}.{missing}"

    def check_each(message: Message) -> str | None:
        for index, item in enumerate(getattr(message, name)):
            missing = check(item)
            if missing is not None:
                return f"{member}[{index}].{missing}"
        return None

    return check_each if field.is_repeated else check_one
