"""Who a certificate is of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.rpc.peers import Peer, Role, peer_in


@pytest.mark.parametrize(
    "peer",
    [
        Peer(Role.SERVICE, "scheduler"),
        Peer(Role.AGENT, "worker-1"),
        Peer(Role.CLIENT, "alice"),
        Peer(Role.CLIENT, "ci", "210987654321"),
    ],
)
def test_a_peer_is_found_by_its_uri_among_other_names(peer: Peer) -> None:
    assert peer_in(["worker.example.net", peer.uri, "https://example.net", "127.0.0.1"]) == peer


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["worker.example.net"],
        ["batchyard://agent/a", "batchyard://agent/b"],
        ["batchyard://agent/a", "batchyard://service/a"],
        ["batchyard://agent/a", "batchyard://"],
        ["batchyard://agent/"],
        ["batchyard://agent/a/b"],
        ["batchyard://agent/a.b"],
        ["batchyard://agent/a\n"],
        ["batchyard://agent/a?account=210987654321"],
        ["batchyard://client/a?account=21098765432"],
        ["batchyard://admin/a"],
        ["BATCHYARD://agent/a"],
        [" batchyard://agent/a"],
        ["spiffe://batchyard/agent/a"],
    ],
)
def test_a_certificate_that_does_not_say_clearly_whose_it_is_is_nobodys(names: list[str]) -> None:
    assert peer_in(names) is None


def test_an_agent_is_the_one_of_its_name_and_those_whose_ids_begin_with_it() -> None:
    peer = Peer(Role.AGENT, "worker-1")
    for agent_id in ("worker-1", "worker-1.0123456789ab"):
        assert peer.is_agent(agent_id)
    for agent_id in ("", "worker-10", "worker-1-2", "worker-2.worker-1", "worker", "Worker-1", "worker-1 "):
        assert not peer.is_agent(agent_id)
    for agent_id in ("worker-1.", "worker-1.a.b", "worker-1.a\nb", "worker-1.a\n", f"worker-1.{'a' * 33}"):
        assert not peer.is_agent(agent_id)


@pytest.mark.parametrize("role", [Role.SERVICE, Role.CLIENT])
def test_nobody_else_is_an_agent(role: Role) -> None:
    assert not Peer(role, "worker-1").is_agent("worker-1")


_names = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)


@given(_names, _names, st.text(max_size=10))
def test_two_agents_never_have_an_id_in_common(one: str, other: str, rest: str) -> None:
    for agent_id in (one, f"{one}.{rest}", f"{one}{rest}"):
        owners = {name for name in (one, other) if Peer(Role.AGENT, name).is_agent(agent_id)}
        assert len(owners) <= 1
