"""Why a command could not do what it was asked."""

import click


class CannotStartError(click.ClickException):
    """A start that will fail again as it stands: told in one line, exit code 2."""

    exit_code = 2
