"""Laws of latents, of flows and learned ones, and of columns of levels and of steps."""

import logging
from dataclasses import replace
from itertools import islice
from math import log

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.distributions import Independent, Normal

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
from tests.support.flows import exact_flow
from tests.support.trainers import tiny_model
from training.data.batches import Batch
from training.flow.bin_averages import FEWEST_POINTS, cell_log_prob
from training.flow.coordinates import categories as levels_module
from training.flow.coordinates.categories import LevelPrediction
from training.flow.coordinates.coordinates import LEVELS, Coordinates
from training.flow.latent import (
    LOG_ROOT,
    ConditionalMixture,
    GaussianLatents,
    LearnedLatents,
    NormalMixture,
    log_ndtri,
)
from training.learning import finishing, gaussian_start, mixture_start
from training.learning.finishing import CHAINED, FREE, GENTLE, TURNED, Latents, candidates_for, fit
from training.learning.gaussian_start import fit_levels
from training.learning.mixture_start import completed, fit_mixture
from training.learning.questions import OneQuestion, QuestionBatches, draw_states
from training.names import CELL_ERROR, CELL_POINTS
from training.networks.mixture import ABSENT, ASKED, KNOWN
from training.networks.questions import QuestionNetwork
from training.trained.questions import EncodedRows

VARIANCE = double([4.0, 1.0, 1e-4])
KEPT, COMPRESSED = 2, 3
ROWS, COMPONENTS = 500, 6
STEPS = double([0.5, 0, 0.5])


def test_draws_and_densities_are_those_of_independent_normals():
    distribution = GaussianLatents(VARIANCE)
    draws = [distribution.sample(50_000, seeded(1)) for _ in range(2)]
    assert torch.equal(*draws)
    ratio = draws[0].square().mean(0) / VARIANCE
    assert ((ratio - 1).abs() < 4 * (2 / 50_000) ** 0.5).all()
    assert (draws[0].mean(0).abs() < 4 * distribution.std / 50_000**0.5).all()
    latents = distribution.sample(12, seeded()).view(3, 4, 3)
    expected = Independent(Normal(torch.zeros(3).double(), distribution.std), 1).log_prob(latents)
    torch.testing.assert_close(distribution.log_prob(latents), expected)
    second_moments = GaussianLatents.empirical(1 + draws[0]).variance
    torch.testing.assert_close(second_moments, 1 + VARIANCE, rtol=0.05, atol=0)


def test_a_number_sets_the_compressed_dimensions_alone():
    distribution = GaussianLatents(VARIANCE)
    assert distribution.with_compressed(0.5, 1).variance.tolist() == [4.0, 0.5, 0.5]
    assert torch.equal(distribution.with_compressed(0.5, 3).variance, VARIANCE)
    assert GaussianLatents.paper(3, 2, 0.5, end_std=2.0).variance.tolist() == [4.0, 4.0, 0.5]
    assert distribution.variance is VARIANCE
    with pytest.raises(UsageError, match="eps is nan: give a positive"):
        distribution.with_compressed(float("nan"), 1)


def wild(chained=True):
    """One whose every parameter depends on all that it may."""
    generator = seeded(5)
    mixture = ConditionalMixture(KEPT, COMPRESSED, width=12, depth=1, chained=chained)
    for parameter in mixture.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    mixture.offset.copy_(normal(COMPRESSED, generator=generator))
    mixture.axes.copy_(torch.eye(COMPRESSED) + 0.2 * normal(3, 3, generator=generator))
    return mixture.requires_grad_(False)


def jacobians(mixture, kept, compressed):
    """``[N, C, C]`` of scores by what they are of."""
    jacobian = torch.autograd.functional.jacobian
    whole = jacobian(lambda x: mixture.whiten(kept, x).sum(dim=0), compressed)
    return whole.permute(1, 0, 2)


@pytest.mark.parametrize("chained", [True, False])
def test_whitening_is_inverted_and_its_jacobian_is_the_density(chained):
    mixture = wild(chained)
    kept, w = normal(40, KEPT), normal(40, COMPRESSED, generator=seeded(1))
    latents = mixture.unwhiten(kept, w)
    assert float((mixture.whiten(kept, latents) - w).abs().max()) < 1e-10
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(w).sum(dim=1)
    log_det = torch.linalg.slogdet(jacobians(mixture, kept, latents)).logabsdet
    torch.testing.assert_close(mixture.log_prob(kept, latents), standard + log_det)


def test_a_chained_latent_depends_on_those_before_it_alone():
    mixture = wild()
    mixture.axes.copy_(torch.eye(COMPRESSED))
    slopes = jacobians(mixture, normal(40, KEPT), normal(40, COMPRESSED))
    assert torch.equal(slopes, slopes.tril())
    assert (slopes.abs().amax(dim=0).tril() > 1e-3).sum() == 6
    free = wild(chained=False)
    free.axes.copy_(torch.eye(COMPRESSED))
    slopes = jacobians(free, normal(40, KEPT), normal(40, COMPRESSED))
    assert torch.equal(slopes, torch.diag_embed(slopes.diagonal(dim1=1, dim2=2)))


def test_gradients_reach_kept_latents_and_scores():
    mixture = wild()
    leaves = (normal(2, KEPT).requires_grad_(), normal(2, COMPRESSED).requires_grad_())
    assert gradcheck(mixture.unwhiten, leaves)
    assert gradcheck(mixture.whiten, leaves)


def test_a_law_of_latents_has_draws_densities_and_its_own_digest():
    _, flow = exact_flow("s_curve", 2)
    mixture = ConditionalMixture(2, 1).requires_grad_(False)
    gaussian = flow.latent
    distribution = flow.with_distribution(mixture).latent
    assert isinstance(gaussian, GaussianLatents)
    assert isinstance(distribution, LearnedLatents)
    latents = distribution.sample(4000, seeded(2))
    torch.testing.assert_close(distribution.unwhiten(distribution.whiten(latents)), latents)
    ratio = latents.square().mean(dim=0) / distribution.variance
    assert ((ratio - 1).abs() < 4 * (2 / 4000) ** 0.5).all()
    assert float((distribution.log_prob(latents) - gaussian.log_prob(latents)).abs().mean()) < 0.02
    shifted = ConditionalMixture(2, 1).requires_grad_(False)
    shifted.offset += 1
    digests = {
        each.digest()
        for each in (gaussian, distribution, LearnedLatents(distribution.variance, shifted))
    }
    assert len(digests) == 3


def test_the_density_and_the_samples_of_a_flow_are_those_of_its_law():
    _, flow = exact_flow("circles", 1)
    mixture = ConditionalMixture(1, 1).requires_grad_(False)
    mixture.offset += 0.5
    learned = flow.with_distribution(mixture)
    points = flow.sample(20, seeded(3))
    latents = flow.encode(points)
    expected = learned.latent.log_prob(latents) - flow.latent.log_prob(latents)
    assert float(expected.abs().max()) > 0.1
    torch.testing.assert_close(learned.log_prob(points) - flow.log_prob(points), expected)
    drawn = learned.decode(learned.latent.sample(20, seeded(3)))
    assert torch.equal(learned.sample(20, seeded(3)), drawn)
    # Of another time than the end the law is not known.
    early = learned.times(8)[:5]
    torch.testing.assert_close(learned.log_prob(points, early), flow.log_prob(points, early))


def mixtures(rows=ROWS, seed=0):
    """Of wide and of narrow components, some of them far apart."""
    logits, mean, log_std = normal(3, rows, COMPONENTS, generator=seeded(seed)).unbind()
    return NormalMixture(logits.log_softmax(dim=-1), 2 * mean, log_std - 1.5)


def test_normal_scores_are_those_of_the_distribution_function_and_inverted_by_quantiles():
    mixture, w = mixtures(), 3 * normal(ROWS, generator=seeded(1))
    w[:4] = torch.tensor([-30.0, 30.0, -60.0, 60.0])
    v = mixture.quantile(w)
    assert float((mixture.normal_score(v) - w).abs().max()) < 1e-10
    # Between two far modes a score is known better than its value: so only values that can be had.
    likely = mixture.log_density(v) > -20
    again = mixture.quantile(mixture.normal_score(v))
    assert float((again - v)[likely].abs().max()) < 1e-10
    mixture, v = mixtures(), normal(ROWS, generator=seeded(2))
    z = (v[:, None] - mixture.mean) / mixture.log_std.exp()
    below = (mixture.log_weight.exp() * torch.special.ndtr(z)).sum(dim=1)
    middle = (below > 1e-3) & (below < 1 - 1e-3)
    expected = torch.special.ndtri(below)
    torch.testing.assert_close(mixture.normal_score(v)[middle], expected[middle])
    # Logarithms of probabilities that underflow have a quantile.
    x = torch.tensor([-0.1, -3.0, -37.0, -60.0, -1e4], dtype=torch.float64)
    torch.testing.assert_close(log_ndtri(torch.special.log_ndtr(x)), x, rtol=1e-12, atol=1e-12)


@pytest.fixture
def levels():
    """Three levels from 4 in steps of 2, and two from 0, given one condition."""
    torch.manual_seed(0)
    made = Coordinates(2, [LEVELS], conditions=1, levels=[3, 2])
    [map_] = made.maps
    map_.hold(first=torch.tensor([4.0, 0.0]), step=torch.tensor([2.0, 1.0]))
    for parameter in map_.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made


def some(count):
    generator = seeded(1)
    levels = torch.randint(3, (count, 2), generator=generator) % torch.tensor([3, 2])
    within = torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5
    return torch.tensor([4.0, 0.0]) + torch.tensor([2.0, 1.0]) * (levels + within)


def test_scores_are_invertible_and_their_slopes_those_of_differences(levels):
    points, given = some(200), levels.given(normal(200, 1, seed=2))
    scores, log_det = given(points)
    torch.testing.assert_close(given.to_data(scores), points, rtol=1e-9, atol=1e-9)
    small = 1e-6 * torch.eye(2)
    slopes = [(given.to_flow(points + h) - given.to_flow(points - h)) / 2e-6 for h in small]
    # Each column depends on its own place and on levels before it, which small steps leave.
    inner = ((points % 1 - 0.5).abs() > 1e-3).all(dim=1)
    expected = slopes[0][:, 0].log() + slopes[1][:, 1].log()
    torch.testing.assert_close(log_det[inner], expected[inner], rtol=1e-4, atol=1e-4)


def test_the_density_of_a_level_is_its_probability_however_small(levels):
    [map_] = levels.maps
    with torch.no_grad():  # one level in e^30, at either end
        for number, rare in ((0, 2), (1, 0)):
            for network in map_.networks[number]:
                network.last.bias[rare] -= 30
    rows = torch.tensor([[8.4, 0.4], [7.6, -0.4], [4.0, 1.0]]).double()
    given = levels.given(torch.zeros(1, 1))
    scores, log_det = given(rows)
    normal_density = torch.distributions.Normal(0, 1).log_prob(scores).sum(dim=1)
    numbers = map_.numbers(rows)
    labels = given.labels
    expected = torch.zeros(3).double()
    for number in range(2):
        logs = map_.log_probabilities(number, map_.seen(number, labels, numbers))
        expected += logs.gather(1, numbers[:, number, None].long())[:, 0]
    torch.testing.assert_close(log_det + normal_density, expected - torch.tensor(2.0).log())
    torch.testing.assert_close(given.to_data(scores), rows)


def by_products(c, p):
    """Probabilities nearest to ``p`` of a logistic regression on products, by Newton's method."""
    one, (first, second) = torch.ones(len(c)).double(), c.unbind(1)
    terms = torch.stack([one, first, second, first**2, first * second, second**2], dim=1)
    weights = torch.zeros(6).double()
    for _ in range(12):
        fitted = (terms @ weights).sigmoid()
        curvature = terms.T @ (terms * (fitted * (1 - fitted))[:, None])
        weights += torch.linalg.solve(curvature, terms.T @ (p - fitted))
    return (terms @ weights).sigmoid()


@pytest.mark.parametrize(("lapse", "steps"), [(0.0, 120), (0.5, 400)])
def test_levels_are_learned_where_products_and_where_bends_matter(lapse, steps, monkeypatch):
    monkeypatch.setattr(gaussian_start, "STEPS", steps)
    monkeypatch.setattr(levels_module, "MEMBERS", 1)
    c = normal(20_000, 2, seed=3)
    p = lapse / 2 + (1 - lapse) * torch.sigmoid(3 * c[:, 0] * c[:, 1])
    draw = torch.rand(len(p), generator=seeded(4), dtype=torch.float64)
    map_ = LevelPrediction(1, 2, [2])
    map_.hold(first=torch.zeros(1), step=torch.ones(1))
    fit_levels(map_, c, (draw < p).double()[:, None])
    learned = map_.log_probabilities(0, c.float())[:, 1].exp()
    off, least = ((each - p).square().mean().sqrt() for each in (learned, by_products(c, p)))
    # Without lapses, products suffice, and no product leaves .3. With lapses, they leave .06.
    assert off < (0.75 * least if lapse else 0.04), (off, least)


def discrete_flow(steps=STEPS):
    """A flow of three columns, the first and the last of which have steps, and rows ``[4, 3]``."""
    toy, flow = exact_flow("bumps3")
    flow.coordinates = Coordinates(3, [])
    flow.coordinates.steps.copy_(steps)
    return flow, flow.coordinates.rounded(toy.sample(4, seeded(3)))


def by_quadrature(flow, rows, times):
    """Gauss and Legendre's rule over the cells, 16 nodes a side."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(16))
    first, last = torch.cartesian_prod(nodes, nodes).unbind(1)
    shifts = torch.stack([first, first, last], dim=1) * flow.coordinates.steps / 2
    got = flow.log_prob((rows[:, None] + shifts).flatten(0, 1), times).view(len(rows), -1)
    return (got + torch.cartesian_prod(weights, weights).prod(dim=1).log()).logsumexp(1) - log(4)


def test_a_density_is_the_mean_over_the_cell_to_the_error_that_it_tells():
    flow, rows = discrete_flow()
    (got, error), points = cell_log_prob(flow, rows, flow.times(8), "exp_rk5")
    off = (got - by_quadrature(flow, rows, flow.times(8))).abs()
    assert (off < 4 * error).all()
    assert (error <= CELL_ERROR).all()
    assert FEWEST_POINTS < points < CELL_POINTS
    flow, rows = discrete_flow(STEPS / 64)
    (got, error), points = cell_log_prob(flow, rows, flow.times(8), "exp_rk5")
    off = (got - by_quadrature(flow, rows, flow.times(8))).abs()
    assert points == 1
    assert (off <= error).all()
    assert 0.0001 < off.max() < error.max() <= CELL_ERROR


def test_it_depends_on_the_cell_alone_and_not_on_where_in_it_or_with_what_a_row_comes():
    flow, rows = discrete_flow()
    done = []
    (whole, _), _ = cell_log_prob(flow, rows, flow.times(8), "exp_rk5", on_rows=done.append)
    assert sum(done) == len(rows)
    for seed in range(2):
        moved = flow.coordinates.dequantized(rows[2:], seeded(seed))
        (got, _), _ = cell_log_prob(flow, moved, flow.times(8), "exp_rk5")
        torch.testing.assert_close(got, whole[2:], rtol=0, atol=1e-9)
        assert ((flow.log_prob(moved, flow.times(8)) - got).abs() > 0.1).any()


SHORT = replace(CHAINED, steps=300, rate=5e-3)
SPREAD = 0.3


def two_branches(count, seed):
    """A kept latent, and a compressed one near plus or minus its sine ``[N, 2]``."""
    kept, noise = normal(count, 2, generator=seeded(seed)).unbind(dim=1)
    sign = torch.where(torch.rand(count, generator=seeded(seed + 1)) < 0.5, -1.0, 1.0)
    return torch.stack([kept, sign * (2 * kept).sin() + SPREAD * noise], dim=1)


def branches_log_prob(latents):
    kept, compressed = latents.unbind(dim=1)
    wave = torch.stack([(2 * kept).sin(), -(2 * kept).sin()])
    z = (compressed - wave) / SPREAD
    return (-z.square() / 2).logsumexp(dim=0) - torch.tensor(2 * SPREAD).log() - LOG_ROOT


def test_it_finds_a_law_that_depends_on_the_kept_latents():
    fitted = fit(Latents.split(two_branches(8000, 1), seed=0), 1, SHORT, seed=0)
    fresh = two_branches(4000, 7)
    lacks = branches_log_prob(fresh) - fitted.mixture.log_prob(fresh[:, :1], fresh[:, 1:])
    assert abs(float(lacks.mean())) < 0.03
    normal_law = -(fresh[:, 1].square() / 2 + LOG_ROOT)
    gain = float((branches_log_prob(fresh) - normal_law).mean())
    assert abs(fitted.nats - gain) < 0.05
    assert gain > 0.3


def test_many_dimensions_are_turned_to_their_axes_and_not_chained():
    assert [each.sizes.get("chained", True) for each in candidates_for(9)] == 3 * [False]
    assert candidates_for(8) == (CHAINED,)
    mix = 2 * torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double()
    rows = normal(2000, 2) @ mix
    fitted = fit(Latents.split(rows, 0), 0, replace(TURNED, steps=100), seed=0)
    turned = fitted.mixture.turned(rows)
    torch.testing.assert_close(turned.T @ turned / 2000, torch.eye(2).double(), atol=0.1, rtol=0)
    expected = torch.distributions.MultivariateNormal(torch.zeros(2).double(), mix @ mix.T)
    got = fitted.mixture.log_prob(rows[:, :0], rows)
    assert abs(float((expected.log_prob(rows) - got).mean())) < 0.05


@pytest.mark.slow
def test_small_steps_find_what_large_ones_pass_over():
    width = torch.where(torch.arange(30) % 2 == 0, 1.25, 1.0)
    latents = Latents.split(normal(1000, 40) * torch.cat([torch.ones(10), width]), seed=0)
    candidates = (replace(candidate, steps=250) for candidate in (FREE, GENTLE))
    large, small = (fit(latents, 10, candidate, seed=0) for candidate in candidates)
    assert small.is_better
    assert small.nats > large.nats + 2 * small.error


@pytest.fixture
def model():
    """Of Gaussian data, by a network that is zero: all latents are normal."""
    made, _ = tiny_model("mlp", "ES", dims_to_keep=1, width=16)
    made.denoiser.eval()
    return made


def gaussian_points(model, count):
    basis = model.denoiser.basis
    spread = basis.eigenvalues.sqrt() * normal(count, basis.dim, generator=seeded(9))
    return Batch(basis.from_eigen(spread))


def test_melted_points_are_standardized_and_more_of_them_of_longer_trainings(model):
    got = finishing.standardized_latents(model.flow, gaussian_points(model, 4000), seed=0)
    assert ((got.square().mean(dim=0) - 1).abs() < 4 * (2 / 4000) ** 0.5).all()
    assert [finishing.points_to_inflate(count) for count in (1e3, 1e6, 1e9)] == [
        300,
        20_000,
        100_000,
    ]


def test_a_gaussian_stays_where_it_is_right(model, caplog):
    plan = finishing.LatentPlan(lambda count: gaussian_points(model, count), None, 500, 0, 256)
    with caplog.at_level(logging.INFO):
        finishing.learn_latents(model, plan)
    assert model.learned is None
    assert "the closed-form Gaussian is as good and is kept" in caplog.text
    assert "The kept latents (1) are normal, as samples assume" in caplog.text
    assert "Warning" not in caplog.text


def test_kept_latents_that_are_not_normal_are_told_with_a_time_that_would_do(model):
    signs = torch.where(normal(2000, 1) < 0, -1.0, 1.0) + 0.3 * normal(2000, 1, generator=seeded(4))
    rows = torch.cat([signs, normal(2000, 1, generator=seeded(5))], dim=1)
    lost = finishing.check_kept(Latents.split(rows, 0), 1, seed=0)
    assert lost.nats > 10 * lost.error
    assert lost.nats > 0.1
    time = finishing.enough_time(model, lost.nats)
    schedule, xi = model.denoiser.schedule, model.denoiser.basis.eigenvalues[0]
    times = double([float(model.about["tmax"]), time])
    now, then = (xi / (xi + schedule.noise_variance(t)[0]) for t in times)
    assert float(lost.nats * (then / now) ** 3) == pytest.approx(0.01)


def test_of_one_point_it_cannot_be_known(model, caplog):
    fitted = finishing.check_kept(Latents(normal(20, 2), normal(1, 2, generator=seeded(4))), 1, 0)
    with caplog.at_level(logging.INFO):
        finishing._report_kept(model, fitted)
    assert "show no deviation from a normal distribution\n" in caplog.text


def test_what_is_missing_is_neither_asked_nor_known(generator):
    present = torch.rand(5000, 6, generator=generator) > 0.3
    states = draw_states(present, generator)
    assert bool((states[~present] == ABSENT).all())
    asked = (states == ASKED).sum(dim=1)
    single = float((asked == 1).double().mean())
    assert 0.4 < single < 0.65, "near half of the questions are about one cell"
    assert bool(((states == KNOWN).sum(dim=1)[asked == 1] > 2).any())
    half = draw_states(present, generator, OneQuestion([2], 0.5))
    alone = (half == ASKED).sum(dim=1) == (half[:, 2] == ASKED).long()
    rest = torch.arange(6) != 2
    own = alone & (half[:, rest] == torch.where(present[:, rest], KNOWN, ABSENT)).all(dim=1)
    assert 0.5 < float(own.double().mean()) < 0.65, "half of the questions, and some by chance"


def test_to_be_absent_says_nothing_though_what_is_missing_does(generator):
    """The second number is missing where the first is large, but what is asked is of all rows."""
    first = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    rows = torch.cat([first, first + 0.5 * torch.randn(first.shape, generator=generator)], dim=1)
    rows[(rows[:, 0] > 0.3) & (torch.rand(4000, generator=generator) < 0.9), 1] = torch.nan
    known = EncodedRows(rows, torch.zeros(4000, 0, dtype=torch.long))
    mixture, _ = fit_mixture(known, known.at(slice(0, 0)), [], seed=0)

    def complete(cells, generator):
        return completed(mixture, cells, [], generator)

    network = QuestionNetwork(2, (-1.0, 1.0))
    source = QuestionBatches(lambda _: known, known, network, 4000, 0, None, complete)
    batches = list(islice(source.batches(0), 8))
    points = torch.cat([batch.points for batch in batches])
    states = torch.cat([batch.labels[:, 2:4] for batch in batches if batch.labels is not None])
    for asked in (0, 1):
        alone = (states[:, asked] == ASKED) & (states[:, 1 - asked] == ABSENT)
        assert abs(float(points[alone, asked].mean())) < 0.12
    assert float(points[(states == ASKED).all(dim=1)].mean(dim=0).abs().max()) < 0.1


def test_a_mixture_is_right_where_cells_are_missing_given_others(generator):
    """Rows lose their second number where the first is large: means of what is left are off."""
    count = 8000
    first = torch.randn(count, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    second = 0.8 * first + 0.6 * noise
    second[first > 0.3] = torch.nan
    level = (first + 0.5 * noise > 0).long()
    rows = EncodedRows(torch.stack([first, second], dim=1), level[:, None])
    mixture, _ = fit_mixture(rows, rows.at(slice(0, 0)), [2], seed=0)
    assert abs(float(rows.numbers[:, 1].nanmean())) > 0.2
    assert mixture.weights[0] > 0.9
    assert abs(float(mixture.covariances[0, 0, 1]) - 0.8) < 0.05
    assert abs(float(mixture.shares[0, 1]) - 0.5) < 0.03


def test_as_many_components_as_held_out_rows_want(generator):
    centers = torch.tensor([[-1.2, -1.2], [1.2, 1.2], [-1.2, 1.2]], dtype=torch.float64)
    which = torch.randint(3, (6000,), generator=generator)
    numbers = centers[which] + 0.3 * torch.randn(6000, 2, generator=generator).double()
    rows = EncodedRows(numbers, torch.zeros(6000, 0, dtype=torch.long))
    mixture, nats = fit_mixture(rows.at(slice(0, 5000)), rows.at(slice(5000, None)), [], seed=0)
    assert len(mixture.weights) in (4, 5), "three, perhaps one more, and the wide one"
    entropy = torch.log(torch.tensor(3.0)) + 2 * torch.log(torch.tensor(0.3)) + 1 + 1.8379
    assert abs(nats + float(entropy)) < 0.06


def test_whole_rows_are_fitted_as_rows_with_holes_are(monkeypatch, generator):
    """By sums of products, or cell by cell."""
    which = torch.randint(3, (600,), generator=generator)
    numbers = which[:, None] + torch.randn(600, 3, generator=generator, dtype=torch.float64)
    rows = EncodedRows(numbers, which[:, None] % 2)
    parts, fits = (rows.at(slice(0, 500)), rows.at(slice(500, 600))), []
    for most in (mixture_start.MOST_NUMBERS, 0):
        monkeypatch.setattr(mixture_start, "MOST_NUMBERS", most)
        fits.append(fit_mixture(*parts, [2], seed=0))
    (mixture, score), (other, of_other) = fits
    assert len(mixture.weights) > 2
    torch.testing.assert_close([*mixture, score], [*other, of_other], atol=1e-8, rtol=0)


def test_what_is_said_of_kept_latents_claims_no_more_than_was_tested():
    assert "are normal, as samples assume, within 0.004 nats" in finishing.in_words(2, 0.004)
    many = finishing.in_words(256, 9.3)
    assert many.endswith("show no deviation from a normal distribution")
