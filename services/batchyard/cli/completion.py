"""`batchyard completion`: the script by which a shell completes commands and flags."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(*, shell: str) -> None:
    """Print the script for SHELL. For bash, in ~/.bashrc: eval "$(batchyard completion bash)"."""
    from batchyard.cli.main import main

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "batchyard", "_BATCHYARD_COMPLETE").source())
