"""The agent's socket to its launcher: what comes, what does not, and what a stop leaves behind."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchyard.agent.runtimes import RuntimeLostError
from batchyard.agent.runtimes.launched import Connection


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    # The address of a unix socket holds no more than 108 bytes.
    monkeypatch.chdir(tmp_path)
    return "socket"


@pytest.fixture
def launcher(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        yield listener


async def test_nothing_is_said_of_news_that_come_while_the_agent_stops(path: str, launcher: socket.socket) -> None:
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    connection = Connection(path)
    peer, _ = launcher.accept()
    with peer:
        reading = asyncio.create_task(connection.receive())
        await asyncio.sleep(0)
        peer.send(b"news")
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.sleep(0)
        connection.close()
    assert said == []


async def test_what_is_sent_arrives_whole_however_slowly_it_is_read(path: str, launcher: socket.socket) -> None:
    connection = Connection(path)
    peer, _ = launcher.accept()
    data = bytes(range(256)) * 20_000
    with peer:
        sending = asyncio.create_task(connection.send(data))
        received = b""
        while len(received) < len(data):
            received += await asyncio.to_thread(peer.recv, 1 << 16)
        await sending
        peer.send(b"heard")
        assert await connection.receive() == b"heard"
        connection.close()
    assert received == data


async def test_a_launcher_that_is_gone_is_lost_to_both_directions(path: str, launcher: socket.socket) -> None:
    connection = Connection(path)
    launcher.accept()[0].close()
    with pytest.raises(RuntimeLostError):
        await connection.receive()
    with pytest.raises(RuntimeLostError):
        await connection.send(b"anybody?")
    connection.close()


async def test_nobody_who_listens_is_an_error_at_once(path: str) -> None:
    with pytest.raises(OSError, match="No such file"):
        Connection(path)
