"""Options of a training on a table."""

from dataclasses import dataclass

import click

from training.learning.coordinates import AXES_TOO, MARGINALS, WHITENINGS
from training.learning.tables import AUTO, BOUNDED, LINEAR_STARTS
from training.settings.declared import Declared, option
from training.settings.types import COUNT, NOT_NEGATIVE, choice

MOST_MEMBERS = 64
"""Networks of an ensemble."""


@dataclass(frozen=True, kw_only=True)
class TableOptions(Declared):
    """How the columns of a table are seen, and the network of a table."""

    section = "Tables"
    marginals: str = option(
        type=choice((AUTO, *MARGINALS, AXES_TOO)),
        default=AUTO,
        help="What each column is put through: nothing, a power, or a power and a spline of its "
        "quantiles; auto tries these on held-out rows. quantile-axes adds a spline along the "
        "whitened axes, which auto does where rows are far from all others.",
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
    ensemble: int | None = option(
        type=click.IntRange(1, MOST_MEMBERS),
        unset="1; with --cond, of few rows: 3",
        help="Networks that are trained side by side from different initial weights; the flow "
        "takes the mean of what they say.",
    )
    width: int | None = option(
        type=COUNT,
        unset="128, few rows of few columns, or with --cond: 64",
        help="Units of a layer",
    )
    depth: int | None = option(type=COUNT, unset="4", help="Hidden layers")
    weight_decay: float | None = option(
        type=NOT_NEGATIVE, unset="0, few rows: 0.1", help="Decay of the weights"
    )
    patience: int | None = option(
        type=COUNT,
        unset="15",
        help="Reports without a better score on held-out rows that end the training",
    )
