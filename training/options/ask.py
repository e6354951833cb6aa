"""Settings of ``ask.py``."""

from pathlib import Path

import click

from dnnlib.errors import UsageError
from training.names import script
from training.options import shared
from training.options.declared import Declared, option
from training.options.types import FiniteFloat, Givens


class AskSettings(Declared):
    """Options of all commands."""

    network: str = shared.network()
    dest: Path = option(required=True, help="CSV to write.")
    overwrite: bool = shared.overwrite()


class RowSettings(AskSettings):
    """Options of the commands that take rows."""

    data: Path = option(
        required=True,
        help="Rows: a CSV or another table, in which columns have the names of the training.",
    )
    missing_values: tuple[str, ...] | None = option(
        unset="the usual marks",
        help="Further texts that stand for no value; not of records that "
        f"{script('dataset_tool')} has read",
    )


class IntervalSettings(RowSettings):
    """Options of the commands that give intervals."""

    interval: float = option(
        type=FiniteFloat(min=0, max=1, min_open=True, max_open=True),
        default=0.9,
        help="Probability of the intervals of numbers.",
    )
    held_out: bool = option(
        default=True,
        help="Calibrate intervals by the held-out rows of the training; --no-held_out takes the "
        "flow's own intervals.",
    )
    calibrate: Path | None = option(
        unset="the scores in the network file",
        help="Calibrate intervals for the columns that are asked and known here, by the held-out "
        "rows of this data set (that of the training), or by all rows of a CSV of new rows",
    )

    def __post_init__(self) -> None:
        if self.calibrate is not None and not self.held_out:
            raise UsageError("--calibrate sets intervals by held-out rows: leave --no-held_out out")


class FillSettings(IntervalSettings):
    """Fill the holes of a table: medians and likeliest levels, with how sure they are.

    With --tables=M, M tables with joint draws in the holes, for multiple imputation.
    """

    tables: int | None = option(
        unset="one table, of medians and likeliest levels",
        help="So many tables, each with joint draws in its holes, for multiple imputation",
    )
    seed: int = shared.seed("the draws")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in sorted(self.given & {"interval", "held_out", "calibrate"}):
            if self.tables is not None:
                raise UsageError(f"--{name} is for intervals, which --tables has not: leave it out")


class PredictSettings(IntervalSettings):
    """Predict columns from the other cells of each row: intervals, probabilities of levels."""

    columns: tuple[str, ...] = option(
        required=True,
        help="Columns to predict, each given all cells of its row that are there but for these.",
    )


class ScoreSettings(RowSettings):
    """Log density of each row, and its odd cells.

    Densities are of the cells that are there: of continuous numbers in their units, of discrete
    numbers and levels the probability.
    """

    odd: float = option(
        type=FiniteFloat(min=0, max=1, min_open=True),
        default=0.01,
        help="Cells are odd whose value is this improbable, given the others of the row.",
    )


class DrawSettings(AskSettings):
    """Draw rows, given what all of them have."""

    count: int = option(required=True, help="Rows to draw.")
    given_: tuple[tuple[str, str], ...] | None = option(
        "--given",
        type=Givens(),
        unset="nothing",
        help="What all rows have: name:value, comma-separated, as the source writes values",
    )
    data: Path | None = option(
        unset="nothing",
        help="What pictures compare the rows with, which is written beside them: the held-out rows "
        "of the data set of the training, all if none are, or a CSV of rows that are all new",
    )
    seed: int = shared.seed("the draws")


class AskCheckSettings(Declared):
    """Hide cells of held-out rows, and test whether answers are calibrated.

    \b
    File: ranks, coverage and log loss by column, p-values, and what the tests could have seen
    """

    network: str = shared.network()
    data: Path = option(
        required=True,
        help=f"The data set of the training, made by {script('dataset_tool')}, whose held-out "
        "rows are asked "
        "about; or a CSV of rows that are all new.",
    )
    dest: Path = option(required=True, help="JSON to write.")
    hidden: float = option(
        type=click.FloatRange(min=0, max=0.5, min_open=True),
        default=0.2,
        help="Share of the cells of held-out rows that are hidden at a time; all are, in turn.",
    )
    level: float = option(
        type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
        default=0.05,
        help="Probability of a false alarm, of all tests together.",
    )
    strict: bool = shared.strict("a test fails")
    seed: int = shared.seed("what is hidden, and of draws")
    overwrite: bool = shared.overwrite()
