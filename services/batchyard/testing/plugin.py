"""The pytest plug-in: fixtures over a Batchyard of the test run's own.

Loaded with every pytest in whose environment Batchyard is installed, so it imports nothing but pytest until a test asks
for a fixture.
"""

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from batchyard.testing.account import Batchyard
    from batchyard.testing.keeper import Server

REGION: Final = "us-east-1"
ARGUMENTS: Final = (
    *("--port", "0", "--grpc-port", "0", "--runtime", "process", "--capacity", "vcpus=64,memory=256GiB"),
    *("--stop-jobs", "--durability", "relaxed", "--faults", "--log-level", "warning"),
)
"""Free ports, plain processes, room for any job, attempts that fail on demand, and nothing that outlives the run."""

_OPTION: Final = "batchyard_arguments"

_accounts: Final = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the setting for the server's flags."""
    parser.addini(
        _OPTION,
        "Flags of `batchyard up` for the fixture `batchyard`, such as --runtime docker; they stand above the usual.",
        type="args",
        default=[],
    )


@pytest.fixture(scope="session")
def batchyard_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Server]":
    """Give a running server, one for all workers of a test run."""
    from batchyard.testing.keeper import shared_server

    folder = tmp_path_factory.getbasetemp()
    if _worker(request.config) is not None:
        folder = folder.parent
    with shared_server(folder / "batchyard", [*ARGUMENTS, *request.config.getini(_OPTION)]) as server:
        yield server


@pytest.fixture(scope="session")
def batchyard(request: pytest.FixtureRequest, batchyard_server: "Server") -> "Iterator[Batchyard]":
    """Give an account on the server, for all tests of this worker; AWS clients that are made from now on use it."""
    yield from _account(request.config, batchyard_server)


@pytest.fixture
def fresh_batchyard(request: pytest.FixtureRequest, batchyard_server: "Server") -> "Iterator[Batchyard]":
    """Give an account on the server, for this test alone; AWS clients that it makes use it."""
    yield from _account(request.config, batchyard_server)


def _account(config: pytest.Config, server: "Server") -> "Iterator[Batchyard]":
    from batchyard.testing.account import Batchyard, in_environment

    worker = int((_worker(config) or "gw0").removeprefix("gw"))
    account = Batchyard(server, f"{worker + 1:04d}{next(_accounts):08d}", REGION)
    account.create_queue()
    with in_environment(account):
        yield account


def _worker(config: pytest.Config) -> str | None:
    """Return the name of this worker of pytest-xdist, or None without it."""
    worker: dict[str, str] | None = getattr(config, "workerinput", None)
    return None if worker is None else worker["workerid"]
