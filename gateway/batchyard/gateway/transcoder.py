"""AWS JSON to messages and back, compiled from the message descriptors when the gateway starts.

AWS's JSON is not protobuf's: 64-bit integers are numbers, enum values are bare words (`RUNNABLE`, not
`JOB_STATUS_RUNNABLE`), some lists and maps are printed even when empty, unknown members are passed over. A descriptor
becomes a tree of closures, one per member, so that nothing is looked up in descriptors while requests are served.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

import msgspec
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from batchyard.api.common.v1 import annotations_pb2

logger = logging.getLogger(__name__)

Decode: TypeAlias = Callable[[Any], Any]
"""From a JSON value to what a message's constructor takes; raises MemberError."""
Encode: TypeAlias = Callable[[Any], Any]
"""From a field's value to a JSON value."""

_INTEGER_BITS: Final = {FieldDescriptor.CPPTYPE_INT32: 32, FieldDescriptor.CPPTYPE_INT64: 64}
_SHOWN_CHARACTERS: Final = 100
_JSON_TYPES: Final = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


class MemberError(Exception):
    """A member of a request that is not what its shape says."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self._problem = problem
        self._steps: list[str] = []

    def within(self, step: str) -> None:
        """Note that the member lies in this member or list entry; called from the inside out."""
        self._steps.append(step)

    @property
    def path(self) -> str:
        """The way to the member, such as `containerOverrides.environment[0].name`; empty for the whole request."""
        return "".join(reversed(self._steps)).removeprefix(".")

    def __str__(self) -> str:
        return f"{self.path or 'The request body'}{self._problem}"


class WrongTypeError(MemberError):
    """A JSON value of a type, or a number of a size, that the member cannot hold."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f": expected {expected}, got {got}")


class UnknownWordError(MemberError):
    """A string that is none of the words of an enum."""

    def __init__(self, word: str, legal: Iterable[str]) -> None:
        super().__init__(f" '{_clipped(word)}' is not valid. Valid values: [{', '.join(legal)}]")


def member_name(field: FieldDescriptor) -> str:
    """Return a field's name in AWS's JSON."""
    return _rules(field).aws_name or field.json_name


def words_of(enum: EnumDescriptor) -> Mapping[int, str]:
    """Return AWS's words for the values of an enum: their names without the enum's; the unspecified zero has none."""
    zero = enum.values_by_number[0].name
    prefix = zero.removesuffix("UNSPECIFIED")
    return {value.number: value.name.removeprefix(prefix) for value in enum.values if value.number != 0}


def compile_decoder(message: Descriptor) -> Callable[[object], Message]:
    """Return a function from a decoded JSON value to a message of this type.

    It raises WrongTypeError or UnknownWordError, which name the member. Null is as good as absent, save in lists.
    Numbers like 2.0 are integers.
    """
    new = GetMessageClass(message)
    fields_of = _message_decoder(message, {})

    def decode(value: object) -> Message:
        return new(**fields_of(value))

    return decode


def compile_encoder(message: Descriptor) -> Callable[[Message], bytes]:
    """Return a function from a message of this type to its JSON text."""
    members_of = _message_encoder(message, {})
    to_json = msgspec.json.Encoder().encode

    def encode(value: Message) -> bytes:
        return to_json(members_of(value))

    return encode


def _message_decoder(message: Descriptor, known: dict[str, Decode]) -> Decode:
    """Return a function from a JSON object to the fields of a message, nested messages as dicts."""
    if message.full_name in known:
        return known[message.full_name]
    members: dict[str, tuple[str, Decode]] = {}
    containers = frozenset(member_name(field) for field in message.fields if field.is_repeated)
    cleared = next((field.name for field in message.fields if _rules(field).takes_cleared), None)

    def decode(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise WrongTypeError("an object", _type_of(value))
        fields = {}
        for name, item in value.items():
            if item is None:
                continue
            member = members.get(name)
            if member is None:
                logger.debug("%s has no member %r", message.name, _clipped(name))
                continue
            field, decode_item = member
            try:
                fields[field] = decode_item(item)
            except MemberError as error:
                error.within(f".{name}")
                raise
        if cleared is not None:
            fields[cleared] = [name for name in members if name in containers and value.get(name) in ([], {})]
        return fields

    known[message.full_name] = decode
    for field in message.fields:
        if field.name != cleared:
            members[member_name(field)] = (field.name, _field_decoder(field, known))
    return decode


def _field_decoder(field: FieldDescriptor, known: dict[str, Decode]) -> Decode:
    if _is_map(field):
        return _map_decoder(_single_decoder(_map_value(field), known))
    single = _single_decoder(field, known)
    return _list_decoder(single) if field.is_repeated else single


def _list_decoder(decode_item: Decode) -> Decode:
    def decode(value: Any) -> list[Any]:
        if type(value) is not list:
            raise WrongTypeError("an array", _type_of(value))
        items: list[Any] = []
        try:
            for item in value:
                items.append(decode_item(item))  # noqa: PERF401 - the handler needs the number of the entry
        except MemberError as error:
            error.within(f"[{len(items)}]")
            raise
        return items

    return decode


def _map_decoder(decode_item: Decode) -> Decode:
    def decode(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise WrongTypeError("an object", _type_of(value))
        items = {}
        for key, item in value.items():
            if item is None:
                continue
            try:
                items[key] = decode_item(item)
            except MemberError as error:
                error.within(f".{_clipped(key)}")
                raise
        return items

    return decode


def _single_decoder(field: FieldDescriptor, known: dict[str, Decode]) -> Decode:
    if field.message_type is not None:
        return _message_decoder(field.message_type, known)
    if field.enum_type is not None:
        return _enum_decoder(field.enum_type)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return _decode_bool
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_INT64:
            return _integer_decoder(_INTEGER_BITS[field.cpp_type])
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return _decode_double
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_STRING:
            return _decode_string
        case _:
            raise _no_json_form(field)


def _enum_decoder(enum: EnumDescriptor) -> Decode:
    numbers = {word: number for number, word in words_of(enum).items()}

    def decode(value: Any) -> int:
        if type(value) is not str:
            raise WrongTypeError("a string", _type_of(value))
        number = numbers.get(value)
        if number is None:
            raise UnknownWordError(value, numbers)
        return number

    return decode


def _integer_decoder(bits: int) -> Decode:
    lowest, highest = -(1 << bits - 1), (1 << bits - 1) - 1
    expected = f"a {bits}-bit integer"

    def decode(value: Any) -> int:
        # A bool is an int to Python, but not to JSON; a number like 2.0 is an integer to JSON, but not to Python.
        if type(value) is not int:
            if type(value) is not float:
                raise WrongTypeError(expected, _type_of(value))
            if not value.is_integer():
                raise WrongTypeError(expected, str(value))
        if not lowest <= value <= highest:
            raise WrongTypeError(expected, str(value))
        return int(value)

    return decode


def _decode_double(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise WrongTypeError("a number", _type_of(value))
    try:
        return float(value)
    except OverflowError:
        raise WrongTypeError("a number of 64 bits", str(value)) from None


def _decode_bool(value: Any) -> bool:
    if type(value) is not bool:
        raise WrongTypeError("a boolean", _type_of(value))
    return value


def _decode_string(value: Any) -> str:
    if type(value) is not str:
        raise WrongTypeError("a string", _type_of(value))
    return value


def _message_encoder(message: Descriptor, known: dict[str, Encode]) -> Encode:
    """Return a function from a message to its JSON object, ready for a JSON printer."""
    if message.full_name in known:
        return known[message.full_name]
    singles: list[tuple[str, str, Encode | None]] = []
    containers: list[tuple[str, str, Encode, bool]] = []

    def encode(value: Message) -> dict[str, Any]:
        members = {}
        has = value.HasField
        for field, name, encode_item in singles:
            if has(field):
                item = getattr(value, field)
                if encode_item is not None:
                    item = encode_item(item)
                if item is not None:
                    members[name] = item
        for field, name, encode_items, always_printed in containers:
            items = getattr(value, field)
            if items or always_printed:
                members[name] = encode_items(items)
        return members

    known[message.full_name] = encode
    for field in message.fields:
        name = member_name(field)
        if field.is_repeated:
            containers.append((field.name, name, _container_encoder(field, known), _rules(field).always_printed))
        elif field.has_presence:
            singles.append((field.name, name, _single_encoder(field, known)))
        else:
            raise TypeError(f"{field.full_name} must be optional: AWS's JSON tells zero from absent")
    return encode


def _container_encoder(field: FieldDescriptor, known: dict[str, Encode]) -> Encode:
    if _is_map(field):
        encode_value = _single_encoder(_map_value(field), known)
        if encode_value is None:
            return dict
        return lambda items: {key: encode_value(item) for key, item in items.items()}
    encode_item = _single_encoder(field, known)
    if encode_item is None:
        return list
    return lambda items: [encode_item(item) for item in items]


def _single_encoder(field: FieldDescriptor, known: dict[str, Encode]) -> Encode | None:
    """Return how to print one value of a field, or None if it is its own JSON value."""
    if field.message_type is not None:
        return _message_encoder(field.message_type, known)
    if field.enum_type is not None:
        # A value without a word, of a newer service or unspecified, is not printed.
        return words_of(field.enum_type).get
    if field.cpp_type in _INTEGER_BITS:
        return None
    if field.cpp_type in (FieldDescriptor.CPPTYPE_BOOL, FieldDescriptor.CPPTYPE_DOUBLE):
        return None
    if field.type == FieldDescriptor.TYPE_STRING:
        return None
    raise _no_json_form(field)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _map_value(field: FieldDescriptor) -> FieldDescriptor:
    assert field.message_type is not None
    key, value = field.message_type.fields
    if key.type != FieldDescriptor.TYPE_STRING:
        raise _no_json_form(field)
    return value


def _rules(field: FieldDescriptor) -> annotations_pb2.FieldRules:
    return field.GetOptions().Extensions[annotations_pb2.rules]


def _no_json_form(field: FieldDescriptor) -> TypeError:
    return TypeError(f"{field.full_name} is of a type that AWS's JSON has no form for here")


def _type_of(value: object) -> str:
    return _JSON_TYPES[type(value)]


def _clipped(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
