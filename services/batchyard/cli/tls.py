"""The flags with which a command proves who it is, and learns who others are."""

from functools import wraps
from pathlib import Path
from typing import Any, Final, cast

import click

from batchyard.cli.errors import CannotStartError
from batchyard.cli.options import Command, Decorator, all_of, further_option, variable_of
from batchyard.rpc import hosts
from batchyard.rpc.peers import Role
from batchyard.rpc.tls import Tls, TlsError, TlsFiles

_FLAGS: Final = ("--tls-cert", "--tls-key", "--tls-ca")
TLS_VARIABLES: Final = tuple(variable_of(flag) for flag in _FLAGS)
_FILE: Final = click.Path(dir_okay=False, path_type=Path)


def tls_files(*roles: Role) -> Decorator:
    """Declare --tls-cert, --tls-key and --tls-ca; the command gets what they make as `tls`, None without them.

    The certificate must be for one of the roles. The command ends with CannotStartError if the files are wrong.
    """
    cert, key, ca = _FLAGS
    flags = all_of(
        further_option(cert, metavar="FILE", type=_FILE, help="Own certificate, in PEM; see `batchyard certificates`."),
        further_option(key, metavar="FILE", type=_FILE, help="Private key of --tls-cert, in PEM."),
        further_option(
            ca, metavar="FILE", type=_FILE, help="Certificate of the authority whose certificates count, in PEM."
        ),
    )

    def decorate(command: Command) -> Command:
        @wraps(command)
        def with_tls(*, tls_cert: Path | None, tls_key: Path | None, tls_ca: Path | None, **values: Any) -> Any:
            return command(tls=_tls_of(roles, tls_cert, tls_key, tls_ca), **values)

        return flags(cast("Command", with_tls))

    return decorate


def _tls_of(roles: tuple[Role, ...], *files: Path | None) -> Tls | None:
    given = [file for file in files if file is not None]
    if not given:
        return None
    if len(given) != len(_FLAGS):
        missing = " and ".join(flag for flag, file in zip(_FLAGS, files, strict=True) if file is None)
        raise click.UsageError(f"--tls-cert, --tls-key and --tls-ca belong together: {missing} is missing")
    try:
        tls = Tls(TlsFiles(*given))
    except TlsError as error:
        raise CannotStartError(str(error)) from error
    if tls.peer.role not in roles:
        wanted = " or ".join(roles)
        raise CannotStartError(f"{given[0]} is the certificate of {tls.peer}: this command needs one of a {wanted}")
    return tls


def refuse_open_door(flag: str, host: str, tls: Tls | None, *, insecure: bool) -> None:
    """Raise CannotStartError for an address that others can reach without certificates, unless the user means that."""
    if tls is None and not insecure and not hosts.is_loopback(hosts.normal(host)):
        raise CannotStartError(
            f"{flag} {host} can be reached from other machines, and nobody is asked who it is: give certificates with "
            "--tls-cert, --tls-key and --tls-ca, or add --insecure if everybody who can reach it may use it"
        )
