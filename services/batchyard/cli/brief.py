"""Help that fits a screen: what most calls need, in a line each; `--help-all` tells all of every flag."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

_ALL: Final = "batchyard.help.all"
_FIRST_COLUMN_MAX: Final = 24
_FAMILY_MIN: Final = 2


class FurtherOption(click.Option):
    """A flag that a brief help names and does not explain: most calls do without."""


def tells_all(ctx: click.Context) -> bool:
    """Return whether --help-all was given."""
    return _ALL in ctx.meta


class Brief(click.Command):
    """A command, or group of them, with a help of a screen, and another one of all."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return --help, which is told of in the last line."""
        found = super().get_help_option(ctx)
        if found is not None:
            found.hidden = True
        return found

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters, with --help-all."""
        return [*super().get_params(ctx), _help_all()]

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the command does: in brief its first paragraph."""
        text = self.help
        try:
            if text is not None and not tells_all(ctx):
                self.help = text.partition("\n\n")[0]
            super().format_help_text(ctx, formatter)
        finally:
            self.help = text


class BriefCommand(Brief):
    """A command whose brief help has its most used flags in a line each, and names the others."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags: all of them with all there is to say, or the most used in a line each."""
        shown = [param for param in self.get_params(ctx) if isinstance(param, click.Option) and not param.hidden]
        if tells_all(ctx):
            with formatter.section("Options"):
                formatter.write_dl([record for param in shown if (record := param.get_help_record(ctx))])
            return
        with formatter.section("Options"):
            rows = [_in_brief(param, ctx) for param in shown if not isinstance(param, FurtherOption)]
            formatter.write_dl(rows, col_max=_FIRST_COLUMN_MAX)
        further = [param.opts[-1] for param in shown if isinstance(param, FurtherOption)]
        if further:
            with formatter.section("Further options"):
                # Not by click, which would break lines within a flag.
                formatter.write(_filled(", ".join(_families(further)), formatter.width))
        formatter.write_paragraph()
        formatter.write_text("--help-all tells more, and variables, as BATCHYARD_DATA_DIR.")


def _families(flags: Sequence[str]) -> Iterator[str]:
    """Return flags, those that begin alike as one."""
    sizes = Counter(_family(flag) for flag in flags)
    for family in dict.fromkeys(map(_family, flags)):
        yield f"{family}-…" if sizes[family] >= _FAMILY_MIN else next(f for f in flags if _family(f) == family)


def _family(flag: str) -> str:
    return "--" + flag.removeprefix("--").partition("-")[0]


def _filled(text: str, width: int) -> str:
    lines = textwrap.wrap(text, width - 2, break_on_hyphens=False, break_long_words=False)
    return "".join(f"  {line}\n" for line in lines)


def _in_brief(param: click.Option, ctx: click.Context) -> tuple[str, str]:
    """Return a flag and the first sentence of its help."""
    record = param.get_help_record(ctx)
    assert record is not None
    sentence = (param.help or "").replace("\n", " ").split(". ")[0].partition("; as in")[0].rstrip(".")
    return record[0].replace("INTEGER RANGE", "N").replace("INTEGER", "N"), sentence


def _help_all() -> click.Option:
    def show(ctx: click.Context, _param: click.Parameter, wanted: bool) -> Any:
        if wanted and not ctx.resilient_parsing:
            ctx.meta[_ALL] = True
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()

    return click.Option(
        ["--help-all"], is_flag=True, is_eager=True, expose_value=False, hidden=True, callback=show, help="Tell all."
    )
