"""Priors in closed form."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from dnnlib.errors import UsageError
from training import normal_prior

COVARIANCE = [[2.0, 0.9], [0.9, 1.0]]


def test_a_normal_prior_has_its_density() -> None:
    rows = np.array([[1.0, 2.0], [3.0, 1.0]])
    expected = multivariate_normal([1, 2], COVARIANCE).logpdf(rows)
    prior = normal_prior("ab", [1, 2], COVARIANCE)
    np.testing.assert_allclose(prior.log_prob(rows), expected, atol=1e-6)
    # Above 0 it is the logarithm that is normal.
    bounded = normal_prior("ab", [1, 2], COVARIANCE, {"a": (0, np.inf), "b": (0, np.inf)})
    expected -= rows.sum(axis=1)
    np.testing.assert_allclose(bounded.log_prob(np.exp(rows)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("mean", "spread", "bounds", "why"),
    [
        ([1.0], [1.0, 1.0], None, "as many means"),
        ([1.0, 2.0], [1.0, 1.0], {"c": (0, 1)}, "bounds of none but these"),
        ([1.0, 2.0], [[1.0, 0.5], [0.0, 1.0]], None, "not symmetric"),
        ([1.0, 2.0], [[1.0, 2.0], [2.0, 1.0]], None, "not positive"),
    ],
)
def test_what_is_no_normal_law_is_refused(
    mean: list[float], spread: object, bounds: dict[str, tuple[float, float]] | None, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        normal_prior("ab", mean, spread, bounds)
