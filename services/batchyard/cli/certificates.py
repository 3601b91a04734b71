"""`batchyard certificates`: an authority of one's own, and the certificates that it makes."""

import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click

from batchyard.cli import options
from batchyard.cli.errors import CannotStartError
from batchyard.rpc.authority import KeyPair, create_authority, issue
from batchyard.rpc.peers import PEER_NAME, Peer, Role
from batchyard.rpc.private_files import PrivateFileError, read_private

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")
"""Every service may be called from its own machine."""


def _folder() -> options.Decorator:
    return options.option(
        "--folder",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("certificates"),
        help="Folder of the authority, ca.pem and ca.key. Keep it away from the machines that run jobs.",
    )


def _days(default: int) -> options.Decorator:
    return options.option(
        "--days", type=click.IntRange(1, 36_500), default=default, help="How long the certificate is good."
    )


@click.group()
def certificates() -> None:
    """Make the certificates with which the parts of an installation, and its clients, know each other."""


@certificates.command()
@_folder()
@options.option("--name", default="Batchyard", help="What the authority calls itself.")
@_days(3650)
def init(*, folder: Path, name: str, days: int) -> None:
    """Make an authority: ca.pem, which everybody gets, and ca.key, which nobody gets."""
    if (folder / "ca.key").exists() or (folder / "ca.pem").exists():
        raise CannotStartError(f"there is an authority in {folder}: its certificates would be worth nothing any more")
    authority = create_authority(name, datetime.now(UTC), timedelta(days=days))
    _write(folder, "ca", authority)


@certificates.command("issue")
@_folder()
@options.option("--service", metavar="NAME", help="A part of the control plane, such as scheduler or gateway.")
@options.option("--agent", metavar="NAME", help="A host that runs jobs.")
@options.option("--client", metavar="NAME", help="Who calls the public gRPC port.")
@options.option("--only-account", metavar="DIGITS", help="The only account that the client may act for. Default: any.")
@options.option(
    "--address",
    multiple=True,
    metavar="NAME",
    help="A name or address under which others call the service, beside localhost; repeatable.",
)
@_days(365)
def issue_certificate(
    *,
    folder: Path,
    service: str | None,
    agent: str | None,
    client: str | None,
    only_account: str | None,
    address: tuple[str, ...],
    days: int,
) -> None:
    """Make a certificate and its key, such as agent-NAME.pem and agent-NAME.key; in place of older ones."""
    peer = _peer(service, agent, client, only_account)
    if address and peer.role is not Role.SERVICE:
        raise click.UsageError("--address is for services: nobody calls an agent or a client")
    hosts = (*LOCAL_HOSTS, *address) if peer.role is Role.SERVICE else ()
    try:
        authority = KeyPair((folder / "ca.pem").read_bytes(), read_private(folder / "ca.key"))
        pair = issue(authority, peer, hosts, datetime.now(UTC), timedelta(days=days))
    except OSError as error:
        raise CannotStartError(
            f"cannot read {error.filename}: {error.strerror}; `batchyard certificates init` makes an authority"
        ) from error
    except (PrivateFileError, ValueError, TypeError) as error:
        raise CannotStartError(str(error)) from error
    _write(folder, f"{peer.role}-{peer.name}", pair)


def _peer(service: str | None, agent: str | None, client: str | None, account: str | None) -> Peer:
    given = [
        (role, name)
        for role, name in ((Role.SERVICE, service), (Role.AGENT, agent), (Role.CLIENT, client))
        if name is not None
    ]
    if len(given) != 1:
        raise click.UsageError("say for whom: one of --service NAME, --agent NAME and --client NAME")
    [(role, name)] = given
    if not PEER_NAME.fullmatch(name):
        raise click.UsageError(f"--{role} {name!r} is not 1 to 64 letters, digits, hyphens and underscores")
    if account is not None and role is not Role.CLIENT:
        raise click.UsageError("--only-account is for clients")
    if account is not None and not (len(account) == 12 and account.isascii() and account.isdigit()):
        raise click.UsageError(f"--only-account {account!r} is not 12 digits")
    return Peer(role, name, account)


def _write(folder: Path, name: str, pair: KeyPair) -> None:
    """Write both files, each whole or not at all; the key for its owner alone."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for suffix, content, mode in ((".key", pair.key, 0o600), (".pem", pair.cert, 0o644)):
            path = folder / f"{name}{suffix}"
            fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
            fresh.replace(path)
    except OSError as error:
        raise CannotStartError(f"cannot write to {folder}: {error.strerror}") from error
    click.echo(f"wrote {folder / name}.pem and {folder / name}.key", err=True)
