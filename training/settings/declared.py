"""Settings of a script: a frozen dataclass whose fields declare its options.

    class Settings(Declared):
        save_dir: Path = option(required=True, help="Folder of the results.")
        solver: SolverOptions = options_of(SolverOptions)

    settings = from_values(Settings, {"save_dir": "out"})

Options that several scripts share are a class of their own, such as ``SolverOptions``, and a field
of each script's settings. Settings do not change: values that a run finds out (the times of a
network, the device) go to ``recorded``, which returns the parameters that are written with the
results.

``training.cli`` makes command-line options of the fields, and ``from_values`` makes settings of
values by name, as in a call from Python.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import partial, reduce
from operator import or_
from pathlib import Path
from time import monotonic
from types import MappingProxyType, NoneType, UnionType
from typing import Any, ClassVar, NamedTuple, TypeVar, cast, dataclass_transform, get_args

from dnnlib.errors import UsageError, in_one_line
from training.names import IMAGES, RECORDS, TABLE, TOY
from training.settings.types import BY_ANNOTATION, OptionType, Text

SEVERAL = {TOY: "toys", TABLE: "tables", IMAGES: "images", RECORDS: "questions"}
ONE = {TOY: "a toy", TABLE: "a table", IMAGES: "images", RECORDS: "records"}
_DECLARED, _SHARED = "declared", "shared"


class Declaration(NamedTuple):
    """Declaration of an option or argument of a command.

    Attributes:
        name: Name in Python.
        names: Names on the command line; by default two hyphens and the name in Python.
        type: Type of the value.
        default: Value of an option that is left out.
        help: Description, with the meaning of an option that is left out.
        section: Heading in the help.
        required: Whether the option must be given.
        is_flag: Whether the option takes no value on the command line.
        multiple: Whether the option may be given several times; its value is then a tuple.
        metavar: Placeholder of the value in the help; None for that of the type.
        is_argument: Whether it is a positional argument that takes any number of values.
        of: The only kind of data that the option is for; None for all.
        free: Whether a resumed run may change the option.
        idle: Whether results are independent of the option.
    """

    name: str
    names: tuple[str, ...]
    type: OptionType
    default: Any = None
    help: str | None = None
    section: str = ""
    required: bool = False
    is_flag: bool = False
    multiple: bool = False
    metavar: str | None = None
    is_argument: bool = False
    of: str | None = None
    free: bool = False
    idle: bool = False

    def parse(self, value: Any) -> Any:
        """Convert a value to that of the option; None stays None.

        Raises:
            ValueError: The value is invalid.
        """
        if value is None:
            return None
        if self.multiple or self.is_argument:
            return tuple(self.type.parse(each) for each in value)
        return self.type.parse(value)


V = TypeVar("V")


@dataclass_transform(frozen_default=True, kw_only_default=True)
@dataclass(frozen=True, kw_only=True)
class Declared:
    """Base class of the settings of commands; each subclass becomes a frozen dataclass.

    Attributes:
        given: Names of the options that the user gave, rather than left at their defaults.
        began: Time by ``time.monotonic`` at which the settings were made: the start of a command
            or a call, from which its ``minutes`` count.
    """

    section: ClassVar[str] = "Options"
    """Heading of these options in the help."""
    given: frozenset[str] = frozenset()
    began: float = field(default_factory=monotonic, compare=False)
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
        return frozenset(each.name for each in declarations(cls) if getattr(each, kind))

    def require_complete(self) -> None:
        """Raise UsageError if required options are missing."""

    def require_kind(self, kind: str, what: str) -> None:
        """Check that the options that the user gave apply to a kind of data.

        Args:
            kind: Kind of the network or data set, one of ``KINDS_OF_DATA``.
            what: Name of the network or data set, for the message.

        Raises:
            UsageError: An option is for another kind of data.
        """
        for each in sorted(declarations(type(self)), key=lambda each: each.name):
            if each.of and each.of != kind and each.name in self.given:
                raise UsageError(
                    f"--{each.name.rstrip('_')} is for {SEVERAL[each.of]}, but {what} is of "
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
                values[item.name.rstrip("_")] = value if _is_plain(value) else str(value)
        unknown = resolved.keys() - values.keys()
        if unknown:
            raise KeyError(f"{type(self).__name__} has no option {sorted(unknown)}")
        return values | resolved


def _is_plain(value: Any) -> bool:
    """Return whether a value has the type of an option on the command line."""
    return value is None or isinstance(value, bool | int | float | str | Path | tuple | list)


S = TypeVar("S", bound=Declared)


class _Shared(NamedTuple):
    cls: type[Declared]
    unset: str | Mapping[str, str]
    defaults: Mapping[str, Any]


def option(
    *names: str,
    type: OptionType | None = None,
    default: Any = None,
    help: str | None = None,
    unset: str | None = None,
    required: bool = False,
    is_flag: bool = False,
    multiple: bool = False,
    metavar: str | None = None,
    of: str | None = None,
    free: bool = False,
    idle: bool = False,
) -> Any:
    """Return a dataclass field that declares an option.

    Args:
        *names: Names on the command line, such as ``--seed``. By default two hyphens and the
            field's name; a boolean that is no flag also gets the name with ``--no-``.
        type: Type of the value; by default that of the field's annotation in ``BY_ANNOTATION``.
        default: Value if the option is left out.
        help: Description.
        unset: Text that the help shows as the default of an option without a default value.
        required: Whether the option must be given.
        is_flag: Whether the option takes no value on the command line.
        multiple: Whether the option may be given several times.
        metavar: Placeholder of the value in the help; None for that of the type.
        of: Kind of data that the option is for; None for all kinds.
        free: Whether a resumed run may have another value of the option.
        idle: Whether results are independent of the option.
    """
    default = False if is_flag and default is None else default
    how = dict(locals())
    if required:
        return field(metadata={_DECLARED: how})
    return field(default=default, metadata={_DECLARED: how})


def argument(metavar: str, type: OptionType | None = None) -> Any:
    """Return a dataclass field that declares a positional argument of one value or more.

    Args:
        metavar: Placeholder of the values in the help.
        type: Type of each value; text by default.
    """
    how = {"names": (), "type": type or Text(), "metavar": metavar, "is_argument": True}
    return field(metadata={_DECLARED: {**how, "required": True}})


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


def declarations(
    cls: type[Declared],
    unset: str | Mapping[str, str] = "{}",
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Declaration]:
    """Yield the declarations of all options of a settings class, in the order of its fields.

    Args:
        cls: Settings class.
        unset: See ``options_of``.
        defaults: See ``options_of``.
    """
    for item in fields(cls):
        if _SHARED in item.metadata:
            yield from declarations(*item.metadata[_SHARED])
        elif _DECLARED in item.metadata:
            how = dict(item.metadata[_DECLARED])
            words, default_words = how.get("help"), how.pop("unset", None)
            if words and not words.endswith((".", "]")):
                words += "."
            if item.name in defaults:
                how["default"] = defaults[item.name]
            elif default_words is not None:
                own = unset if isinstance(unset, str) else unset.get(item.name, "{}")
                words = f"{words}  [default: {own.format(default_words)}]"
            kind = _without_none(item.type)
            usual_type = Text() if how.get("multiple") else BY_ANNOTATION.get(kind)
            how |= {"help": words, "type": how["type"] or usual_type}
            if not how["names"]:
                both = kind is bool and not how.get("is_flag")
                usual = f"--{item.name}/--no-{item.name}" if both else f"--{item.name}"
                how["names"] = (usual,)
            how["of"] = how.get("of") or cls.of_kind
            yield Declaration(item.name, section=cls.section, **how)


def _without_none(annotation: Any) -> Any:
    """Return an annotation without None."""
    parts = [part for part in get_args(annotation) if part is not NoneType]
    return reduce(or_, parts) if isinstance(annotation, UnionType) else annotation


def meant(name: str, known: Collection[str]) -> str:
    """Return a suggestion of a similar known name, to end a message; empty if none is similar."""
    near = get_close_matches(name, known, 1)
    return f": is '{near[0]}' meant?" if near else ""


def from_values(cls: type[S], values: Mapping[str, Any]) -> S:
    """Build settings from option values given by name, as in a call from Python.

    Raises:
        UsageError: An option does not exist, or its value is invalid. Required options of the
            command line, such as an output directory, may be missing.
    """
    known = {declared.name: declared for declared in declarations(cls)}
    for name in values:
        if name not in known:
            raise UsageError(f"there is no option '{name}'{meant(name, known)}")
    own = {name: declared.default for name, declared in known.items()}
    for name, value in values.items():
        try:
            own[name] = known[name].parse(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"option '{name}': {in_one_line(str(error))}") from error
    return cls.of(own, frozenset(values))
