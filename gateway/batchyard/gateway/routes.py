"""Which RPC a request is for: one table, built from the method options of the public services."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from batchyard.api.common.v1 import annotations_pb2
from batchyard.gateway.aws_errors import AWS_JSON, REST_JSON, AwsError, Protocol

AWS_JSON_PATH: Final = "/"
"""Where AWS JSON 1.1 requests go; the header X-Amz-Target names the operation."""

_DOTS: Final = frozenset({".", ".."})

OTHER_AWS_OPERATIONS: Final = (
    "CreateConsumableResource",
    "CreateQuotaShare",
    "CreateServiceEnvironment",
    "DeleteConsumableResource",
    "DeleteQuotaShare",
    "DeleteServiceEnvironment",
    "DescribeConsumableResource",
    "DescribeQuotaShare",
    "DescribeServiceEnvironments",
    "DescribeServiceJob",
    "ListConsumableResources",
    "ListJobsByConsumableResource",
    "ListQuotaShares",
    "ListServiceJobs",
    "SubmitServiceJob",
    "TerminateServiceJob",
    "TerminateServiceJobs",
    "UpdateConsumableResource",
    "UpdateQuotaShare",
    "UpdateServiceEnvironment",
    "UpdateServiceJob",
)
"""AWS Batch's operations that this server may lack: it says so plainly, where a 404 would read as an outage."""


@dataclass(frozen=True, slots=True)
class Route:
    """A way to an RPC."""

    method: MethodDescriptor
    protocol: Protocol
    verb: str = "POST"
    path_prefix: str = ""
    """What stands in the path before the value of a member."""
    path_member: str | None = None
    """AWS name of the member whose value is the rest of the path."""


class RouteTable:
    """Finds routes by what stands in a request's first line and its X-Amz-Target."""

    def __init__(self, services: Iterable[ServiceDescriptor]) -> None:
        self._by_path: dict[str, dict[str, Route]] = {}
        self._by_prefix: dict[str, dict[str, Route]] = {}
        self._by_target: dict[str, Route] = {}
        self._unsupported = {f"/v1/{name.lower()}": name for name in OTHER_AWS_OPERATIONS}
        for service in services:
            for method in service.methods:
                self._add(method)

    @property
    def routes(self) -> tuple[Route, ...]:
        """Every way there is."""
        tables = (*self._by_path.values(), *self._by_prefix.values())
        return (*(route for verbs in tables for route in verbs.values()), *self._by_target.values())

    def find(self, verb: str, path: str, target: str | None) -> Route:
        """Return the route for a verb, a raw path and an X-Amz-Target; raise AwsError when there is none.

        The path is looked up as it was sent, percent signs and all, save for a slash at its end.
        """
        if target is not None and path == AWS_JSON_PATH:
            return self._find_target(verb, target)
        bare = path.removesuffix("/")
        verbs = self._by_path.get(bare) or self._verbs_below(bare)
        if verbs is None:
            raise self._unknown(bare)
        route = verbs.get(verb)
        if route is None:
            raise _wrong_verb(verb, bare, verbs)
        return route

    def _add(self, method: MethodDescriptor) -> None:
        extensions = method.GetOptions().Extensions
        rule = extensions[annotations_pb2.http]
        target = extensions[annotations_pb2.aws_json_target]
        if rule.path:
            prefix, _, member = rule.path.removesuffix("}").partition("{")
            table = self._by_prefix if member else self._by_path
            verbs = table.setdefault(prefix, {})
            if rule.verb in verbs:
                raise ValueError(f"{method.full_name} and {verbs[rule.verb].method.full_name} share {rule.path}")
            verbs[rule.verb] = Route(method, REST_JSON, rule.verb, prefix, member or None)
        if target:
            self._by_target[target] = Route(method, AWS_JSON)

    def _verbs_below(self, path: str) -> Mapping[str, Route] | None:
        if not _DOTS.isdisjoint(path.split("/")):
            return None  # clients resolve these before they sign and send
        return next(
            (verbs for prefix, verbs in self._by_prefix.items() if len(path) > len(prefix) and path.startswith(prefix)),
            None,
        )

    def _find_target(self, verb: str, target: str) -> Route:
        route = self._by_target.get(target)
        if route is None:
            raise AwsError(400, "UnknownOperationException", f"{target[:100]} is not supported by this server.")
        if verb != "POST":
            raise _wrong_verb(verb, AWS_JSON_PATH, ("POST",))
        return route

    def _unknown(self, path: str) -> AwsError:
        operation = self._unsupported.get(path)
        if operation is not None:
            return AwsError(400, REST_JSON.client_error, f"{operation} is not supported by this server.")
        return AwsError(404, "UnknownOperationException", f"There is no operation at {path[:100] or AWS_JSON_PATH}.")


def _wrong_verb(verb: str, path: str, allowed: Iterable[str] | Mapping[str, Route]) -> AwsError:
    verbs = ", ".join(sorted(allowed))
    return AwsError(405, "MethodNotAllowedException", f"{path} takes {verbs}, not {verb}.", {"allow": verbs})
