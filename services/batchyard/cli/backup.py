"""`batchyard backup` and `batchyard restore`."""

from pathlib import Path

import click

from batchyard.cli import options
from batchyard.cli.brief import BriefCommand
from batchyard.cli.errors import CannotStartError
from batchyard.cli.folder import DataFolder
from batchyard.storage.sqlite.backup import BackupError, read_backup, write_backup


@click.command(cls=BriefCommand)
@options.data_dir()
@options.option("--force", is_flag=True, help="Replace ARCHIVE if it is there already.")
@click.argument("archive", type=click.Path(dir_okay=False, path_type=Path))
def backup(*, data_dir: Path, force: bool, archive: Path) -> None:
    """Write a consistent copy of all resources and jobs to ARCHIVE, a new file, also while Batchyard runs.

    What jobs printed is not in it: copy the folder `logs` beside the databases as well if you want to keep that.
    """
    folder = DataFolder(data_dir)
    # The jobs first: the registry may know more than the jobs do, but not the other way round.
    databases = [folder.job_database, folder.registry_database]
    for database in databases:
        if not database.exists():
            raise CannotStartError(f"there is nothing to back up: {database} does not exist")
    if archive.exists() and not force:
        raise CannotStartError(f"{archive} is there already: name another file, or replace it with --force")
    try:
        write_backup(archive, databases)
    except OSError as error:
        raise CannotStartError(f"cannot write {archive}: {error.strerror}") from error
    click.echo(f"wrote {archive}", err=True)


@click.command(cls=BriefCommand)
@options.data_dir()
@click.argument("archive", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@options.option(
    "--agents-stopped",
    is_flag=True,
    help="No job runs any more, on any host: start others at once. If one does, it may run twice at a time.",
)
@options.option(
    "--longest-lease",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=0,
    show_default="the longest in the backup",
    help="The longest lease that an agent may have had since the backup, if one was lengthened after it.",
)
def restore(*, data_dir: Path, archive: Path, agents_stopped: bool, longest_lease: float) -> None:
    """Put the resources and jobs of ARCHIVE into a data folder that has none. Batchyard must not run there.

    Jobs are again as they were when the backup was made. What has been started since is ended by its agent, because
    nothing in the backup speaks of it. Until that is certain no job is started: for as long as the agents' leases.
    """
    folder = DataFolder(data_dir)
    with folder.locked("registry", "jobstore"):
        try:
            databases = {database.name: database for database in (folder.job_database, folder.registry_database)}
            read_backup(archive, databases, agents_stopped=agents_stopped, longest_lease_s=longest_lease)
        except BackupError as error:
            raise CannotStartError(str(error)) from error
    click.echo(f"restored {archive} into {folder.root}", err=True)
