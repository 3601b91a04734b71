"""Servers that do nothing, in the stacks that ours are in: what a call costs before anything is done for it.

`python -m benchmarks.echo http|grpc` prints its port and serves until it is ended. With a folder as second argument it
answers when a row is on disk.
"""

import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import grpc.aio
import uvicorn
import uvloop

from batchyard.api.jobs.v1.jobs_service_pb2 import SubmitJobRequest, SubmitJobResponse
from batchyard.api.jobs.v1.jobs_service_pb2_grpc import JobsServiceServicer, add_JobsServiceServicer_to_server
from benchmarks.rows import ROW, Rows, open_rows

_ANSWER = b'{"jobArn":"arn:aws:batch:us-east-1:123456789012:job/0","jobId":"0","jobName":"bench"}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(_ANSWER)).encode())]


class HttpEcho:
    """Answers requests."""

    def __init__(self, rows: Rows | None) -> None:
        self._rows = rows

    async def __call__(
        self, _scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Read a request and answer it."""
        while (await receive()).get("more_body"):
            pass
        if self._rows is not None:
            await self._rows.add(ROW)
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": _ANSWER})


class GrpcEcho(JobsServiceServicer):
    """Answers submissions."""

    def __init__(self, rows: Rows | None) -> None:
        self._rows = rows

    async def SubmitJob(  # noqa: N802  # the name of the RPC
        self, request: SubmitJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> SubmitJobResponse:
        """Answer."""
        if self._rows is not None:
            await self._rows.add(ROW)
        return SubmitJobResponse(job_id="0", job_name=request.job_name, job_arn="arn")


async def _serve_grpc(rows: Rows | None) -> None:
    server = grpc.aio.server()
    add_JobsServiceServicer_to_server(cast("Any", GrpcEcho)(rows), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


async def _serve_http(rows: Rows | None) -> None:
    config = uvicorn.Config(HttpEcho(rows), http="httptools", loop="none", lifespan="off", log_config=None)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    await uvicorn.Server(config).serve(sockets=[listener])


async def _serve(kind: str, folder: Path | None) -> None:
    serve = {"http": _serve_http, "grpc": _serve_grpc}[kind]
    if folder is None:
        await serve(None)
    else:
        async with open_rows(folder) as rows:
            await serve(rows)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None))
