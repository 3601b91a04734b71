"""What a scheduling policy must be like, and what it is made of. Pure."""

import re
from collections.abc import Sequence
from typing import Final

from batchyard.api.registry.v1.registry_service_pb2 import CreateSchedulingPolicyRequest, UpdateSchedulingPolicyRequest
from batchyard.api.registry.v1.scheduling_policy_pb2 import FairsharePolicy, SchedulingPolicyDetail, ShareAttributes
from batchyard.domain.errors import InvalidRequestError, WrongStateError
from batchyard.domain.names import RESOURCE_NAME, Caller, ResourceKind
from batchyard.domain.resources import check_tags

SHARE_DECAY_S_MAX: Final = 604_800
COMPUTE_RESERVATION_MAX: Final = 99
SHARES_MAX: Final = 500
WEIGHT_FACTOR_MIN: Final = 0.0001
WEIGHT_FACTOR_MAX: Final = 999.9999

_SHARE_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_-]{1,255}|[A-Za-z0-9_-]{0,254}\*")


def new_policy(request: CreateSchedulingPolicyRequest, caller: Caller) -> SchedulingPolicyDetail:
    """Return the policy that a request describes; raise InvalidRequestError if it can't be.

    One without any rules is a fair-share policy with equal weights.
    """
    if not RESOURCE_NAME.fullmatch(request.name):
        raise InvalidRequestError("Scheduling policy name should match a valid pattern.", field="name")
    _check_kind(request)
    _check_fairshare(request.fairshare_policy)
    check_tags(request.tags)
    return SchedulingPolicyDetail(
        name=request.name,
        arn=caller.arn(ResourceKind.SCHEDULING_POLICY, request.name),
        fairshare_policy=request.fairshare_policy,
        tags=request.tags,
    )


def check_policy_update(request: UpdateSchedulingPolicyRequest) -> None:
    """Raise InvalidRequestError for rules that can't be."""
    _check_kind(request)
    _check_fairshare(request.fairshare_policy)


def updated_policy(current: SchedulingPolicyDetail, request: UpdateSchedulingPolicyRequest) -> SchedulingPolicyDetail:
    """Return the policy as a checked update makes it: with the new rules in place of the old ones."""
    updated = SchedulingPolicyDetail()
    updated.CopyFrom(current)
    if request.HasField("fairshare_policy"):
        updated.fairshare_policy.CopyFrom(request.fairshare_policy)
    return updated


def check_deletable(job_queues: Sequence[str]) -> None:
    """Raise WrongStateError if a policy that these job queues name must not be deleted."""
    if job_queues:
        raise WrongStateError(f"Cannot delete, found existing JobQueue relationship ({', '.join(job_queues)})")


def deleted_policy(policy: SchedulingPolicyDetail) -> SchedulingPolicyDetail:
    """Return the tombstone of a policy."""
    return SchedulingPolicyDetail(name=policy.name, arn=policy.arn)


def _check_kind(request: CreateSchedulingPolicyRequest | UpdateSchedulingPolicyRequest) -> None:
    if request.HasField("quota_share_policy"):
        raise InvalidRequestError("quotaSharePolicy is not supported by this server.", field="quotaSharePolicy")


def _check_fairshare(policy: FairsharePolicy) -> None:
    if not 0 <= policy.share_decay_seconds <= SHARE_DECAY_S_MAX:
        raise _refused(f"ShareDecaySeconds should be between 0 and {SHARE_DECAY_S_MAX}.", "shareDecaySeconds")
    if not 0 <= policy.compute_reservation <= COMPUTE_RESERVATION_MAX:
        raise _refused(f"ComputeReservation should be between 0 and {COMPUTE_RESERVATION_MAX}.", "computeReservation")
    if len(policy.share_distribution) > SHARES_MAX:
        raise _refused(f"ShareDistribution size cannot be greater than {SHARES_MAX}.", "shareDistribution")
    for share in policy.share_distribution:
        if not _SHARE_IDENTIFIER.fullmatch(share.share_identifier):
            raise _refused("ShareIdentifier name should match a valid pattern.", "shareDistribution")
        if share.HasField("weight_factor") and not WEIGHT_FACTOR_MIN <= share.weight_factor <= WEIGHT_FACTOR_MAX:
            raise _refused(
                f"Weight factor should be between {WEIGHT_FACTOR_MIN} and {WEIGHT_FACTOR_MAX}.", "shareDistribution"
            )
    _check_distinct(policy.share_distribution)


def _check_distinct(shares: Sequence[ShareAttributes]) -> None:
    """Check that no job's share can belong to two entries."""
    identifiers = [share.share_identifier for share in shares]
    if len(set(identifiers)) < len(identifiers):
        raise _refused("Cannot have two or more identical shareIdentifiers.", "shareDistribution")
    for prefix in (identifier for identifier in identifiers if identifier.endswith("*")):
        for other in identifiers:
            if other != prefix and other.startswith(prefix[:-1]):
                raise _refused(
                    f"Share identifier {prefix} matches another share identifier {other}", "shareDistribution"
                )


def _refused(message: str, member: str) -> InvalidRequestError:
    return InvalidRequestError(message, field=f"fairsharePolicy.{member}")
