"""Settings of ``train.py``."""

from dataclasses import dataclass
from pathlib import Path

import click

from dnnlib.errors import UsageError
from training.names import IMAGES, T_SAMPLINGS
from training.options.declared import Declared, option, options_of
from training.options.schedules import InflationOptions
from training.options.tables import TableOptions
from training.options.trained_network import NetworkOptions
from training.options.training import (
    CalibrationOptions,
    LatentLawOptions,
    RunOptions,
    TrainingOptions,
)
from training.options.types import (
    COUNT,
    DATA_SET,
    FILE,
    NOT_NEGATIVE,
    POSITIVE,
    STEPS,
    FiniteFloat,
    choice,
)
from training.recipes import LONGEST_RAMP, PUBLISHED_T_MAX, RAMP, TABLE_RAMP

PRESETS = ("auto", "published")


@dataclass(frozen=True, kw_only=True)
class DataOptions(Declared):
    """What to train on."""

    section = "Data"
    data: Path | None = option(
        type=DATA_SET,
        help="Zip or folder of images, or .npz of a table, made by dataset_tool.py.  [required]",
    )
    cond: bool = option(
        is_flag=True,
        help="Condition on the labels of the images, or on the conditions of the table.",
    )
    xflip: bool = option(
        of=IMAGES, is_flag=True, help="Add the mirror image of each image to the data."
    )
    augment: float | None = option(
        of=IMAGES,
        type=FiniteFloat(min=0, max=1),
        unset="the preset's",
        help="Probability of each augmentation; 0 is off.",
    )
    held_out: float | None = option(
        of=IMAGES,
        type=FiniteFloat(min=0, max=1, min_open=True, max_open=True),
        unset="none",
        help="Fraction of the images that is not trained on, whose loss every report tells.",
    )
    batch_pca: int | None = option(
        of=IMAGES, type=COUNT, unset="all", help="Number of images that the basis is fitted to."
    )
    cache: bool | None = option(
        "--cache/--no-cache",
        free=True,
        of=IMAGES,
        unset="the preset's",
        help="Keep the data set in memory.",
    )
    workers: int | None = option(
        free=True,
        of=IMAGES,
        type=click.IntRange(min=0),
        unset="the preset's",
        help="Processes that read data.",
    )


@dataclass(frozen=True, kw_only=True)
class ImageFlowOptions(InflationOptions):
    """The flow's schedule and times."""

    precond: str = option(
        type=choice(("ifs", "edm", "vp", "ve")),
        default="ifs",
        help="Inflationary flow, or an isotropic model of Karras et al. 2022, table 1.",
    )
    tmin: float | None = option(type=NOT_NEGATIVE, unset="the schedule's", help="First time.")
    dims_to_keep: int | str | None = option(
        type=STEPS,
        unset="all",
        help="Dimensions that keep inflating: as many as the data has is PR-preserving, fewer is "
        "PR-reducing; auto, for tables, is the participation ratio.",
    )
    tmax: float | None = option(
        type=POSITIVE,
        unset="when a tenth of the top dimension's variance is data, half as long again if "
        f"dimensions are compressed; preset published: {PUBLISHED_T_MAX}",
        help="Last time.",
    )
    t_sampling: str | None = option(
        type=choice(T_SAMPLINGS),
        unset="uniform; edm: normal; ve: log_uniform",
        help="Law of the times in training.",
    )


@dataclass(frozen=True, kw_only=True)
class ImageTrainingOptions(TrainingOptions):
    """How long and how to train."""

    preset: str = option(
        of=IMAGES,
        type=choice(PRESETS),
        default="auto",
        help="What decides the options that are left out: a recipe that fits the images and the "
        "device (auto), or the one of the paper (published): 55 million parameters, 200 million "
        "samples.",
    )
    lr_ramp: float | None = option(
        type=NOT_NEGATIVE,
        unset=f"{RAMP:.0%} of the duration, at most {LONGEST_RAMP:g}; tables: {TABLE_RAMP:.0%}",
        help="Million samples in which the learning rate rises.",
    )
    lr_decay: bool | None = option(
        "--lr_decay/--no-lr_decay",
        unset="the preset's",
        help="Let the rate fall to 0 along a cosine.",
    )


@dataclass(frozen=True, kw_only=True)
class ImageCalibrationOptions(CalibrationOptions):
    """Whether, how and on what to calibrate."""

    calibrate: bool | None = option(
        "--calibrate/--no-calibrate",
        unset="of images, with precond=ifs",
        help="After training, correct the network by its regression on the data; of a table, on "
        "its held-out rows.",
    )
    calibration_data: Path | None = option(
        of=IMAGES,
        type=FILE,
        unset="--data",
        help="Images to calibrate on, best such that were held out of training.",
    )

    def wanted(self, precond: str, by_default: bool = True) -> bool:
        wanted = super().wanted(precond, by_default)
        if self.calibration_data and not wanted:
            raise UsageError(
                "--calibration_data is given, but there is no calibration: leave it out"
            )
        return wanted


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Declared):
    """All settings of the script."""

    data: DataOptions = options_of(DataOptions)
    flow: ImageFlowOptions = options_of(ImageFlowOptions)
    network: NetworkOptions = options_of(NetworkOptions)
    table: TableOptions = options_of(TableOptions)
    training: ImageTrainingOptions = options_of(ImageTrainingOptions)
    calibration: ImageCalibrationOptions = options_of(ImageCalibrationOptions)
    law: LatentLawOptions = options_of(LatentLawOptions)
    run: RunOptions = options_of(RunOptions)
