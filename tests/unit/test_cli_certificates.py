"""`batchyard certificates`, and the flags that take what it makes."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from batchyard.cli.main import main
from batchyard.rpc.peers import Peer, Role
from batchyard.rpc.tls import Tls, TlsFiles


def batchyard(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert batchyard("certificates", "init", "--folder", str(tmp_path / "ca")).exit_code == 0
    return tmp_path / "ca"


def issue(folder: Path, *arguments: str) -> Result:
    return batchyard("certificates", "issue", "--folder", str(folder), *arguments)


def files(folder: Path, name: str) -> TlsFiles:
    return TlsFiles(folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem")


@pytest.mark.parametrize(
    ("arguments", "name", "peer"),
    [
        (
            ["--service", "control", "--address", "control.example.net"],
            "service-control",
            Peer(Role.SERVICE, "control"),
        ),
        (["--agent", "worker-1"], "agent-worker-1", Peer(Role.AGENT, "worker-1")),
        (["--client", "alice"], "client-alice", Peer(Role.CLIENT, "alice")),
        (["--client", "ci", "--only-account", "210987654321"], "client-ci", Peer(Role.CLIENT, "ci", "210987654321")),
    ],
)
def test_makes_certificates_for_each_role(folder: Path, arguments: list[str], name: str, peer: Peer) -> None:
    result = issue(folder, *arguments)
    assert result.exit_code == 0, result.output
    assert Tls(files(folder, name)).peer == peer
    assert stat.S_IMODE((folder / f"{name}.key").stat().st_mode) == 0o600
    made = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
    purposes = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert (ExtendedKeyUsageOID.SERVER_AUTH in purposes) == (peer.role is Role.SERVICE)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    expected = ["localhost", "control.example.net"] if peer.role is Role.SERVICE else []
    assert names.get_values_for_type(x509.DNSName) == expected
    assert abs(made.not_valid_after_utc - datetime.now(UTC) - timedelta(days=365)) < timedelta(hours=1)


def test_the_keys_are_nobodys_elses(folder: Path) -> None:
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_an_authority_is_never_replaced(folder: Path) -> None:
    before = (folder / "ca.pem").read_bytes()
    result = batchyard("certificates", "init", "--folder", str(folder))
    assert result.exit_code == 2
    assert "there is an authority" in result.output
    assert (folder / "ca.pem").read_bytes() == before


def test_a_certificate_is_renewed_in_place(folder: Path) -> None:
    issue(folder, "--agent", "worker-1")
    before = (folder / "agent-worker-1.pem").read_bytes()
    issue(folder, "--agent", "worker-1", "--days", "30")
    assert (folder / "agent-worker-1.pem").read_bytes() != before
    assert Tls(files(folder, "agent-worker-1")).peer == Peer(Role.AGENT, "worker-1")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "say for whom"),
        (["--agent", "a", "--client", "b"], "say for whom"),
        (["--agent", "worker.1"], "letters, digits, hyphens and underscores"),
        (["--agent", "a", "--address", "a.example.net"], "--address is for services"),
        (["--agent", "a", "--only-account", "210987654321"], "--only-account is for clients"),
        (["--client", "a", "--only-account", "1234"], "is not 12 digits"),
        (["--client", "a", "--days", "0"], "--days"),
    ],
)
def test_what_makes_no_certificate_is_told(folder: Path, arguments: list[str], told: str) -> None:
    result = issue(folder, *arguments)
    assert result.exit_code == 2
    assert told in result.output
    assert sorted(path.name for path in folder.iterdir()) == ["ca.key", "ca.pem"]


def test_without_an_authority_there_are_no_certificates(tmp_path: Path) -> None:
    result = issue(tmp_path, "--agent", "a")
    assert result.exit_code == 2
    assert "batchyard certificates init" in result.output


@pytest.mark.parametrize("command", [("scheduler",), ("agent",), ("gateway",), ("up",), ("run", "--", "true")])
def test_a_command_tells_which_file_is_missing_or_wrong(folder: Path, command: tuple[str, ...]) -> None:
    issue(folder, "--agent", "a")
    issue(folder, "--service", "b")
    name, *rest = command
    wrong = files(folder, "service-b" if name == "agent" else "agent-a")
    flags = ["--tls-cert", str(wrong.cert), "--tls-key", str(wrong.key)]
    result = batchyard(name, *flags, *rest)
    assert result.exit_code == 2
    assert "--tls-ca is missing" in result.output
    result = batchyard(name, *flags, "--tls-ca", str(wrong.ca), *rest)
    assert result.exit_code == 2
    assert "this command needs one of a" in result.output
