"""Settings of ``dataset_tool.py``."""

from pathlib import Path

import click

from dnnlib.errors import UsageError
from training import names
from training.names import script
from training.options import shared
from training.options.declared import Declared, option, options_of
from training.options.types import SEED, ColumnTypes, FiniteFloat, choice


def parse_resolution(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """``WxH`` in pixels as a pair of numbers."""
    if value is None:
        return None
    width, _, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and len(width + height) <= 12):
        raise click.BadParameter(f"'{value}' is not of the form WxH, such as 32x32")
    return int(width), int(height)


def parse_separator(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A separator by its name or as it is."""
    separator = value if value is None else names.SEPARATORS.get(value, value)
    if separator not in (None, *names.SEPARATORS.values()):
        raise click.BadParameter(f"'{value}' is none of {', '.join(names.SEPARATORS)}")
    return separator


class ImageOptions(Declared, section="Images", of_kind=names.IMAGES):
    """What to take of images, and how."""

    first_image: int = option(
        "--first-image",
        type=click.IntRange(min=0),
        default=0,
        help="Leave out so many images at the start, so that a source can be split.",
    )
    max_images: int | None = option(
        "--max-images",
        unset="all",
        help="Stop after so many images, taken evenly from the classes of folders and zips",
    )
    patch: int | None = option(
        type=click.IntRange(*names.SIDES),
        unset=f"{names.PATCH}; only of patches",
        help="Side of patches, in pixels",
    )
    transform: str | None = option(
        type=choice(names.TRANSFORMS),
        unset="images have to be square",
        help="Cut the largest square out of the middle, or the largest rectangle of the "
        "resolution's aspect, with black above and below",
    )
    resolution: tuple[int, int] | None = option(
        metavar="WxH", callback=parse_resolution, unset="leave the size", help="Size to resample to"
    )
    channels: str | None = option(
        type=choice(("1", "3")),
        unset="as the first image",
        help="1 makes all images gray, 3 makes all RGB",
    )
    skip_bad: bool = option(
        "--skip-bad", is_flag=True, help="Leave out images that are broken or do not fit."
    )


class TableOptions(Declared, section="Tables", of_kind=names.TABLE):
    """What to take of a table, and how."""

    columns: tuple[str, ...] | None = option(
        unset="all",
        help="Columns to take; a name that has a comma stands in double quotes, as in CSV",
    )
    exclude: tuple[str, ...] | None = option(unset="none", help="Columns to leave out")
    types: tuple[tuple[str, str], ...] | None = option(
        type=ColumnTypes(),
        unset="as they look",
        help="Types of columns: number, whole, category, date, identifier (kept beside the data); "
        "levels in their order, small<medium<large; or how dates are written, %d.%m.%Y",
    )
    calendar: bool = option(
        is_flag=True, help="Add weekday and season of dates as columns of their own."
    )
    is_missing: tuple[str, ...] | None = option(
        unset="none",
        help="Columns of which a further one is to say where their cells are missing, if that "
        "tells something; it is known, asked and drawn as others are",
    )
    sep: str | None = option(
        metavar="|".join(names.SEPARATORS),
        callback=parse_separator,
        unset="found in the file",
        help="What is between the cells of a text, by its name or itself",
    )
    decimal: str | None = option(
        type=choice(names.DECIMALS), unset="found in the file", help="The decimal sign of a text"
    )
    header: str = option(
        type=choice(names.HEADERS),
        default="auto",
        help="Whether the first row of a text names the columns; auto takes it for names unless "
        "it is numbers, and asks where these rise from column to column while the next row's do "
        "not, as years do that are names.",
    )
    conditions: tuple[str, ...] | None = option(
        unset="none", help="Columns, taken too, that are to be conditioned on"
    )
    covariates: tuple[str, ...] | None = option(
        unset="none",
        help="Columns that are known of each row and no data, such as a design or a time",
    )
    dataset: str | None = option(
        unset="each row has parameters of its own",
        help="Column of numbers that says which rows are trials of one dataset; parameters repeat "
        "in each of these, and all of its rows are held out, or none",
    )
    repeats: tuple[tuple[str, ...], ...] | None = option(
        unset="none",
        help="Columns of each trial, where a row has several: y1,t1;y2,t2, called as the first "
        "ones are, or y*,t* for all that are alike, called y and t; cells of trials that were not "
        "made are empty. They are conditions, in place of --conditions, but for covariates",
    )
    missing: str = option(
        type=choice(names.MISSING),
        default="keep",
        help="Keep missing values as they are, refuse them, drop their rows, or fill in the mean "
        "of the column. In data of trials they are refused unless this is typed.",
    )
    missing_values: tuple[str, ...] | None = option(
        "--missing_values",
        unset="empty cells, NA, NaN, null, ., ?, - and the like",
        help="Further cells that stand for a missing value, such as -999",
    )
    dequantize: str = option(
        type=choice(("auto", "none")),
        default="auto",
        help="Whether to look for discrete columns, to be spread evenly over their steps.",
    )
    bounds: tuple[tuple[str, float, float], ...] | None = option(
        unset="none", help="Ranges that columns cannot leave"
    )
    max_rows: int | None = option("--max-rows", unset="all", help="Stop after so many rows")
    held_out: float = option(
        "--held-out",
        type=FiniteFloat(min=0, max=0.9),
        default=0.1,
        help="Fraction of the rows that is not to be trained on.",
    )
    kept: float = option(
        type=FiniteFloat(min=0, max=0.9),
        default=0.0,
        help="Further fraction of a table of numbers that no training sees, nor any of its "
        f"choices: for {script('posterior')} calibrate.",
    )
    seed: int = option(type=SEED, default=0, help="Seed of the choice of these, and of toys.")

    @property
    def roles(self) -> list[str]:
        """Columns that are named for what they are; of ``--repeats`` the first trial's."""
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


class DataSetSettings(Declared):
    """All settings of the script."""

    source: str = option(required=True, help="Where the images are, or the table.")
    dest: Path = option(
        required=True, help="The .zip, or else folder, of images; the .npz of a table."
    )
    images: ImageOptions = options_of(ImageOptions)
    table: TableOptions = options_of(TableOptions)
    overwrite: bool = shared.overwrite()

    def __post_init__(self) -> None:
        if "patch" in self.given and self.source not in (names.PATCHES, names.HELD_OUT_PATCHES):
            raise UsageError(f"--patch is for --source={names.PATCHES}")

    @property
    def wanted(self) -> list[str] | None:
        """The columns to read; None for all."""
        if self.table.columns is None:
            return None
        columns = self.table.columns
        return [*columns, *(name for name in self.table.roles if name not in columns)]
