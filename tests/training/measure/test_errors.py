"""Errors of a roundtrip, distances of samples, and held-out truths."""

from dataclasses import replace
from math import pi

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import kstest, norm

from benchmarks.toys import excess_error, noisy_points
from benchmarks.two_sample import CHUNK, energy_distance, mean_distance
from tests.support.draws import double, normal, seeded
from tests.support.flows import FunctionNetwork, exact_flow
from training.flow.coordinates.conditions import Surprise
from training.flow.denoisers import NetworkDenoiser
from training.measure import conformal
from training.measure.association import association, independence_p_values, with_indicators
from training.measure.clouds import Cloud
from training.measure.held_out_ranks import density_ranks, latent_coverage
from training.measure.image_quantities import BANDS, class_log_odds, image_quantities
from training.measure.roundtrip import LEVELS_PER_UNIT, RoundtripErrors

VARIANCE = torch.tensor([4.0, 1.0, 0.01], dtype=torch.float64)
REPETITIONS = 500
ORIGINALS = torch.randint(256, (9, 20), generator=seeded()).to(torch.uint8)


def data_of(levels):
    return torch.as_tensor(levels, dtype=torch.float64) / LEVELS_PER_UNIT - 1


def test_examples_by_hand_also_of_fractions_of_a_gray_level():
    originals = torch.tensor([[0, 255, 100, 7], [1, 2, 3, 4]], dtype=torch.uint8)
    # Differences -2, +3, +0.4, -0.6, of which two round to nothing more than black and white.
    errors = RoundtripErrors.from_images(
        originals, data_of([[-2, 258, 100.4, 6.4], [1, 2, 3, 4.75]])
    )
    torch.testing.assert_close(errors.mse_float, torch.tensor([13.52 / 4, 0.5625 / 4]).double())
    torch.testing.assert_close(errors.largest, torch.tensor([3, 0.75]).double())
    torch.testing.assert_close(errors.mse, torch.tensor([1 / 4, 1 / 4]).double())
    torch.testing.assert_close(errors.exact, torch.tensor([3 / 4, 3 / 4]).double())
    summary = errors.summary()
    assert (summary["mse"], summary["mse_float"]) == (0.25, pytest.approx(14.0825 / 8))
    assert (summary["max_abs_error"], summary["exact_pixels"]) == (pytest.approx(3.0), 0.75)
    errors = RoundtripErrors.from_images(torch.tensor([[10.3, 20.6]]), data_of([[10.4, 20.2]]))
    assert float(errors.largest) == pytest.approx(0.4, rel=1e-5)
    assert float(errors.mse_float) == pytest.approx((0.1**2 + 0.4**2) / 2, rel=1e-5)
    assert float(errors.exact) == 0.5  # 10 stays 10, but 21 becomes 20
    assert float(errors.mse) == 0.5


def test_columns_are_the_attributes_of_each_image_and_become_them_again():
    returned = data_of(ORIGINALS.double() + torch.randn(9, 20, generator=seeded()))
    errors = RoundtripErrors.from_images(ORIGINALS, returned)
    columns = errors.columns()
    assert (columns.shape, columns.dtype) == ((9, 4), torch.float64)
    again = RoundtripErrors(*columns.unbind(dim=1))
    for index, name in enumerate(("mse", "mse_float", "largest", "exact")):
        assert torch.equal(columns[:, index], getattr(errors, name))
        assert torch.equal(getattr(again, name), getattr(errors, name))
    assert again.summary() == errors.summary()
    pairs = zip(ORIGINALS.split(4), returned.split(4), strict=True)
    parts = torch.cat([RoundtripErrors.from_images(*pair).columns() for pair in pairs])
    torch.testing.assert_close(parts, columns, rtol=1e-14, atol=0)


def test_excess_errors_are_those_beyond_a_right_network_at_points_noisy_by_their_own_times():
    toy, flow = exact_flow("bumps2", 1)
    clean = flow.basis.to_eigen(toy.sample(9000, seeded()))
    x, t = noisy_points(clean, flow.schedule, 4.0, seeded())
    assert (t / 4 * len(t)).floor().tolist() == [*range(len(t))]
    noise = (x - clean) / flow.schedule.noise_variance(t).sqrt()
    assert ((noise.square().mean(0) - 1).abs() < 4 * (2 / len(t)) ** 0.5).all()
    space = (flow.basis, flow.schedule)
    denoiser = NetworkDenoiser(FunctionNetwork(lambda z, c: 0 * z), *space)
    c = denoiser.coefficients(t)
    residual = ((flow.denoiser(x, t) - c.c_skip * x) / c.c_out).float()
    right = NetworkDenoiser(FunctionNetwork(lambda z, c: residual[:100]), *space)
    assert excess_error(right, flow.denoiser, x[:100], t[:100]).max() < 1e-10
    untrained = excess_error(denoiser, flow.denoiser, x, t)
    torch.testing.assert_close(untrained, residual.double().square(), rtol=1e-4, atol=1e-8)


def test_quarters_are_where_they_are_and_powers_add_up_to_the_variance():
    images = normal(5, 2 * 6 * 8, seed=1)
    values = {name: f(images) for name, f in image_quantities((2, 6, 8)).items()}
    pixels = images.view(5, 2, 6, 8)
    torch.testing.assert_close(values["mean upper right"], pixels[:, :, :3, 4:].mean((1, 2, 3)))
    torch.testing.assert_close(values["mean lower left"], pixels[:, :, 3:, :4].mean((1, 2, 3)))
    columns = (torch.arange(8) / 8).expand(6, 8)
    # By Parseval the power of a wave of amplitude 1 is half of the pixels, all in its band.
    for wave, name in ((columns, "long"), (4 * columns, "short"), (2 * columns, "middle")):
        image = torch.cos(2 * pi * wave).double().flatten()[None]
        functions = image_quantities((1, 6, 8))
        powers = {band: float(functions[f"power of {band} waves"](image)) for band in BANDS}
        assert max(powers, key=powers.__getitem__) == name
        assert sum(value < 1e-12 for value in powers.values()) == 2


def test_log_odds_are_those_of_normal_laws_with_one_covariance():
    classes = torch.arange(6000) % 3
    means, noise = double([[0, 0], [2, 0], [0, 3]]), normal(6000, 2)
    functions = class_log_odds(means[classes] + noise, classes)
    points = 2 * normal(50, 2, seed=1)
    logits = points @ means.T - means.square().sum(dim=1) / 2
    assert list(functions) == [f"log odds of class {kind}" for kind in range(3)]
    for kind, odds in enumerate(functions.values()):
        exact = logits[:, kind] - logits[:, torch.arange(3) != kind].logsumexp(dim=1)
        torch.testing.assert_close(odds(points), exact, atol=0.4, rtol=0.1)
    (_, second) = class_log_odds(means[classes % 2] + noise, classes % 2 + 5).values()
    assert second(means[:2]).sign().tolist() == [-1, 1]
    assert not class_log_odds(means[classes[:14]], classes[:14]), "too few of one"


def test_energy_distances_are_scipys_squared_and_as_small_as_sizes_allow():
    first, second = normal(300, 1), 0.5 + 2 * normal(200, 1, seed=1)
    expected = stats.energy_distance(first[:, 0].numpy(), second[:, 0].numpy()) ** 2
    assert energy_distance(first, second) == pytest.approx(expected, rel=1e-9)
    first, second = normal(1000, 2), normal(500, 2, seed=1)
    expected = mean_distance(first, first) * (1 / 1000 + 1 / 500)
    assert expected / 4 < energy_distance(first, second) < 4 * expected
    assert energy_distance(first, second + 0.3) > 10 * expected


def test_mean_distances_do_not_know_of_chunks_and_close_points_keep_their_digits():
    first, second = normal(CHUNK + 5, 2), normal(7, 2, seed=1)
    whole = (first[:, None] - second).norm(dim=-1).mean()
    assert mean_distance(first, second) == pytest.approx(float(whole), rel=1e-12)
    assert mean_distance(second, first) == pytest.approx(float(whole), rel=1e-12)
    first = torch.full((2, 2), 1e6, dtype=torch.float64)
    # Differences are exact; the sum 1e6 + 1e-6 itself is rounded to 1e-10.
    assert mean_distance(first, first + 1e-6) == pytest.approx(1e-6 * 2**0.5, rel=1e-3)


def u_centered(numbers):
    """By the definition."""
    n, a = len(numbers), torch.cdist(numbers[:, None], numbers[:, None], p=1)
    rows = (a.sum(dim=0) + a.sum(dim=1)[:, None]) / (n - 2)
    return (a - rows + a.sum() / ((n - 1) * (n - 2))).fill_diagonal_(0)


def test_p_values_are_those_of_the_definition():
    x, y = normal(15, 1, seed=1), normal(15, 1, seed=2).square()
    a, b = u_centered(x[:, 0]), u_centered(y[:, 0])
    correlation = (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()
    statistic = (15 * correlation + 1).clamp_min(0)
    expected = torch.distributions.Chi2(torch.tensor(1.0).double()).cdf(statistic)
    torch.testing.assert_close(independence_p_values(x, y), (1 - expected).reshape(1, 1))


def test_the_independent_is_found_as_its_level_says_and_dependence_of_any_form_is_seen():
    """Of normal numbers and of some without a variance: 2,000 tests each."""
    columns = normal(100, 2, seed=3)
    cauchy = torch.empty(100, 1000).double().cauchy_(generator=seeded(4))
    for conditions in (normal(100, 1000, seed=5), cauchy):
        got = independence_p_values(columns, conditions)
        for level in (0.05, 0.01):
            chance = (level * (1 - level) / got.numel()) ** 0.5
            assert float((got < level).double().mean()) < level + 4 * chance
    x, other = normal(300, 1, seed=6), normal(300, 1, seed=7)
    conditions = torch.cat([x.square(), x * other, 1e6 * x.exp() + 3, torch.ones_like(x)], dim=1)
    got = independence_p_values(torch.cat([x, x.square()], dim=1), conditions)
    assert (got[:3].min(dim=1).values < 1e-6).all()
    assert (got[3] == 1).all()
    torch.testing.assert_close(independence_p_values(1e3 * x, conditions), got[:, :1])


def test_a_number_alone_is_what_linear_regression_on_the_others_leaves():
    draw = np.random.default_rng(1)
    rows = draw.normal(size=(5000, 3)) @ [[1, 0.9, 0], [0, 0.3, 0], [0, 0, 100]] + 7
    cloud = Cloud.from_moments(
        torch.from_numpy(rows.mean(axis=0)), torch.from_numpy(np.cov(rows.T))
    )
    errors = []
    for k in range(3):
        others = np.delete(rows, k, axis=1) - np.delete(rows, k, axis=1).mean(axis=0)
        own = rows[:, k] - rows[:, k].mean()
        left = own - others @ np.linalg.lstsq(others, own, rcond=None)[0]
        errors.append(np.abs(left) / left.std())
    np.testing.assert_allclose(cloud.alone(torch.from_numpy(rows)), np.max(errors, 0), rtol=1e-3)


def test_a_law_of_conditions_gives_the_covariance_of_those_that_count():
    sizes = torch.tensor([1e-3, 1.0, 1e4])
    rows = torch.from_numpy(np.random.default_rng(2).normal(size=(400, 3))) * sizes
    rows[:, 2] += 1e6 * rows[:, 0]
    distribution = Surprise(3).fit(rows, relevant=[0, 2])
    expected = rows.T.cov(correction=0)
    expected[1], expected[:, 1] = 0, 0
    torch.testing.assert_close(distribution.covariance, expected, rtol=1e-6, atol=1e-12)
    cloud = Cloud.from_moments(distribution.mean, distribution.covariance)
    nats = distribution(rows) + distribution.quantiles[0]
    torch.testing.assert_close(cloud.surprise(rows), nats, rtol=1e-6, atol=1e-9)
    # Places do not depend on signs of axes, which differ from machine to machine.
    turned = replace(cloud, axes=cloud.axes * torch.tensor([1.0, -1.0, -1.0]))
    torch.testing.assert_close(turned.places(rows), cloud.places(rows))


def test_the_new_row_counts_as_a_neighbor_of_the_others():
    draw = np.random.default_rng(0)
    known, new = (torch.from_numpy(draw.normal(size=(n, 2))) for n in (30, 7))
    of_known, of_new = conformal.Neighbors.from_rows(known, 4).relative(new)
    for row, (others, own) in enumerate(zip(of_known, of_new, strict=True)):
        every = torch.cat([known, new[row : row + 1]])
        apart = torch.cdist(every, every).fill_diagonal_(torch.inf).topk(4, largest=False)
        mean = apart.values.mean(dim=1)
        expected = (mean + conformal.NONE) / (mean[apart.indices].mean(dim=1) + conformal.NONE)
        torch.testing.assert_close(torch.cat([others, own[None]]), expected)


def test_levels_of_neighbors_hold_on_average_for_few_truths_whatever_the_network_is_worth():
    """A posterior is too narrow by a factor that grows with the one condition."""
    draw = np.random.default_rng(3)

    def made(count):
        y = draw.beta(1, 2, size=count)
        scores = 2 * norm.cdf(np.abs(draw.normal(size=count)) * (1 + 4 * y)) - 1
        return torch.from_numpy(y)[:, None], torch.from_numpy(scores)[:, None]

    for truths, count, repetitions in ((30, 10, 300), (1000, 100, 1)):
        held, wide = [], []
        for _ in range(repetitions):
            (y, scores), (fresh, new) = made(truths), made(3000 // repetitions)
            contents, _ = conformal.Neighbors.from_rows(y, count).asked(scores, fresh, (0.5, 0.9))
            held.append((new[:, None] <= contents)[..., 0].double().mean(dim=0))
            wide.append((new <= contents[:, 1])[fresh > 0.6])
        mean, error = torch.stack(held).mean(dim=0), 0.03 if repetitions == 1 else 0.02
        assert (mean > torch.tensor([0.5, 0.9]) - error).all()
        assert (mean < torch.tensor([0.5, 0.9]) + 2 / count + error).all()
    assert abs(float(torch.cat(wide).double().mean()) - 0.9) < 0.05


def latents(scale=1.0):
    draws = torch.randn(5000, 3, generator=seeded(), dtype=torch.float64)
    return scale * draws * VARIANCE.sqrt()


def test_coverage_is_that_of_chi_squared_and_ranks_are_even_if_laws_are_right():
    right, wide = (latent_coverage(latents(scale) / VARIANCE.sqrt()) for scale in (1.0, 1.1))
    np.testing.assert_allclose(right["coverage"], right["expected"], atol=0.03)
    # Of a Gaussian in 3 dimensions, within 1 and 2 standard deviations.
    assert right["expected"][1] == pytest.approx(0.1987, abs=1e-4)
    assert right["expected"][3] == pytest.approx(0.7385, abs=1e-4)
    assert right["ks_p_value"] > 0.01 > 1e-6 > wide["ks_p_value"]
    draws = latents().sum(dim=1)
    same, less = (density_ranks(draws[:2000] - shift, draws[2000:]) for shift in (0, 0.5))
    assert same["ks_p_value"] > 0.01 > 1e-6 > less["ks_p_value"]
    assert same["mean_rank"] == pytest.approx(0.5, abs=0.03)
    assert less["mean_rank"] < 0.45


def contents(draw, *shape):
    """Contents of central intervals with truths, by a posterior that is half as wide as it is."""
    return torch.from_numpy(2 * norm.cdf(np.abs(draw.normal(size=shape)) * 2) - 1)


@pytest.mark.parametrize("count", [50, 200, 1000])
def test_a_wrong_posterior_holds_what_is_stated_whatever_the_number_of_truths(count):
    """Given the truths, what a level holds is known: no new truths are needed to measure it."""
    level = conformal.asked(contents(np.random.default_rng(count), count, REPETITIONS), 0.9).numpy()
    held = 2 * norm.cdf(norm.ppf((1 + level) / 2) / 2) - 1
    expected = conformal.Holding.by(count, 0.9)
    error = held.std() / REPETITIONS**0.5
    assert 0.9 <= expected.mean <= 0.9 + 1 / (count + 1)
    assert held.mean() == pytest.approx(expected.mean, abs=4 * error)
    assert 0.9 - 4 * error < held.mean() < 0.9 + 1 / (count + 1) + 4 * error
    within = ((held > expected.low) & (held < expected.high)).mean()
    assert within == pytest.approx(0.9, abs=4 * (0.09 / REPETITIONS) ** 0.5)


def test_too_few_truths_ask_for_everything():
    scores = torch.linspace(0.1, 0.4, 8).double()
    assert conformal.fewest(0.9) == 9
    assert conformal.asked(scores, 0.9) == 1
    assert conformal.asked(torch.cat([scores, scores[:1]]), 0.9) == scores[-1]
    assert conformal.Holding.by(8, 0.9).mean == 1


def test_recalibrated_levels_rise_and_make_ranks_even():
    draw = np.random.default_rng(1)
    ranks = torch.from_numpy(norm.cdf(1.5 * draw.normal(size=2000) + 0.3))
    levels = torch.linspace(0, 1, 101).double()
    moved = conformal.recalibrated(ranks, levels)
    assert (moved[[0, -1]] == torch.tensor([0, 1])).all()
    assert (moved.diff() > 0).all()
    fresh = norm.cdf(1.5 * draw.normal(size=2000) + 0.3)
    assert kstest(np.interp(fresh, moved.numpy(), levels.numpy()), "uniform").pvalue > 0.01
    assert kstest(fresh, "uniform").pvalue < 1e-9


def test_p_values_of_rows_like_the_others_are_no_smaller_than_they_should_be():
    draw = np.random.default_rng(2)
    rows = torch.from_numpy(draw.normal(size=(REPETITIONS, 40, 3))) ** 2
    families = [[(each[:-1, k], each[-1:, k]) for k in ([0, 1], [2])] for each in rows]
    p = torch.cat([conformal.outlier_p_values(*each)[0] for each in families])
    for level in (0.05, 0.1, 0.3):
        assert (p <= level).double().mean() < level + 3 * (level / REPETITIONS) ** 0.5
    others = torch.from_numpy(draw.normal(size=(200, 20)))
    alone = torch.arange(200.0)[:, None].double()
    new = torch.full((1, 20), 0.0).double()
    far, oddest = conformal.outlier_p_values((others, new), (alone, torch.tensor([[199.5]])))
    assert far < 0.02  # 20 others do not drown it
    assert oddest == 20
    together = torch.cat([others, alone], 1), torch.tensor([[*[0.0] * 20, 199.5]])
    assert conformal.outlier_p_values(together)[0] > far


@pytest.mark.parametrize("is_level", [False, True])
def test_associations_with_many_indicators_are_those_of_each_pair(is_level):
    random = np.random.default_rng(0)
    values = random.integers(0, 5, 300) if is_level else random.normal(size=300)
    values = np.where(random.random(300) < 0.1, np.nan, values)
    indicators = np.column_stack([random.random(300) < 0.2, values > 0.5, np.zeros(300)]) > 0
    levels = np.array([True, is_level])
    pairs = [association(np.column_stack([each, values]), levels) for each in indicators.T]
    np.testing.assert_allclose(with_indicators(values, is_level, indicators), pairs)
    assert pairs[1] > 0.7
    assert np.isnan(pairs[2])
