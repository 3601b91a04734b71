"""From an Authorization header to a caller."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.domain.names import Caller
from batchyard.gateway.aws_errors import AwsError
from batchyard.gateway.config import GatewayConfig
from batchyard.gateway.identity import caller_of, parse_authorization
from support.gateway import authorization

CONFIG = GatewayConfig(account="111122223333", region="us-east-1")
GOOD = authorization("AKID", "eu-west-1")


def caller(header: str) -> Caller:
    return caller_of(parse_authorization(header).credential, CONFIG)


def test_an_access_key_of_12_digits_is_the_account() -> None:
    assert caller(authorization("000000000042", "eu-west-1")) == Caller("000000000042", "eu-west-1")


@pytest.mark.parametrize("access_key", ["AKIDEXAMPLE", "12345678901", "1234567890123", "test", "with/slashes"])
def test_other_access_keys_belong_to_the_configured_account(access_key: str) -> None:
    assert caller(authorization(access_key)).namespace == "111122223333"


def test_reads_headers_without_blanks_between_their_parts() -> None:
    assert parse_authorization(GOOD.replace(", ", ",")) == parse_authorization(GOOD)


@pytest.mark.parametrize("header", [None, ""])
def test_refuses_requests_without_credentials(header: str | None) -> None:
    with pytest.raises(AwsError) as error:
        parse_authorization(header)
    assert (error.value.status, error.value.error_type) == (403, "MissingAuthenticationTokenException")


@pytest.mark.parametrize(
    "header",
    [
        "Bearer abc",
        "Basic dXNlcjpwYXNz",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 x",
        GOOD.replace("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"),
        GOOD.replace("Credential=", "Cred="),
        GOOD.replace("SignedHeaders=host;x-amz-date", ""),
        GOOD.partition(", Signature")[0],
        GOOD.replace("aws4_request", "aws5_request"),
        GOOD.replace("/batch/", "/"),
        GOOD.replace("/batch/", "//"),
        GOOD.replace("/eu-west-1/", "//"),
        GOOD.replace("/eu-west-1/", "/eu west/"),
        GOOD.replace("20300101", "2030-01-01"),
        GOOD.replace("AKID", ""),
        GOOD + ", Signature=00",
        GOOD + ", More=00",
        f"{GOOD},{GOOD}",
    ],
)
def test_refuses_headers_that_no_aws_client_sends(header: str) -> None:
    with pytest.raises(AwsError) as error:
        parse_authorization(header)
    assert (error.value.status, error.value.error_type) == (400, "IncompleteSignatureException")


@given(st.text(), st.integers(0, len(GOOD)), st.integers(0, len(GOOD)))
def test_gives_an_ascii_caller_or_refuses_whatever_comes(text: str, start: int, end: int) -> None:
    with suppress(AwsError):
        found = caller(GOOD[:start] + text + GOOD[end:])
        assert found.region.isascii()
        assert found.namespace == CONFIG.account
