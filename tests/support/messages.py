"""Random messages, and AWS's JSON as protobuf's own printer would have it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from batchyard.api.common.v1 import annotations_pb2

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
FIELDS_MAX: Final = 6


def descriptor_of(message: Message | type[Message]) -> Descriptor:
    """Return a message's descriptor; the type hints of protobuf offer two unrelated classes for it."""
    return cast("Descriptor", message.DESCRIPTOR)


def messages_of(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Return a strategy of messages of a type, with any of their fields set; enum values are those with a word."""
    return _members_of(descriptor).map(lambda members: GetMessageClass(descriptor)(**members))


@cache
def _members_of(descriptor: Descriptor) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of the members of a message, a few at a time: messages hold messages with many members."""
    names = [field.name for field in descriptor.fields if not _rules(field).takes_cleared]

    # Constructors take a oneof's members side by side, but only the last one stays.
    def chosen(names: set[str]) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries({name: _values_of(descriptor.fields_by_name[name]) for name in sorted(names)})

    return st.sets(st.sampled_from(names), max_size=FIELDS_MAX).flatmap(chosen) if names else st.just({})


def _values_of(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return st.dictionaries(TEXTS, _single_values_of(field.message_type.fields_by_name["value"]), max_size=3)
    single = _single_values_of(field)
    return st.lists(single, max_size=2) if field.is_repeated else single


def _single_values_of(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages_of(field.message_type)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values if value.number != 0])
    strategies: dict[int, st.SearchStrategy[Any]] = {
        FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
        FieldDescriptor.CPPTYPE_INT32: INT32,
        FieldDescriptor.CPPTYPE_INT64: INT64,
        FieldDescriptor.CPPTYPE_DOUBLE: DOUBLES,
        FieldDescriptor.CPPTYPE_STRING: TEXTS,
    }
    return strategies[field.cpp_type]


def aws_json_by_oracle(message: Message) -> dict[str, Any]:
    """Return what `json_format` prints for a message, changed in what AWS's JSON is different in.

    That is numbers for 64-bit integers, enum words without the enum's name, some names of members, and some lists and
    maps even when empty.
    """
    members = _changed(json_format.MessageToDict(message), descriptor_of(message), _TO_AWS)
    return _with_empty_containers(members, descriptor_of(message))


def message_by_oracle(members: dict[str, Any], descriptor: Descriptor) -> Message:
    """Return the message that `json_format` makes of AWS's JSON."""
    return json_format.ParseDict(_changed(members, descriptor, _FROM_AWS), GetMessageClass(descriptor)())


@dataclass(frozen=True)
class _Change:
    """From one JSON to the other."""

    value: Callable[[FieldDescriptor, Any], Any]
    old_name: Callable[[FieldDescriptor], str]
    new_name: Callable[[FieldDescriptor], str]


def _changed(members: dict[str, Any], descriptor: Descriptor, change: _Change) -> dict[str, Any]:
    fields = {change.old_name(field): field for field in descriptor.fields}
    return {
        change.new_name(fields[name]): _changed_value(value, fields[name], change) for name, value in members.items()
    }


def _changed_value(value: Any, field: FieldDescriptor, change: _Change) -> Any:
    if isinstance(value, list):
        return [_changed_value(item, field, change) for item in value]
    if field.message_type is None:
        return change.value(field, value)
    if field.message_type.GetOptions().map_entry:
        return {key: change.value(field.message_type.fields_by_name["value"], item) for key, item in value.items()}
    return _changed(value, field.message_type, change)


def _with_empty_containers(members: dict[str, Any], descriptor: Descriptor) -> dict[str, Any]:
    for field in descriptor.fields:
        kind, name = field.message_type, _aws_name(field)
        is_map = kind is not None and kind.GetOptions().map_entry
        if field.is_repeated and _rules(field).always_printed:
            members.setdefault(name, {} if is_map else [])
        if kind is not None and not is_map and name in members:
            nested = members[name]
            for item in nested if field.is_repeated else [nested]:
                _with_empty_containers(item, kind)
    return members


def _to_aws(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        return value.removeprefix(_prefix_of(field))
    return int(value) if field.cpp_type == FieldDescriptor.CPPTYPE_INT64 else value


def _from_aws(field: FieldDescriptor, value: Any) -> Any:
    return _prefix_of(field) + value if field.enum_type is not None else value


def _json_name(field: FieldDescriptor) -> str:
    return field.json_name


def _aws_name(field: FieldDescriptor) -> str:
    return _rules(field).aws_name or field.json_name


_TO_AWS: Final = _Change(_to_aws, _json_name, _aws_name)
_FROM_AWS: Final = _Change(_from_aws, _aws_name, _json_name)


def _rules(field: FieldDescriptor) -> annotations_pb2.FieldRules:
    return field.GetOptions().Extensions[annotations_pb2.rules]


def _prefix_of(field: FieldDescriptor) -> str:
    assert field.enum_type is not None
    return field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
