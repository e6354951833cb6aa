"""Answers to any question about the rows of a table, by a network of train.py --any.

fill closes holes, predict tells columns from others, score tells how likely rows are and which of
their cells are odd, sample draws rows, and check tests all of this on rows that are held out.
"""

from training.options.ask import (
    AskCheckSettings,
    DrawSettings,
    FillSettings,
    PredictSettings,
    ScoreSettings,
)
from training.options.declared import takes
from training.options.script import group, run_script


@group(help=__doc__)
def main() -> None:
    pass


@main.command()
@takes(FillSettings)
def fill(settings: FillSettings) -> None:
    """Fill the holes of a table: medians and likeliest levels, with how sure they are.

    With --tables=M, M tables with joint draws in the holes, for multiple imputation.
    """
    from training.commands import ask as job  # here, so that --help need not wait for PyTorch

    job.fill(settings)


@main.command()
@takes(PredictSettings)
def predict(settings: PredictSettings) -> None:
    """Predict columns from the other cells of each row: intervals, probabilities of levels."""
    from training.commands import ask as job  # here, so that --help need not wait for PyTorch

    job.predict(settings)


@main.command()
@takes(ScoreSettings)
def score(settings: ScoreSettings) -> None:
    """Log density of each row, and its odd cells.

    Densities are of the cells that are there: of continuous numbers in their units, of discrete
    numbers and levels the probability.
    """
    from training.commands import ask as job  # here, so that --help need not wait for PyTorch

    job.score(settings)


@main.command()
@takes(DrawSettings)
def sample(settings: DrawSettings) -> None:
    """Draw rows, given what all of them have."""
    from training.commands import ask as job  # here, so that --help need not wait for PyTorch

    job.sample(settings)


@main.command()
@takes(AskCheckSettings)
def check(settings: AskCheckSettings) -> int | None:
    """Hide cells of held-out rows, and test whether answers are calibrated.

    \b
    File: ranks, coverage and log loss by column, p-values, and what the tests could have seen
    """
    from training.commands import ask as job  # here, so that --help need not wait for PyTorch

    return job.check(settings)


if __name__ == "__main__":
    run_script(main)
