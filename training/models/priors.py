"""Priors in closed form, from Python.

>>> from training import normal_prior
>>> prior = normal_prior(["speed", "rest"], [0.0, 0.3], [1.0, 0.1], {"speed": (0, float("inf"))})
>>> prior.sample(3, seed=0).round(2)
   speed  rest
0   0.95  0.44
1   4.39  0.22
2   0.31  0.35
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dnnlib.errors import UsageError
from training.models.conversion import ranges_of
from training.models.model import Model
from training.subjects.likelihoods import normal_model


def normal_prior(
    columns: Sequence[str],
    mean: Any,
    spread: Any,
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> Model:
    """Return a normal distribution as the prior of a learned likelihood.

    No network is trained.

    Args:
        columns: Names of the parameters ``[D]``.
        mean: Means ``[D]``.
        spread: Standard deviations ``[D]``, or a covariance ``[D, D]``.
        bounds: Lowest and highest value by column, infinite where there is none. The column is
            normal in unbounded coordinates: the logarithm above one bound, the probit between two,
            as in ``posterior.py population``.

    Raises:
        UsageError: Sizes do not match, a bound is of no column, or a spread is not positive.
    """
    columns = list(columns)
    ends = dict.fromkeys(columns, (-np.inf, np.inf)) | ranges_of(bounds)
    means, values = (np.asarray(each, dtype=np.float64) for each in (mean, spread))
    dim, square = len(columns), values.ndim == 2
    if len(ends) != dim or means.shape != (dim,) or values.shape != (dim,) * (1 + square):
        raise UsageError(
            "a normal prior needs one mean and one standard deviation per column (or a covariance "
            "matrix for all), and bounds for these columns only"
        )
    if not (dim and np.isfinite(means).all() and np.isfinite(values).all()):
        raise UsageError(
            "a normal prior needs at least one column, and finite means and standard deviations"
        )
    if square and not np.allclose(values, values.T):
        raise UsageError("the covariance of a normal prior is not symmetric")
    if not (np.linalg.eigvalsh(values) if square else values).min() > 0:
        raise UsageError("the covariance of a normal prior is not positive definite")
    low_high = torch.tensor([ends[name] for name in columns], dtype=torch.float64)
    made = normal_model(columns, low_high, torch.from_numpy(means), torch.from_numpy(values))
    return Model.from_trained(made)
