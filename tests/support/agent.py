"""What tests of the agent are made of: offers, a scheduler that does as it is told, and launchers of their own."""

import asyncio
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import grpc.aio
import pytest

from batchyard.agent.convert import fence_message, fence_of
from batchyard.agent.launcher import detach, tree, wire
from batchyard.agent.launcher.detach import Options
from batchyard.agent.launcher.ledger import Fence, RunEnd, RunState
from batchyard.agent.runtimes.launched import ProcessSettings
from batchyard.agent.state import Offer
from batchyard.api.agent.v1 import agent_session_service_pb2 as session_pb2
from batchyard.api.agent.v1 import agent_session_service_pb2_grpc as session_grpc
from batchyard.api.agent.v1 import run_pb2
from batchyard.api.common.v1.container_pb2 import KeyValuePair
from batchyard.api.jobs.v1.jobs_pb2 import ContainerDetail
from batchyard.domain.errors import StaleIncarnationError
from batchyard.rpc.errors import status_of
from support.contexts import stopped
from support.waiting import PATIENCE_S, eventually, soon

NAMESPACE = "123456789012"

LAUNCHER_PROGRAM = Path(wire.__file__).parent / "__main__.py"
QUICK = ProcessSettings(idle_s=0.2, timeout_grace_s=0.2)


def a_job_spec(
    *command: str,
    job_id: str = "11111111-2222-3333-4444-555555555555",
    image: str = "bb:1",
    vcpus_milli: int = 1000,
    memory_mib: int = 64,
    environment: Mapping[str, str] | None = None,
    timeout_s: int | None = None,
    gpus: int = 0,
    **container: Any,
) -> run_pb2.JobSpec:
    """Return what a submission of this command stores; further arguments are members of its container."""
    spec = run_pb2.JobSpec(
        namespace=NAMESPACE,
        job_id=job_id,
        job_name="job",
        job_queue_name="queue",
        job_definition_name="definition",
        vcpus_milli=vcpus_milli,
        memory_mib=memory_mib,
        gpus=gpus,
        container=ContainerDetail(
            image=image,
            command=command,
            environment=[KeyValuePair(name=name, value=value) for name, value in (environment or {}).items()],
            **container,
        ),
    )
    if timeout_s is not None:
        spec.timeout.attempt_duration_seconds = timeout_s
    return spec


def an_offer(*command: str, fence: Fence = (1, 1), attempt: int = 1, **members: Any) -> Offer:
    """Return an offer of a job that runs this command."""
    stream = f"definition/default/{fence[0]}-{fence[1]}"
    return Offer(fence, attempt, a_job_spec(*command, **members), "environment", stream)


def offer_message(offer: Offer) -> run_pb2.RunOffer:
    """Return an offer as the scheduler sends it."""
    return run_pb2.RunOffer(
        fence=fence_message(offer.fence),
        attempt=offer.attempt,
        job_spec=offer.spec.SerializeToString(),
        compute_environment=offer.compute_environment,
        log_stream_name=offer.log_stream_name,
    )


def is_running(pid: int) -> bool:
    """Tell whether a process is alive, and not only unreaped."""
    seen = tree.stat(pid)
    return seen is not None and seen.alive


def pids_with(mark: str) -> list[int]:
    """Return the processes that were started with this text in their command line."""
    found = []
    for pid in tree.processes():
        with suppress(OSError):
            if mark.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


NEEDS_NAMESPACES = pytest.mark.skipif(not detach.can_unshare(), reason="kernel: PID namespaces are not to be had here")
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="kernel: only root may become another user")


class LauncherClient:
    """A connection to a launcher, as an agent has one."""

    def __init__(self, folder: Path, *, is_alive: Callable[[], bool] = lambda: True) -> None:
        def reached() -> socket.socket | None:
            if not is_alive():
                raise ConnectionRefusedError("the launcher is gone")
            return _connect(folder)

        self._socket = soon(reached, "the launcher listens")
        self._socket.settimeout(PATIENCE_S)
        self._inbox = wire.LineBuffer()
        self.runs: dict[Fence, list[Any]] = {}
        self.history: list[tuple[Fence, RunState]] = []
        self.hello = self._receive()[0]

    @property
    def pid(self) -> int:
        """The launcher's process, as this test sees it."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])

    def send(self, **orders: Any) -> None:
        """Send orders."""
        self._socket.sendall(wire.encode(orders))

    def say(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def until_dropped(self) -> None:
        """Wait until the launcher has closed the connection, whatever it says before."""
        with suppress(ConnectionResetError):
            while self._socket.recv(1 << 20):
                pass
        self._socket.close()

    def until(self, fence: Fence, state: RunState, *, or_later: bool = False) -> list[Any]:
        """Receive until a run is in this state, and return what is known of it."""
        while fence not in self.runs or not (
            self.runs[fence][1] == state or (or_later and self.runs[fence][1] > state)
        ):
            self._receive()
        return self.runs[fence]

    def until_done(self, fence: Fence) -> tuple[RunEnd, int | None, str]:
        """Receive until a run is over; return how it ended, its exit code and the reason."""
        _, _, _, _, _, exit_code, end, reason = self.until(fence, RunState.DONE)
        return RunEnd(end), exit_code, reason

    def close(self) -> None:
        """Go away without a word, as a killed agent does."""
        self._socket.close()

    def _receive(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        while not messages:
            data = self._socket.recv(1 << 20)
            if not data:
                raise ConnectionResetError("the launcher has closed the connection")
            messages = self._inbox.feed(data)
        for message in messages:
            for run in message["runs"]:
                fence = wire.decode_fence(run[0])
                self.runs[fence] = run
                self.history.append((fence, RunState(run[1])))
        return messages


def _connect(folder: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(folder / "socket"))
    except OSError:
        connection.close()
        return None
    return connection


def agent_id_of(folder: Path) -> str:
    """Return a name for the agent of a folder that no other test gives to its own.

    By it a host tells what belongs to an agent: cgroups, and processes that have hidden.
    """
    return f"tested-{blake2b(bytes(folder), digest_size=8).hexdigest()}"


def start_launcher(folder: Path, *, namespace: bool = False, cgroups: bool = True, idle_s: float = 0.2) -> None:
    """Start a launcher as an agent does."""
    options = Options(
        folder=str(folder), agent_id=agent_id_of(folder), idle_s=idle_s, namespace=namespace, cgroups=cgroups
    )
    command = [sys.executable, "-I", "-S", str(LAUNCHER_PROGRAM), options.encode(), "detach"]
    subprocess.run(command, check=True)


@contextmanager
def a_launcher(folder: Path, **options: Any) -> Iterator[LauncherClient]:
    """Run a launcher with room for four, and connect to it; at the end it and all that it runs are gone."""
    start_launcher(folder, **options)
    client = LauncherClient(folder)
    client.send(capacity=[4000, 4096, 0], lease=[wire.now() + 3600, 0])
    pid = client.pid
    try:
        yield client
    finally:
        client.close()
        end_launcher(folder, pid)


def end_launcher(folder: Path, pid: int) -> None:
    """End a launcher, if it still lives, with all that it runs."""
    try:
        last = LauncherClient(folder, is_alive=lambda: is_running(pid))
    except ConnectionRefusedError:
        return
    last.send(kill=[[fence, 0] for fence in last.runs], exit=True)
    soon(lambda: not is_running(pid), "the launcher ends")
    last.close()


def start_entry(*argv: str, fence: Fence = (1, 1), log: Path | str = os.devnull, **members: Any) -> dict[str, Any]:
    """Return an entry of the launcher's "offers"."""
    return {
        "fence": fence,
        "need": members.pop("need", [1000, 64, 0]),
        "about": {"job_id": f"job-{fence[1]}"},
        "argv": list(argv),
        "env": {
            "PATH": os.environ["PATH"],
            "BATCHYARD_AGENT_ID": f"tested-{os.getpid()}",
            "BATCHYARD_FENCE": f"{fence[0]}-{fence[1]}",
            **members.pop("env", {}),
        },
        "log": str(log),
        **members,
    }


class FakeScheduler(session_grpc.AgentSessionServiceServicer):
    """A scheduler that accepts agents, keeps what they say, and sends what the test gives it."""

    def __init__(self, *, heartbeat_ms: int = 50, lease_ms: int = 60_000) -> None:
        self.heartbeat_ms = heartbeat_ms
        self.lease_ms = lease_ms
        self.registrations: list[session_pb2.Registration] = []
        self.reports: list[run_pb2.RunReport] = []
        self.refused_incarnations: set[int] = set()
        self.epochs = (1, 1)
        """Of its store and of itself."""
        self.acknowledges = True
        self.answers_heartbeats = True
        self.held: dict[Fence, Offer] = {}
        """Offers that are sent, and sent again to whoever registers."""
        self._outbox: list[session_pb2.ConnectResponse] = []
        self._changed = anyio.Event()
        self._streams = count(1)
        self._stream = 0

    def offer(self, *offers: Offer) -> None:
        """Offer jobs to the agent."""
        self.held.update((offer.fence, offer) for offer in offers)
        self.send(session_pb2.ConnectResponse(offers=[offer_message(offer) for offer in offers]))

    def send(self, response: session_pb2.ConnectResponse) -> None:
        """Send a message on the stream that is open, or on the next."""
        self._outbox.append(response)
        self._wake()

    def send_kills(self, *fences: Fence) -> None:
        """Demand that runs end at once."""
        kills = [session_pb2.Kill(fence=fence_message(fence)) for fence in fences]
        self.send(session_pb2.ConnectResponse(kills=kills))

    def break_stream(self) -> None:
        """End the stream that is open."""
        self._stream = next(self._streams)
        self._wake()

    def last(self, fence: Fence, state: RunState | None = None) -> run_pb2.RunReport | None:
        """Return the last report about a run, if it is in this state."""
        for report in reversed(self.reports):
            if fence_of(report.fence) == fence:
                return report if state is None or int(report.state) == state else None
        return None

    async def done(self, fence: Fence) -> run_pb2.RunReport:
        """Wait for the report that a run is DONE, and return it."""
        report: run_pb2.RunReport = await eventually(lambda: self.last(fence, RunState.DONE), f"{fence} is DONE")
        return report

    async def Connect(  # noqa: N802
        self,
        request_iterator: AsyncIterator[session_pb2.ConnectRequest],
        context: grpc.aio.ServicerContext[session_pb2.ConnectRequest, session_pb2.ConnectResponse],
    ) -> AsyncIterator[session_pb2.ConnectResponse]:
        """Serve an agent's session."""
        self._stream = stream = next(self._streams)
        first = await anext(request_iterator)
        self.registrations.append(first.registration)
        if first.registration.incarnation in self.refused_incarnations:
            await abort_stale(context)
        welcome = session_pb2.Welcome(
            heartbeat_interval_ms=self.heartbeat_ms,
            lease_ms=self.lease_ms,
            store_epoch=self.epochs[0],
            leader_epoch=self.epochs[1],
        )
        held = [offer_message(offer) for offer in self.held.values()]
        first_answer = session_pb2.ConnectResponse(welcome=welcome, offers=held)
        self._take(first.registration.runs, first_answer)
        if self.answers_heartbeats:
            first_answer.heartbeat = first.heartbeat
        self._outbox.clear()
        yield first_answer
        # Not in a task group: the server may close a generator in another task than it ran in.
        listening = asyncio.create_task(self._listen(request_iterator, stream))
        try:
            while self._stream == stream:
                while self._outbox:
                    yield self._outbox.pop(0)
                await self._changed.wait()
        finally:
            listening.cancel()

    async def _listen(self, requests: AsyncIterator[session_pb2.ConnectRequest], stream: int) -> None:
        with suppress(grpc.aio.BaseError, grpc.RpcError):
            await self._take_all(requests)
        if self._stream == stream:
            self.break_stream()

    async def _take_all(self, requests: AsyncIterator[session_pb2.ConnectRequest]) -> None:
        async for request in requests:
            answer = session_pb2.ConnectResponse()
            if self.answers_heartbeats:
                answer.heartbeat = request.heartbeat
            self._take(request.reports, answer)
            self.send(answer)

    def _take(self, reports: Sequence[run_pb2.RunReport], answer: session_pb2.ConnectResponse) -> None:
        for report in reports:
            self.reports.append(report)
            if int(report.state) in (RunState.DONE, RunState.REVOKED) and self.acknowledges:
                self.held.pop(fence_of(report.fence), None)
                answer.acknowledged.append(report.fence)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


async def abort_stale(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """End a call as the scheduler does for an incarnation that is over."""
    status = status_of(StaleIncarnationError("a later incarnation is known"))
    await context.abort(
        grpc.StatusCode.FAILED_PRECONDITION,
        status.message,
        trailing_metadata=(("grpc-status-details-bin", status.SerializeToString()),),
    )


@asynccontextmanager
async def serving(scheduler: FakeScheduler, *, port: int = 0) -> AsyncIterator[int]:
    """Serve a scheduler on a port of this machine."""
    server = grpc.aio.server()
    session_grpc.add_AgentSessionServiceServicer_to_server(scheduler, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        scheduler.break_stream()
        await stopped(server)
