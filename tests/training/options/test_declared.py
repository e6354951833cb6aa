"""Settings that are declared once: as fields, as options, in the help and in the parameters."""

from dataclasses import FrozenInstanceError, dataclass

import pytest

from tests.support.running import parsed, run_script
from training.options.declared import Declared, argument, option, options_of, takes
from training.options.script import command
from training.options.types import COUNT


@dataclass(frozen=True, kw_only=True)
class Shared(Declared):
    section = "How many"
    count: int = option(type=COUNT, default=3, help="Number of things.")
    rate: float | None = option(type=float, unset="1", help="Things a second.")


@dataclass(frozen=True, kw_only=True)
class Whole(Declared):
    paths: tuple[str, ...] = argument(nargs=-1)
    name: str = option(required=True, help="What it is called.")
    class_: int | None = option("--class", type=int, help="A word that Python keeps for itself.")
    batch: int = option("--batch-gpu", type=COUNT, default=1, help="Two spellings.")
    fast: bool = option(is_flag=True, help="A flag.")
    paired: bool | None = option("--paired/--no-paired", help="One way, the other, or neither.")
    shared: Shared = options_of(Shared, unset="{}, or the file's")


def test_settings_hold_what_was_typed_and_the_defaults_which_are_those_in_python() -> None:
    settings = parsed(Whole, "a", "--name=x", "--batch_gpu=4", "--rate=2", "--no-paired", "b")
    assert settings.paths == ("a", "b")
    assert (settings.name, settings.batch, settings.fast, settings.paired) == ("x", 4, False, False)
    assert (settings.shared.count, settings.shared.rate) == (3, 2.0)
    assert settings.given == settings.shared.given == {"name", "batch", "rate", "paired", "paths"}
    with pytest.raises(FrozenInstanceError):
        settings.name = "y"
    typed = parsed(Whole, "--name=x")
    assert typed.recorded() == Whole(name="x", paths=()).recorded()


def test_what_is_recorded_is_flat_and_named_as_typed() -> None:
    settings = Whole(name="x", paths=(), class_=2)
    assert settings.recorded(rate=7.0) == {
        **{"paths": (), "name": "x", "class": 2, "batch": 1, "fast": False, "paired": None},
        **{"count": 3, "rate": 7.0},
    }
    with pytest.raises(KeyError, match="speed"):
        settings.recorded(speed=1)


def test_the_help_has_sections_defaults_and_what_is_required() -> None:
    @command()
    @takes(Whole)
    def main(settings: Whole) -> None:
        pass

    text = " ".join(run_script(main, "--help").out.split())
    assert "--name TEXT What it is called. [required]" in text
    assert text.index("Options:") < text.index("--class") < text.index("How many:")
    assert "Number of things. [default: 3; x>=1]" in text
    assert "Things a second. [default: 1, or the file's]" in text
