"""Installations that live for the whole run, and an account of its own on one of them for each test."""

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Final

import grpc.aio
import pytest

from batchyard.domain.names import Caller
from support.aws import Account
from support.installation import Installation, start_six, start_up
from support.native import NativeClient

_account_numbers: Final = count(100_000_000_001)


@pytest.fixture(scope="session")
def installations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Installation]]:
    """Each form of an installation, started when it is first wanted.

    They live side by side to the end: pytest ends a fixture when another parameter of it is wanted, and workers that
    are given one file after the other want both in turns.
    """
    running: dict[str, Installation] = {}

    def in_form(form: str) -> Installation:
        if form not in running:
            folder = tmp_path_factory.mktemp("installation") / "data"
            running[form] = (
                start_up(folder, "--faults") if form == "one process" else start_six(folder, jobstore=["--faults"])
            )
        return running[form]

    yield in_form
    for each in running.values():
        each.close()


@pytest.fixture(scope="session", params=["one process", "six processes"])
def installation(request: pytest.FixtureRequest, installations: Callable[[str], Installation]) -> Installation:
    """Batchyard in one process, and again as six that talk gRPC over sockets: users must see no difference."""
    return installations(request.param)


@pytest.fixture
def account(installation: Installation) -> Iterator[Account]:
    """A fresh account, in which nothing exists yet, seen through boto3."""
    fresh = Account(installation.http_url, str(next(_account_numbers)))
    yield fresh
    fresh.close()


@pytest.fixture
def queue(account: Account) -> str:
    """A job queue of the account, over an UNMANAGED compute environment; both are named `queue`."""
    return account.make_queue("queue")


@pytest.fixture
async def native(installation: Installation) -> AsyncIterator[NativeClient]:
    """A fresh account, seen through generated stubs on a plain grpc.aio channel."""
    async with grpc.aio.insecure_channel(installation.grpc_target) as channel:
        yield NativeClient(channel, Caller(str(next(_account_numbers))))
