"""Laws of latents, and of columns of levels and of steps."""

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
from training.flow.cells import FEWEST_POINTS, cell_log_prob
from training.flow.coordinates import levels as levels_module
from training.flow.coordinates.coordinates import LEVELS, Coordinates
from training.flow.coordinates.levels import LevelPrediction
from training.flow.latent.conditional import ConditionalMixture, NormalMixture, log_ndtri
from training.flow.latent.laws import GaussianLaw, LearnedLaw
from training.learning import gaussian_start
from training.learning.gaussian_start import fit_levels
from training.names import CELL_ERROR, CELL_POINTS

VARIANCE = double([4.0, 1.0, 1e-4])
KEPT, COMPRESSED = 2, 3
ROWS, COMPONENTS = 500, 6
STEPS = double([0.5, 0, 0.5])


def test_draws_and_densities_are_those_of_independent_normals():
    law = GaussianLaw(VARIANCE)
    draws = [law.sample(50_000, seeded(1)) for _ in range(2)]
    assert torch.equal(*draws)
    ratio = draws[0].square().mean(0) / VARIANCE
    assert ((ratio - 1).abs() < 4 * (2 / 50_000) ** 0.5).all()
    assert (draws[0].mean(0).abs() < 4 * law.std / 50_000**0.5).all()
    latents = law.sample(12, seeded()).view(3, 4, 3)
    expected = Independent(Normal(torch.zeros(3).double(), law.std), 1).log_prob(latents)
    torch.testing.assert_close(law.log_prob(latents), expected)
    second_moments = GaussianLaw.empirical(1 + draws[0]).variance
    torch.testing.assert_close(second_moments, 1 + VARIANCE, rtol=0.05, atol=0)


def test_a_number_sets_the_compressed_dimensions_alone():
    law = GaussianLaw(VARIANCE)
    assert law.with_compressed(0.5, 1).variance.tolist() == [4.0, 0.5, 0.5]
    assert torch.equal(law.with_compressed(0.5, 3).variance, VARIANCE)
    assert GaussianLaw.paper(3, 2, 0.5, end_std=2.0).variance.tolist() == [4.0, 4.0, 0.5]
    assert law.variance is VARIANCE
    with pytest.raises(UsageError, match="eps is nan: it must be a positive"):
        law.with_compressed(float("nan"), 1)


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
    law = flow.with_law(mixture).latent
    assert isinstance(gaussian, GaussianLaw)
    assert isinstance(law, LearnedLaw)
    latents = law.sample(4000, seeded(2))
    torch.testing.assert_close(law.unwhiten(law.whiten(latents)), latents)
    ratio = latents.square().mean(dim=0) / law.variance
    assert ((ratio - 1).abs() < 4 * (2 / 4000) ** 0.5).all()
    assert float((law.log_prob(latents) - gaussian.log_prob(latents)).abs().mean()) < 0.02
    shifted = ConditionalMixture(2, 1).requires_grad_(False)
    shifted.offset += 1
    digests = {each.digest() for each in (gaussian, law, LearnedLaw(law.variance, shifted))}
    assert len(digests) == 3


def test_the_density_and_the_samples_of_a_flow_are_those_of_its_law():
    _, flow = exact_flow("circles", 1)
    mixture = ConditionalMixture(1, 1).requires_grad_(False)
    mixture.offset += 0.5
    learned = flow.with_law(mixture)
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


def test_logarithms_of_probabilities_that_underflow_have_a_quantile():
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


@pytest.mark.parametrize(("lapse", "steps"), [(0.0, 120), (0.3, 400)])
def test_probabilities_of_levels_are_learned_where_products_and_where_bends_matter(
    lapse, steps, monkeypatch
):
    monkeypatch.setattr(gaussian_start, "STEPS", steps)
    monkeypatch.setattr(levels_module, "MEMBERS", 1)
    c = normal(20_000, 2, seed=3)
    p = lapse / 2 + (1 - lapse) * torch.sigmoid(3 * c[:, 0] * c[:, 1])
    draw = torch.rand(len(p), generator=seeded(4), dtype=torch.float64)
    map_ = LevelPrediction(1, 2, [2])
    map_.hold(first=torch.zeros(1), step=torch.ones(1))
    fit_levels(map_, c, (draw < p).double()[:, None])
    learned = map_.log_probabilities(0, c.float())[:, 1].exp()
    off = float((learned - p).square().mean().sqrt())
    assert off < 0.02 + 0.04 * lapse, off
    assert map_.get_submodule("networks.0.0.bend").weight.any() or not lapse


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
        moved = flow.coordinates.dithered(rows[2:], seeded(seed))
        (got, _), _ = cell_log_prob(flow, moved, flow.times(8), "exp_rk5")
        torch.testing.assert_close(got, whole[2:], rtol=0, atol=1e-9)
        assert ((flow.log_prob(moved, flow.times(8)) - got).abs() > 0.1).any()
