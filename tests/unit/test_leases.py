"""The lease that a compute environment asks for by its tag."""

import pytest

from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.leases import LEASE_TAG, check_lease_tag, lease_of


@pytest.mark.parametrize("text", ["30", "60", "3600"])
def test_a_tag_says_the_lease_in_seconds(text: str) -> None:
    check_lease_tag({LEASE_TAG: text})
    assert lease_of({LEASE_TAG: text}, "EC2") == lease_of({LEASE_TAG: text}, "SPOT") == int(text)


@pytest.mark.parametrize("text", ["", "29", "3601", "1e2", "60s", "-60", "60.5", "٦٠", "9" * 10_000])
def test_any_other_value_is_refused_and_says_what_would_be_right(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="must be a whole number of seconds from 30 to 3600"):
        check_lease_tag({LEASE_TAG: text})
    assert lease_of({LEASE_TAG: text}, "EC2") is None


def test_without_a_tag_only_spot_has_a_lease_of_its_own() -> None:
    check_lease_tag({"another": "tag"})
    assert lease_of({}, "SPOT") == 60
    assert [lease_of({}, kind) for kind in ("EC2", "FARGATE", "FARGATE_SPOT", "")] == [None] * 4
