"""Mutual TLS: a process's own certificate, read from files again when they change."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import grpc

from batchyard.rpc.peers import Peer, peer_in
from batchyard.rpc.private_files import PrivateFileError, read_private

if TYPE_CHECKING:
    from cryptography import x509

EXPIRY_WARNING: Final = timedelta(days=7)
"""A certificate that is good for no longer than this is worth a line in the log."""

_log = logging.getLogger(__name__)


class TlsError(ValueError):
    """Files that no TLS can be made with; the text says which, and why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where a process's certificate is."""

    cert: Path
    """Its certificate in PEM, followed by those between it and the authority, if there are any."""
    key: Path
    """The private key of it, in PEM without a passphrase; nobody else may read it."""
    ca: Path
    """The certificate of the authority, in PEM: whose certificates are taken."""


@dataclass(frozen=True, slots=True)
class _Material:
    cert: bytes
    key: bytes = field(repr=False)
    ca: bytes
    peer: Peer


class Tls:
    """How a process proves who it is, and lets others prove who they are.

    A server takes new files into use for the connections that come, a channel keeps those it was made with.
    """

    def __init__(self, files: TlsFiles) -> None:
        """Read the files. Raises TlsError."""
        self._files = files
        self._seen = self._state()
        self._material = _read(files)

    @property
    def peer(self) -> Peer:
        """Who this process is, by its certificate."""
        return self._material.peer

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return what a channel shows and what it takes: certificates of servers whose names are those it calls."""
        material = self._current()
        return grpc.ssl_channel_credentials(material.ca, material.key, material.cert)

    def server_credentials(self) -> grpc.ServerCredentials:
        """Return what a server shows, and that it takes nobody without a certificate."""
        used = self._current()

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            """Return what to use from now on, None for no change; threads of gRPC ask at each connection."""
            nonlocal used
            material = self._current()
            if material is used:
                return None
            used = material
            return _configuration(material)

        # Its stubs do not know that None may be returned.
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", renewed)
        return grpc.dynamic_ssl_server_credentials(_configuration(used), fetch, require_client_authentication=True)

    def https_context(self) -> ssl.SSLContext:
        """Return what an HTTPS server shows; it asks for no certificates."""
        used, context = self._current(), self._https()

        def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            nonlocal used, context
            material = self._current()
            if material is not used:
                used, context = material, self._https()
            connection.context = context

        serving = self._https()
        serving.sni_callback = choose
        return serving

    def _https(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._files.cert, self._files.key)
        return context

    def _current(self) -> _Material:
        """Return what the files hold, or held before somebody began to put something wrong in their place."""
        try:
            state = self._state()
            if state != self._seen:
                self._seen = state
                self._material = _read(self._files)
                _log.info("a new certificate is in use: %s", self._files.cert)
        except TlsError as error:
            _log.error("the certificate in use stays, as the new one is wrong: %s", error)
        return self._material

    def _state(self) -> tuple[tuple[int, int, int], ...]:
        try:
            stats = [path.stat() for path in (self._files.cert, self._files.key, self._files.ca)]
        except OSError as error:
            raise TlsError(f"cannot read {error.filename}: {error.strerror}") from error
        return tuple((found.st_ino, found.st_mtime_ns, found.st_size) for found in stats)


def _configuration(material: _Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(material.key, material.cert)], material.ca)


def _read(files: TlsFiles) -> _Material:
    # Loaded where there are certificates: without, a process is to start fast.
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        cert, ca = files.cert.read_bytes(), files.ca.read_bytes()
        key = read_private(files.key)
    except OSError as error:
        raise TlsError(f"cannot read {error.filename}: {error.strerror}") from error
    except PrivateFileError as error:
        raise TlsError(str(error)) from error
    own = _certificate(cert, files.cert)
    _certificate(ca, files.ca)
    try:
        public = load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError) as error:
        raise TlsError(f"{files.key} is no private key in PEM without a passphrase") from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*form) != own.public_key().public_bytes(*form):
        raise TlsError(f"{files.key} is not the key of {files.cert}")
    if own.not_valid_after_utc <= datetime.now(UTC):
        raise TlsError(f"{files.cert} has expired, on {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if own.not_valid_after_utc <= datetime.now(UTC) + EXPIRY_WARNING:
        _log.warning("%s expires on %s UTC", files.cert, f"{own.not_valid_after_utc:%Y-%m-%d %H:%M}")
    peer = _peer_of(own)
    if peer is None:
        raise TlsError(
            f"{files.cert} is of no service, agent or client of Batchyard: make one with `batchyard certificates issue`"
        )
    return _Material(cert, key, ca, peer)


def _certificate(pem: bytes, path: Path) -> "x509.Certificate":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise TlsError(f"{path} is no certificate in PEM") from error


def _peer_of(certificate: "x509.Certificate") -> Peer | None:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    return peer_in(names.get_values_for_type(x509.UniformResourceIdentifier))
