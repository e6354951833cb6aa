"""Conditions: what is predicted of points is taken off, and which ones are surprising."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from tests.support.draws import double, normal
from tests.support.running import refusal
from training.data.tables.table import Columns
from training.flow.coordinates.conditions import ridge
from training.flow.coordinates.coordinates import Coordinates
from training.flow.coordinates.surprise import LEVELS, Surprise
from training.learning.coordinates import fit_coordinates

SLOPES = double([[1.0, -2.0], [0.5, 0.0], [0.0, 3.0]])
UNITS = double([1e-3, 1.0, 1e5])


def rows(count=4000):
    """Points ``[N, 2]`` that follow from three conditions in units far apart, and others."""
    y = normal(count, 3, seed=1)
    return y @ SLOPES + 0.1 * normal(count, 2, seed=2), y * double([1e-3, 1.0, 1e5]) + 7e5


@pytest.fixture
def fitted():
    points, conditions = rows()
    return fit_coordinates(points, Columns.plain("ab"), "none", "zca", conditions, "on")


def test_what_is_left_of_points_is_white_and_free_of_their_conditions(fitted):
    points, conditions = rows()
    given = fitted.given(conditions)
    left, labels = given.to_flow(points), given.labels
    torch.testing.assert_close(labels.T.cov(correction=0).diagonal(), torch.ones(3).double())
    both = torch.cat([left, labels], dim=1).T.cov(correction=0)
    torch.testing.assert_close(both[:2, :2], torch.eye(2).double())
    # Correlations of independent rows would be 0.016.
    assert both[:2, 2:].abs().max() < 1e-3


def test_points_come_back_and_the_log_determinant_is_that_of_autograd(fitted):
    points, conditions = rows(20)
    given = fitted.given(conditions)
    left, log_det = given(points)
    torch.testing.assert_close(given.to_data(left), points)
    one = fitted.given(conditions[3])  # one row of conditions is that of all points
    torch.testing.assert_close(one.to_flow(points)[3], left[3])
    jacobian = torch.autograd.functional.jacobian(one.to_flow, points[3])
    torch.testing.assert_close(log_det[3], jacobian.slogdet().logabsdet)
    assert not torch.allclose(one.to_flow(points)[4], left[4])


def test_conditions_of_many_scales_are_seen_on_one():
    points, steady = normal(4000, 1, seed=1), normal(4000, 1, seed=2)
    counts = (3 * points + 0.3 * normal(4000, 1, seed=3)).exp()
    conditions = torch.cat([counts, steady, torch.ones_like(counts)], dim=1)
    fitted = fit_coordinates(points, Columns.plain("a"), conditions=conditions)
    labels = fitted.given(conditions).labels
    # Of equal counts in all scales, whose logarithm is nearly the point.
    assert (labels[counts[:, 0].argsort(), 0].diff() >= 0).all()
    got, plain = (
        torch.cat([values, points], dim=1).T.corrcoef()[0, 1] for values in (labels[:, :1], counts)
    )
    assert got > 0.7 > plain + 0.4
    # What is not skewed is standardized as it is, and what is constant says nothing.
    torch.testing.assert_close(labels[:, 1:2], (steady - steady.mean()) / steady.std(correction=0))
    assert not labels[:, 2].any()
    read = Coordinates(**fitted.arguments)
    read.load_state_dict(fitted.state_dict())
    assert torch.equal(read.given(conditions).labels, labels)
    alone = fit_coordinates(points, Columns.plain("a"), conditions=steady)
    assert "skewed" not in alone.arguments


def test_a_condition_that_does_not_vary_tells_nothing():
    points, conditions = rows()
    conditions[:, 1] = 0.1  # whose mean is rounded
    made = fit_coordinates(points, Columns.plain("ab"), "none", "zca", conditions, "on")
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
    fitted = fit_coordinates(points, Columns.plain("a"), conditions=conditions)
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
    alone = fit_coordinates(points, Columns.plain("a"), conditions=steady)
    assert "tails" not in alone.arguments


def test_conditions_over_decades_are_seen_in_each_of_them():
    points = normal(2000, 1, seed=1)
    conditions = (5 * points).exp()
    fitted = fit_coordinates(points, Columns.plain("a"), conditions=conditions)
    labels = fitted.given(conditions).labels
    # Quantiles of 2,000 rows are off by some hundredths, but for the outermost.
    assert float((labels - points).abs().quantile(0.98)) < 0.15
    lower = points < -2  # which a power squeezes together
    assert torch.cat([labels[lower], points[lower]]).view(2, -1).corrcoef()[0, 1] > 0.99
    assert -20 < float(fitted.given(double([[0.0]])).labels) < float(labels.min()) - 1


def test_equal_conditions_with_a_long_tail_are_at_the_middle_of_their_scores():
    points = normal(2000, 1, seed=1)
    conditions = torch.where(points < -0.5, 0.0, (3 * points).exp())
    fitted = fit_coordinates(points, Columns.plain("a"), conditions=conditions)
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
    fitted = fit_coordinates(points, Columns.plain("a"), conditions=far)
    law = fitted.surprise
    seen = law(fitted.straight(double([[0.5], [-2.0], [-8.0], [1e6]])))
    assert (seen > law.limit).tolist() == [False, False, True, True]
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
    fitted = fit_coordinates(theta, Columns.plain("a"), "none", "zca", trials, "on", of_trial=2)
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
    fitted = fit_coordinates(theta, Columns.plain("a"), "none", "zca", trials, "on", of_trial=2)
    nothing, hole = torch.full((1, 8), torch.nan), torch.tensor([[1.0, torch.nan]])
    for bad, words in (
        (nothing, "no trials"),
        (hole, "NaN"),
        (torch.ones(1, 10), "5 trials, but no simulation had more than 4"),
        (torch.ones(1, 3), "trials of 2"),
    ):
        assert words in refusal(fitted.given(bad).to_flow, theta[:1])


def simulated(count, seed=1):
    """Three correlated Gaussian conditions in units far apart."""
    mixed = normal(count, 3, seed=seed) @ double([[1.0, 0.9, 0], [0, 0.3, 0], [0.5, 0, 2]])
    return (mixed + 5) * UNITS


def test_of_gaussian_conditions_it_is_a_difference_of_log_densities():
    y = simulated(20_000)
    law = Surprise(3).fit(y)
    exact = MultivariateNormal(y.mean(dim=0), y.T.cov(correction=0))
    others = simulated(50, seed=2)
    got, expected = law(others), -exact.log_prob(others)
    torch.testing.assert_close(got - got[0], expected - expected[0])
    # Half a chi-squared variable of three degrees: its median is 1.183, its 99.9 % quantile 8.13.
    assert float(law(y.mean(dim=0))) == pytest.approx(-1.183, abs=0.03)
    assert law.limit == pytest.approx(8.13 - 1.18, abs=0.6)


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
    law = Surprise(4).fit(torch.cat([first, total, seven], 1))
    alone = Surprise(4).fit(torch.cat([first, total, seven], 1), relevant=[0])
    assert (alone.whitening.diagonal() > 0).tolist() == [True, False, False, True]
    like = double([1.0, -0.5, 0.5, 7.0])
    assert float(law(like)) < law.limit
    assert float(law(like + 1e-7)) < law.limit
    for place in (2, 3):
        other = like.clone()
        other[place] += 0.01
        assert float(law(other)) > 1000
    # As far from the mean along what varies, it is no more surprising than a Gaussian number.
    assert float(law(double([6.0, 0.0, 6.0, 7.0]))) == pytest.approx(18, abs=3)
