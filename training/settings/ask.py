"""Settings of ``ask.py``."""

from pathlib import Path

from dnnlib.errors import UsageError
from training.names import command_line, script
from training.settings import shared
from training.settings.declared import Declared, option
from training.settings.types import Givens, Real


class AskSettings(Declared):
    """Options shared by all commands of ``ask.py``."""

    network: str = shared.network()
    dest: Path = option(required=True, help="CSV file to write.")
    overwrite: bool = shared.overwrite()


class RowSettings(AskSettings):
    """Options of the commands that read rows of a table."""

    data: Path = option(
        required=True,
        help="Rows to read: a CSV or another table, with the column names of the training data.",
    )
    missing_values: tuple[str, ...] | None = option(
        help="Texts that stand for a missing value, in addition to empty cells, NA, NaN and "
        f"similar texts. Not for data sets made by {script('dataset_tool')}",
    )


class IntervalSettings(RowSettings):
    """Options of the commands that write prediction intervals."""

    interval: float = option(
        type=Real(min=0, max=1, min_open=True, max_open=True),
        default=0.9,
        help="Probability with which a prediction interval covers the true value.",
    )
    held_out: bool = option(
        default=True,
        help="Calibrate intervals on validation rows; --no-held_out writes the uncalibrated "
        "intervals of the flow.",
    )
    calibrate: Path | None = option(
        unset="calibration scores in the network file",
        help="Data that calibrate the intervals for exactly these targets and conditions: a "
        "data set, whose validation rows are used, or a CSV, whose rows are all used",
    )

    def __post_init__(self) -> None:
        if self.calibrate is not None and not self.held_out:
            raise UsageError(
                "--calibrate needs validation rows for the intervals: leave --no-held_out out"
            )


class FillSettings(
    IntervalSettings,
    example=f"{command_line('ask')} fill --network=patients.pkl --data=patients.csv "
    "--dest=imputed.csv",
):
    """Impute missing values.

    Missing numbers get medians and prediction intervals; missing categories get the most likely
    category and its probability. With --tables=M, writes M tables with joint draws instead, for
    multiple imputation.
    """

    tables: int | None = option(
        unset="one table of medians and most likely categories",
        help="Number of tables to write for multiple imputation, each with joint draws of the "
        "missing values",
    )
    seed: int = shared.seed()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in sorted(self.given & {"interval", "held_out", "calibrate"}):
            if self.tables is not None:
                raise UsageError(
                    f"--{name} is for intervals, but --tables writes none: leave --{name} out"
                )


class PredictSettings(
    IntervalSettings,
    example=f"{command_line('ask')} predict --network=patients.pkl --data=new.csv "
    "--columns=age,outcome --dest=predicted.csv",
):
    """Predict columns from the other cells of each row.

    Predicted numbers come with prediction intervals, predicted categories with probabilities.
    """

    columns: tuple[str, ...] = option(
        required=True,
        help="Columns to predict from the other observed cells of each row.",
    )


class ScoreSettings(
    RowSettings,
    example=f"{command_line('ask')} score --network=patients.pkl --data=new.csv --dest=scores.csv",
):
    """Compute log densities (nats) and flag outlier cells.

    Missing cells are left out. Continuous numbers contribute log densities in the units of their
    columns; discrete numbers and categories contribute log probabilities.
    """

    odd: float = option(
        type=Real(min=0, max=1, min_open=True),
        default=0.01,
        help="Flag a value as an outlier if its conditional probability is below this number.",
    )


class DrawSettings(
    AskSettings,
    example=f"{command_line('ask')} sample --network=patients.pkl --count=1000 "
    "--given=sex:female --dest=rows.csv",
):
    """Draw rows, optionally given values of some columns."""

    count: int = option(required=True, help="Number of rows to draw.")
    given_: tuple[tuple[str, str], ...] | None = option(
        "--given",
        type=Givens(),
        help="Conditions for all drawn rows, for example sex:female,age:40",
    )
    data: Path | None = option(
        help="Rows to compare with the draws in pictures: the data set of the training, or a CSV",
    )
    seed: int = shared.seed()


class AskCheckSettings(
    Declared,
    example=f"{command_line('ask')} check --network=patients.pkl --data=patients.npz "
    "--dest=check.json",
):
    """Test calibration on hidden cells of validation rows.

    \b
    File: ranks, coverage and log loss by column, p-values, smallest detectable errors
    """

    network: str = shared.network()
    data: Path = option(
        required=True,
        help=f"Data set of the training, made by {script('dataset_tool')} (only its validation "
        "rows are used), or a CSV of new rows.",
    )
    dest: Path = option(required=True, help="JSON file to write.")
    hidden: float = option(
        type=Real(min=0, max=0.5, min_open=True),
        default=0.2,
        help="Fraction of the cells that are hidden at a time; every cell is hidden once.",
    )
    level: float = option(
        type=Real(min=0, max=1, min_open=True, max_open=True),
        default=0.05,
        help="Significance level of all tests together: probability of any false alarm.",
    )
    strict: bool = shared.strict("a test fails")
    seed: int = shared.seed()
    overwrite: bool = shared.overwrite()
