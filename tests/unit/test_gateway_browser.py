"""The rules that keep web pages out."""

import pytest

from batchyard.gateway.aws_errors import AwsError
from batchyard.gateway.browser import BrowserRules
from batchyard.gateway.config import GatewayConfig

LOCAL = BrowserRules(GatewayConfig(allowed_hosts=("Batch.Example", "host.docker.internal")))
EVERYWHERE = BrowserRules(GatewayConfig(host="0.0.0.0", insecure=True))
SIX = BrowserRules(GatewayConfig(host="2001:DB8::1", insecure=True))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:8080",
        "127.8.9.10:1",
        "localhost",
        "LocalHost:8080",
        "localhost.:8080",
        "batch.localhost:8080",
        "[::1]",
        "[::1]:8080",
        "[0:0:0:0:0:0:0:1]:8080",
        "batch.example",
        "BATCH.example:443",
        "host.docker.internal:8080",
    ],
)
def test_takes_requests_to_loopback_and_configured_names_with_or_without_port(host: str) -> None:
    LOCAL.check(host, None)


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:8080",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "batch.example.evil",
        "notlocalhost",
        "10.0.0.1:8080",
        "[2001:db8::1]:8080",
        "[::ffff:10.0.0.1]",
        "::1",
        "127.0.0.1:80:80",
        "127.0.0.1:http",
        "user@127.0.0.1",
        "127.0.0.1/path",
        "127.0.0.1, evil.example",
        "evil.example, 127.0.0.1",
        "[127.0.0.1",
        "0x7f.0.0.1",
        "2130706433",
        "a" * 300 + ".localhost",
    ],
)
def test_refuses_requests_to_other_names(host: str | None) -> None:
    with pytest.raises(AwsError, match="not a name of this server") as error:
        LOCAL.check(host, None)
    assert error.value.status == 403


def test_takes_the_address_that_it_listens_on_however_it_is_written() -> None:
    SIX.check("[2001:db8:0::1]:8080", None)


@pytest.mark.parametrize("host", ["10.0.0.1:8080", "[2001:db8::1]:8080", "localhost"])
def test_takes_every_address_when_it_listens_on_all(host: str) -> None:
    EVERYWHERE.check(host, None)


def test_refuses_foreign_names_also_when_it_listens_on_all_addresses() -> None:
    with pytest.raises(AwsError, match="not a name of this server"):
        EVERYWHERE.check("evil.example:8080", None)


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8080", "HTTP://127.0.0.1:8080", "https://127.0.0.1:8080"])
def test_takes_requests_of_its_own_pages(origin: str) -> None:
    LOCAL.check("127.0.0.1:8080", origin)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        "http://localhost:8080",
        "http://127.0.0.1:3000",
        "http://127.0.0.1",
        "http://127.0.0.1:8080.evil.example",
        "file://127.0.0.1:8080",
        "http://evil.example, http://127.0.0.1:8080",
    ],
)
def test_refuses_requests_of_other_pages(origin: str) -> None:
    with pytest.raises(AwsError, match="another origin") as error:
        LOCAL.check("127.0.0.1:8080", origin)
    assert error.value.status == 403
