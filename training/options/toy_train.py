"""Settings of ``toy_train.py``."""

from dataclasses import asdict, dataclass

import click

from training.names import (
    MOST_AVERAGED,
    NOISE_CONDITIONINGS,
    OTHERS,
    SPACES,
    TOY_NAMES,
    TOY_NETWORK_NAMES,
    TOY_PRECONDITIONINGS,
)
from training.options.declared import Declared, option, options_of
from training.options.shared import InflationOptions
from training.options.training import (
    CalibrationOptions,
    LatentLawOptions,
    RunOptions,
    TrainingOptions,
)
from training.options.types import NOT_NEGATIVE, POSITIVE, choice
from training.recipes import AVERAGED_PLANE, AVERAGED_SPACE, AVERAGED_TOY, OF_TOYS, PLANE, TOY

DEFAULTS = asdict(TOY)
CALIBRATION_FIT = "path"
"""Networks of toys are good, so that slopes cost their samples nothing."""


def _of_recipes(name: str) -> str:
    """What the recipes have of an option, for its help."""
    recipes = (AVERAGED_PLANE, AVERAGED_SPACE, AVERAGED_TOY, TOY)
    plane, space, other, plain = (f"{getattr(each, name):g}" for each in recipes)
    if plane == space == other:
        return f"{plane} with --others, {plain} without"
    averaged = f"{plane} of mlp in {PLANE}D, {space} in more, {other} of other networks"
    return f"{averaged}; {plain} without --others"


@dataclass(frozen=True, kw_only=True)
class ToyOptions(Declared):
    """What to train on."""

    section = "Data"
    data_name: str | None = option(type=choice(TOY_NAMES), help="The toy.  [required]")
    augment_to: int = option(
        type=click.IntRange(min=0, max=2**31 - 1),
        default=0,
        help="Dimensions to embed the toy in; 0 is off.",
    )
    others: int | None = option(
        type=click.IntRange(min=0),
        unset=f"{OTHERS} in up to {MOST_AVERAGED} dimensions, else 0",
        help="Further points, drawn anew every few steps: targets are averaged over those that "
        "are near; 0 for none",
    )
    antithetic: bool = option(
        "--antithetic/--no-antithetic",
        default=True,
        help="Use each point twice, with opposite noise.",
    )


@dataclass(frozen=True, kw_only=True)
class ToyFlowOptions(InflationOptions):
    """The flow's schedule and times."""

    precond: str = option(
        type=choice(TOY_PRECONDITIONINGS),
        default="ifs",
        help="Inflationary flow; or the isotropic model of Karras et al. 2022, which takes all "
        "dimensions of the data to vary alike (edm), or each as it does (edm_es).",
    )
    tmin: float | None = option(type=NOT_NEGATIVE, unset="0; edm: 0.002", help="First time.")
    tmax: float | None = option(
        type=POSITIVE,
        unset="when a tenth of the top dimension's variance is data; edm: 80",
        help="Last time.",
    )


@dataclass(frozen=True, kw_only=True)
class ToyNetworkOptions(Declared):
    """The network."""

    section = "Network"
    arch: str = option(type=choice(TOY_NETWORK_NAMES), default="mlp", help="Kind of network.")
    space: str = option(
        type=choice(SPACES),
        default="ES",
        help="Coordinates of the network: the data's axes (IS) or their principal axes (ES).",
    )
    noise_cond: str = option(
        type=choice(NOISE_CONDITIONINGS),
        default="log",
        help="How the network sees the time: as the log of the noise, or as 999 t (ddpm).",
    )


@dataclass(frozen=True, kw_only=True)
class ToyTrainSettings(Declared):
    """All settings of the script."""

    toy: ToyOptions = options_of(ToyOptions)
    flow: ToyFlowOptions = options_of(ToyFlowOptions)
    network: ToyNetworkOptions = options_of(ToyNetworkOptions)
    training: TrainingOptions = options_of(
        TrainingOptions, unset={name: _of_recipes(name) for name in OF_TOYS}
    )
    calibration: CalibrationOptions = options_of(
        CalibrationOptions, defaults={"calibration_fit": CALIBRATION_FIT}
    )
    law: LatentLawOptions = options_of(LatentLawOptions)
    run: RunOptions = options_of(RunOptions, defaults=DEFAULTS)
