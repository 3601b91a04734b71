"""The transcoder against protobuf's own JSON printer and parser, on random messages of all types sent as JSON."""

import json
import re

import msgspec
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from batchyard.gateway.routes import RouteTable
from batchyard.gateway.transcoder import MemberError, compile_decoder, compile_encoder
from batchyard.gateway.upstreams import PUBLIC_SERVICES
from support.messages import aws_json_by_oracle, message_by_oracle, messages_of

METHODS = {route.method.full_name: route.method for route in RouteTable(PUBLIC_SERVICES).routes}.values()
PUBLIC_TYPES = {kind.name: kind for method in METHODS for kind in (method.input_type, method.output_type)}
REQUESTS = {method.input_type.name: method.input_type for method in METHODS}
ENCODERS = {name: compile_encoder(kind) for name, kind in PUBLIC_TYPES.items()}
DECODERS = {name: compile_decoder(kind) for name, kind in PUBLIC_TYPES.items()}

every_public_type = pytest.mark.parametrize("kind", PUBLIC_TYPES.values(), ids=PUBLIC_TYPES)
every_request = pytest.mark.parametrize("kind", REQUESTS.values(), ids=REQUESTS)
few_examples = settings(max_examples=20)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    max_leaves=8,
)


@every_public_type
@few_examples
@given(st.data())
def test_reads_back_what_it_printed(kind: Descriptor, data: st.DataObject) -> None:
    message = data.draw(messages_of(kind))
    assert DECODERS[kind.name](msgspec.json.decode(ENCODERS[kind.name](message))) == message


@every_public_type
@few_examples
@given(st.data())
def test_prints_what_the_oracle_prints(kind: Descriptor, data: st.DataObject) -> None:
    message = data.draw(messages_of(kind))
    assert json.loads(ENCODERS[kind.name](message)) == aws_json_by_oracle(message)


@every_public_type
@few_examples
@given(st.data())
def test_reads_what_the_oracle_reads(kind: Descriptor, data: st.DataObject) -> None:
    members = aws_json_by_oracle(data.draw(messages_of(kind)))
    assert DECODERS[kind.name](members) == message_by_oracle(members, kind)


@every_request
@few_examples
@given(st.data())
def test_makes_a_message_of_any_json_or_refuses_it_by_name(kind: Descriptor, data: st.DataObject) -> None:
    members = data.draw(
        st.dictionaries(st.sampled_from([f.json_name for f in kind.fields]) | st.text(max_size=3), JSON_VALUES)
        if kind.fields
        else JSON_VALUES
    )
    try:
        outcome: object = DECODERS[kind.name](members)
    except MemberError as error:
        outcome = re.split(r"[.\[]", error.path)[0]
    assert isinstance(outcome, GetMessageClass(kind)) or outcome in {"", *(f.json_name for f in kind.fields)}
