"""What jobs are told so that they can talk to the installation that runs them."""

from pathlib import Path

import pytest

from batchyard.agent.talkback import Credentials, TalkBack, TalkBackError, read_credentials
from batchyard.api.agent.v1 import run_pb2
from batchyard.api.common.v1 import container_pb2

ACCOUNT = "210987654321"
URL = "http://10.0.0.1:8080"
ENDPOINTS = {f"AWS_ENDPOINT_URL_{service}": URL for service in ("BATCH", "CLOUDWATCH_LOGS", "STS")}
REGIONS = {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1"}
KEYS = {"AWS_ACCESS_KEY_ID": ACCOUNT, "AWS_SECRET_ACCESS_KEY": "batchyard"}


def test_a_job_is_told_where_the_api_is_and_acts_for_its_own_account() -> None:
    assert TalkBack(URL, "eu-west-1").variables(ACCOUNT, []) == ENDPOINTS | REGIONS | KEYS


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("AWS_ENDPOINT_URL", REGIONS | KEYS),
        ("AWS_ENDPOINT_URL_BATCH", {k: v for k, v in ENDPOINTS.items() if "BATCH" not in k} | REGIONS | KEYS),
        ("AWS_REGION", ENDPOINTS | KEYS),
        ("AWS_DEFAULT_REGION", ENDPOINTS | KEYS),
        ("AWS_ACCESS_KEY_ID", ENDPOINTS | REGIONS),
        ("AWS_PROFILE", ENDPOINTS | REGIONS),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", ENDPOINTS | REGIONS),
    ],
)
def test_what_a_job_sets_by_itself_wins_with_all_that_goes_with_it(own: str, expected: dict[str, str]) -> None:
    assert TalkBack(URL, "eu-west-1").variables(ACCOUNT, [own, "OTHER"]) == expected


def test_a_job_gets_the_key_of_its_account_and_none_of_another() -> None:
    talk_back = TalkBack(URL, "eu-west-1", credentials={ACCOUNT: Credentials("AKIA1", "secret", "token")})
    keys = {"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token"}
    assert talk_back.variables(ACCOUNT, []) == ENDPOINTS | REGIONS | keys
    assert talk_back.variables("123456789012", []) == ENDPOINTS | REGIONS
    assert "secret" not in repr(talk_back)


def test_no_credentials_are_given_where_none_are_wanted() -> None:
    assert TalkBack(URL, "eu-west-1", has_credentials=False).variables(ACCOUNT, []) == ENDPOINTS | REGIONS


def test_the_specification_of_the_offer_stays_as_it_was() -> None:
    spec = run_pb2.JobSpec(namespace=ACCOUNT)
    spec.container.environment.add(name="AWS_REGION", value="mine")
    spec.container.secrets.append(container_pb2.Secret(name="AWS_SECRET_ACCESS_KEY", value_from="arn"))
    before = spec.SerializeToString()
    told = TalkBack(URL).added_to(spec)
    assert spec.SerializeToString() == before
    assert {pair.name: pair.value for pair in told.container.environment} == ENDPOINTS | {"AWS_REGION": "mine"}


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host", "http://", "http://a b", "http://host/?x"])
def test_an_endpoint_must_be_an_address(url: str) -> None:
    with pytest.raises(TalkBackError, match="job_endpoint"):
        TalkBack(url)


def test_keys_are_read_by_their_account(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(
        '[keys.AKIA1]\nsecret = "one"\n'
        f'[keys.AKIA2]\nsecret = "two"\naccount = "{ACCOUNT}"\nsession_token = "t"\n'
        f'[keys.AKIA3]\nsecret = "three"\naccount = "{ACCOUNT}"\n'
    )
    assert read_credentials(path, "123456789012") == {
        "123456789012": Credentials("AKIA1", "one"),
        ACCOUNT: Credentials("AKIA2", "two", "t"),
    }


@pytest.mark.parametrize("text", ["[keys", "", "keys = 1", "[keys.A]\naccount = 'x'", "[keys]\nA = 1"])
def test_a_file_that_holds_no_keys_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(TalkBackError, match="job_credentials"):
        read_credentials(path, ACCOUNT)
    with pytest.raises(TalkBackError, match="No such file"):
        read_credentials(tmp_path / "none", ACCOUNT)
