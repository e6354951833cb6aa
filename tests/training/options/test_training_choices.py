"""What is chosen for a training if nobody says."""

import pytest

from tests.support.running import parsed
from training.commands.toy_train import training_on_toy
from training.commands.train import tries_precisions
from training.names import OTHERS
from training.options.toy_train import ToyTrainSettings
from training.options.train import TrainSettings
from training.recipes import AVERAGED_PLANE, AVERAGED_SPACE, AVERAGED_TOY, TOY, TrainingRecipe

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
def test_a_trial_decides_of_precisions_on_a_cpu_if_nothing_else_does(
    given: tuple[str, ...], expected: bool
) -> None:
    settings = parsed(TrainSettings, "--data=.", *given)
    assert tries_precisions(settings) is expected
