"""How unlike the simulations an observation is: in nats, of rows of their own, along each axis."""

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from tests.support.draws import double, normal
from training.flow.coordinates.surprise import LEVELS, Surprise

UNITS = double([1e-3, 1.0, 1e5])


def simulated(count: int, seed: int = 1) -> Tensor:
    """Three correlated Gaussian conditions in units far apart."""
    mixed = normal(count, 3, seed=seed) @ double([[1.0, 0.9, 0], [0, 0.3, 0], [0.5, 0, 2]])
    return (mixed + 5) * UNITS


def test_of_gaussian_conditions_it_is_a_difference_of_log_densities() -> None:
    y = simulated(20_000)
    law = Surprise(3).fit(y)
    exact = MultivariateNormal(y.mean(dim=0), y.T.cov(correction=0))
    others = simulated(50, seed=2)
    found, expected = law(others), -exact.log_prob(others)
    torch.testing.assert_close(found - found[0], expected - expected[0])
    # Half a chi-squared variable of three degrees: its median is 1.183, its 99.9 % quantile 8.13.
    assert float(law(y.mean(dim=0))) == pytest.approx(-1.183, abs=0.03)
    assert law.limit == pytest.approx(8.13 - 1.18, abs=0.6)


def test_quantiles_are_of_rows_that_are_left_out() -> None:
    """Thirty rows of ten conditions: their own distances would be a quarter of new ones'."""
    y = normal(30, 10, seed=3)
    left = []
    for row in range(30):
        rest = torch.cat([y[:row], y[row + 1 :]])
        apart = y[row] - rest.mean(dim=0)
        left.append(apart @ torch.linalg.solve(rest.T.cov(correction=0), apart) / 2)
    expected = torch.stack(left).quantile(double(LEVELS))
    torch.testing.assert_close(Surprise(10).fit(y).quantiles, expected)


def test_what_breaks_a_rule_of_all_simulations_is_most_surprising() -> None:
    first = normal(2000, 2, seed=4)
    law = Surprise(4).fit(
        torch.cat([first, first.sum(dim=1, keepdim=True), 0 * first[:, :1] + 7], 1)
    )
    like = double([1.0, -0.5, 0.5, 7.0])
    assert float(law(like)) < law.limit
    rounded = like + 1e-7
    assert float(law(rounded)) < law.limit
    for place in (2, 3):
        other = like.clone()
        other[place] += 0.01
        assert float(law(other)) > 1000
    # As far from the mean along what varies, it is no more surprising than a Gaussian number.
    far = double([6.0, 0.0, 6.0, 7.0])
    assert float(law(far)) == pytest.approx(18, abs=3)
