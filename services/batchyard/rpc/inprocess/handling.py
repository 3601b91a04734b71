"""Running the handler of a call."""

import logging
from typing import Any, Final, cast

import grpc
import grpc.aio

from batchyard.rpc.inprocess.context import InProcessContext
from batchyard.rpc.inprocess.exchange import Exchange, Outcome
from batchyard.rpc.interception import Handler, behavior_of

_LOG: Final = logging.getLogger(__name__)


async def handle(handler: Handler, exchange: Exchange) -> None:
    """Run a call's handler to its end, and give the call its outcome."""
    codecs = cast("Any", handler)
    context = InProcessContext(exchange, codecs.request_deserializer, codecs.response_serializer)
    request = context.requests() if handler.request_streaming else await context.read()
    if request is grpc.aio.EOF:
        exchange.finish(Outcome(grpc.StatusCode.INTERNAL, "the call has no request message"))
        return
    try:
        context.finish(await behavior_of(handler)(request, context))
    except grpc.aio.AbortError:
        pass  # the context has given the call its outcome
    except Exception as error:
        _LOG.exception("unexpected %s raised by %s", type(error).__name__, exchange.method)
        context.fail(error)
