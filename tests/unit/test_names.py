import pytest

from batchyard.domain.errors import InvalidRequestError
from batchyard.domain.names import ResourceKind, name_in_reference, split_revision

ACCOUNT = "123456789012"
ARN = f"arn:aws:batch:us-east-1:{ACCOUNT}:"


@pytest.mark.parametrize(
    ("reference", "kind", "name", "revision"),
    [
        ("name", ResourceKind.JOB_DEFINITION, "name", None),
        ("name:12", ResourceKind.JOB_DEFINITION, "name", 12),
        ("name:0000000000000012", ResourceKind.JOB_DEFINITION, "name", 12),
        ("name:12345678901", ResourceKind.JOB_DEFINITION, "name", 2**31 - 1),
        (f"name:{'9' * 10_000}", ResourceKind.JOB_DEFINITION, "name", 2**31 - 1),
        (f"{ARN}job-definition/name", ResourceKind.JOB_DEFINITION, "name", None),
        (f"{ARN}job-definition/name:12", ResourceKind.JOB_DEFINITION, "name", 12),
        (f"arn:aws:batch:eu-west-1:{ACCOUNT}:job-definition/name:12", ResourceKind.JOB_DEFINITION, "name", 12),
        (f"{ARN}job-queue/1", ResourceKind.JOB_QUEUE, "1", None),
    ],
)
def test_a_reference_leads_to_a_name_and_the_last_colon_of_an_arn_to_the_revision(
    reference: str, kind: ResourceKind, name: str, revision: int | None
) -> None:
    assert split_revision(name_in_reference(reference, kind, ACCOUNT) or "") == (name, revision)


@pytest.mark.parametrize(
    "reference",
    [
        "arn:",
        "arn:aws:batch",
        f"{ARN}job-definition/",
        f"{ARN}job-definition/name:x",
        f"{ARN}job-definition/name:1:1",
        f"{ARN}job-definition/a/b",
        f"{ARN}job-queue/name",
        "arn:aws:batch:us-east-1:999999999999:job-definition/name:1",
        f"arn:aws:ecs:us-east-1:{ACCOUNT}:job-definition/name:1",
    ],
)
def test_an_arn_that_can_name_nothing_here_is_of_nothing(reference: str) -> None:
    assert name_in_reference(reference, ResourceKind.JOB_DEFINITION, ACCOUNT) is None


@pytest.mark.parametrize("reference", ["", "name:latest", "name:", ":1", "a b", "a" * 129, "name:1:1"])
def test_what_is_neither_a_name_nor_an_arn_is_refused(reference: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not supported pattern"):
        name_in_reference(reference, ResourceKind.JOB_DEFINITION, ACCOUNT)


def test_only_a_definition_has_a_revision() -> None:
    with pytest.raises(InvalidRequestError, match="Provided name queue:1 is not supported pattern"):
        name_in_reference("queue:1", ResourceKind.JOB_QUEUE, ACCOUNT)
