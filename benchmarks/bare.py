"""The way of a single job with nothing done on it: our processes, messages, commits and syncs, and no more.

A client asks a controller by gRPC, which commits the job and answers, commits an offer and streams it to an agent. That
passes it on to a launcher, which syncs a line, starts `/bin/true` and waits for it. The way back ends with a third
commit and a message to the client, which watches. What a job takes here is what it takes in this stack at least.
"""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import uvloop

from benchmarks.rows import ROW, Rows, open_rows

_SERVICE: Final = "benchmarks.Bare"
_REPORT_BYTES: Final = 16


async def measure(folder: Path, n: int, pause_s: float) -> list[float]:
    """Return how many seconds each of `n` jobs took, with a pause before each."""
    controller = await _start("controller", folder, stdout=subprocess.PIPE)
    parts = [controller]
    try:
        assert controller.stdout is not None
        port = int(await controller.stdout.readline())
        parts.append(await _start("agent", folder))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            submit: Any = channel.unary_unary(f"/{_SERVICE}/Submit")
            watch: Any = channel.unary_stream(f"/{_SERVICE}/Watch")
            ended = watch(b"")
            taken = []
            for _ in range(n):
                await asyncio.sleep(pause_s)
                begin = time.perf_counter()
                await submit(ROW)
                await ended.read()
                taken.append(time.perf_counter() - begin)
            return taken
    finally:
        for process in reversed(parts):
            process.terminate()
            await process.wait()


async def _start(part: str, folder: Path, stdout: int | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.bare", part, str(folder), stdout=stdout
    )


class _Controller:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._submitted: asyncio.Queue[bytes] = asyncio.Queue()
        self._offered: asyncio.Queue[bytes] = asyncio.Queue()
        self._ended: asyncio.Queue[bytes] = asyncio.Queue()

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return what a server serves: messages of plain bytes."""
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Submit": grpc.unary_unary_rpc_method_handler(self.submit),
            "Session": grpc.stream_stream_rpc_method_handler(self.session),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch),
        }
        return grpc.method_handlers_generic_handler(_SERVICE, methods)

    async def submit(self, job: bytes, _: object) -> bytes:
        number = await self._rows.add(job)
        self._submitted.put_nowait(job)
        return b"%d" % number

    async def schedule(self) -> None:
        while True:
            job = await self._submitted.get()
            await self._rows.add(job)
            self._offered.put_nowait(job)

    async def session(self, reports: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        async def read() -> None:
            async for report in reports:
                await self._rows.add(report)
                self._ended.put_nowait(report)

        reading = asyncio.create_task(read())
        try:
            while True:
                yield await self._offered.get()
        finally:
            reading.cancel()

    async def watch(self, _: bytes, __: object) -> AsyncIterator[bytes]:
        while True:
            yield await self._ended.get()


async def _control(folder: Path) -> None:
    async with open_rows(folder) as rows:
        controller = _Controller(rows)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((controller.handlers(),))
        server.add_insecure_port(f"unix:{folder}/bare.sock")
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(port, flush=True)
        await controller.schedule()


async def _follow(folder: Path, launcher: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(f"unix:{folder}/bare.sock") as channel:
        connect: Any = channel.stream_stream(f"/{_SERVICE}/Session")
        session = connect()

        async def report() -> None:
            while said := await loop.sock_recv(launcher, _REPORT_BYTES):
                await session.write(said)

        reporting = asyncio.create_task(report())
        while isinstance(offer := await session.read(), bytes):
            await loop.sock_sendall(launcher, offer)
        reporting.cancel()


def _be_agent(folder: Path) -> None:
    ours, its = socket.socketpair()
    ours.setblocking(False)
    command = [sys.executable, "-S", "-c", _LAUNCHER, str(its.fileno()), str(folder / "journal")]
    with subprocess.Popen(command, pass_fds=[its.fileno()]):
        its.close()
        uvloop.run(_follow(folder, ours))


_LAUNCHER: Final = """
import os, socket, sys
agent = socket.socket(fileno=int(sys.argv[1]))
journal = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
while offer := agent.recv(65536):
    os.write(journal, offer[:200])
    os.fdatasync(journal)
    os.waitpid(os.posix_spawn("/bin/true", ["/bin/true"], {}), 0)
    agent.sendall(b"ended")
"""


if __name__ == "__main__":
    part, where = sys.argv[1], Path(sys.argv[2])
    if part == "agent":
        _be_agent(where)
    else:
        uvloop.run(_control(where))
