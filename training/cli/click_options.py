"""Click options of settings: their types, help and sections."""

from collections.abc import Callable, Collection
from functools import wraps
from typing import Any, TypeVar

import click

from training.settings.declared import Declaration, Declared, declarations
from training.settings.types import Choice, Flag, OptionType, Real, Text, Whole

LARGEST_SHOWN = 10**6
"""Largest upper bound of a range that the help shows."""
S = TypeVar("S", bound=Declared)


class ParsedType(click.ParamType[Any]):
    """A type of click that parses like the type of an option."""

    def __init__(self, kind: OptionType):
        self.kind, self.name = kind, kind.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a value."""
        try:
            return self.kind.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class FiniteFloat(click.FloatRange):
    """A finite number in a range, whose help and errors are those of click."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Convert a value to a finite number in the range."""
        number = float(super().convert(value, param, ctx))
        if not abs(number) < float("inf"):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


def click_type(kind: OptionType) -> Any:
    """Return the type of click for the type of an option; ranges and choices are those of click."""
    match kind:
        case Text() | Flag():
            return None
        case Choice(names):
            return click.Choice(names)
        case Whole(low, high):
            return click.IntRange(low, high)
        case Real(low, high, low_open, high_open):
            return FiniteFloat(low, high, min_open=low_open, max_open=high_open)
    return ParsedType(kind)


V = TypeVar("V")
LARGEST_SHOWN = 10**6
"""Largest upper bound of a range that the help shows."""


class DeclaredOption(click.Option):
    """A command-line option that belongs to a section of the help.

    The help omits ranges that only exclude numbers below one or huge numbers.
    """

    def __init__(self, *arguments: Any, section: str, **attributes: Any):
        super().__init__(*arguments, **attributes)
        self.section = section

    def make_metavar(self, ctx: click.Context) -> str:
        """Return the placeholder for the option's value in the help, without the word RANGE."""
        return super().make_metavar(ctx).replace(" RANGE", "")

    def get_help_extra(self, ctx: click.Context) -> click.types.OptionHelpExtra:
        """Return extra help (default and range), without obvious ranges."""
        extra = super().get_help_extra(ctx)
        low, high = (getattr(self.type, end, None) for end in ("min", "max"))
        if (high is None or high > LARGEST_SHOWN) and (low is None or low <= 1):
            extra.pop("range", None)
        return extra


def parameter_of(declared: Declaration) -> click.Parameter:
    """Return the parameter of click for a declared option or argument."""
    kind = None if declared.is_flag else click_type(declared.type)
    if declared.is_argument:
        return click.Argument(
            [declared.name], type=kind, nargs=-1, required=True, metavar=declared.metavar
        )
    required = {"required": True} if declared.required else {"default": declared.default}
    return DeclaredOption(
        [declared.name, *declared.names],
        section=declared.section,
        type=kind,
        help=declared.help,
        is_flag=declared.is_flag or None,
        multiple=declared.multiple,
        metavar=declared.metavar,
        show_default=True,
        **required,
    )


def takes(cls: type[S]) -> Callable[[Callable[[S], int | None]], Callable[..., int | None]]:
    """Return a decorator that gives a command the options of a settings class.

    The decorated function takes one object of the class, and returns the exit code of the script.
    """

    def decorate(function: Callable[[S], int | None]) -> Callable[..., int | None]:
        @wraps(function)
        def run(**values: Any) -> int | None:
            ctx = click.get_current_context()
            typed = click.core.ParameterSource.COMMANDLINE
            given = (name for name in ctx.params if ctx.get_parameter_source(name) is typed)
            return function(cls.of(values, frozenset(given)))

        for declared in reversed(list(declarations(cls))):
            # As click's own decorators do it.
            run.__dict__.setdefault("__click_params__", []).append(parameter_of(declared))
        return run

    return decorate


def spelled_alike(name: str) -> str:
    """Return an option name with ``_`` in place of ``-``, so that both spellings are equal."""
    return name.replace("-", "_")


class SectionedCommand(click.Command):
    """A command whose help has sections and whose flags also take values, as in ``--cond=False``.

    ``--help`` shows an example and the common options, ``--help-all`` all options by section.

    Args:
        common: Names of the options that ``--help`` lists; all options if empty.
        example: Command line that the help shows as an example.
        **arguments: Arguments of ``click.Command``.
    """

    def __init__(
        self, *arguments: Any, common: Collection[str] = (), example: str = "", **others: Any
    ):
        super().__init__(*arguments, **others)
        self.common, self.example = common, example
        if common:
            words = "Show all options, in sections, and exit."
            self.params.append(
                click.Option(
                    [HELP_ALL],
                    is_flag=True,
                    is_eager=True,
                    expose_value=False,
                    callback=_print_full_help,
                    help=words,
                )
            )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse command-line arguments, whose flags may have a value, as in ``--cond=False``."""
        flags = {
            spelled_alike(name): param
            for param in self.params
            if isinstance(param, click.Option) and param.is_bool_flag
            for name in param.opts
        }
        plain, off = [], []
        for arg in args:
            name, equals, value = arg.partition("=")
            flag = flags.get(spelled_alike(name)) if equals else None
            if flag is None:
                plain.append(arg)
            elif click.BOOL.convert(value, flag, ctx):
                plain.append(name)
            else:
                off.append(flag.name)
        rest = super().parse_args(ctx, plain)
        for name in filter(None, off):
            ctx.params[name] = False
            ctx.set_parameter_source(name, click.core.ParameterSource.COMMANDLINE)
        return rest

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the description of the command and the example to the help."""
        super().format_help_text(ctx, formatter)
        if self.example:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(f"Example: {self.example}")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options to the help: the common ones, or all options in sections."""
        full = not self.common or ctx.meta.get(HELP_ALL, False)
        params = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        if not full:
            order = [*self.common, *(param.name for param in params if _is_of_help(param))]
            params = [param for name in order for param in params if param.name == name]
        sections: dict[str, list[tuple[str, str]]] = {}
        # Required options come first.
        for param in sorted(params, key=lambda param: not param.required):
            own = getattr(param, "section", Declared.section) if full else Declared.section
            section = "Help" if full and _is_of_help(param) else own
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(section, []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


HELP_ALL = "--help-all"


def _is_of_help(param: click.Parameter) -> bool:
    return {"--help", HELP_ALL} & {*param.opts} != set()


def _print_full_help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[HELP_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()
