"""Coordinates: invertible, fitted as they say, free of conditions, some of which are surprising."""

from itertools import product
from math import inf

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.preprocessing import PowerTransformer
from torch.distributions import MultivariateNormal

from dnnlib.errors import DataError
from tests.support.draws import double, normal, seeded
from tests.support.running import refusal
from training.data.tables.schema import Column, Schema
from training.flow.coordinates.conditions import LEVELS, Surprise, ridge
from training.flow.coordinates.coordinates import Coordinates
from training.learning.coordinates import basis_in, fit_coordinates, over_decades
from training.names import AXES_TOO, EVENED, LOG, MARGINALS, WHITENINGS

NAMES = ["gamma", "uniform", "rate", "sum"]
SPACES = [*product((*MARGINALS, "ranks-0.2"), WHITENINGS), *product((AXES_TOO,), ("pca", "zca"))]


def table(count=2000, seed=0):
    """A skewed column, one between 0 and 1, a positive one, and almost the sum of the others."""
    draw = np.random.default_rng(seed)
    columns = [draw.gamma(2, 3, count), draw.uniform(size=count), draw.lognormal(size=count)]
    return torch.from_numpy(np.stack([*columns, sum(columns) + draw.normal(0, 0.1, count)], 1))


def bounded_columns():
    ends = {NAMES[1]: {"low": 0, "high": 1}, NAMES[2]: {"low": 0}}
    return Schema([Column(name, **ends.get(name, {})) for name in NAMES])


@pytest.fixture(params=[(*space, bounded) for space in SPACES for bounded in (False, True)])
def fitted(request):
    marginals, whiten, bounded = request.param
    columns = bounded_columns() if bounded else Schema.plain(NAMES)
    return fit_coordinates(table(), columns, marginals, whiten)


def test_points_come_back_with_the_determinant_of_autograd_and_coordinates_as_fitted(fitted):
    fitted.check()
    points = table(50, seed=1)
    if fitted.names[0] == "yeo-johnson":
        points[0] = fitted.maps[0].location  # where sign and abs have no slope
    u, log_det = fitted(points)
    torch.testing.assert_close(fitted.to_data(u), points, rtol=1e-9, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian
    rows = [jacobian(fitted.to_flow, point[None])[0, :, 0] for point in points[:8]]
    expected = torch.stack(rows).slogdet().logabsdet
    torch.testing.assert_close(log_det[:8], expected, rtol=1e-7, atol=1e-7)
    read = Coordinates(fitted.dim, fitted.names, fitted.knots)
    read.load_state_dict(fitted.state_dict())
    points = table(50, seed=3)
    for got, expected in zip(read(points), fitted(points), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("whiten", WHITENINGS)
def test_units_far_apart_are_no_dependence(whiten):
    units = torch.tensor([1e-6, 1.0, 1e6, 1.0])
    columns, both = Schema.plain(NAMES), (table() * units, table())
    one, other = (fit_coordinates(rows, columns, "none", whiten) for rows in both)
    torch.testing.assert_close(one.to_flow(table() * units), other.to_flow(table()))


def test_the_way_back_is_defined_far_out_and_inverts(fitted):
    u = 6 * torch.randn(500, 4, generator=seeded(2), dtype=torch.float64)
    points = fitted.to_data(u)
    assert points.isfinite().all()
    inside = fitted.to_flow(points.clamp(max=1e12)) if "bounded" not in fitted.names else u
    torch.testing.assert_close(inside, u, rtol=1e-5, atol=1e-5)


def test_rows_of_the_fit_have_mean_zero_and_variance_one(fitted):
    u = fitted.to_flow(table())
    torch.testing.assert_close(u.mean(dim=0), torch.zeros(4).double(), rtol=0, atol=1e-9)
    covariance, unit = u.T.cov(correction=0), torch.eye(4).double()
    if fitted.names[-1] == "standardize":
        covariance = covariance.diag().diag()
        assert basis_in(fitted, table()).participation_ratio < 3.5
    else:
        assert torch.equal(basis_in(fitted, table()).eigenvectors, unit)
    torch.testing.assert_close(covariance, unit, rtol=0, atol=1e-9)


def test_splines_along_axes_draw_in_a_row_that_is_far_from_all_others():
    points = table()
    points[0, 3] += 20  # not far in its column, but off the plane of the others
    columns = Schema.plain(NAMES)
    plain, axes = (fit_coordinates(points, columns, m, "pca") for m in ("ranks", AXES_TOO))
    far, near = (float(each.to_flow(points[:1]).norm()) for each in (plain, axes))
    assert near < 6 < far


def test_scores_make_columns_normal_and_powers_are_those_of_scikit_learn():
    points = table(6000)
    distance = {}
    for marginals in ("none", "ranks"):
        u = fit_coordinates(points, Schema.plain(NAMES), marginals, "none").to_flow(points)
        levels = norm.cdf(u[:, 0].sort().values.numpy())
        distance[marginals] = np.abs(levels - (np.arange(6000) + 0.5) / 6000).max()
    assert distance["ranks"] < 0.01 < 0.05 < distance["none"]
    fitted = fit_coordinates(points[:, [0]], Schema.plain(["gamma"]), "yeo-johnson", "none")
    power = fitted.maps[0]
    scaled = (points[:, [0]] - power.location) / power.scale
    expected = PowerTransformer(standardize=False).fit(scaled.numpy())
    assert float(power.exponent) == pytest.approx(expected.lambdas_[0], abs=1e-3)
    known = torch.from_numpy(expected.transform(scaled.numpy()))
    torch.testing.assert_close(power(points[:, [0]])[0], known, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", EVENED)
def test_a_column_gets_the_quantiles_that_it_has_with_noise(name):
    draw, columns = np.random.default_rng(0), Schema.plain(["heaps"])
    where = np.where(draw.random(20_000) < 0.7, draw.normal(size=20_000), 0.7)
    points = torch.from_numpy(where + 0.01 * draw.normal(size=20_000))[:, None]
    plain, evened = (
        fit_coordinates(points, columns, marginals, "none").to_flow(points)
        for marginals in ("yeo-johnson", name)
    )
    noisy = plain + EVENED[name] * torch.randn(plain.shape, generator=seeded()).double()
    levels = torch.linspace(0.02, 0.98, 97).double()
    columns = (plain, evened, noisy)
    plain, evened, noisy = (((u - u.mean()) / u.std()).quantile(levels) for u in columns)
    assert (evened - noisy).abs().max() < (plain - noisy).abs().max() / 3


def test_whitening_back_keeps_what_is_thin():
    points = table()
    points[:, 3] = points[:, :3].sum(dim=1) + 1e-4 * torch.randn(2000, generator=seeded())
    fitted = fit_coordinates(points, Schema.plain(NAMES), "none", "zca")
    back = fitted.to_data(fitted.to_flow(points))
    thickness = (back[:, 3] - back[:, :3].sum(dim=1)).std()
    assert float(thickness) == pytest.approx(1e-4, rel=0.05)


def test_discrete_columns_are_dithered_within_their_step_and_rounded_back_to_decimals():
    tenths = (618 + torch.arange(70)).double() / 10
    between = (25 + 10 * torch.arange(70)).double() / 100
    points = torch.stack([tenths, torch.arange(70).double() * 0.3, between], 1)
    bins = {"tenths": (0.1, 61.8), "real": (0, 0), "between": (0.1, 0.25)}
    columns = Schema([Column.of_numbers(name, *each) for name, each in bins.items()])
    fitted = fit_coordinates(points, columns, "none", "none")
    dequantized = fitted.dequantized(points, seeded())
    assert torch.equal(dequantized[:, 1], points[:, 1])
    assert 0 < float((dequantized - points)[:, 0].abs().max()) <= 0.05
    assert torch.equal(fitted.rounded(dequantized), points)


def test_what_has_no_coordinates_is_said_with_the_name_of_its_column():
    points, columns = table(), bounded_columns()
    points[7, 1] = 1.5
    assert "column 'uniform' has 1.5 in row 8" in refusal(fit_coordinates, points, columns)
    points = table()
    points[:, 2] = 3
    for marginals, whiten in (("ranks", "zca"), ("none", "none")):
        with pytest.raises(DataError, match="column 'rate' is constant"):
            fit_coordinates(points, Schema.plain(NAMES), marginals, whiten)
    points = table()
    points[:, 3] = points[:, 0] - points[:, 2]
    with pytest.raises(DataError, match=r"exact functions of each other.*'sum'"):
        fit_coordinates(points, Schema.plain(NAMES))
    fitted = fit_coordinates(table(), bounded_columns())
    outside = table(3)
    outside[1, 1] = -inf
    with pytest.raises(DataError, match=r"1 point.*first in row 2, column 2"):
        fitted.to_flow(outside)


BROKEN = [
    ("bounded", "has_low", 1.0, "not below"),
    ("yeo-johnson", "exponent", 2.5, "exponent"),
    ("normal scores", "places", 0.0, "are not increasing"),
    ("normal scores", "slopes", -1.0, "not positive"),
    ("standardize", "std", 0.0, "not positive"),
    ("zca", "axes", 1.0, "not orthonormal"),
]


@pytest.mark.parametrize(("name", "buffer", "value", "match"), BROKEN)
def test_singular_coordinates_are_refused(name, buffer, value, match):
    coordinates = Coordinates(3, [name], 4)
    coordinates.check()
    getattr(coordinates.maps[0], buffer).fill_(value)
    if name == "bounded":
        coordinates.maps[0].has_high.fill_(1)
    with pytest.raises(ValueError, match=match):
        coordinates.check()


def test_coordinates_are_made_of_maps_that_there_are():
    with pytest.raises(ValueError, match="unknown map 'fold'"):
        Coordinates(2, ["fold"])
    with pytest.raises(ValueError, match="1 knots: give at least 2"):
        Coordinates(2, ["normal scores"], 1)
    coordinates = Coordinates(2, ["zca"])
    coordinates.steps.fill_(-1)
    with pytest.raises(ValueError, match="bin width of a discrete column is negative"):
        coordinates.check()
    assert "maps=['zca']" in repr(coordinates)


def test_no_point_of_the_flow_is_on_a_bound():
    fitted = fit_coordinates(table(), bounded_columns(), "none", "zca")
    far = fitted.to_data(torch.tensor([[-60.0], [60.0]]).double().expand(2, 4))
    low, high = far[:, 1]
    assert 0 < low < 1e-9
    assert 1 - 1e-9 < high < 1
    assert fitted(far)[1].isfinite().all()


def test_fewer_rows_than_columns_are_whitened_by_correlations_that_are_shrunk():
    draw = np.random.default_rng(0)
    common = draw.normal(size=(200, 3)) @ draw.normal(size=(3, 60))
    points = torch.from_numpy(10 * (common + draw.normal(size=(200, 60))))
    columns = Schema.plain([f"c{index}" for index in range(60)])

    def nats(whiten):
        u, log_det = fit_coordinates(points[:50], columns, "none", whiten)(points[50:])
        return float((log_det - u.square().sum(dim=1) / 2).mean())

    assert nats("zca") == pytest.approx(nats("pca"))
    # What has been seen of the correlations is of use for rows that have not.
    assert nats("pca") > nats("none") + 20


def test_draws_are_put_at_steps_that_the_data_had():
    bins = {"sex": 1.0, "age": 0.5, "height": 0.0}
    columns = Schema([Column.of_numbers(name, step, step / 2) for name, step in bins.items()])
    steps = columns.steps
    whole = torch.tensor([[0.5, 0.75, 1.23], [1.5, 80.25, -1.0]], dtype=torch.float64)
    dequantized = torch.cat([whole + 0.4 * steps, whole - 0.4 * steps])
    coordinates = fit_coordinates(dequantized, columns, "none", "none")
    draws = torch.tensor([[-1.9, -7.0, -9.87], [1.2, 6.141900006, 0.5], [7.0, 99.0, 9.0]])
    expected = [[0.5, 0.75, -9.87], [1.5, 6.25, 0.5], [1.5, 80.25, 9.0]]
    got = coordinates.plausible(draws.double())
    torch.testing.assert_close(got, torch.tensor(expected).double())
    assert float(coordinates.rounded(draws.double())[2, 0]) == 6.5  # a row of other data stays


def test_columns_over_decades_are_logarithms_and_others_stay_as_they_are():
    draw = np.random.default_rng(0)
    wide, plain = 10 ** draw.uniform(-3, 3, 2000), draw.normal(size=2000)
    skewed, gap = draw.exponential(size=2000), np.where(np.arange(2000) == 9, 0.0, wide)
    points = torch.from_numpy(np.stack([wide, plain, skewed, gap], axis=1))
    columns = Schema.plain(["wide", "plain", "skewed"])
    assert over_decades(points).tolist() == [True, False, False, False]
    fitted = fit_coordinates(points[:, :3], columns, LOG, "none")
    u, log_det = fitted(points[:, :3])
    logs = torch.cat([points[:, :1].log(), points[:, 1:3]], dim=1)
    torch.testing.assert_close(u, (logs - logs.mean(dim=0)) / logs.std(dim=0, correction=0))
    slopes = 1 / (points[:, 0] * logs.std(dim=0, correction=0).prod())
    torch.testing.assert_close(log_det, slopes.log())
    assert (fitted.to_data(6 * torch.randn(500, 3, dtype=torch.float64))[:, 0] > 0).all()
    torch.testing.assert_close(fitted.to_data(u), points[:, :3])


SLOPES = double([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]])
UNITS = double([1e-3, 1.0, 1e5])


def rows(count=4000):
    """Points ``[N, 2]`` that follow from three conditions in units far apart, and others."""
    y = normal(count, 3, seed=1)
    return y @ SLOPES + 0.1 * normal(count, 2, seed=2), y * UNITS + 7e5


def test_what_conditions_leave_of_points_is_white_and_free_of_them_and_inverted():
    points, conditions = rows()
    predicting = fit_coordinates(points, Schema.plain("ab"), "none", "zca", conditions, "on")
    given = predicting.given(conditions)
    left, labels = given.to_flow(points), given.labels
    torch.testing.assert_close(labels.T.cov(correction=0).diagonal(), torch.ones(3).double())
    both = torch.cat([left, labels], dim=1).T.cov(correction=0)
    torch.testing.assert_close(both[:2, :2], torch.eye(2).double())
    # Correlations of independent rows would be 0.016.
    assert both[:2, 2:].abs().max() < 1e-3
    points, conditions = rows(20)
    given = predicting.given(conditions)
    left, log_det = given(points)
    torch.testing.assert_close(given.to_data(left), points)
    one = predicting.given(conditions[3])  # one row of conditions is that of all points
    torch.testing.assert_close(one.to_flow(points)[3], left[3])
    jacobian = torch.autograd.functional.jacobian(one.to_flow, points[3])
    torch.testing.assert_close(log_det[3], jacobian.slogdet().logabsdet)
    assert not torch.allclose(one.to_flow(points)[4], left[4])


def test_conditions_of_many_scales_are_seen_on_one():
    points, steady = normal(4000, 1, seed=1), normal(4000, 1, seed=2)
    counts = (3 * points + 0.3 * normal(4000, 1, seed=3)).exp()
    conditions = torch.cat([counts, steady, torch.ones_like(counts)], dim=1)
    fitted = fit_coordinates(points, Schema.plain("a"), conditions=conditions)
    labels = fitted.given(conditions).labels
    # Of equal counts in all scales, whose logarithm is nearly the point.
    assert (labels[counts[:, 0].argsort(), 0].diff() >= 0).all()
    both = (torch.cat([values, points], dim=1) for values in (labels[:, :1], counts))
    got, plain = (pair.T.corrcoef()[0, 1] for pair in both)
    assert got > 0.7 > plain + 0.4
    # What is not skewed is standardized as it is, and what is constant says nothing.
    torch.testing.assert_close(labels[:, 1:2], (steady - steady.mean()) / steady.std(correction=0))
    assert not labels[:, 2].any()
    read = Coordinates(**fitted.arguments)
    read.load_state_dict(fitted.state_dict())
    assert torch.equal(read.given(conditions).labels, labels)
    alone = fit_coordinates(points, Schema.plain("a"), conditions=steady)
    assert "skewed" not in alone.arguments


def test_a_condition_that_does_not_vary_tells_nothing():
    points, conditions = rows()
    conditions[:, 1] = 0.1  # whose mean is rounded
    made = fit_coordinates(points, Schema.plain("ab"), "none", "zca", conditions, "on")
    other = conditions[:5].clone()
    other[:, 1] = 3
    given, changed = (made.given(each).to_flow(points[:5]) for each in (conditions[:5], other))
    assert torch.equal(given, changed)


def test_ridge_is_least_squares_of_many_rows_and_shrinks_what_says_nothing():
    c = normal(5000, 3, seed=3)
    c = c - c.mean(dim=0)
    x = c @ SLOPES + normal(5000, 2, seed=4)
    exact = torch.linalg.lstsq(c, x - x.mean(dim=0)).solution
    torch.testing.assert_close(ridge(c, x), exact, rtol=0, atol=2e-3)
    twice = torch.cat([c, c], dim=1)  # which has no single solution without a penalty
    torch.testing.assert_close(twice @ ridge(twice, x), c @ ridge(c, x), rtol=0, atol=5e-3)
    # Of 60 rows, 50 conditions of noise.
    c, x = normal(60, 50, seed=5), normal(60, 2, seed=6)
    plain = torch.linalg.lstsq(c, x).solution
    assert ridge(c, x).square().sum() < 0.05 * plain.square().sum()
    assert torch.equal(ridge(torch.zeros(9, 1).double(), x[:9]), torch.zeros(1, 2).double())


def test_a_condition_that_is_far_out_once_in_a_while_leaves_the_others_their_scale():
    points, steady = normal(2000, 1, seed=1), normal(2000, 1, seed=2)
    near = points + 0.3 * normal(2000, 1, seed=3)
    far = torch.where(torch.arange(2000)[:, None] % 300 == 7, -3000 * near.abs(), near)
    conditions = torch.cat([far, steady], dim=1)
    fitted = fit_coordinates(points, Schema.plain("a"), conditions=conditions)
    labels = fitted.given(conditions).labels
    typical = (far == near)[:, 0]
    assert float(labels[typical, 0].std()) == pytest.approx(1, abs=0.1)
    seen = torch.cat([labels[typical, :1], points[typical]], dim=1).T.corrcoef()[0, 1]
    assert seen > 0.93  # 0.958 is that of what is near
    assert (labels[far[:, 0].argsort(), 0].diff() >= 0).all()
    # What is farther out than all of them is so by the logarithm.
    beyond = fitted.given(double([[-1e9, 0.0], [1e9, 0.0]])).labels
    assert -20 < beyond[0, 0] < labels[:, 0].min() < labels[:, 0].max() < beyond[1, 0] < 200
    read = Coordinates(**fitted.arguments)
    read.load_state_dict(fitted.state_dict())
    read.check()
    assert read.arguments["tails"] == [0]
    assert torch.equal(read.given(conditions).labels, labels)
    alone = fit_coordinates(points, Schema.plain("a"), conditions=steady)
    assert "tails" not in alone.arguments


def test_conditions_over_decades_are_seen_in_each_of_them():
    points = normal(2000, 1, seed=1)
    conditions = (5 * points).exp()
    fitted = fit_coordinates(points, Schema.plain("a"), conditions=conditions)
    labels = fitted.given(conditions).labels
    # Quantiles of 2,000 rows are off by some hundredths, but for the outermost.
    assert float((labels - points).abs().quantile(0.98)) < 0.15
    lower = points < -2  # which a power squeezes together
    assert torch.cat([labels[lower], points[lower]]).view(2, -1).corrcoef()[0, 1] > 0.99
    assert -20 < float(fitted.given(double([[0.0]])).labels) < float(labels.min()) - 1


def test_equal_conditions_with_a_long_tail_are_at_the_middle_of_their_scores():
    points = normal(2000, 1, seed=1)
    conditions = torch.where(points < -0.5, 0.0, (3 * points).exp())
    fitted = fit_coordinates(points, Schema.plain("a"), conditions=conditions)
    assert fitted.arguments["tails"] == [0]
    scores = fitted.straight(conditions)
    share = float((conditions == 0).double().mean())
    level = float(torch.special.ndtr(scores[conditions == 0][0]))
    assert level == pytest.approx(share / 2, abs=1 / 30)  # knots are so far apart
    assert 0.8 < float(scores.std()) < 1.1


def test_far_conditions_do_not_hide_what_is_unlike_all_simulations():
    points = normal(2000, 1, seed=1)
    near = points + 0.3 * normal(2000, 1, seed=3)
    far = torch.where(torch.arange(2000)[:, None] % 300 == 7, 3000 * near.abs(), near)
    fitted = fit_coordinates(points, Schema.plain("a"), conditions=far)
    distribution = fitted.surprise
    seen = distribution(fitted.straight(double([[0.5], [-2.0], [-8.0], [1e6]])))
    assert (seen > distribution.limit).tolist() == [False, False, True, True]
    # By mean and covariance, which a few rows decide, nothing is unlike them.
    raw = Surprise(1).fit(far)
    assert float(raw(double([[-8.0]]))) < raw.limit


def sets_of_trials():
    """Parameters ``[N, 1]``, and from 1 to 4 trials of two numbers each, side by side."""
    theta, numbers = normal(4000, 1, seed=1), torch.arange(4000) % 4 + 1
    trials = torch.stack([theta + normal(4000, 4, seed=2), 9 * normal(4000, 4, seed=3) + 5], dim=2)
    trials[torch.arange(4) >= numbers[:, None]] = torch.nan
    return theta, trials.flatten(1)


def test_the_start_of_a_set_follows_from_its_mean_wherever_trials_stand():
    theta, trials = sets_of_trials()
    fitted = fit_coordinates(theta, Schema.plain("a"), "none", "zca", trials, "on", of_trial=2)
    assert (fitted.condition_dim, fitted.label_dim, fitted.trials) == (2, 3, 4)
    again = Coordinates(**fitted.arguments)
    again.load_state_dict(fitted.state_dict())
    u = again.given(trials).to_flow(theta)
    swapped = trials.view(-1, 4, 2)[:, [2, 0, 3, 1]].flatten(1)
    padded = torch.cat([trials.new_full((4000, 6), torch.nan), trials], dim=1)
    for other in (swapped, padded):
        torch.testing.assert_close(fitted.given(other).to_flow(theta), u, rtol=0, atol=1e-12)
    assert fitted.surprise(fitted.straight(padded)).shape == (4000,)
    # One slope for all n leaves 1 - 1 / (1 + E[1/n]) of the variance, and E[1/n] is 25/48.
    given = fitted.given(trials)
    widths = given.to_data(torch.ones_like(u)) - given.to_data(torch.zeros_like(u))
    assert float(widths.mean().square()) == pytest.approx(25 / 73, abs=0.02)


def test_sets_of_no_trials_too_many_or_with_holes_are_refused():
    theta, trials = sets_of_trials()
    fitted = fit_coordinates(theta, Schema.plain("a"), "none", "zca", trials, "on", of_trial=2)
    nothing, hole = torch.full((1, 8), torch.nan), torch.tensor([[1.0, torch.nan]])
    for bad, words in (
        (nothing, "no trials"),
        (hole, "NaN"),
        (torch.ones(1, 10), "5 trials, but no simulation had more than 4"),
        (torch.ones(1, 3), "a trial of this flow has 2 values"),
    ):
        assert words in refusal(fitted.given(bad).to_flow, theta[:1])


def simulated(count, seed=1):
    """Three correlated Gaussian conditions in units far apart."""
    mixed = normal(count, 3, seed=seed) @ double([[1.0, 0.9, 0], [0, 0.3, 0], [0.5, 0, 2]])
    return (mixed + 5) * UNITS


def test_of_gaussian_conditions_it_is_a_difference_of_log_densities():
    y = simulated(20_000)
    distribution = Surprise(3).fit(y)
    exact = MultivariateNormal(y.mean(dim=0), y.T.cov(correction=0))
    others = simulated(50, seed=2)
    got, expected = distribution(others), -exact.log_prob(others)
    torch.testing.assert_close(got - got[0], expected - expected[0])
    # Half a chi-squared variable of three degrees: its median is 1.183, its 99.9 % quantile 8.13.
    assert float(distribution(y.mean(dim=0))) == pytest.approx(-1.183, abs=0.03)
    assert distribution.limit == pytest.approx(8.13 - 1.18, abs=0.6)


def test_quantiles_are_of_rows_that_are_left_out():
    """Thirty rows of ten conditions: their own distances would be a quarter of new ones'."""
    y = normal(30, 10, seed=3)
    left = []
    for row in range(30):
        rest = torch.cat([y[:row], y[row + 1 :]])
        apart = y[row] - rest.mean(dim=0)
        left.append(apart @ torch.linalg.solve(rest.T.cov(correction=0), apart) / 2)
    expected = torch.stack(left).quantile(double(LEVELS))
    torch.testing.assert_close(Surprise(10).fit(y).quantiles, expected)


def test_what_breaks_a_rule_of_all_simulations_is_most_surprising():
    first = normal(2000, 2, seed=4)
    total, seven = first.sum(dim=1, keepdim=True), 0 * first[:, :1] + 7
    distribution = Surprise(4).fit(torch.cat([first, total, seven], 1))
    alone = Surprise(4).fit(torch.cat([first, total, seven], 1), relevant=[0])
    assert (alone.whitening.diagonal() > 0).tolist() == [True, False, False, True]
    like = double([1.0, -0.5, 0.5, 7.0])
    assert float(distribution(like)) < distribution.limit
    assert float(distribution(like + 1e-7)) < distribution.limit
    for place in (2, 3):
        other = like.clone()
        other[place] += 0.01
        assert float(distribution(other)) > 1000
    # As far from the mean along what varies, it is no more surprising than a Gaussian number.
    assert float(distribution(double([6.0, 0.0, 6.0, 7.0]))) == pytest.approx(18, abs=3)
