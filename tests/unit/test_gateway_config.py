"""What a gateway refuses to start with."""

from dataclasses import replace
from pathlib import Path

import pytest

from batchyard.gateway.access_keys import AccessKey
from batchyard.gateway.config import GatewayConfig, InvalidConfigError
from batchyard.rpc.peers import Role
from batchyard.rpc.tls import Tls
from support.certificates import Certificates


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_listens_on_loopback_without_further_ado(host: str) -> None:
    assert GatewayConfig(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "2001:db8::1", "example.org"])
def test_listens_elsewhere_only_where_that_is_allowed(host: str) -> None:
    with pytest.raises(InvalidConfigError, match="--insecure"):
        GatewayConfig(host=host)
    assert GatewayConfig(host=host, insecure=True).host == host


def test_lists_all_that_is_wrong() -> None:
    with pytest.raises(InvalidConfigError) as error:
        GatewayConfig(
            host="a b",
            port=-1,
            grpc_port=65536,
            account="1234",
            region="eu west",
            allowed_hosts=("good", "http://bad"),
            deadline_s=0,
        )
    text = str(error.value)
    for part in ("'a b'", "port -1", "grpc_port 65536", "'1234'", "'eu west'", "'http://bad'", "deadline_s 0"):
        assert part in text
    assert "'good'" not in text


@pytest.mark.parametrize("deadline_s", [-1.0, float("inf"), float("nan")])
def test_a_deadline_is_a_time(deadline_s: float) -> None:
    with pytest.raises(InvalidConfigError, match="deadline_s"):
        GatewayConfig(deadline_s=deadline_s)


def test_two_servers_need_two_ports_or_free_ones() -> None:
    with pytest.raises(InvalidConfigError, match="both 8080"):
        GatewayConfig(port=8080, grpc_port=8080)
    assert GatewayConfig(port=0, grpc_port=0).port == 0


@pytest.mark.parametrize("ports", [(0, 8081), (8080, 0)])
def test_only_ports_that_are_known_can_be_shared(ports: tuple[int, int]) -> None:
    with pytest.raises(InvalidConfigError, match="reuse_port"):
        GatewayConfig(port=ports[0], grpc_port=ports[1], reuse_port=True)


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return Certificates(tmp_path).tls(Role.SERVICE, "gateway")


def test_listens_anywhere_once_everybody_is_asked_who_it_is(tls: Tls) -> None:
    keys = {"AKID": AccessKey("a secret of enough characters")}
    assert GatewayConfig(host="0.0.0.0", access_keys=keys, tls=tls).host == "0.0.0.0"
    for half, told in (
        (GatewayConfig(access_keys=keys), "without --tls-cert"),
        (GatewayConfig(tls=tls), "without --access-keys"),
    ):
        with pytest.raises(InvalidConfigError, match=told):
            replace(half, host="0.0.0.0")


def test_no_secret_shows_in_a_text(tls: Tls) -> None:
    config = GatewayConfig(access_keys={"AKID": AccessKey("a secret of enough characters")}, tls=tls)
    assert "a secret" not in repr(config)
    assert "PRIVATE" not in repr(config)
