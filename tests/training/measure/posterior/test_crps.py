"""The continuous ranked probability score against closed forms."""

import pytest
import torch
from scipy.stats import norm

from dnnlib.errors import DataError
from tests.support.draws import double, normal
from training.measure.posterior.crps import crps


def test_the_score_of_a_gaussian_is_its_closed_form() -> None:
    """``sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi))`` (Gneiting and Raftery, eq. 21)."""
    z = double([-2.0, -0.5, 0.0, 1.0, 3.0])
    found = crps(7 + 2 * normal(5, 200_000), 7 + 2 * z)
    expected = z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - torch.pi**-0.5
    torch.testing.assert_close(found, 2 * expected, atol=0.01, rtol=0)


def test_the_score_is_that_of_all_pairs_and_fair() -> None:
    draws, truth = normal(4000, 3, 2), normal(4000, 2, seed=1)
    pairs = (draws[:, :, None] - draws[:, None]).abs().sum(dim=(1, 2)) / (3 * 2)
    expected = (draws - truth[:, None]).abs().mean(dim=1) - pairs / 2
    found = crps(draws, truth)
    torch.testing.assert_close(found, expected)
    # Three draws score on average what the law does: 1 / sqrt(pi).
    assert float(found.mean()) == pytest.approx(torch.pi**-0.5, abs=0.02)


def test_one_draw_has_no_score() -> None:
    with pytest.raises(DataError, match="at least two"):
        crps(normal(3, 1), normal(3))
