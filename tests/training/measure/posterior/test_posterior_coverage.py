"""Ranks of truths, coverage of regions, scores, and checks of predictions."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2, chisquare, kstest, norm

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double, normal, seeded
from tests.support.refusals import refusal
from training.measure.posterior.coverage import (
    central_values,
    coverage_curve,
    highest_density_values,
)
from training.measure.posterior.crps import crps
from training.measure.posterior.predictive import Predictive, needed
from training.measure.posterior.ranks import (
    fractional_ranks,
    kept_by_thinning,
    ks_p_values,
    simultaneous_band,
    uniformity,
)
from training.measure.posterior.tarp import reference_points, tarp_values


def test_a_rank_counts_the_draws_below_the_truth() -> None:
    draws = double([[1, 2, 3], [1, 2, 3]])[..., None]
    ranks = fractional_ranks(draws, double([[2.5], [0]]), seeded())
    assert (4 * ranks).floor().tolist() == [[2], [0]]


def test_equal_draws_give_a_truth_any_place_among_them() -> None:
    draws = torch.zeros(20_000, 4, 1, dtype=torch.float64)
    draws[:, 3] = 1
    ranks = fractional_ranks(draws, torch.zeros(20_000, 1).double(), seeded())
    places = (5 * ranks).floor().long().flatten().bincount(minlength=5)
    assert places[4] == 0
    assert chisquare(places[:4]).pvalue > 0.01


def test_ranks_among_draws_of_any_number_are_uniform() -> None:
    """Exactly so, if truths are one more draw: 7 draws, or as many as are kept."""
    everything = normal(4000, 8, 2)
    kept = kept_by_thinning(double([3, 5]).repeat(2000), 7)
    for mask in (None, kept):
        found = uniformity(fractional_ranks(everything[:, 1:], everything[:, 0], seeded(), mask))
        assert (found.ks_p > 0.01).all()
        assert (found.chi_squared_p > 0.01).all()


def test_thinning_keeps_evenly_spaced_draws() -> None:
    kept = kept_by_thinning(double([3.9, 0.2, 100, 9]), 9)
    assert kept.sum(dim=1).tolist() == [3, 1, 9, 9]
    assert kept[0].nonzero().flatten().tolist() == [2, 5, 8]
    each = kept_by_thinning(double([[1, 9], [3, 2]]), 9)
    assert each.sum(dim=1).tolist() == [[1, 9], [3, 2]]


def test_ranks_among_correlated_draws_are_uniform_only_after_thinning() -> None:
    innovations = normal(1000, 201)
    states = [innovations[:, 0]]
    for index in range(1, 200):
        states.append(0.98 * states[-1] + 0.0396**0.5 * innovations[:, index])
    draws, truth = torch.stack(states, dim=1)[..., None], innovations[:, 200:]
    kept = kept_by_thinning(torch.full((1000,), 200 * 0.02 / 1.98), 200)
    p = [
        float(uniformity(fractional_ranks(draws, truth, seeded(), mask)).chi_squared_p)
        for mask in (None, kept)
    ]
    assert p[0] < 1e-3 < 0.01 < p[1]


def test_p_values_are_those_of_scipy() -> None:
    values = torch.rand(500, 3, generator=seeded(), dtype=torch.float64).pow(double([1, 1.1, 1.3]))
    found = uniformity(values)
    for column, ks, chi in zip(values.T.numpy(), found.ks_p, found.chi_squared_p, strict=True):
        assert float(ks) == pytest.approx(kstest(column, "uniform", method="exact").pvalue)
        counts = np.histogram(column, bins=found.bins, range=(0, 1))[0]
        assert float(chi) == pytest.approx(chisquare(counts).pvalue)


def test_a_band_holds_its_share_of_uniform_samples() -> None:
    samples = torch.rand(300, 4000, generator=seeded(), dtype=torch.float64)
    held = simultaneous_band(300, points=50, level=0.9).holds(samples)
    # Not exactly: counts are whole numbers, and the band is simulated.
    assert float(held.double().mean()) == pytest.approx(0.9, abs=0.02)
    assert not simultaneous_band(300).holds(samples[:, :5] ** 1.5).any()


def test_what_has_no_ranks_is_refused() -> None:
    draws, truth = normal(30, 5, 2), normal(30, 2)
    with pytest.raises(DataError, match=r"\[30, 5, 2\] and truths \[30, 3\]"):
        fractional_ranks(draws, normal(30, 3), seeded())
    assert "NaN" in refusal(fractional_ranks, draws, truth * torch.nan, seeded())
    assert "NaN" in refusal(kept_by_thinning, double([torch.nan]), 5)
    assert "19 runs are too few" in refusal(uniformity, torch.rand(19, 2))
    for values in (-torch.rand(30, 1), 1.1 + torch.rand(30, 1)):
        assert "outside of [0, 1]" in refusal(uniformity, values)
    assert "level 1" in refusal(simultaneous_band, 100, level=1, kind=UsageError)


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


def test_what_has_no_coverage_is_refused() -> None:
    draws, truth = normal(30, 5, 2), normal(30, 2)
    assert "reference points" in refusal(tarp_values, draws, truth, truth[:5], seeded())
    assert "between 0 and 1" in refusal(coverage_curve, truth, levels=(0.5, 50), kind=UsageError)


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
    assert "at least two" in refusal(crps, normal(3, 1), normal(3))


def check(shift: float, draws: int = 4000) -> Predictive:
    """Of one observation, whose second number is so far from what is simulated."""
    simulated, observed = normal(draws, 2, seed=1)[None], torch.zeros(1, 2).double()
    observed[0, 1] = shift
    return Predictive.of(simulated, observed, ["a", "b"], 0.01, seeded())


def test_p_values_of_data_that_the_model_makes_are_even() -> None:
    simulated, observed = normal(400 * 50, 1, seed=2).view(400, 50, 1), normal(400, 1, seed=3)
    p = Predictive.of(simulated, observed, ["a"], 0.01, seeded()).p_values
    assert float(ks_p_values(p)) > 0.01


def test_a_verdict_names_what_fails_or_what_would_have() -> None:
    wrong, right, few = check(6.0), check(0.5), check(0.5, 100)
    assert wrong.failed == ["b of observation 1"]
    assert "does not make data like the observations: b of observation 1" in wrong.verdict
    assert "4.1 standard deviations off" in right.verdict
    assert not check(right.detectable - 1.9).failed
    assert check(right.detectable).failed
    assert few.verdict.startswith("Too few simulations to tell")
    assert f"need {needed(2, 0.01)}" in few.verdict
