"""Settings of a script: a frozen dataclass whose fields declare its options.

    class Settings(Declared):
        save_dir: Path = option(required=True, help="Folder of the results.")
        solver: SolverOptions = options_of(SolverOptions)

    @command(help=__doc__)
    @takes(Settings)
    def main(settings: Settings) -> None: ...

Options that several scripts share are a class of their own, such as ``SolverOptions``, and a field
of each script's settings. Nothing changes settings: what a run finds out (the times of a network,
the device) it hands to ``recorded``, which makes the parameters that are written with the results.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import partial, reduce, wraps
from operator import or_
from types import MappingProxyType, NoneType, UnionType
from typing import Any, ClassVar, NamedTuple, TypeVar, cast, dataclass_transform, get_args

import click

from dnnlib.errors import UsageError, in_one_line
from training.names import IMAGES, RECORDS, TABLE, TOY
from training.settings.types import BY_ANNOTATION

SEVERAL = {TOY: "toys", TABLE: "tables", IMAGES: "images", RECORDS: "questions"}
ONE = {TOY: "a toy", TABLE: "a table", IMAGES: "images", RECORDS: "records"}
_DECLARED, _SHARED = "declared", "shared"


class _Declaration(NamedTuple):
    """Declaration of an option or argument.

    Attributes:
        kind: Class of the parameter in click.
        names: Names on the command line.
        attributes: Other arguments of the click parameter.
        unset: Meaning of an option that is left out, as text of the help.
        of: The only kind of data that the option is for; None for all.
        free: Whether a resumed run may change the option.
        idle: Whether results are independent of the option.
    """

    kind: type[click.Parameter]
    names: tuple[str, ...]
    attributes: Mapping[str, Any]
    unset: str | None
    of: str | None = None
    free: bool = False
    idle: bool = False


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


@dataclass_transform(frozen_default=True, kw_only_default=True)
@dataclass(frozen=True, kw_only=True)
class Declared:
    """Base class of the settings of commands; each subclass becomes a frozen dataclass.

    Attributes:
        given: Names of the options that the user gave, rather than left at their defaults.
    """

    section: ClassVar[str] = "Options"
    """Heading of these options in the help."""
    given: frozenset[str] = frozenset()
    of_kind: ClassVar[str | None] = None
    """Kind of data that all options of the class are for; None for all kinds."""
    common: ClassVar[tuple[str, ...]] = ()
    """Names of the options that the short help of a command lists; all options if empty."""
    example: ClassVar[str] = ""
    """Example of a command line, for the help."""

    def __init_subclass__(
        cls,
        section: str | None = None,
        of_kind: str | None = None,
        common: str = "",
        example: str = "",
    ) -> None:
        cls.section, cls.of_kind = section or cls.section, of_kind or cls.of_kind
        cls.common, cls.example = tuple(common.split()) or cls.common, example or cls.example
        dataclass(frozen=True, kw_only=True)(cls)

    @classmethod
    def of(cls, values: Mapping[str, Any], given: frozenset[str] = frozenset()) -> Any:
        """Build settings, including their groups of options, from option values by name."""
        own = {}
        for item in fields(cls):
            if _SHARED in item.metadata:
                own[item.name] = item.metadata[_SHARED].cls.of(values, given)
            elif _DECLARED in item.metadata:
                own[item.name] = values[item.name]
        return cls(given=given, **own)

    @classmethod
    def names_that_are(cls, kind: str) -> frozenset[str]:
        """Return the names of the options of one kind, ``idle`` or ``free``.

        Results do not depend on idle options. A resumed run may change free options.
        """
        return frozenset(name for name, declared in _declared(cls) if getattr(declared, kind))

    def require_complete(self) -> None:
        """Raise click.UsageError if required options are missing."""

    def require_kind(self, kind: str, what: str) -> None:
        """Check that the options that the user gave apply to a kind of data.

        Args:
            kind: Kind of the network or data set, one of ``KINDS_OF_DATA``.
            what: Name of the network or data set, for the message.

        Raises:
            UsageError: An option is for another kind of data.
        """
        for name, declared in sorted(_declared(type(self)), key=lambda pair: pair[0]):
            if declared.of and declared.of != kind and name in self.given:
                raise UsageError(
                    f"--{name.rstrip('_')} is for {SEVERAL[declared.of]}, but {what} is of "
                    f"{ONE[kind]}: leave it out"
                )

    def into(self, cls: type[V], **others: Any) -> V:
        """Build another dataclass, whose fields take the values of the options of the same names.

        Args:
            cls: Class to build.
            **others: Values of fields that are no options, or that replace the options' values.
        """
        names = [item.name for item in fields(cast(Any, cls)) if hasattr(self, item.name)]
        return cls(**self.named(*names) | others)

    @property
    def typed(self) -> frozenset[str]:
        """Names of the options of this class, without its groups, that the user gave."""
        return self.given & {item.name for item in fields(self)}

    def named(self, *names: str) -> dict[str, Any]:
        """Return the values of some options by name."""
        return {name: getattr(self, name) for name in names}

    def recorded(self, **resolved: Any) -> dict[str, Any]:
        """Return the values of all options by name, for the parameters of a result.

        Args:
            **resolved: Final values of options, by name, such as the number of steps that was
                chosen automatically.

        Raises:
            KeyError: A name in ``resolved`` is no option.
        """
        values: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if _SHARED in item.metadata:
                values |= value.recorded()
            elif _DECLARED in item.metadata:
                values[item.name.rstrip("_")] = value
        unknown = resolved.keys() - values.keys()
        if unknown:
            raise KeyError(f"{type(self).__name__} has no option {sorted(unknown)}")
        return values | resolved


def _declared(cls: type[Declared]) -> Iterator[tuple[str, _Declaration]]:
    """Yield all options and arguments of a class and its groups, by name."""
    for item in fields(cls):
        if _SHARED in item.metadata:
            yield from _declared(item.metadata[_SHARED].cls)
        elif _DECLARED in item.metadata:
            declaration: _Declaration = item.metadata[_DECLARED]
            yield item.name, declaration._replace(of=declaration.of or cls.of_kind)


S = TypeVar("S", bound=Declared)


class _Shared(NamedTuple):
    cls: type[Declared]
    unset: str | Mapping[str, str]
    defaults: Mapping[str, Any]


def option(
    *names: str,
    unset: str | None = None,
    of: str | None = None,
    free: bool = False,
    idle: bool = False,
    **attributes: Any,
) -> Any:
    """Return a dataclass field that declares a command-line option.

    Args:
        *names: Names on the command line, such as ``--seed``. By default two hyphens and the
            field's name; a boolean that is no flag also gets the name with ``--no-``.
        unset: Text that the help shows as the default of an option without a default value.
        of: Kind of data that the option is for; None for all kinds.
        free: Whether a resumed run may have another value of the option.
        idle: Whether results are independent of the option.
        **attributes: Arguments of ``click.Option``: type, default, required, is_flag, help. By
            default, the type follows from the field's annotation by ``BY_ANNOTATION``.
    """
    metadata = {_DECLARED: _Declaration(DeclaredOption, names, attributes, unset, of, free, idle)}
    if attributes.get("required"):
        return field(metadata=metadata)
    attributes.setdefault("default", False if attributes.get("is_flag") else None)
    return field(default=attributes["default"], metadata=metadata)


def argument(**attributes: Any) -> Any:
    """Return a dataclass field that declares a required positional argument.

    Attributes are the arguments of ``click.Argument``.
    """
    return field(metadata={_DECLARED: _Declaration(click.Argument, (), attributes, None)})


def options_of(
    cls: type[S],
    unset: str | Mapping[str, str] = "{}",
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Return a dataclass field that contains a group of options, which several scripts share.

    Args:
        cls: Class of the group.
        unset: Text that the help shows as the default of options without a default value, if it
            differs from the class: one text for all, with ``{}`` for the text of the class, or a
            text by name of the option.
        defaults: Default values of the script, by names of fields; other names are ignored.
    """
    own = {item.name: defaults[item.name] for item in fields(cls) if item.name in defaults}
    return field(default_factory=partial(cls, **own), metadata={_SHARED: _Shared(cls, unset, own)})


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

        for parameter in reversed(list(parameters_of(cls))):
            # As click's own decorators do it.
            run.__dict__.setdefault("__click_params__", []).append(parameter)
        return run

    return decorate


def parameters_of(
    cls: type[Declared],
    unset: str | Mapping[str, str] = "{}",
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[click.Parameter]:
    """Yield the options and arguments of a settings class, in the order of its fields."""
    for item in fields(cls):
        if _SHARED in item.metadata:
            yield from parameters_of(*item.metadata[_SHARED])
        elif _DECLARED in item.metadata:
            declaration: _Declaration = item.metadata[_DECLARED]
            attributes = dict(declaration.attributes)
            if declaration.kind is click.Argument:
                yield click.Argument([item.name], **attributes)
                continue
            if not attributes.get("help", ".").endswith((".", "]")):
                attributes["help"] += "."
            if item.name in defaults:
                attributes["default"] = defaults[item.name]
            elif declaration.unset is not None:
                words = unset if isinstance(unset, str) else unset.get(item.name, "{}")
                attributes["help"] += f"  [default: {words.format(declaration.unset)}]"
            kind = _without_none(item.type)
            if not attributes.keys() & {"type", "is_flag", "multiple"}:
                attributes["type"] = BY_ANNOTATION.get(kind)
            both = kind is bool and "is_flag" not in attributes
            usual = f"--{item.name}/--no-{item.name}" if both else f"--{item.name}"
            names = [item.name, *(declaration.names or (usual,))]
            attributes |= {"section": cls.section, "show_default": True}
            yield DeclaredOption(names, **attributes)


def _without_none(annotation: Any) -> Any:
    """Return an annotation without None."""
    parts = [part for part in get_args(annotation) if part is not NoneType]
    return reduce(or_, parts) if isinstance(annotation, UnionType) else annotation


def meant(name: str, known: Collection[str]) -> str:
    """Return a suggestion of a similar known name, to end a message; empty if none is similar."""
    near = get_close_matches(name, known, 1)
    return f": is '{near[0]}' meant?" if near else ""


def typed_by_name(cls: type[S], values: Mapping[str, Any]) -> S:
    """Build the settings of a command from option values given by name in Python.

    Raises:
        UsageError: An option does not exist, or its value is invalid.
    """
    command = click.Command("called", params=list(parameters_of(cls)))
    ctx = click.Context(command)
    names = [str(param.name) for param in command.params]
    for name in values:
        if name not in names:
            raise UsageError(f"there is no option '{name}'{meant(name, names)}")
    own = {}
    for param in command.params:
        name = str(param.name)
        try:
            value = values[name] if name in values else param.get_default(ctx)
            own[name] = param.type_cast_value(ctx, value)
        except click.UsageError as error:
            raise UsageError(in_one_line(error.format_message())) from error
        except (TypeError, ValueError) as error:  # as of a list where one number is due
            raise UsageError(f"option '{name}' does not take {values[name]!r}") from error
    return cls.of(own, frozenset(values))


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
