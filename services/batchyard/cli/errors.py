"""Why a command could not do what it was asked."""

from typing import Final

import click

EXIT_INTERRUPTED: Final = 130
"""After a Ctrl-C, as a local command's."""


class CannotStartError(click.ClickException):
    """A start that will fail again as it stands: told in one line, exit code 2."""

    exit_code = 2
