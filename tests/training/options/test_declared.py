"""Settings that are declared once, as they are typed, and what is chosen if nobody says."""

from dataclasses import FrozenInstanceError, dataclass

import pytest

from dnnlib.errors import UsageError
from tests.support.refusals import refusal
from tests.support.running import parsed, run_script
from training.commands.shared import image_times, steps_and_end
from training.commands.toy_train import training_on_toy
from training.commands.train import tries_precisions
from training.names import DEFAULT_STEPS, OTHERS
from training.options.declared import Declared, argument, option, options_of, takes
from training.options.script import command
from training.options.shared import ImageTimeOptions
from training.options.toy_train import ToyTrainSettings
from training.options.train import TrainSettings
from training.options.types import COUNT
from training.recipes import AVERAGED_PLANE, AVERAGED_SPACE, AVERAGED_TOY, TOY, TrainingRecipe
from training.runs.latents import LatentChoice, latent_choice, recorded_eps


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


def test_the_end_is_steps_times_h_and_by_default_the_networks() -> None:
    for steps, h, *expected in (
        (None, None, DEFAULT_STEPS, 7.01),
        (20, None, 20, 7.01),
        (701, 0.01, 701, 7.01),
        (100, 0.02, 100, 2.0),
        (10, 1.0, 10, 10.0),
        (None, 0.01, 701, 7.01),
        ("auto", None, None, 7.01),
    ):
        count, end = steps_and_end(steps, h, 7.01)
        assert [count, end] == [expected[0], pytest.approx(expected[1], rel=1e-12)]
    # An end equal up to rounding is the network's, to the last digit.
    assert 3 * 0.1 != 0.3
    assert steps_and_end(3, 0.1, 0.3) == (3, 0.3)
    with pytest.raises(UsageError, match=r"--h=3 .* T = 7\.01: add --steps=2, to end at T = 6"):
        steps_and_end(None, 3.0, 7.01)


def test_an_earlier_end_may_be_asked_for_and_the_last_digit_of_it_does_not_matter() -> None:
    assert image_times(ImageTimeOptions(end_time=2.5), 6.0, "n").end == 2.5
    assert image_times(ImageTimeOptions(end_time=6 * (1 + 1e-12)), 6.0, "n").end == 6.0
    with pytest.raises(UsageError, match=r"--end_time is 6\.01, but n was trained up to T = 6"):
        image_times(ImageTimeOptions(end_time=6.01), 6.0, "n")


def test_eps_is_a_name_or_a_number_and_what_is_recorded_was_used() -> None:
    for text, choice in (
        ("auto", LatentChoice()),
        ("empirical", LatentChoice(empirical=True)),
        ("2.5e-3", LatentChoice(2.5e-3)),
        ("paper", LatentChoice(paper=True)),
        ("paper:1e-2", LatentChoice(1e-2, paper=True)),
    ):
        assert latent_choice(text) == choice
        assert recorded_eps(text, choice) == text
    assert recorded_eps("1e-2", LatentChoice()) == "auto"
    for text in ("0", "-1", "nan", "inf", "small", "", "paper:0", "auto:1"):
        assert "auto, empirical, or a positive" in refusal(latent_choice, text, kind=UsageError)


PRR = "--dims_to_keep=1"


@pytest.mark.parametrize(
    ("dim", "given", "others", "recipe"),
    [
        (2, (), OTHERS, AVERAGED_PLANE),
        (2, (PRR,), OTHERS, AVERAGED_PLANE),
        (2, ("--arch=ToySongUNet",), OTHERS, AVERAGED_TOY),
        (3, (), OTHERS, AVERAGED_SPACE),
        (3, (PRR,), OTHERS, AVERAGED_SPACE),
        (9, (), 0, TOY),
        (2, ("--others=0",), 0, TOY),
        (9, (PRR, "--others=7"), 7, AVERAGED_SPACE),
    ],
)
def test_targets_of_toys_are_averaged_where_it_pays(
    dim: int, given: tuple[str, ...], others: int, recipe: TrainingRecipe
) -> None:
    settings = parsed(ToyTrainSettings, "--data_name=circles", f"--augment_to={dim}", *given)
    training = training_on_toy(settings)
    assert training.averaged_over == others
    assert training.recipe == recipe


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), True),
        (("--precision=fp32",), False),
        (("--preset=published",), False),
        (("--deterministic",), False),
        (("--dry-run",), False),
    ],
)
def test_a_trial_decides_precision_if_nothing_else(given: tuple[str, ...], expected: bool) -> None:
    settings = parsed(TrainSettings, "--data=.", *given)
    assert tries_precisions(settings) is expected
