"""Real handshakes: who is let in, as whom, and how certificates are renewed."""

import logging
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import grpc
import grpc.aio
import pytest
from anyio import to_thread
from anyio.streams.tls import TLSStream
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from batchyard.rpc import authority
from batchyard.rpc.authority import KeyPair
from batchyard.rpc.connection import open_channel
from batchyard.rpc.peers import Peer, Role
from batchyard.rpc.server import ServerOptions, serve_grpc
from batchyard.rpc.tls import Tls, TlsError, TlsFiles
from support.certificates import A_DAY, Certificates, an_authority, put
from support.rpc import failure_of

AGENT = Peer(Role.AGENT, "worker")
CLIENT = Peer(Role.CLIENT, "alice")
SERVER = Peer(Role.SERVICE, "scheduler")
ANY_PORT = "127.0.0.1:0"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@asynccontextmanager
async def served(tls: Tls) -> AsyncIterator[int]:
    """Serve nothing but health."""
    async with serve_grpc([], address=ANY_PORT, options=ServerOptions(drain_s=0.1), tls=tls) as port:
        yield port


async def health(port: int, credentials: grpc.ChannelCredentials | None) -> Any:
    """Ask a server how it is, by a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    target = f"127.0.0.1:{port}"
    async with (
        grpc.aio.insecure_channel(target, options=options)
        if credentials is None
        else grpc.aio.secure_channel(target, credentials, options=options)
    ) as channel:
        return await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)


def credentials(certificates: Certificates, pair: KeyPair) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(certificates.authority.cert, pair.key, pair.cert)


async def test_a_client_with_a_certificate_is_served(certificates: Certificates) -> None:
    server, client = certificates.tls(Role.SERVICE, "scheduler"), certificates.tls(Role.CLIENT, "alice")
    async with served(server) as port, open_channel(f"127.0.0.1:{port}", client) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_nobody_is_let_in_without_a_certificate_that_is_good_now_for_clients_and_of_the_authority(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, other = certificates.pair(CLIENT), an_authority()
    expired = certificates.pair(CLIENT, valid=timedelta(minutes=-1))
    foreign = certificates.pair(CLIENT, authority=other)
    monkeypatch.setitem(authority._PURPOSES, Role.CLIENT, (ExtendedKeyUsageOID.SERVER_AUTH,))
    server_only = certificates.pair(CLIENT)
    async with served(certificates.tls(Role.SERVICE, "scheduler")) as port:
        await health(port, credentials(certificates, good))
        refused = {
            "no TLS": None,
            "no certificate": grpc.ssl_channel_credentials(certificates.authority.cert),
            "expired": credentials(certificates, expired),
            "of another authority of the same name": credentials(certificates, foreign),
            "for servers only": credentials(certificates, server_only),
        }
        for what, shown in refused.items():
            error = await failure_of(health(port, shown))
            assert error.code() is grpc.StatusCode.UNAVAILABLE, what
        await health(port, credentials(certificates, good))


@pytest.mark.parametrize("peer", [AGENT, CLIENT])
async def test_who_is_no_service_cannot_pretend_to_be_one(certificates: Certificates, peer: Peer) -> None:
    async with served(Tls(certificates.files(peer))) as port:
        error = await failure_of(health(port, credentials(certificates, certificates.pair(CLIENT))))
        assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_service_is_reached_under_no_name_but_those_in_its_certificate(certificates: Certificates) -> None:
    elsewhere = authority.issue(certificates.authority, SERVER, ["control.example.net"], datetime.now(UTC), A_DAY)
    async with served(Tls(certificates.files(SERVER, elsewhere))) as port:
        error = await failure_of(health(port, credentials(certificates, certificates.pair(CLIENT))))
        assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_of_the_authority_that_names_nobody_may_do_nothing(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Peer, "uri", "https://example.net/alice")
    nobody = certificates.pair(CLIENT)
    monkeypatch.undo()
    async with served(certificates.tls(Role.SERVICE, "scheduler")) as port:
        error = await failure_of(health(port, credentials(certificates, nobody)))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_server_shows_a_new_certificate_to_new_connections_without_a_restart(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    files = certificates.files(SERVER)
    tls = Tls(files)
    fresh = an_authority("fresh")
    shown = credentials(certificates, certificates.pair(CLIENT))
    async with served(tls) as port:
        await health(port, shown)
        # What is half written, or wrong, changes nothing.
        put(files.cert, certificates.pair(SERVER, authority=fresh).cert)
        with caplog.at_level(logging.ERROR):
            await health(port, shown)
        assert "is not the key of" in caplog.text
        put(files.ca, fresh.cert)
        certificates.files(SERVER, certificates.pair(SERVER, authority=fresh))
        now = Certificates(certificates.folder, fresh)
        await health(port, credentials(now, now.pair(CLIENT)))
        assert (await failure_of(health(port, shown))).code() is grpc.StatusCode.UNAVAILABLE


async def test_certificates_of_two_authorities_count_while_one_takes_the_place_of_the_other(
    certificates: Certificates,
) -> None:
    fresh = Certificates(certificates.folder, an_authority("fresh"))
    files = certificates.files(SERVER)
    put(files.ca, certificates.authority.cert + fresh.authority.cert)
    both = files.ca.read_bytes()
    async with served(Tls(files)) as port:
        for authority_of in (certificates, fresh):
            pair = authority_of.pair(CLIENT)
            await health(port, grpc.ssl_channel_credentials(both, pair.key, pair.cert))


async def test_https_shows_a_new_certificate_to_new_connections(certificates: Certificates) -> None:
    files = certificates.files(SERVER)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    context = Tls(files).https_context()
    port = listener.extra(anyio.abc.SocketAttribute.local_port)

    def certificate_shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=60)

    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await TLSStream.wrap(stream, server_side=True, ssl_context=context)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        before = await to_thread.run_sync(certificate_shown)
        renewed = certificates.pair(SERVER)
        certificates.files(SERVER, renewed)
        assert await to_thread.run_sync(certificate_shown) == renewed.cert.decode() != before
        tasks.cancel_scope.cancel()


def test_what_cannot_be_used_is_told(certificates: Certificates) -> None:
    files = certificates.files(CLIENT)
    absent = certificates.folder / "absent.pem"
    wrong = certificates.folder / "wrong.pem"
    wrong.write_text("wrong")
    others = certificates.files(AGENT)
    for broken, told in (
        (TlsFiles(absent, files.key, files.ca), "cannot read .*absent.pem"),
        (TlsFiles(files.cert, absent, files.ca), "cannot read .*absent.pem"),
        (TlsFiles(wrong, files.key, files.ca), "wrong.pem is no certificate"),
        (TlsFiles(files.cert, files.key, wrong), "wrong.pem is no certificate"),
        (TlsFiles(files.cert, others.key, files.ca), "is not the key of"),
        (TlsFiles(files.ca, files.key, files.ca), "is not the key of"),
        (TlsFiles(files.cert, files.cert, files.ca), "others may read"),
    ):
        with pytest.raises(TlsError, match=told):
            Tls(broken)
    wrong.chmod(0o600)
    with pytest.raises(TlsError, match="is no private key"):
        Tls(TlsFiles(files.cert, wrong, files.ca))
    os.chmod(files.key, 0o644)
    with pytest.raises(TlsError, match="chmod 600"):
        Tls(files)


def test_an_expired_certificate_is_told(certificates: Certificates) -> None:
    files = certificates.files(CLIENT, certificates.pair(CLIENT, valid=timedelta(minutes=-1)))
    with pytest.raises(TlsError, match="has expired, on 20"):
        Tls(files)


def test_a_certificate_that_expires_soon_is_told(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    Tls(certificates.files(CLIENT, certificates.pair(CLIENT, valid=timedelta(days=30))))
    assert caplog.text == ""
    Tls(certificates.files(CLIENT, certificates.pair(CLIENT, valid=timedelta(days=6))))
    assert "client-alice.pem expires on 20" in caplog.text


def test_no_key_shows_in_a_text(certificates: Certificates) -> None:
    tls = certificates.tls(Role.CLIENT, "alice")
    assert "PRIVATE" not in repr(tls._material)
    assert "PRIVATE" not in repr(certificates.authority)


def test_an_authority_makes_no_further_authorities(certificates: Certificates) -> None:
    made = x509.load_pem_x509_certificate(certificates.pair(SERVER).cert)
    own = x509.load_pem_x509_certificate(certificates.authority.cert)
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert own.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
