"""The five operations on scheduling policies, as boto3 users see them."""

from typing import Any

from support.aws import Account, pages

FAIR: Any = {
    "shareDecaySeconds": 0,
    "computeReservation": 99,
    "shareDistribution": [
        {"shareIdentifier": "blue", "weightFactor": 0.1},
        {"shareIdentifier": "red*", "weightFactor": 999.9999},
        {"shareIdentifier": "green"},
    ],
}


def arn_of(account: Account, name: str) -> str:
    return f"arn:aws:batch:us-east-1:{account.access_key}:scheduling-policy/{name}"


def describe(account: Account, *arns: str) -> Any:
    return account.batch.describe_scheduling_policies(arns=list(arns))["schedulingPolicies"]


def test_every_member_comes_back(account: Account) -> None:
    created = account.batch.create_scheduling_policy(name="fair", fairsharePolicy=FAIR, tags={"a": "b"})
    arn = arn_of(account, "fair")
    assert (created["name"], created["arn"]) == ("fair", arn)
    assert describe(account, arn) == [{"name": "fair", "arn": arn, "fairsharePolicy": FAIR, "tags": {"a": "b"}}]


def test_one_without_rules_is_of_equal_shares(account: Account) -> None:
    arn = account.batch.create_scheduling_policy(name="least")["arn"]
    assert describe(account, arn) == [{"name": "least", "arn": arn, "fairsharePolicy": {}, "tags": {}}]


def test_an_update_replaces_the_rules_whole(account: Account) -> None:
    arn = account.batch.create_scheduling_policy(name="fair", fairsharePolicy=FAIR, tags={"a": "b"})["arn"]
    account.batch.update_scheduling_policy(arn=arn)
    assert describe(account, arn)[0]["fairsharePolicy"] == FAIR
    account.batch.update_scheduling_policy(arn=arn, fairsharePolicy={"shareDecaySeconds": 60})
    (policy,) = describe(account, arn)
    assert (policy["fairsharePolicy"], policy["tags"]) == ({"shareDecaySeconds": 60}, {"a": "b"})


def test_describes_each_once_and_leaves_out_unknown_ones(account: Account) -> None:
    arns = [account.batch.create_scheduling_policy(name=name)["arn"] for name in ("b", "a")]
    found = describe(account, *arns, arns[0], arn_of(account, "none"), "a", arns[0].replace("policy/", "queue/"))
    assert [policy["name"] for policy in found] == ["a", "b"]


def test_lists_arns_page_by_page(account: Account) -> None:
    for name in ("c", "a", "b"):
        account.batch.create_scheduling_policy(name=name)
    seen = list(pages(account.batch.list_scheduling_policies, "schedulingPolicies", maxResults=2))
    assert seen == [
        [{"arn": arn_of(account, "a")}, {"arn": arn_of(account, "b")}],
        [{"arn": arn_of(account, "c")}],
    ]


def test_a_deleted_one_is_gone_and_its_name_free(account: Account) -> None:
    arn = account.batch.create_scheduling_policy(name="policy", tags={"a": "b"})["arn"]
    account.batch.delete_scheduling_policy(arn=arn)
    assert describe(account, arn) == []
    assert account.batch.list_scheduling_policies()["schedulingPolicies"] == []
    account.batch.delete_scheduling_policy(arn=arn)
    account.batch.create_scheduling_policy(name="policy")
    assert describe(account, arn)[0]["tags"] == {}
