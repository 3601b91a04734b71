"""Every service restarted in order under load: clients see nothing that an SDK does not retry, jobs nothing at all."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from batchyard.domain.names import DEFAULT_NAMESPACE
from support.aws import Account
from support.installation import Installation, start_six
from support.waiting import soon

MODES: Final = ("legacy", "standard")
"""Of retrying: what boto3 does by default, and what it does if asked."""
EXIT_CODES: Final = (0, 3)
CALLS_BETWEEN: Final = 12
"""By each client, between one restart and the next."""


@dataclass
class Client:
    """Submits, describes and lists for as long as it may, with nothing but an SDK's own retries."""

    account: Account
    job_ids: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    calls: int = 0

    def run(self, stop: threading.Event) -> None:
        for deed in cycle((self._submit, self._submit_newest, self._describe, self._list)):
            if stop.wait(0.02):
                return
            try:
                deed()
            except (ClientError, BotoCoreError) as error:
                self.failures.append(f"{deed.__name__}: {error!r}")
            self.calls += 1

    def _submit(self) -> None:
        self.job_ids.append(self.account.submit(jobDefinition="definition:1"))

    def _submit_newest(self) -> None:
        self.job_ids.append(self.account.submit(jobDefinition="definition"))

    def _describe(self) -> None:
        asked = self.job_ids[-10:]
        assert {job["jobId"] for job in self.account.batch.describe_jobs(jobs=asked)["jobs"]} == set(asked)

    def _list(self) -> None:
        self.account.batch.list_jobs(jobQueue="queue", jobStatus="SUCCEEDED")


@pytest.fixture
def six(tmp_path: Path) -> Iterator[Installation]:
    """Six processes of the test's own."""
    installation = start_six(tmp_path / "data", jobs_outlive_agent=True)
    yield installation
    installation.close()


@contextmanager
def calling(http_url: str) -> Iterator[list[Client]]:
    """Keep a client of each mode busy for the length of the context."""
    clients = [Client(Account(http_url, DEFAULT_NAMESPACE, config=Config(retries={"mode": mode}))) for mode in MODES]
    stop = threading.Event()
    threads = [threading.Thread(target=client.run, args=(stop,)) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for client in clients:
            client.account.close()


def test_no_call_fails_and_no_job_is_disturbed(six: Installation, tmp_path: Path) -> None:
    gate, runs = tmp_path / "gate", tmp_path / "runs"
    account = Account(six.http_url, DEFAULT_NAMESPACE)
    account.make_queue()
    account.define(command=["sh", "-c", f"echo $AWS_BATCH_JOB_ID >> {runs}"])
    held = [
        account.submit(["sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.05; done; exit {code}"]) for code in EXIT_CODES
    ]
    started = {job_id: account.wait(job_id, "RUNNING")["startedAt"] for job_id in held}

    with calling(six.http_url) as clients:

        def call_on() -> None:
            wanted = [client.calls + CALLS_BETWEEN for client in clients]
            soon(
                lambda: all(client.calls >= count for client, count in zip(clients, wanted, strict=True)),
                "the clients get answers",
            )

        for name in list(six.processes):
            call_on()
            six.restart(name)
        call_on()

    try:
        for job_id in held:
            job: Any = account.describe(job_id)
            assert (job["status"], job["startedAt"]) == ("RUNNING", started[job_id])
        gate.touch()
        submitted = [job_id for client in clients for job_id in client.job_ids]
        ended = account.wait_all([*held, *submitted])
    finally:
        account.close()
    assert [failure for client in clients for failure in client.failures] == []
    assert [(ended[job_id]["startedAt"], ended[job_id]["container"]["exitCode"]) for job_id in held] == [
        (started[job_id], code) for job_id, code in zip(held, EXIT_CODES, strict=True)
    ]
    assert {ended[job_id]["status"] for job_id in submitted} == {"SUCCEEDED"}
    assert {len(job["attempts"]) for job in ended.values()} == {1}
    assert Counter(runs.read_text().split()) == Counter(submitted)
