"""Jobs that talk back: what a job must find in its environment so that AWS clients in it reach this installation.

A head job, such as a workflow engine, submits further jobs. What its owner has said by itself wins: where the job
brings a region, an endpoint or credentials of its own, nothing of that kind is added.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from batchyard.agent.launcher.ledger import Fence
from batchyard.agent.runtimes import Runtime
from batchyard.agent.state import Offer, Orders, RunRecord
from batchyard.api.agent.v1 import run_pb2
from batchyard.domain.names import DEFAULT_REGION

_URL: Final = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
_SERVICES: Final = ("BATCH", "CLOUDWATCH_LOGS", "STS")
_REGION: Final = frozenset({"AWS_REGION", "AWS_DEFAULT_REGION"})
_CREDENTIALS: Final = frozenset(
    {
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN"),
        *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SHARED_CREDENTIALS_FILE"),
    }
)
"""Whoever sets one of these has credentials of another kind."""
_UNVERIFIED_SECRET: Final = "batchyard"  # noqa: S105 - where it is sent, nobody checks it


class TalkBackError(ValueError):
    """What jobs are to be told, and cannot be."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What signs a job's requests."""

    access_key: str
    secret: str = field(repr=False)
    session_token: str = field(default="", repr=False)

    def variables(self) -> dict[str, str]:
        """Return the variables that give them to an AWS client."""
        found = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret}
        return {**found, "AWS_SESSION_TOKEN": self.session_token} if self.session_token else found


@dataclass(frozen=True, slots=True)
class TalkBack:
    """What jobs are told of this installation. Raises TalkBackError when made of what cannot be."""

    endpoint: str
    """Address of the AWS API, as jobs reach it."""
    region: str = DEFAULT_REGION
    has_credentials: bool = True
    credentials: Mapping[str, Credentials] | None = None
    """By account. None: each job's account is its access key, as it may be where signatures are not verified."""

    def __post_init__(self) -> None:
        if not _URL.fullmatch(self.endpoint):
            raise TalkBackError(f"job_endpoint: {self.endpoint!r} is not an address such as http://host:8080")

    def variables(self, namespace: str, taken: Iterable[str]) -> dict[str, str]:
        """Return what a job of an account is told whose owner has set some variables already."""
        own = frozenset(taken)
        found = {f"AWS_ENDPOINT_URL_{service}": self.endpoint for service in _SERVICES}
        if "AWS_ENDPOINT_URL" in own:
            found.clear()
        if not own & _REGION:
            found |= dict.fromkeys(sorted(_REGION), self.region)
        if self.has_credentials and not own & _CREDENTIALS:
            credentials = self._credentials_of(namespace)
            if credentials is not None:
                found |= credentials.variables()
        return {name: value for name, value in found.items() if name not in own}

    def added_to(self, spec: run_pb2.JobSpec) -> run_pb2.JobSpec:
        """Return a specification with what its job is told."""
        container = spec.container
        taken = [*(pair.name for pair in container.environment), *(secret.name for secret in container.secrets)]
        told = run_pb2.JobSpec()
        told.CopyFrom(spec)
        for name, value in self.variables(spec.namespace, taken).items():
            told.container.environment.add(name=name, value=value)
        return told

    def _credentials_of(self, namespace: str) -> Credentials | None:
        if self.credentials is None:
            return Credentials(namespace, _UNVERIFIED_SECRET)
        return self.credentials.get(namespace)


def read_credentials(path: Path, account: str) -> dict[str, Credentials]:
    """Return the credentials of each account in a file of the form of the gateway's --access-keys.

    A key without an account is of `account`; of several keys of one account the first counts. Raises TalkBackError.
    """
    try:
        keys: dict[str, dict[str, Any]] = tomllib.loads(path.read_text("utf-8"))["keys"]
        found: dict[str, Credentials] = {}
        for key_id, record in keys.items():
            credentials = Credentials(key_id, record["secret"], record.get("session_token", ""))
            found.setdefault(record.get("account", account), credentials)
    except OSError as error:
        raise TalkBackError(f"job_credentials: cannot read {path}: {error.strerror}") from error
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise TalkBackError(f"job_credentials: {path} is not a file of access keys") from error
    return found


class TalkingBack:
    """A runtime whose jobs are told of this installation."""

    def __init__(self, runtime: Runtime, talk_back: TalkBack) -> None:
        self._runtime = runtime
        self._talk_back = talk_back

    @property
    def instance(self) -> str:
        """Name of what holds the runs."""
        return self._runtime.instance

    @property
    def claimed_before(self) -> Sequence[Fence]:
        """Fences that an earlier instance claimed and whose end nobody saw."""
        return self._runtime.claimed_before

    async def carry_out(self, orders: Orders) -> None:
        """Take orders, with more for the jobs in them."""
        if orders.offers:
            orders = replace(orders, offers=[self._told(offer) for offer in orders.offers])
        await self._runtime.carry_out(orders)

    async def renew_lease(self, deadline: float, start_margin_s: float) -> None:
        """Allow runs up to the deadline."""
        await self._runtime.renew_lease(deadline, start_margin_s)

    async def changes(self) -> Sequence[RunRecord]:
        """Wait for news."""
        return await self._runtime.changes()

    async def release(self) -> None:
        """End what helps the runtime."""
        await self._runtime.release()

    def _told(self, offer: Offer) -> Offer:
        return replace(offer, spec=self._talk_back.added_to(offer.spec))
