"""The public gRPC port: every method of the public services is passed on to the process that owns it.

Messages pass as the bytes that came: whom they are for reads and checks them, and may be newer than the gateway. A
caller's deadline and cancellation go along, an upstream's status and details come back as they are. Of the metadata
only the caller's namespace and region pass, and what says which request this is. Trailing metadata tells the caller its
request's id, as it stands in the log.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from batchyard.domain.errors import InvalidRequestError, NotAllowedError
from batchyard.domain.names import Caller
from batchyard.gateway.aws_errors import STATUS_DETAILS_KEY
from batchyard.gateway.config import ACCOUNT, REGION, GatewayConfig
from batchyard.gateway.submissions import call_of
from batchyard.gateway.upstreams import FLEET_SERVICES, PUBLIC_SERVICES, UnaryCall, Upstreams, path_of, reached
from batchyard.rpc.identity import (
    INVOCATION_KEY,
    NAMESPACE_KEY,
    REGION_KEY,
    Invocation,
    legal_invocation_id,
    metadata_for,
    metadata_of,
)
from batchyard.rpc.log_context import request_metadata
from batchyard.rpc.peers import EVERY_CLIENT, peer_of
from batchyard.rpc.server import Service

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def public_services(config: GatewayConfig, upstreams: Upstreams, submit: UnaryCall) -> list[Service]:
    """Return the public services, ready to be served by passing their calls on; those of SubmitJob by `submit`."""
    return [_forwarding(service, upstreams.owner_of(service), config, submit) for service in PUBLIC_SERVICES]


def _forwarding(
    service: ServiceDescriptor, channel: grpc.aio.Channel, config: GatewayConfig, submit: UnaryCall
) -> Service:
    handlers = {method.name: _handler(method, channel, config, submit) for method in service.methods}
    generic = grpc.method_handlers_generic_handler(service.full_name, handlers)

    def register(server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers((generic,))

    return Service(service, register, callers=EVERY_CLIENT)


def _handler(method: MethodDescriptor, channel: grpc.aio.Channel, config: GatewayConfig, submit: UnaryCall) -> Handler:
    if method.client_streaming:
        raise TypeError(f"{method.full_name}: streams of requests are not passed on")
    if method.server_streaming:
        forward = _forward_stream(channel.unary_stream(path_of(method)), method, config)
        return grpc.unary_stream_rpc_method_handler(forward)
    call = call_of(method, channel, submit)
    return grpc.unary_unary_rpc_method_handler(_forward_unary(channel, call, method, config))


def _forward_unary(
    channel: grpc.aio.Channel,
    call: UnaryCall,
    method: MethodDescriptor,
    config: GatewayConfig,
) -> Callable[..., Any]:
    async def forward(request: Any, context: Context) -> Any:
        context.set_trailing_metadata(request_metadata())
        await reached(channel)
        remaining = context.time_remaining()
        timeout = config.deadline_s if remaining is None else min(remaining, config.deadline_s)
        try:
            return await call(request, timeout=timeout, metadata=_metadata_of(context, method, config))
        except grpc.aio.AioRpcError as error:
            await _pass_back(error, context)

    return forward


def _forward_stream(
    call: grpc.aio.UnaryStreamMultiCallable[Any, Any], method: MethodDescriptor, config: GatewayConfig
) -> Callable[..., Any]:
    async def forward(request: Any, context: Context) -> None:
        context.set_trailing_metadata(request_metadata())
        # No deadline but the caller's: a watch lasts as long as both sides live.
        responses = call(request, timeout=context.time_remaining(), metadata=_metadata_of(context, method, config))
        try:
            async for response in responses:
                await context.write(response)
        except grpc.aio.AioRpcError as error:
            await _pass_back(error, context)
        finally:
            responses.cancel()

    return forward


def _metadata_of(context: Context, method: MethodDescriptor, config: GatewayConfig) -> tuple[tuple[str, str], ...]:
    sent = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
    peer = peer_of(context)
    account = config.account if peer is None or peer.account is None else peer.account
    caller = Caller(namespace=sent.get(NAMESPACE_KEY, account), region=sent.get(REGION_KEY, config.region))
    if peer is not None and peer.account is not None:
        if peer.account != caller.namespace:
            raise NotAllowedError(f"The certificate of {peer} is for account {account} alone.", field=NAMESPACE_KEY)
        if method.containing_service.full_name in FLEET_SERVICES:
            raise NotAllowedError(f"The certificate of {peer} is for account {account}, not for the whole fleet.")
    if not ACCOUNT.fullmatch(caller.namespace):
        raise InvalidRequestError(f"{NAMESPACE_KEY} must be 12 digits", field=NAMESPACE_KEY)
    if not REGION.fullmatch(caller.region):
        raise InvalidRequestError(f"{REGION_KEY} must be 1 to 63 letters, digits and hyphens", field=REGION_KEY)
    invocation_id = legal_invocation_id(sent.get(INVOCATION_KEY))
    invocation = None if invocation_id is None else Invocation(invocation_id)
    return (*metadata_for(caller), *metadata_of(invocation))


async def _pass_back(error: grpc.aio.AioRpcError, context: Context) -> None:
    details = tuple((key, value) for key, value in error.trailing_metadata() or () if key == STATUS_DETAILS_KEY)
    await context.abort(error.code(), error.details() or "", (*details, *request_metadata()))
