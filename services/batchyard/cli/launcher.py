"""`batchyard launcher`: what outlives an agent that is a systemd unit, or a container, of its own."""

from pathlib import Path

import click

from batchyard.agent.launcher import starter
from batchyard.cli import options
from batchyard.cli.brief import BriefCommand
from batchyard.cli.errors import CannotStartError
from batchyard.cli.folder import DataFolder
from batchyard.cli.notify import notify


@click.command(cls=BriefCommand)
@options.data_dir()
def launcher(*, data_dir: Path) -> None:
    """Start what is to outlive the agent of this data folder, which has --separate-launcher.

    That is the launcher of processes, and the guard that ends containers when the agent's lease is over. Prints
    `batchyard ready launcher unix:PATH`. Under systemd, and in a container, a stop ends them and all processes of jobs.
    """
    folder = DataFolder(data_dir)

    def ready() -> None:
        print(f"batchyard ready launcher unix:{folder.agent / starter.SOCKET}", flush=True)
        notify("READY=1")

    with folder.locked("launcher"):
        try:
            folder.agent.mkdir(mode=0o700, exist_ok=True)
            starter.serve(str(folder.agent), ready)
        except OSError as error:
            raise CannotStartError(f"cannot listen in {folder.agent}: {error.strerror}") from error
