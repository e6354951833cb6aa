"""Ranks and regions of posteriors, and what draws are worth: known errors are named."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from scipy.stats import chi2, chisquare, kstest, norm

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double, normal, seeded
from tests.support.running import refusal
from training.measure.posterior import calibration, importance
from training.measure.posterior import convergence as module
from training.measure.posterior.calibration import (
    RunValues,
    calibrate,
    crps,
    detectable,
    fractional_ranks,
    holm,
    kept_by_thinning,
    run_values,
    undetected_narrowness,
    uniformity,
    verdict,
)
from training.measure.posterior.convergence import convergence
from training.measure.posterior.importance import effective_size, k_threshold, smoothed_weights
from training.measure.posterior.predictive import Predictive, needed

RUNS = 400


def gaussian_values(noise, claimed, dims, width=1.0, runs=300):
    """Runs of ``y = x + noise``, and posteriors that claim a noise, of a relative width."""
    truth = normal(runs, dims, seed=1)
    data = truth + noise * normal(runs, dims, seed=2)
    mean, std = data / (1 + claimed**2), claimed / (1 + claimed**2) ** 0.5
    draws = mean[:, None] + width * std * normal(runs, 200, dims, seed=3)

    def log_likelihood(x, data):
        return -((data - x) / claimed).square().sum(dim=-1) / 2

    def log_density(x, mean):
        return -((x - mean) / std).square().sum(dim=-1) / 2

    likelihood = (log_likelihood(draws, data[:, None]), log_likelihood(truth, data))
    density = (log_density(draws, mean[:, None]), log_density(truth, mean))
    others = {"log-likelihood": likelihood}
    return run_values(draws, truth, seeded(4), others=others, log_density=density)


def smallest(calibration, words):
    return min(p for name, p in calibration.adjusted.items() if words in name)


def test_exact_posteriors_pass_also_in_a_dimension_that_never_changes():
    got = calibrate(gaussian_values(0.5, 0.5, dims=3, runs=1000))
    assert got.passed
    assert got.verdict.startswith("No miscalibration found in 14 tests of 1000 runs")
    assert float(got.crps.mean()) == pytest.approx(0.2**0.5 / torch.pi**0.5, rel=0.04)
    assert abs(got.intervals.pooled_deviation) < 3
    draws, truth = normal(200, 50, 2), normal(200, 2, seed=1)
    draws[..., 1] = truth[:, 1] = 7
    got = calibrate(run_values(draws, truth, seeded()))
    assert got.passed
    assert float(got.crps[1]) == pytest.approx(0, abs=1e-12)


def test_narrow_posteriors_fail_in_coverage_and_a_misstated_noise_in_its_log_likelihood():
    got = calibrate(gaussian_values(0.5, 0.5, dims=3, width=0.8, runs=1000))
    assert not got.passed
    for words in ("central intervals of x1", "TARP", "highest-density regions"):
        assert smallest(got, words) < 1e-3
    assert got.intervals.pooled_deviation < -6
    assert got.verdict.startswith("Not calibrated: ")
    got = calibrate(gaussian_values(2.0, 0.8 * 2.0, dims=20))
    assert smallest(got, " of x") > 0.01 > 1e-10 > smallest(got, "ranks of log-likelihood")
    assert "ranks of log-likelihood" in got.verdict


def test_portions_of_runs_are_joined():
    draws, truth = normal(6, 50, 2), normal(6, 2, seed=1)
    generators = [seeded(run) for run in range(6)]
    references = normal(6, 2, seed=2)

    def values(run):
        one = slice(run, run + 1)
        return run_values(
            draws[one],
            truth[one],
            generators[run],
            names=("a", "b"),
            others={"radius": (draws[one].norm(dim=2), truth[one].norm(dim=1))},
            references=references[one],
            scale=double([1, 2]),
            effective=double([10.0]),
        )

    joined = RunValues.joined([values(run) for run in range(6)])
    assert joined.names == ("a", "b", "radius")
    assert (joined.ranks.shape, joined.scores.shape) == ((6, 3), (6, 2))
    assert joined.regions["TARP"].shape == (6,)
    # Ten of 50 draws are kept: the 5th, 10th and so on.
    below = (draws[:, 4::5] < truth[:, None]).sum(dim=1)
    assert torch.equal((11 * joined.ranks[:, :2]).floor().long(), below)
    closer = ((draws[:, 4::5] - references[:, None]) / double([1, 2])).norm(dim=2)
    reach = ((truth - references) / double([1, 2])).norm(dim=1)
    closer = (closer < reach[:, None]).sum(dim=1)
    assert torch.equal((11 * joined.regions["TARP"]).floor().long(), closer)
    with pytest.raises(DataError, match="different quantities"):
        RunValues.joined([joined, gaussian_values(1, 1, dims=1, runs=2)])


def test_a_calibration_is_plain_numbers_in_json():
    summary = calibrate(gaussian_values(0.5, 0.5, dims=2, runs=40)).summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["quantities"] == ["x1", "x2", "log-likelihood"]
    assert set(summary["regions"]) == {"TARP", "highest-density regions"}
    assert len(summary["central_intervals"]["found"][0]) == 2


def test_holm_multiplies_by_the_hypotheses_that_are_left():
    got = holm({"a": 0.03, "b": 0.01, "c": 0.04, "d": 0.9})
    assert got == pytest.approx({"a": 0.09, "b": 0.04, "c": 0.09, "d": 0.9})
    assert list(got) == ["a", "b", "c", "d"]
    assert "nan" in refusal(holm, {"a": float("nan")})


def test_a_verdict_names_what_fails_and_what_error_would_have_been_seen():
    adjusted = {"a": 0.5, "b": 1e-3, "c": 1e-9, "d": 1e-4, "e": 5e-3}
    assert verdict(adjusted, 0.01, 100) == (
        "Not calibrated: c (p = 1e-09), d (p = 0.0001), b (p = 0.001) and 1 more failed, "
        "of 5 tests of 100 runs at level 0.01, corrected for multiple comparisons; an error of "
        "25 points of coverage or more is detected in 90 % of cases."
    )
    assert verdict({"a": 0.01}, 0.01, 100).startswith("No miscalibration found in one test")
    assert "test at least one quantity" in refusal(verdict, {}, 0.01, 100)
    few, many = (verdict({"a": 0.5}, 0.01, runs) for runs in (34, 1000))
    ending = " error of 38 points of coverage or more is detected in 90 % of cases."
    assert few.endswith(f". Too few runs to test: only an{ending}")
    assert many.endswith(f". An{ending.replace('38', '7')}")


def test_errors_are_seen_as_often_as_the_verdict_says():
    runs, level, tests, checks = 100, 0.01, 5, 1000
    error = detectable(level, tests, runs)
    # Off by this error where half of the truths lie below, and by less anywhere else.
    values = torch.rand(runs, checks, generator=seeded(), dtype=torch.float64)
    moved = (values >= 0.5 - error) & (values < 0.5)
    seen = calibration.ks_p_values(torch.where(moved, 0.5 - error, values)) < level / tests
    assert 0.88 < float(seen.double().mean()) < 0.95


def test_posteriors_too_narrow_are_seen_from_the_width_on_that_is_stated():
    runs, level, tests, checks = 100, 0.01, 5, 1000
    share = undetected_narrowness(detectable(level, tests, runs))
    assert 0.2 < share < 0.5
    for narrower, (low, high) in ((share, (0.88, 1.0)), (0.15, (0.0, 0.2))):
        scaled = normal(runs, checks) / (1 - narrower)
        contents = torch.erf(scaled.abs() / 2**0.5)
        seen = float((calibration.ks_p_values(contents) < level / tests).double().mean())
        assert low < seen < high
    assert undetected_narrowness(0.107) == pytest.approx(0.2, abs=0.01)


def uniform(*shape):
    return torch.rand(*shape, generator=seeded(), dtype=torch.float64)


def of_ranks(ranks):
    """Runs of two coordinates and their log density."""
    return RunValues(("a", "b", "log density"), ranks, {}, torch.zeros(len(ranks), 2).double())


def wide(ranks):
    """Ranks of a posterior that is too wide: nearer to 1/2."""
    return 0.5 + 0.7 * (ranks - 0.5)


def narrow(ranks):
    """Of one that is too narrow: nearer to the ends, for most."""
    inside = uniform(len(ranks)) < 0.3
    ends = torch.where(ranks < 0.5, 0.3 * ranks, 1 - 0.3 * (1 - ranks))
    return torch.where(inside, ranks, ends)


def test_equal_draws_give_a_truth_any_place_among_them():
    draws = torch.zeros(20_000, 4, 1, dtype=torch.float64)
    draws[:, 3] = 1
    ranks = fractional_ranks(draws, torch.zeros(20_000, 1).double(), seeded())
    places = (5 * ranks).floor().long().flatten().bincount(minlength=5)
    assert places[4] == 0
    assert chisquare(places[:4]).pvalue > 0.01


def test_ranks_among_draws_of_any_number_are_uniform():
    """Exactly so, if truths are one more draw: 7 draws, or as many as are kept."""
    everything = normal(4000, 8, 2)
    kept = kept_by_thinning(double([3, 5]).repeat(2000), 7)
    for mask in (None, kept):
        got = uniformity(fractional_ranks(everything[:, 1:], everything[:, 0], seeded(), mask))
        assert (got.ks_p > 0.01).all()
        assert (got.chi_squared_p > 0.01).all()


def test_thinning_keeps_evenly_spaced_draws_whose_ranks_are_uniform():
    kept = kept_by_thinning(double([3.9, 0.2, 100, 9]), 9)
    assert kept.sum(dim=1).tolist() == [3, 1, 9, 9]
    assert kept[0].nonzero().flatten().tolist() == [2, 5, 8]
    each = kept_by_thinning(double([[1, 9], [3, 2]]), 9)
    assert each.sum(dim=1).tolist() == [[1, 9], [3, 2]]
    draws, truth = autoregressive(0.98, 1000, 200, 1), normal(1000, 1, seed=1)
    kept = kept_by_thinning(torch.full((1000,), 200 * 0.02 / 1.98), 200)
    ranks = (fractional_ranks(draws, truth, seeded(), mask) for mask in (None, kept))
    p = [float(uniformity(each).chi_squared_p) for each in ranks]
    assert p[0] < 1e-3 < 0.01 < p[1]


def test_p_values_are_those_of_scipy():
    values = torch.rand(500, 3, generator=seeded(), dtype=torch.float64).pow(double([1, 1.1, 1.3]))
    got = uniformity(values)
    for column, ks, chi in zip(values.T.numpy(), got.ks_p, got.chi_squared_p, strict=True):
        assert float(ks) == pytest.approx(kstest(column, "uniform", method="exact").pvalue)
        counts = np.histogram(column, bins=20, range=(0, 1))[0]
        assert float(chi) == pytest.approx(chisquare(counts).pvalue)


def test_a_band_holds_its_share_of_uniform_samples():
    samples = torch.rand(300, 4000, generator=seeded(), dtype=torch.float64)
    held = calibration.simultaneous_band(300).holds(samples)
    # Not exactly: counts are whole numbers, and the band is simulated.
    assert float(held.double().mean()) == pytest.approx(0.95, abs=0.01)
    assert not calibration.simultaneous_band(300).holds(samples[:, :5] ** 1.5).any()


def test_values_are_contents_of_regions_with_the_truth_on_the_edge():
    """In closed form for Gaussian draws: ``|2 Phi(z) - 1|``, and chi-squared of the radius."""
    draws, truth = normal(20, 20_000, 2), normal(20, 2, seed=1)
    central = calibration.central_values(fractional_ranks(draws, truth, seeded()))
    torch.testing.assert_close(central, (2 * double(norm.cdf(truth)) - 1).abs(), atol=0.02, rtol=0)
    radii = (draws.square().sum(dim=2), truth.square().sum(dim=1))
    densest = 1 - fractional_ranks(-radii[0] / 2, -radii[1] / 2, seeded())
    torch.testing.assert_close(densest, double(chi2(2).cdf(radii[1])), atol=0.02, rtol=0)


def test_values_of_tarp_are_contents_of_balls():
    """Distances from a point p to standard normal draws: noncentral in 1-D, by two tails."""
    draws, truth, point = normal(20, 20_000, 1), normal(20, 1, seed=1), normal(20, 1, seed=2)
    reach = (truth - point).abs()
    expected = double(norm.cdf(point + reach) - norm.cdf(point - reach))[:, 0]
    for scale in (double([1.0]), double([7.0])):
        got = calibration.tarp_values(draws, truth, point, scale, seeded())
        torch.testing.assert_close(got, expected, atol=0.02, rtol=0)


def test_a_curve_is_exact_where_coverage_is_known():
    """Values ``u^(1/2)`` are covered at level l by ``l^2``; pooled with uniform ones, the mean."""
    grid = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    curve = calibration.coverage_curve(
        torch.stack([grid.sqrt(), grid], dim=1), levels=(0.3, 0.5, 0.9)
    )
    torch.testing.assert_close(curve.held, double([[0.09, 0.3], [0.25, 0.5], [0.81, 0.9]]))
    torch.testing.assert_close(curve.pooled, double([0.195, 0.375, 0.855]))
    torch.testing.assert_close(curve.deviation, double([-25.0, 0.0]))
    assert curve.pooled_deviation == pytest.approx(-12.5)


def test_bands_and_errors_hold_the_runs_they_should():
    """Of 2,000 curves of 200 runs, 95 % within the band at each level by itself, or a bit more."""
    values = torch.rand(200, 2000, generator=seeded(), dtype=torch.float64)
    curve = calibration.coverage_curve(values)
    held = (curve.held >= curve.lower[:, None]) & (curve.held <= curve.upper[:, None])
    assert 0.945 < float(held.double().mean()) < 0.975
    # Variables of one run that are one number have the error of one.
    same = calibration.coverage_curve(values[:, :1].expand(-1, 50), levels=(0.5,))
    assert float(same.pooled_error) == pytest.approx((0.25 / 200) ** 0.5, rel=0.05)


def test_reference_points_are_spread_like_draws():
    points = calibration.reference_points(3 + 2 * normal(2000, 10, 2), seeded(1))
    assert points.mean(dim=0).tolist() == pytest.approx([3, 3], abs=0.2)
    assert points.std(dim=0).tolist() == pytest.approx([2, 2], abs=0.15)


def test_the_score_has_its_closed_form_and_is_that_of_all_pairs_and_fair():
    """``sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi))`` (Gneiting and Raftery, eq. 21)."""
    z = double([-2.0, -0.5, 0.0, 1.0, 3.0])
    got = crps(7 + 2 * normal(5, 200_000), 7 + 2 * z)
    expected = z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - torch.pi**-0.5
    torch.testing.assert_close(got, 2 * expected, atol=0.01, rtol=0)
    draws, truth = normal(4000, 3, 2), normal(4000, 2, seed=1)
    pairs = (draws[:, :, None] - draws[:, None]).abs().sum(dim=(1, 2)) / (3 * 2)
    expected = (draws - truth[:, None]).abs().mean(dim=1) - pairs / 2
    got = crps(draws, truth)
    torch.testing.assert_close(got, expected)
    # Three draws score on average what the law does: 1 / sqrt(pi).
    assert float(got.mean()) == pytest.approx(torch.pi**-0.5, abs=0.02)


def test_what_makes_no_sense_is_refused():
    draws, truth, odd = normal(30, 5, 2), normal(30, 2), normal(30, 3)
    many = (draws, truth, seeded())
    for call, given, message in (
        (run_values, (draws[..., 0], truth[:, 0], seeded()), "expected [runs, draws, variables]"),
        (partial(run_values, names=("x",)), many, "names"),
        (partial(run_values, names=("x", "x")), many, "names"),
        (fractional_ranks, (draws, odd, seeded()), "[30, 5, 2] and true values [30, 3]"),
        (fractional_ranks, (draws, truth * torch.nan, seeded()), "NaN"),
        (kept_by_thinning, (double([torch.nan]), 5), "NaN"),
        (uniformity, (torch.rand(19, 2),), "19 runs are too few"),
        (uniformity, (-torch.rand(30, 1),), "must be within [0, 1]"),
        (uniformity, (1.1 + torch.rand(30, 1),), "must be within [0, 1]"),
        (
            calibration.tarp_values,
            (draws, truth, truth[:5], truth[0], seeded()),
            "reference points",
        ),
        (crps, (normal(3, 1), normal(3)), "at least two"),
        *((convergence, (torch.zeros(shape),), "expected [chains,") for shape in ((10,), (0, 10))),
        (smoothed_weights, (torch.zeros(5),), "expected [problems, draws]"),
        *((smoothed_weights, (double([[bad]]),), "NaN") for bad in (torch.nan, torch.inf)),
    ):
        assert message in refusal(call, *given)


def check(shift, draws=4000):
    """Of one observation, whose second number is so far from what is simulated."""
    simulated, observed = normal(draws, 2, seed=1)[None], torch.zeros(1, 2).double()
    observed[0, 1] = shift
    return Predictive.from_simulations(simulated, observed, ["a", "b"], 0.01, seeded())


def test_p_values_of_data_that_the_model_makes_are_even():
    simulated, observed = normal(400 * 50, 1, seed=2).view(400, 50, 1), normal(400, 1, seed=3)
    p = Predictive.from_simulations(simulated, observed, ["a"], 0.01, seeded()).p_values
    assert float(calibration.ks_p_values(p)) > 0.01


def test_a_verdict_names_what_fails_or_what_would_have():
    wrong, right, few = check(6.0), check(0.5), check(0.5, 100)
    assert wrong.failed == ["b of observation 1"]
    assert "does not reproduce the observations: b of observation 1" in wrong.verdict
    assert "A deviation of 4.1 standard deviations is detected" in right.verdict
    assert not check(right.detectable - 1.9).failed
    assert check(right.detectable).failed
    assert few.verdict.startswith("Too few simulations: 2 tested values")
    assert f"need {needed(2, 0.01)}" in few.verdict


OF_ARVIZ = {
    "r_hat": ("rhat", {"method": "rank"}),
    "ess_bulk": ("ess", {"method": "bulk"}),
    "ess_tail": ("ess", {"method": "tail", "prob": (0.05, 0.95)}),
    "mcse_mean": ("mcse", {"method": "mean"}),
    "mcse_std": ("mcse", {"method": "sd"}),
}


def autoregressive(correlation, *shape):
    """Stationary chains ``[C, S, ...]`` of variance 1."""
    noise = normal(*shape)
    noise[:, 1:] *= (1 - correlation**2) ** 0.5
    return torch.from_numpy(lfilter([1], [1, -correlation], noise, axis=1))


def require_equal(measured, draws, arviz):
    for name, (function, options) in OF_ARVIZ.items():
        measure = getattr(arviz, function)
        with np.errstate(all="ignore"):
            expected = [measure(each.numpy(), **options) for each in draws.unbind(dim=2)]
        np.testing.assert_allclose(getattr(measured, name), expected, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("shape", [(4, 500), (2, 37), (3, 101), (2, 4), (4, 5), (2, 9), (5, 12)])
def test_measures_are_those_of_arviz(shape, arviz):
    correlations = (-0.8, -0.2, 0.0, 0.5, 0.9, 0.99)
    chains = torch.stack([autoregressive(value, *shape, 3) for value in correlations], dim=-1)
    chains = chains.flatten(2)
    apart = chains + torch.arange(shape[0])[:, None, None]
    wider = chains * (1 + torch.arange(shape[0]))[:, None, None]
    drawn = torch.cat([chains, apart, wider, chains.exp() * 1e3, (2 * chains).round()], dim=2)
    require_equal(convergence(drawn), drawn, arviz)


def test_what_cannot_be_measured_is_what_arviz_says(arviz):
    constant = torch.ones(4, 50, 1, dtype=torch.float64)
    stuck = constant * torch.arange(4.0)[:, None, None]
    binary = (normal(4, 50, 1) > 0).double()
    broken = normal(4, 50, 1)
    broken[1, 7] = torch.nan
    draws = torch.cat([constant, binary, broken], dim=2)
    require_equal(convergence(draws), draws, arviz)
    assert convergence(draws).r_hat.isnan().tolist() == [True, False, True]
    assert convergence(stuck).r_hat.tolist() == [torch.inf]


def test_an_infinite_draw_leaves_nothing_to_measure_but_other_variables():
    draws = normal(4, 50, 2)
    alone = convergence(draws[..., 1])
    draws[0, 3, 0] = -torch.inf
    got = convergence(draws)
    for name in OF_ARVIZ:
        assert getattr(got, name)[0].isnan()
        # To rounding: sums of many variables may be taken in another order.
        torch.testing.assert_close(getattr(got, name)[1], getattr(alone, name))


def test_tails_do_not_know_how_repeated_draws_were_rounded():
    draws = normal(2, 15, 30).repeat_interleave(4, dim=1)  # the sixth draw is amid four
    rounded = draws * (1 + 4e-16 * normal(*draws.shape, seed=1).sign())
    assert (rounded != draws).any()
    torch.testing.assert_close(convergence(rounded).ess_tail, convergence(draws).ess_tail)


def test_no_variables_or_three_draws_a_chain_have_no_measures():
    assert convergence(torch.zeros(2, 10, 3, 0)).ess_tail.shape == (3, 0)
    got = convergence(normal(4, 3, 2, 5))
    assert got.r_hat.shape == (2, 5)
    assert all(getattr(got, name).isnan().all() for name in OF_ARVIZ)


def test_variables_do_not_depend_on_their_blocks(monkeypatch):
    draws = autoregressive(0.5, 2, 40, 3, 2)
    together = convergence(draws)
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 160)
    apart = convergence(draws)
    assert apart.r_hat.shape == (3, 2)
    for name in OF_ARVIZ:
        torch.testing.assert_close(getattr(apart, name), getattr(together, name))


@pytest.mark.parametrize("count", [2, 20, 21, 60, 1000])
def test_weights_and_shapes_are_those_of_arviz(count, arviz, monkeypatch):
    if not hasattr(arviz, "psislw"):
        pytest.skip("ArviZ 1 fits shapes in another way, and not for its users")
    monkeypatch.setattr(importance, "BLOCK_NUMBERS", 3 * 95 * 60)
    scales = double([0.01, 0.5, 1, 2, 5, 50, 1000])[:, None]
    weights = torch.cat([scales * normal(7, count), -scales * normal(7, count).square()])
    weights[3, : count // 2] = -torch.inf
    got = smoothed_weights(weights + 700)
    with np.errstate(all="ignore"):
        expected, k = arviz.psislw(weights.numpy().copy())
    np.testing.assert_allclose(got.k, k, rtol=1e-8)
    # Far below the largest weight logarithms lose what sums of 700 do.
    np.testing.assert_allclose(got.log_weights, expected, rtol=1e-9, atol=1e-9)


def test_the_shape_is_that_of_the_tail():
    """Weights ``u^-k`` have a Pareto tail of shape k."""
    uniform = torch.rand(20, 20_000, generator=seeded(), dtype=torch.float64)
    for k in (0.3, 0.7, 1.2):
        got = smoothed_weights(-k * uniform.log()).k
        assert float(got.mean()) == pytest.approx(k, abs=0.04)


def test_weights_without_a_tail_say_so():
    equal = torch.zeros(1, 100, dtype=torch.float64)
    few, none, one = (torch.full((1, 100), -torch.inf, dtype=torch.float64) for _ in range(3))
    # Many that are hardly above the smallest numbers there are, and one beside which they vanish.
    steep = torch.cat([torch.linspace(-708.3, -707.9, 99).double(), double([0.0])])[None]
    few[0, :3] = double([1.0, 2.0, 3.0])
    one[0, 5] = -1e5
    got = smoothed_weights(torch.cat([equal, few, none, one, steep]))
    assert got.k.tolist() == [-torch.inf, *[torch.inf] * 4]
    assert got.effective_size.tolist() == pytest.approx([100, 1.959, 0, 1, 1], abs=1e-3)
    assert (got.log_weights[2] == -torch.inf).all()


def test_the_effective_size_of_known_weights_and_the_threshold_of_few_draws():
    weights = double([[1, 1, 1, 1], [1, 0, 0, 0], [3, 1, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(effective_size(weights.log() + 5000), double([4, 1, 1.6, 0]))
    assert k_threshold(100) == 0.5
    assert k_threshold(2200) == 0.7 == k_threshold(10**6)
    assert "at least two" in refusal(k_threshold, 1, kind=UsageError)
