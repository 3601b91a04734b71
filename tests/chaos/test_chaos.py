"""Real processes, really killed and paused, under load: no acknowledged job is lost, and none runs twice.

`make chaos MINUTES=30` runs for longer; CHAOS_SEED replays the choices of a run, though not its timing.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from batchyard.domain.names import DEFAULT_NAMESPACE
from chaos import history
from chaos.cluster import AGENTS, LEASE_S, Cluster, cluster
from support.aws import Account, eventually

SMOKE_S: Final = 20.0
ALL_MINUTES: Final = 2.0
ATTEMPTS: Final = 5
JOB_S: Final = (0.1, 0.5, 3.0)


def duration_s() -> float:
    minutes = os.environ.get("CHAOS_MINUTES")
    if minutes is None:
        return ALL_MINUTES * 60 if os.environ.get("BATCHYARD_TEST_ALL") else SMOKE_S
    return float(minutes) * 60


@dataclass
class Client:
    """Submits without a pause, and keeps every acknowledgement."""

    account: Account
    path: Path
    random: random.Random
    submitted: list[str] = field(default_factory=list)
    dependencies: dict[str, str] = field(default_factory=dict)
    refused: int = 0

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(0.1):
            parent = self.random.choice(self.submitted) if self.submitted and self.random.random() < 0.3 else None
            try:
                job_id = self.account.submit(
                    history.command(self.path, self.random.choice(JOB_S)),
                    retryStrategy={"attempts": ATTEMPTS},
                    **({"dependsOn": [{"jobId": parent}]} if parent else {}),
                )
            except (ClientError, BotoCoreError):
                self.refused += 1
                continue
            self.submitted.append(job_id)
            if parent:
                self.dependencies[job_id] = parent


class Nemesis:
    """Harms one process after the other, and mends what it harmed."""

    def __init__(self, running: Cluster, seed: random.Random) -> None:
        self._cluster = running
        self._random = seed
        self.done: Counter[str] = Counter()

    def harm(self) -> None:
        """Do one harmful thing, chosen by chance, and wait until it is over."""
        name = self._random.choice(self._cluster.names)
        deeds: list[Callable[[str], None]] = [self._kill, self._pause]
        if name in AGENTS:
            deeds.append(self._kill_launcher)
        self._random.choice(deeds)(name)
        time.sleep(self._random.uniform(0.2, 2.0))

    def _kill(self, name: str) -> None:
        self._cluster.kill(name)
        time.sleep(self._random.choice((0.0, 1.0)))
        self._cluster.start(name)
        self.done[f"kill -9 {name}"] += 1

    def _pause(self, name: str) -> None:
        with self._stopped(name):
            time.sleep(self._random.choice((1.0, LEASE_S * 2)))
        self.done[f"pause {name}"] += 1

    @contextmanager
    def _stopped(self, name: str) -> Iterator[None]:
        self._cluster.signal(name, signal.SIGSTOP)
        try:
            yield
        finally:
            self._cluster.signal(name, signal.SIGCONT)

    def _kill_launcher(self, name: str) -> None:
        launcher = self._cluster.launcher_of(name)
        if launcher is not None:
            with suppress(ProcessLookupError):
                os.kill(launcher, signal.SIGKILL)
            self.done[f"kill -9 the launcher of {name}"] += 1


@pytest.mark.chaos
@pytest.mark.timeout(duration_s() + 300)
def test_no_job_is_lost_and_none_runs_twice_whatever_dies(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(1 << 32)))
    path = tmp_path / "history"
    with cluster(tmp_path / "data") as running:
        account = Account(running.http_url, DEFAULT_NAMESPACE)
        account.make_queue()
        account.define()
        client = Client(account, path, random.Random(seed))
        nemesis = Nemesis(running, random.Random(seed + 1))
        stop = threading.Event()
        submitting = threading.Thread(target=client.run, args=(stop,))
        submitting.start()
        try:
            until = time.monotonic() + duration_s()
            while time.monotonic() < until:
                nemesis.harm()
        finally:
            stop.set()
            submitting.join()
        ended = wait_for_all(account, client.submitted)
        account.close()
    eventually(lambda: not running.leftovers(), "the end of every process of the cluster")
    lines = history.read(path)
    found = history.violations(lines, client.dependencies, ended)
    print(report(seed, client, nemesis, ended, lines, found))
    assert found == []
    assert nemesis.done


def wait_for_all(account: Account, job_ids: list[str]) -> dict[str, str]:
    """Return the terminal state of every job, once all are in one; each wait is as long as the healing bound."""
    ended: dict[str, str] = {}
    for start in range(0, len(job_ids), 100):
        part = account.wait_all(job_ids[start : start + 100])
        ended |= {job_id: job["status"] for job_id, job in part.items()}
    return ended


def report(
    seed: int,
    client: Client,
    nemesis: Nemesis,
    ended: dict[str, str],
    lines: list[history.Line],
    found: list[str],
) -> str:
    """Return the report of a run, on one page."""
    return "\n".join(
        [
            f"chaos: {duration_s():.0f} s, CHAOS_SEED={seed}",
            f"submitted: {len(client.submitted)} acknowledged, {client.refused} refused or unanswered",
            f"ended: {dict(Counter(ended.values()))}",
            f"runs: {sum(line.word == 'start' for line in lines)} started",
            *(f"  {count:3} x {deed}" for deed, count in sorted(nemesis.done.items())),
            f"violations: {len(found)}",
            *(f"  {text}" for text in found),
        ]
    )
