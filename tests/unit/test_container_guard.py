"""What the guard of containers ends, and what not, when the lease changes under its eyes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from batchyard.agent.launcher import guard
from batchyard.agent.launcher.guard import Guard
from batchyard.agent.launcher.leasefile import LeaseFile

NOW = 100.0
BOOT = "boot"


class Seen:
    """What there is, what is done to it, and what happens whenever the guard looks."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.listed: list[tuple[str, str]] = []
        self.killed: list[str] = []
        self.asked: list[str] = []
        self.at_a_look: Callable[[], None] = lambda: None

    def look(self) -> set[str]:
        """Say what is known, after something has happened."""
        self.at_a_look()
        return set(self.known)

    def list_all(self, _engine: object, _labels: object) -> list[tuple[str, str]]:
        """Say what the engine has, after something has happened."""
        self.at_a_look()
        return list(self.listed)

    def kill(self, containers: set[str]) -> bool:
        """Note who is killed without the engine."""
        self.killed += sorted(containers)
        return bool(containers)


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen = Seen()
    monkeypatch.chdir(tmp_path)
    Path(guard.ENGINE).write_text(json.dumps({"engine": "unix:///nowhere", "labels": []}))
    monkeypatch.setattr(guard, "known_containers", seen.look)
    monkeypatch.setattr(guard, "kill_by_cgroup", seen.kill)
    monkeypatch.setattr(guard, "list_containers", seen.list_all)
    monkeypatch.setattr(guard.Engine, "ask", lambda _, method, path: seen.asked.append(f"{method} {path}"))
    return seen


@pytest.fixture
def lease(tmp_path: Path) -> LeaseFile:
    return LeaseFile(str(tmp_path / "lease"), BOOT)


def test_all_that_there_is_ends_with_the_lease(seen: Seen, lease: LeaseFile) -> None:
    seen.known, seen.listed = {"a"}, [("a", "running"), ("b", "created")]
    lease.write(NOW + 1)
    Guard(lease).turn(NOW)
    assert (seen.killed, seen.asked) == ([], [])
    Guard(lease).turn(NOW + 1)
    assert seen.killed == ["a"]
    assert seen.asked == ["POST /containers/a/kill?signal=KILL", "DELETE /containers/b?v=1"]


@pytest.mark.parametrize("look", [1, 2])
def test_what_a_new_lease_has_started_is_not_ended_with_the_one_before(seen: Seen, lease: LeaseFile, look: int) -> None:
    looks = 0

    def begin_anew() -> None:
        nonlocal looks
        looks += 1
        if looks == look:
            lease.write(NOW + 60)
            seen.known, seen.listed = {"new"}, [("new", "running"), ("next", "created")]

    seen.at_a_look = begin_anew
    Guard(lease).turn(NOW)
    assert (seen.killed, seen.asked) == ([], [])
