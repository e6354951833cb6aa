"""Settings of ``fid.py``."""

from dataclasses import dataclass
from pathlib import Path

import click

from training.options.common import RunOptions, seed
from training.options.declared import Declared, option, options_of
from training.options.types import COUNT, FILE

AT_LEAST_TWO, NOT_NEGATIVE = click.IntRange(min=2), click.IntRange(min=0)


@dataclass(frozen=True, kw_only=True)
class MeasuringOptions(Declared):
    """How features of images are measured."""

    section = "Measuring"
    num: int | None = option(
        "--num",
        "--num_images",
        type=AT_LEAST_TWO,
        unset="all",
        help="Use so many random images. Some versions of torchrun stumble over --num, but not "
        "over --num_images",
    )
    seed: int = seed("all that is drawn at random")
    batch: int = option(type=COUNT, default=64, help="Images of a rank at a time.")
    detector: str | None = option(
        unset="those of torch-fidelity, downloaded once",
        help="Weights of the Inception-v3: a path or an https URL",
    )
    kid_features: int = option(
        type=NOT_NEGATIVE,
        default=5000,
        help="Random images whose features the KID is taken of; 0: no KID.",
    )
    workers: int = option(type=NOT_NEGATIVE, default=1, help="Processes of a rank that read ahead.")


@dataclass(frozen=True, kw_only=True)
class RefSettings(Declared):
    """Options of ``ref``."""

    data: Path = option(type=FILE, required=True, help="Zip or folder of images.")
    dest: Path = option(type=FILE, required=True, help="The .npz to write.")
    measuring: MeasuringOptions = options_of(MeasuringOptions)
    run: RunOptions = options_of(RunOptions)


@dataclass(frozen=True, kw_only=True)
class CalcSettings(Declared):
    """Options of ``calc``."""

    images: Path = option(type=FILE, required=True, help="Zip or folder of images.")
    reference: Path = option("--ref", type=FILE, required=True, help="An .npz that ref wrote.")
    dest: Path | None = option(type=FILE, unset="print only", help="A .json for the result")
    measuring: MeasuringOptions = options_of(MeasuringOptions)
    run: RunOptions = options_of(RunOptions)
