"""The server's half of a call, in the shape that `grpc.aio` gives it."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, NoReturn, cast

import grpc
import grpc.aio
from grpc.aio import AbortError, UsageError

from batchyard.rpc.inprocess.exchange import Exchange, MetadataItems, Outcome, checked_metadata

PEER: Final = "in-process:"


class InProcessContext(grpc.aio.ServicerContext[Any, Any]):
    """What a handler is told of its call, and may say about it."""

    def __init__(
        self,
        exchange: Exchange,
        deserialize: Callable[[bytes], Any] | None,
        serialize: Callable[[Any], bytes] | None,
    ) -> None:
        self._exchange = exchange
        self._deserialize = deserialize
        self._serialize = serialize
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing_metadata: MetadataItems = ()
        self._aborted = False

    async def read(self) -> Any:
        """Return the next request, or EOF after the last."""
        message = self._exchange.requests.take()
        if message is None and (message := await self._exchange.requests.read()) is None:
            return grpc.aio.EOF
        return message if self._deserialize is None else self._deserialize(message)

    async def requests(self) -> AsyncIterator[Any]:
        """Iterate over the requests of a stream."""
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    async def write(self, message: Any) -> None:
        """Send a response when there is room for it."""
        if self._exchange.outcome is not None:
            raise UsageError("RPC already finished.")
        self._open_response()
        await self._exchange.send_response(self._serialized(message))

    def finish(self, response: Any) -> None:
        """End the call as its handler left it; `response` is that of a unary one, else None."""
        self._open_response()
        if self._code is None or self._code is grpc.StatusCode.OK:
            if response is not None:
                self._exchange.put_response(self._serialized(response))
            self._exchange.finish(Outcome(grpc.StatusCode.OK, self._details, self._trailing_metadata))
        else:
            self._exchange.finish(Outcome(self._code, self._details, self._trailing_metadata))

    def fail(self, error: Exception) -> None:
        """End the call after an exception that its handler did not mean."""
        code = self._code if self._code not in (None, grpc.StatusCode.OK) else grpc.StatusCode.UNKNOWN
        assert code is not None
        self._exchange.finish(Outcome(code, f"Unexpected {type(error)}: {error}", self._trailing_metadata))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """End the call with an error, by an exception that passes through the handler."""
        if self._aborted:
            raise UsageError("Abort already called!")
        if self._exchange.outcome is not None:
            raise UsageError("RPC already finished.")
        self._aborted = True
        self._code = grpc.StatusCode.UNKNOWN if code is grpc.StatusCode.OK else code
        self._details = details
        if trailing_metadata:
            self._trailing_metadata = checked_metadata(trailing_metadata)
        self._open_response()
        self._exchange.finish(Outcome(self._code, self._details, self._trailing_metadata))
        raise AbortError("Locally aborted.")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with an error that carries details of its own."""
        rich = cast("Any", status)
        await self.abort(rich.code, rich.details, rich.trailing_metadata)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send the initial metadata, which can be done once and before any response."""
        if self._exchange.initial_metadata is not None:
            raise UsageError("Send initial metadata failed: already sent")
        self._exchange.send_initial_metadata(checked_metadata(initial_metadata))

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Set what is sent with the outcome."""
        self._trailing_metadata = checked_metadata(trailing_metadata)

    def invocation_metadata(self) -> Any:
        """Return the metadata of the request."""
        return self._exchange.invocation_metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the code that the call ends with if its handler returns."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Set the details that the call ends with if its handler returns."""
        self._details = details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Do nothing: nothing travels."""

    def disable_next_message_compression(self) -> None:
        """Do nothing: nothing travels."""

    def peer(self) -> str:
        """Return a name that says that the client is in this process."""
        return PEER

    def peer_identities(self) -> Iterable[bytes] | None:
        """Return None: the call is not authenticated."""
        return None

    def peer_identity_key(self) -> str | None:
        """Return None: the call is not authenticated."""
        return None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return nothing: the call is not authenticated."""
        return {}

    def time_remaining(self) -> Any:
        """Return the seconds until the deadline, None without one."""
        return self._exchange.time_remaining_s

    def trailing_metadata(self) -> Any:
        """Return what was set to be sent with the outcome."""
        return self._trailing_metadata

    def code(self) -> Any:
        """Return the code that was set, None if none was."""
        return self._code

    def details(self) -> str:
        """Return the details that were set."""
        return self._details

    def add_done_callback(self, callback: Any) -> None:
        """Have `callback` called with this context when the call has ended."""
        self._exchange.add_done_callback(partial(callback, self))

    def cancelled(self) -> bool:
        """Return whether the client has cancelled the call."""
        outcome = self._exchange.outcome
        return outcome is not None and outcome.cancelled_by_client

    def done(self) -> bool:
        """Return whether the call has ended, in whatever way."""
        return self._exchange.outcome is not None

    def _open_response(self) -> None:
        if self._exchange.initial_metadata is None:
            self._exchange.send_initial_metadata(())

    def _serialized(self, message: Any) -> bytes:
        return cast("bytes", message) if self._serialize is None else self._serialize(message)
