"""Operations: JSON in, one gRPC call, JSON out."""

import re
from typing import Any, Final

import grpc.aio
import msgspec
from google.protobuf.message_factory import GetMessageClass

from batchyard.domain.names import Caller
from batchyard.gateway.asgi import Request
from batchyard.gateway.aws_errors import AwsError, aws_error_of
from batchyard.gateway.members import Members, compile_rest_members, has_body
from batchyard.gateway.routes import Route
from batchyard.gateway.transcoder import MemberError, WrongTypeError, compile_decoder, compile_encoder
from batchyard.gateway.upstreams import UnaryCall, reached
from batchyard.rpc.identity import Invocation, metadata_for, metadata_of

_SERIALIZATION_ERROR: Final = "SerializationException"

_parse = msgspec.json.Decoder().decode

_ESCAPE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)
"""An escape in JSON; `half` is one that stands for half of a character, without the other half."""


class Operation:
    """An RPC that is called with AWS's JSON."""

    def __init__(self, route: Route, channel: grpc.aio.Channel, call: UnaryCall, *, deadline_s: float) -> None:
        """Serve a route by `call`, which goes through the channel."""
        method = route.method
        self.name: Final = method.name
        self.protocol: Final = route.protocol
        self._deadline_s = deadline_s
        self._decode = compile_decoder(method.input_type)
        self._encode = compile_encoder(method.output_type)
        self._channel = channel
        self._call = call
        self._parse_response = GetMessageClass(method.output_type).FromString
        self._rest_members = compile_rest_members(route)
        self._has_body = has_body(route)

    async def call(
        self, head: Request, body: bytes, caller: Caller, _request_id: str, invocation: Invocation | None = None
    ) -> bytes:
        """Return the answer's body; raise AwsError when the request is refused, here or by its service."""
        request = self._request_of(head, body).SerializeToString()
        metadata = (*metadata_for(caller), *metadata_of(invocation))
        await reached(self._channel)
        try:
            response = await self._call(request, timeout=self._deadline_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise aws_error_of(error, self.protocol) from error
        return self._encode(self._parse_response(response))

    def _request_of(self, head: Request, body: bytes) -> Any:
        try:
            members = _parse(body) if body and self._has_body else {}
            if self._rest_members is not None and type(members) is dict:
                members |= self._members_of_head(head)
            return self._decode(members)
        except RecursionError:
            raise AwsError(400, _SERIALIZATION_ERROR, "The request body is nested too deeply.") from None
        except WrongTypeError as error:
            raise AwsError(400, _SERIALIZATION_ERROR, str(error)) from None
        except MemberError as error:
            raise AwsError(400, self.protocol.client_error, str(error)) from None
        except ValueError as error:  # bad JSON or bad UTF-8
            raise AwsError(
                400, _SERIALIZATION_ERROR, f"The request body is not JSON: {_problem(body, error)}"
            ) from None

    def _members_of_head(self, head: Request) -> Members:
        assert self._rest_members is not None
        try:
            return self._rest_members(head.path, head.query)
        except UnicodeDecodeError:
            raise AwsError(400, _SERIALIZATION_ERROR, "The path or the query is not UTF-8.") from None


def _problem(body: bytes, error: ValueError) -> str:
    """Say what is wrong with a body; the parser's own words for half a character are of something else."""
    half = next((match["half"] for match in _ESCAPE.finditer(body) if match["half"]), None)
    if half is None:
        return str(error)
    return f"{half.decode()} is half of a surrogate pair without the other half, and no character"
