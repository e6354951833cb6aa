"""Coverage of central intervals, of highest-density regions and of TARP's balls."""

import pytest
import torch
from scipy.stats import chi2, norm

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double, normal, seeded
from training.measure.posterior.coverage import (
    central_values,
    coverage_curve,
    highest_density_values,
)
from training.measure.posterior.ranks import fractional_ranks
from training.measure.posterior.tarp import reference_points, tarp_values


def test_values_are_contents_of_regions_with_the_truth_on_the_edge() -> None:
    """In closed form for Gaussian draws: ``|2 Phi(z) - 1|``, and chi-squared of the radius."""
    draws, truth = normal(20, 20_000, 2), normal(20, 2, seed=1)
    central = central_values(fractional_ranks(draws, truth, seeded()))
    torch.testing.assert_close(central, (2 * double(norm.cdf(truth)) - 1).abs(), atol=0.02, rtol=0)
    radii = (draws.square().sum(dim=2), truth.square().sum(dim=1))
    densest = highest_density_values(-radii[0] / 2, -radii[1] / 2, seeded())
    torch.testing.assert_close(densest, double(chi2(2).cdf(radii[1])), atol=0.02, rtol=0)


def test_values_of_tarp_are_contents_of_balls() -> None:
    """Distances from a point p to standard normal draws: noncentral in 1-D, by two tails."""
    draws, truth, point = normal(20, 20_000, 1), normal(20, 1, seed=1), normal(20, 1, seed=2)
    reach = (truth - point).abs()
    expected = double(norm.cdf(point + reach) - norm.cdf(point - reach))[:, 0]
    for scale in (None, double([7.0])):
        found = tarp_values(draws, truth, point, seeded(), scale=scale)
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_a_curve_is_exact_where_coverage_is_known() -> None:
    """Values ``u^(1/2)`` are covered at level l by ``l^2``; pooled with uniform ones, the mean."""
    grid = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    curve = coverage_curve(torch.stack([grid.sqrt(), grid], dim=1), levels=(0.3, 0.5, 0.9))
    torch.testing.assert_close(curve.held, double([[0.09, 0.3], [0.25, 0.5], [0.81, 0.9]]))
    torch.testing.assert_close(curve.pooled, double([0.195, 0.375, 0.855]))
    torch.testing.assert_close(curve.deviation, double([-25.0, 0.0]))
    assert curve.pooled_deviation == pytest.approx(-12.5)


def test_bands_and_errors_hold_the_runs_they_should() -> None:
    """Of 2,000 curves of 200 runs, 95 % within the band at each level by itself, or a bit more."""
    values = torch.rand(200, 2000, generator=seeded(), dtype=torch.float64)
    curve = coverage_curve(values)
    held = (curve.held >= curve.lower[:, None]) & (curve.held <= curve.upper[:, None])
    assert 0.945 < float(held.double().mean()) < 0.975
    # Variables of one run that are one number have the error of one.
    same = coverage_curve(values[:, :1].expand(-1, 50), levels=(0.5,))
    assert float(same.pooled_error) == pytest.approx((0.25 / 200) ** 0.5, rel=0.05)


def test_reference_points_are_spread_like_draws() -> None:
    draws = 3 + 2 * normal(2000, 10, 2)
    points = reference_points(draws, seeded(1))
    assert points.mean(dim=0).tolist() == pytest.approx([3, 3], abs=0.2)
    assert points.std(dim=0).tolist() == pytest.approx([2, 2], abs=0.15)


def test_bad_numbers_are_refused() -> None:
    draws, truth = normal(30, 5, 2), normal(30, 2)
    with pytest.raises(DataError, match="reference points"):
        tarp_values(draws, truth, truth[:5], seeded())
    with pytest.raises(UsageError, match="between 0 and 1"):
        coverage_curve(truth, levels=(0.5, 50))
