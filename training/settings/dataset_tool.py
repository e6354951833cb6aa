"""Settings of ``dataset_tool.py``."""

from pathlib import Path
from typing import Any

from dnnlib.errors import UsageError
from training import names
from training.names import command_line, script
from training.settings import shared
from training.settings.declared import Declared, option, options_of
from training.settings.types import SEED, ColumnTypes, OptionType, Real, Whole, choice


class Resolution(OptionType):
    """A width and a height in pixels."""

    name = "WxH"

    def parse(self, value: Any) -> tuple[int, int]:
        """Parse ``WxH`` in pixels."""
        if isinstance(value, tuple | list):
            value = "x".join(map(str, value))
        width, _, height = str(value).lower().partition("x")
        if not (width.isdecimal() and height.isdecimal() and len(width + height) <= 12):
            raise ValueError(f"'{value}' is not of the form WxH, such as 32x32")
        return int(width), int(height)


class Interval(OptionType):
    """Two increasing numbers."""

    name = "LOW,HIGH"

    def parse(self, value: Any) -> tuple[float, float]:
        """Parse ``LOW,HIGH``, such as ``0,4095``."""
        parts = value if isinstance(value, tuple | list) else str(value).split(",")
        numbers = [float(part) for part in parts]
        if len(numbers) != 2 or not numbers[0] < numbers[1]:
            raise ValueError(f"'{value}' is not two increasing numbers, such as 0,4095")
        return numbers[0], numbers[1]


class Separator(OptionType):
    """A column separator, given by name or as a character."""

    name = "|".join(names.SEPARATORS)

    def parse(self, value: Any) -> str:
        """Return the separator as a character."""
        separator = names.SEPARATORS.get(value, value)
        if separator not in names.SEPARATORS.values():
            raise ValueError(f"'{value}' is none of {', '.join(names.SEPARATORS)}")
        return str(separator)


class ImageOptions(Declared, section="Images", of_kind=names.IMAGES):
    """Options for the selection and conversion of images."""

    first_image: int = option(
        "--first-image",
        type=Whole(min=0),
        default=0,
        help="Number of images to skip at the start.",
    )
    max_images: int | None = option(
        "--max-images",
        unset="all",
        help="Largest number of images to use, taken evenly from all classes",
    )
    transform: str | None = option(
        type=choice(names.TRANSFORMS),
        unset="none",
        help="center-crop: crop the central square; center-crop-wide: crop to the aspect ratio "
        "of --resolution, then pad with black bars to a square",
    )
    resolution: tuple[int, int] | None = option(
        metavar="WxH",
        type=Resolution(),
        unset="size of the source",
        help="Width and height in pixels of the resampled images",
    )
    channels: str | None = option(
        type=choice(("1", "3")),
        unset="as in the first image",
        help="1: convert images to gray; 3: convert images to RGB",
    )
    value_range: tuple[float, float] | None = option(
        metavar="LOW,HIGH",
        type=Interval(),
        unset="of 8-bit and 16-bit images all values; required for floats",
        help="Values of the images that become the ends of the network's range, for a "
        "destination that ends in .npz",
    )
    skip_bad: bool = option(
        "--skip-bad",
        is_flag=True,
        help="Skip images that cannot be read or have the wrong size, instead of stopping.",
    )


class TableOptions(Declared, section="Tables", of_kind=names.TABLE):
    """Options for the selection, types and roles of columns, and for splits of rows."""

    columns: tuple[str, ...] | None = option(
        unset="all",
        help="Columns to use, comma-separated. Quote names that contain a comma",
    )
    exclude: tuple[str, ...] | None = option(help="Columns to leave out")
    types: tuple[tuple[str, str], ...] | None = option(
        type=ColumnTypes(),
        unset="inferred",
        help="Types of columns, as name:TYPE. TYPE is number, whole, category, date or "
        "identifier, the ordered levels of a category (small<medium<large), or a date "
        "format (%d.%m.%Y)",
    )
    is_missing: tuple[str, ...] | None = option(
        help="Columns that get an additional indicator column of missing cells, if the "
        "indicator is informative",
    )
    sep: str | None = option(
        metavar="|".join(names.SEPARATORS),
        type=Separator(),
        unset="detected",
        help="Column separator of a text file, by name or as a character",
    )
    decimal: str | None = option(
        type=choice(names.DECIMALS), unset="detected", help="Decimal sign of a text file"
    )
    header: str = option(
        type=choice(names.HEADERS),
        default="auto",
        help="Whether the first row contains the column names; auto: detect it.",
    )
    conditions: tuple[str, ...] | None = option(
        help="Columns that the distribution of the other columns is conditioned on"
    )
    covariates: tuple[str, ...] | None = option(
        help="Columns that are known for each trial but are neither data nor parameters, such "
        "as a stimulus or a time",
    )
    dataset: str | None = option(
        unset="none: one row is one dataset",
        help="Column with the number of the dataset that a trial (row) belongs to. Parameters "
        "are constant within a dataset",
    )
    repeats: tuple[tuple[str, ...], ...] | None = option(
        help="Columns of repeated trials, if one row contains several trials: y1,t1;y2,t2 for "
        "two trials of two columns, or y*,t* for all matching columns. Empty cells stand "
        "for trials that were not made",
    )
    missing: str = option(
        type=choice(names.MISSING),
        default="keep",
        help="Treatment of missing values. keep: keep them; refuse: stop with an error; drop: "
        "drop their rows; mean: impute the column mean. For trials (--dataset, --repeats), "
        "refuse is the default.",
    )
    missing_values: tuple[str, ...] | None = option(
        "--missing_values",
        help="Cell texts that stand for a missing value, for example -999, in addition to empty "
        "cells, NA, NaN, null, ., ?, - and similar texts",
    )
    bounds: tuple[tuple[str, float, float], ...] | None = option(
        help="Lower and upper bounds of columns; one of the two can be empty. Example: "
        "age:0:,share:0:1"
    )
    held_out: float = option(
        "--held-out",
        type=Real(min=0, max=0.9),
        default=0.1,
        help="Fraction of rows held out for validation.",
    )
    kept: float = option(
        type=Real(min=0, max=0.9),
        default=0.0,
        help="Additional fraction of rows kept out of training, as the calibration set for "
        f"{script('posterior')} calibrate.",
    )
    seed: int = option(
        type=SEED, default=0, help="Random seed of the splits of rows, and of the points of toys."
    )

    @property
    def roles(self) -> list[str]:
        """Names of the columns that are conditions, covariates or the dataset number.

        With ``--repeats``, the names are those of the first trial's columns.
        """
        beside = [] if self.dataset is None else [self.dataset]
        return [*(self.conditions or ()), *(self.covariates or ()), *beside]

    def __post_init__(self) -> None:
        if self.repeats is not None:
            for name in ("conditions", "dataset"):
                if getattr(self, name) is not None:
                    raise UsageError(
                        f"--{name} is for one row a trial, and --repeats for one a dataset: give "
                        "one of them"
                    )


class DataSetSettings(
    Declared,
    example=f"{command_line('dataset_tool')} --source=houses.csv --dest=houses.npz",
    common="source dest columns exclude types missing conditions covariates dataset "
    "held_out kept resolution transform max_images seed overwrite",
):
    """Options of ``dataset_tool.py``."""

    source: str = option(
        required=True,
        help="Images or table to read: a path or a name, such as digits or toy:circles.",
    )
    dest: Path = option(
        required=True, help="Data set to write: a .zip or folder for images, an .npz for a table."
    )
    images: ImageOptions = options_of(ImageOptions)
    table: TableOptions = options_of(TableOptions)
    overwrite: bool = shared.overwrite()

    @property
    def wanted(self) -> list[str] | None:
        """Names of the columns to read; None for all."""
        if self.table.columns is None:
            return None
        columns = self.table.columns
        return [*columns, *(name for name in self.table.roles if name not in columns)]
