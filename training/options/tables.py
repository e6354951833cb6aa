"""Options of a training on a table."""

from dataclasses import dataclass

import click

from dnnlib.errors import UsageError
from training.names import (
    AUTO,
    AXES_TOO,
    BOUNDED,
    COND_SCREENS,
    LINEAR_STARTS,
    LOG,
    MARGINALS,
    MOST_WAVES,
    TABLE,
    WHITENINGS,
)
from training.options.declared import Declared, option
from training.options.types import COUNT, NOT_NEGATIVE, SHAPE, choice
from training.recipes import told_of_tables

MOST_MEMBERS = 64
"""Networks of an ensemble."""
CONDITIONAL = {"bounded", "cond_screen", "cond_shape", "cond_waves", "linear_start"}
"""Options of tables with conditions."""


@dataclass(frozen=True, kw_only=True)
class TableOptions(Declared):
    """How the columns of a table are seen, and the network of a table."""

    section = "Tables"
    of_kind = TABLE
    marginals: str = option(
        type=choice((AUTO, *MARGINALS, LOG, AXES_TOO)),
        default=AUTO,
        help="What each column is put through: nothing, a power, or a power and a spline of its "
        "quantiles; auto tries these on held-out rows. log takes the logarithm of columns that "
        "are positive over three decades or more, which auto tries with --cond. quantile-axes "
        "adds a spline along the whitened axes, which auto does where rows are far from all "
        "others.",
    )
    whiten: str = option(
        type=choice((AUTO, *WHITENINGS)),
        default=AUTO,
        help="Standardize columns alone (none), or whiten along principal axes (pca), or turn back "
        "to the columns after that (zca); auto tries pca and zca, and takes none where dimensions "
        "are compressed.",
    )
    linear_start: str = option(
        type=choice(LINEAR_STARTS),
        default=AUTO,
        help="With --cond: take the best linear prediction of the columns from the conditions off "
        "before whitening, so that the flow starts from the linear-Gaussian posterior; auto tries "
        "both on held-out rows.",
    )
    bounded: str = option(
        type=choice(BOUNDED),
        default=AUTO,
        help="With --cond: map columns with bounds to the line (map), or leave them alone, and "
        "reject what is beyond when posteriors are drawn (reject); auto tries both on held-out "
        "rows. Other tables are always mapped.",
    )
    cond_screen: str = option(
        type=choice(COND_SCREENS),
        default=AUTO,
        help="With --cond: leave out the conditions that no column depends on, each by its "
        "distance correlation, at a false discovery rate of 5 %; auto tries both on held-out rows. "
        "Not with --cond_shape.",
    )
    ensemble: int | None = option(
        type=click.IntRange(1, MOST_MEMBERS),
        unset="1",
        help="Networks that are trained side by side from different initial weights; the flow "
        "takes the mean of what they say.",
    )
    cond_shape: tuple[int, ...] | None = option(
        type=SHAPE,
        unset="none: the network sees the numbers themselves",
        help="With --cond: the conditions, in the order of their columns, are a series of C x L or "
        "an image of C x H x W, or C numbers that are too many; a small network, trained with the "
        "other, makes 32 features of them.",
    )
    cond_waves: int | None = option(
        type=click.IntRange(0, MOST_WAVES),
        unset=told_of_tables("cond_waves"),
        help="With --cond: show the network so many sines and cosines of each condition too, from "
        "a period of 10 standard deviations down.",
    )
    width: int | None = option(
        type=COUNT,
        unset=told_of_tables("width"),
        help="Units of a layer",
    )
    depth: int | None = option(type=COUNT, unset=told_of_tables("depth"), help="Hidden layers")
    weight_decay: float | None = option(
        type=NOT_NEGATIVE, unset=told_of_tables("weight_decay"), help="Decay of the weights"
    )
    patience: int | None = option(
        type=COUNT,
        unset=told_of_tables("patience"),
        help="Reports without a better score on held-out rows that end the training",
    )

    def require_nothing_of_conditions(self) -> None:
        """Raises UsageError if an option was typed that is for tables with conditions."""
        for name in sorted(self.given & CONDITIONAL):
            raise UsageError(f"--{name} is for --cond: leave it out")
