"""The `batchyard` command and its subcommands, each imported only when it is called."""

from difflib import get_close_matches
from typing import Any, Final

import click

from batchyard.cli.brief import Brief, tells_all
from batchyard.cli.errors import EXIT_INTERRUPTED
from batchyard.cli.init import be_init_if_first
from batchyard.cli.loading import load

_SECTIONS: Final = {
    "First steps": {
        "up": ("batchyard.cli.up", "Start everything here: the control plane and one local agent."),
        "run": ("batchyard.cli.run", "Run one command as a job, follow its log, exit with its code."),
        "submit": ("batchyard.cli.submit", "Submit jobs from a file in AWS's member names."),
        "jobs": ("batchyard.cli.jobs", "List jobs in whatever status, the newest first."),
        "describe": ("batchyard.cli.jobs", "Tell all about jobs: why they wait, how their attempts went."),
        "logs": ("batchyard.cli.job_logs", "Print what a job prints, or follow it."),
        "wait": ("batchyard.cli.wait", "Wait until jobs have ended; exit with 0 if all succeeded."),
    },
    "Jobs": {
        "cancel": ("batchyard.cli.stop", "Cancel jobs that have not begun."),
        "terminate": ("batchyard.cli.stop", "End jobs in whatever status."),
        "events": ("batchyard.cli.events", "Print the events of jobs as they come, a JSON object a line."),
        "usage": ("batchyard.cli.usage", "Add up what jobs have held, by queue, share or tag."),
    },
    "Fleet": {
        "top": ("batchyard.cli.top", "Show the fleet, the queues and what runs, live."),
        "queues": ("batchyard.cli.resources", "List job queues, with how many jobs are in which status."),
        "environments": ("batchyard.cli.resources", "List compute environments."),
        "agents": ("batchyard.cli.resources", "List the hosts that run jobs, and how much of them is taken."),
        "drain": ("batchyard.cli.drain", "Have an agent take no more jobs, before its host goes away."),
    },
    "Upkeep": {
        "backup": ("batchyard.cli.backup", "Copy all resources and jobs to a file, while they are in use."),
        "restore": ("batchyard.cli.backup", "Put what a backup holds into an empty data folder."),
        "certificates": ("batchyard.cli.certificates", "Make the certificates with which the parts know each other."),
        "completion": ("batchyard.cli.completion", "Print what makes a shell complete commands and flags."),
    },
    "Services": {
        "registry": ("batchyard.cli.services", "Serve compute environments, job queues and job definitions."),
        "jobstore": ("batchyard.cli.services", "Serve the jobs."),
        "scheduler": ("batchyard.cli.services", "Decide which job runs next, and on which agent."),
        "logs": ("batchyard.cli.job_logs", "Without a job: keep and serve what jobs print."),
        "gateway": ("batchyard.cli.gateway", "Serve the AWS API and the public gRPC port."),
        "agent": ("batchyard.cli.agent", "Run jobs on this host."),
        "launcher": ("batchyard.cli.launcher", "Start what is to outlive the agent of this host."),
    },
}
"""By title and name: the module that holds the command under that name, and its line in the help.

A brief help has the lines of the first section, and of the others the names.
"""
_MODULES: Final = {name: module for section in _SECTIONS.values() for name, (module, _) in section.items()}


class LazyGroup(Brief, click.Group):
    """A group that imports a subcommand's module when the subcommand is wanted: gRPC takes a while to load."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a subcommand; as the first process of a container in a child, before there is anything to be copied."""
        be_init_if_first()
        return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand; one that is interrupted ends quietly."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, most used first."""
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a subcommand by name."""
        if cmd_name not in _MODULES:
            return None
        command = getattr(load(_MODULES[cmd_name]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the subcommand that is meant; tell whoever has mistyped its name which ones are like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], _MODULES)
            raise click.UsageError(f"{error.message} Did you mean {near[0]}?" if near else error.message, ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands, without importing them: all with a line each, or so that it fits a screen."""
        for title, rows in _in_full() if tells_all(ctx) else _in_brief():
            with formatter.section(title):
                formatter.write_dl(rows)
        of_all = f"Tell of each command in a line; of one: {ctx.command_path} run --help"
        with formatter.section("Options"):
            formatter.write_dl([("--help-all", of_all), ("--version", "Show the version and exit.")])


def _in_full() -> list[tuple[str, list[tuple[str, str]]]]:
    return [(title, [(name, line) for name, (_, line) in part.items()]) for title, part in _SECTIONS.items()]


def _in_brief() -> list[tuple[str, list[tuple[str, str]]]]:
    first, *others = _in_full()
    return [first, ("More commands", [(title, ", ".join(name for name, _ in rows)) for title, rows in others])]


_HELP: Final = """Run batch jobs behind the AWS Batch API, on your own machines.
To begin: `batchyard up`, and in another terminal `batchyard run -- echo hello`.

Every flag of every command can also be set in the environment: `--data-dir` as BATCHYARD_DATA_DIR and so on.
"""


@click.group(
    cls=LazyGroup, help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}
)
@click.version_option(package_name="batchyard", message="batchyard %(version)s")
def main() -> None:
    """Run one of the commands."""
