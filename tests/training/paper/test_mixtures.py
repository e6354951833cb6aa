"""Mixtures and populations, against quadrature, and where a posterior may be."""

from dataclasses import replace
from math import log, pi

import numpy as np
import pytest
import torch
from scipy.stats import dirichlet as dirichlet_law
from scipy.stats import kstest
from torch.distributions import Normal

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
from tests.support.posteriors import conditional_prior
from tests.support.running import refusal
from torch_utils.seeds import seeded_generator
from training.inference.amortized import Amortized
from training.inference.exact import ExactPosterior
from training.inference.likelihoods import Gaussian
from training.inference.population import PopulationPlan, sample_population
from training.inference.region import Bounds, Region, restricted
from training.inference.samplers.populations import even_normal
from training.paper import mixtures
from training.paper.mixtures import Components, Evidence

WEIGHTS = double([0.5, 0.3, 0.2])
MEANS = double([[-1.0, 0.3], [0.8, 1.0], [0.2, -1.2]])
COVARIANCE = double([[0.3, 0.1], [0.1, 0.2]])
OBSERVED = {
    "point": (Gaussian(double(0.4)), [[0.2, 0.1], [-0.9, 0.5]]),
    "widths": (Gaussian(double([0.3, 0.6])), [[0.2, 0.1], [2.0, -1.5]]),
    "coordinate": (Gaussian(double(0.4), torch.tensor([1])), [[0.1], [1.4]]),
    "linear": (Gaussian(double(0.5), operator=double([[1.0, 2.0]])), [[0.3], [-2.0]]),
    "covariance": (Gaussian(double([[0.2, 0.1], [0.1, 0.3]])), [[0.2, 0.1], [1.0, 1.0]]),
}
CHAINS, DRAWS, WARMUP, SEED = 4, 1000, 200, 3
STD = double([0.6, 1.0])
HALF = 6.0


@pytest.mark.parametrize("kind", OBSERVED)
def test_moments_are_those_of_quadrature(kind):
    likelihood, rows = OBSERVED[kind]
    line = torch.linspace(-6, 6, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    distribution = torch.distributions.MultivariateNormal(MEANS[:, None], COVARIANCE)
    prior = (WEIGHTS.log()[:, None] + distribution.log_prob(grid)).logsumexp(dim=0)
    got = ExactPosterior.from_components(WEIGHTS, MEANS, COVARIANCE, likelihood, double(rows))
    for index, seen in enumerate(double(rows)):
        log_density = prior + likelihood.log_prob(grid, seen.expand(len(grid), -1))
        density = log_density.softmax(dim=0)
        mean = density @ grid
        std = (density @ (grid - mean).square()).sqrt()
        torch.testing.assert_close(got.mean[index], mean, rtol=0, atol=1e-9)
        torch.testing.assert_close(got.std[index], std, rtol=1e-9, atol=0)
        # Not the moments alone.
        marginals = Normal(got.centers[index], got.covariance.diagonal().sqrt())
        point = double([0.4, -0.2])
        below = got.below(point.expand(len(rows), -1))[index]
        torch.testing.assert_close(below, got.weights[index] @ marginals.cdf(point))
        parts = torch.distributions.MultivariateNormal(got.centers[index], got.covariance)
        shares = torch.distributions.Categorical(got.weights[index])
        mixture = torch.distributions.MixtureSameFamily(shares, parts)
        near = density > 1e-6 * density.max()
        ratio = mixture.log_prob(grid[near]) - density[near].log()
        assert float(ratio.max() - ratio.min()) < 1e-8


def test_a_component_without_width_stays_where_it_is():
    flat = torch.diag(double([0.3, 0.0]))
    got = ExactPosterior.from_components(
        WEIGHTS, MEANS, flat, Gaussian(double(0.4)), double([[0.2, 0.1]])
    )
    np.testing.assert_array_equal(got.centers[0, :, 1], MEANS[:, 1])
    assert float(got.covariance[1, 1]) == 0


def log_evidence(*shape, spread=2.0):
    return spread * torch.randn(shape, generator=seeded_generator("cpu", 5), dtype=torch.float64)


def weights_of(evidence, concentration=1.0):
    return mixtures.sample_weights(evidence, concentration, CHAINS, DRAWS, WARMUP, SEED)


def test_the_evidence_of_a_flow_that_does_nothing_is_that_of_normal_laws():
    components = Components.spread(3, 2)
    pool = even_normal(2**14, 2, 0)
    places = torch.arange(components.count)[:, None].expand(-1, len(pool))
    points = torch.stack([components.carried(pool, place) for place in places])
    observed = torch.tensor([[1.4, 0.2], [-0.3, 0.4], [0.0, -2.0]], dtype=torch.float64)
    noise = 0.3
    got = Evidence.from_points(points, Gaussian(torch.tensor(noise)), observed)
    variance = components.std.square() + noise**2
    square = (observed[:, None] - components.mean).square().sum(dim=2)
    exact = -square / (2 * variance) - (2 * torch.pi * variance).log()
    # Points that a component hardly reaches are known less well, and matter less.
    near = exact > exact.amax(dim=1, keepdim=True) - 5
    assert (got.log - exact)[near].abs().max() < 0.02
    together = got.halves.logsumexp(dim=0) - log(2)
    torch.testing.assert_close(together, got.log, rtol=0, atol=1e-12)


def test_components_and_observations_that_have_no_density_are_refused():
    points = torch.zeros(2, 4, 1, dtype=torch.float64)
    observed = torch.tensor([[0.0], [1e200]], dtype=torch.float64)
    assert "observation 2" in refusal(
        Evidence.from_points, points, Gaussian(torch.tensor(0.1)), observed
    )
    mean, std = torch.zeros(2, 2).double(), torch.tensor([1.0, 0.0])
    assert "positive" in refusal(Components, mean, std, kind=UsageError)
    assert "two or more" in refusal(Components, mean[:1], std[:1], kind=UsageError)
    assert "2 components have 3 st" in refusal(Components, mean, torch.ones(3), kind=UsageError)


@pytest.mark.parametrize("components", [2, 3])
@pytest.mark.parametrize("concentration", [0.4, 1.0, 3.0])
def test_weights_are_those_of_quadrature(components, concentration):
    evidence = log_evidence(3, 150, components)
    got = weights_of(evidence, concentration)
    for of_run, draws in zip(evidence, got.flatten(1, 2), strict=True):
        exact = mixtures.quadrature(of_run, concentration)
        assert (draws.mean(dim=0) - exact.mean).abs().max() < 0.01
        torch.testing.assert_close(draws.std(dim=0), exact.std, rtol=0.08, atol=0)


def test_components_that_do_not_overlap_leave_a_dirichlet_law():
    counts = torch.tensor([5, 0, 12, 3])
    labels = torch.arange(4).repeat_interleave(counts)
    evidence = -1e4 * (1 - torch.nn.functional.one_hot(labels, 4).double())
    alpha = 0.7
    distribution = dirichlet_law(counts.numpy() + alpha)
    exact = mixtures.moments(evidence, alpha, torch.empty(0, 4), SEED)
    assert exact.method == "quadrature"
    np.testing.assert_allclose(exact.mean, distribution.mean(), rtol=1e-9)
    np.testing.assert_allclose(exact.std, np.sqrt(distribution.var()), rtol=1e-9)
    draws = weights_of(evidence[None], alpha)[0].flatten(0, 1).numpy()
    for k in range(4):
        a = float(counts[k]) + alpha
        assert kstest(draws[:, k], "beta", (a, float(counts.sum()) + 4 * alpha - a)).pvalue > 1e-3


def test_importance_weights_check_many_components_and_agree_with_quadrature():
    evidence = log_evidence(100, 6)
    assert not mixtures.can_integrate(100, 6)
    draws = weights_of(evidence[None])[0].flatten(0, 1)
    got = mixtures.moments(evidence, 1.0, draws, SEED)
    assert got.method == "importance"
    assert (draws.mean(dim=0) - got.mean).abs().max() < 0.01
    torch.testing.assert_close(draws.std(dim=0), got.std, rtol=0.08, atol=0)
    evidence = log_evidence(40, 3)
    exact = mixtures.quadrature(evidence, 1.0)
    got = mixtures.importance(evidence, 1.0, weights_of(evidence[None])[0].flatten(0, 1), SEED)
    assert 0 < got.error < 2e-3
    assert (got.mean - exact.mean).abs().max() < 4 * got.error
    torch.testing.assert_close(got.std, exact.std, rtol=0.02, atol=0)


def test_a_data_set_has_its_draws_whatever_is_beside_it_and_its_chains_start_apart():
    evidence = log_evidence(3, 20, 3)
    together = mixtures.sample_weights(evidence, 1.0, 2, 30, 10, SEED)
    alone = mixtures.sample_weights(evidence[2:], 1.0, 2, 30, 10, SEED, [2])
    assert torch.equal(alone[0], together[2])
    evidence = log_evidence(1, 100, 2)
    assert len(mixtures.sample_weights(evidence, 1.0, 50, 1, 0, SEED)[0, :, 0, 0].unique()) == 50
    exact = mixtures.quadrature(evidence[0], 1.0)
    assert (weights_of(evidence)[0].mean(dim=1) - exact.mean).abs().max() < 0.02


def test_weights_of_gamma_variables_that_are_too_small_for_numbers_are_weights():
    assert mixtures.dirichlet(double([1e-4, 1e-4]), double([0.5, 0.5])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("count", "dim"), [(2, 1), (3, 2), (7, 5)])
def test_default_components_are_evenly_apart(count, dim):
    components = Components.spread(count, dim)
    distance = torch.cdist(components.mean, components.mean)
    nearest = (distance + 10 * torch.eye(count)).amin(dim=1)
    torch.testing.assert_close(nearest, nearest[:1].expand(count))
    assert (3 * components.std <= nearest + 1e-12).all()
    assert components.mean[:, 2:].abs().sum() == 0


SEEN = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]).double()
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]).double()
"""Effects of coaching in eight schools, and their standard errors (Rubin 1981)."""

CENTER, SCALE = double([5.0]), double([12.0])
PLAN = PopulationPlan(chains=16, draws=125, warmup=200, thin=4)
UNIT = double([0.0]), double([1.0])
EVEN = torch.special.ndtri((torch.arange(500).double() + 0.5) / 500)
"""Draws of a normal law without chance."""
MEMBERS = (SEEN[:, None] + ERRORS[:, None] * EVEN)[..., None]
"""Draws of members alone, whose prior is flat."""


def reference():
    """Means and standard deviations ``[2]`` of mu and tau under flat priors, and means ``[M]`` of
    the members, on a grid."""
    axes = torch.linspace(-60, 80, 281).double(), torch.linspace(0.1, 120, 600).double()
    mu, tau = torch.meshgrid(*axes, indexing="ij")
    total = (ERRORS.square() + tau[..., None].square()).sqrt()
    density = Normal(mu[..., None], total).log_prob(SEEN).sum(dim=-1)
    density += -(((mu - CENTER) / SCALE).square() + (tau / SCALE).square()) / 2
    weights = (density - density.max()).exp()
    weights /= weights.sum()
    values = torch.stack([mu, tau])
    mean = (weights * values).sum(dim=(1, 2))
    std = (weights * (values - mean[:, None, None]).square()).sum(dim=(1, 2)).sqrt()
    share = tau[..., None].square() / total.square()
    means = mu[..., None] + share * (SEEN - mu[..., None])
    return mean, std, (weights[..., None] * means).sum(dim=(0, 1))


@pytest.mark.parametrize("least_worth", [0.1, 2.0], ids=["weights", "chains"])
def test_population_and_members_are_those_of_quadrature_whatever_the_prior_of_each_posterior(
    least_worth, monkeypatch
):
    monkeypatch.setattr("training.inference.population.LEAST_WORTH", least_worth)
    flat = torch.zeros(MEMBERS.shape[:2]).double()
    population = sample_population(MEMBERS, flat, CENTER, SCALE, PLAN)
    assert population.r_hat.max() < 1.03
    mean, std, members = reference()
    sampled = torch.cat([population.mean, population.spread], dim=2).flatten(0, 1)
    assert ((sampled.mean(dim=0) - mean).abs() / std).tolist() == pytest.approx([0, 0], abs=0.1)
    assert (sampled.std(dim=0) / std).tolist() == pytest.approx([1, 1], abs=0.1)
    few = (MEMBERS[:3], torch.zeros(3, 500).double(), CENTER, SCALE, PLAN)
    assert "there are 3 posteriors" in refusal(sample_population, *few)
    own = MEMBERS[torch.arange(8), population.members.flatten(0, 1), 0].mean(dim=0)
    assert ((own - members).abs() / ERRORS).max() < 0.1
    # Under a prior N(0, 20^2), draws are of the product with it.
    wide, distribution = 20.0, Normal(torch.tensor(0.0).double(), 20.0)
    precision = ERRORS**-2 + wide**-2
    centers = (SEEN * ERRORS**-2 / precision)[:, None]
    shrunken = (centers + precision[:, None] ** -0.5 * EVEN)[..., None]
    other = sample_population(
        shrunken, distribution.log_prob(shrunken[..., 0]), CENTER, SCALE, PLAN
    )
    for name in ("mean", "spread"):
        one, two = (getattr(each, name).flatten() for each in (population, other))
        assert abs(float(one.mean() - two.mean())) < 0.15 * float(one.std())


def test_draws_under_the_prior_of_a_new_member_leave_a_smaller_error():
    """Draws are where the population puts its members, so that their weights are more even."""
    flat, wide = Normal(double(0.0), 200.0), MEMBERS[:, ::5]
    first = sample_population(wide, flat.log_prob(wide[..., 0]), CENTER, SCALE, PLAN)
    [mean], [std] = (each.tolist() for each in first.distribution)
    precision = ERRORS**-2 + std**-2
    centers = (SEEN * ERRORS**-2 + mean * std**-2) / precision
    near = centers[:, None] + precision[:, None] ** -0.5 * EVEN[::5]
    prior = Normal(double(mean), std).log_prob(near)
    second = sample_population(near[..., None], prior, CENTER, SCALE, PLAN)
    assert (second.worth > first.worth).all()
    assert second.noise < first.noise


def test_the_error_of_few_draws_is_told_and_does_not_grow_with_the_members():
    plan = PopulationPlan(chains=8, draws=40, warmup=60, thin=2)
    errors = {}
    for members in (15, 60):
        off, noise = [], []
        truths = normal(members, seed=1) + normal(members, seed=2)
        for seed in range(5):
            chance = truths[:, None] + normal(members, 100, seed=3 + seed)
            even = truths[:, None] + EVEN[::5]
            several = [
                sample_population(each[..., None], torch.zeros(each.shape), *UNIT, plan)
                for each in (chance, even)
            ]
            own, other = (each.parameters.flatten(0, 1) for each in several)
            off.append((own.mean(dim=0) - other.mean(dim=0)) / other.std(dim=0))
            noise.append(several[0].noise)
        errors[members] = torch.stack(off).square().mean(dim=0).sqrt().max(), np.mean(noise)
    for seen, told in errors.values():
        assert 0.5 < seen / told < 2
    assert errors[60][1] < 1.5 * errors[15][1]


def radius(points, y):
    """Squared, in standard deviations."""
    return ((points - double([0.64 * y, 0.0])) / STD).square().sum(dim=1)


def test_a_region_is_where_density_is_and_its_share_is_told():
    generator = seeded()

    def prior(count):
        return HALF * (2 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 1)

    few = {"rows": 1024, "draws": 2000, "seed": 0}
    of = {y: Amortized(conditional_prior(), double([[y]]), **few) for y in (0.5, 2.0)}
    parts = [(Bounds.from_posterior(posterior), posterior) for posterior in of.values()]
    squares = [-2 * (bounds.least + log(2 * pi * 0.6)) for bounds, _ in parts]
    assert 12 < min(squares) <= max(squares) < 25  # 1e-4 is at 18.4, here of 2,000 draws
    one = restricted(prior, Region(parts[:1]), 200)
    assert one.points.shape == (200, 2)
    ellipse = pi * squares[0] * 0.6 / (2 * HALF) ** 2
    assert one.share == pytest.approx(ellipse, abs=4 * one.error + 0.02 * ellipse)
    low, high = Region(parts[:1]).within(double([-HALF, -HALF]), double([HALF, 1.0]))
    assert (low > -HALF).all()
    assert high[1] == 1.0
    assert ((one.points > low)[:, 0] & (one.points < high)[:, 0]).all()
    points = prior(4000)
    inside = [radius(points, y) <= square for y, square in zip(of, squares, strict=True)]
    got, ellipses = Region(parts)(points), inside[0] & inside[1]
    assert (ellipses | ~got).all()
    assert (ellipses & ~got).sum() <= 0.06 * ellipses.sum()  # the box has no room for tips
    more = restricted(prior, Region(parts[:1]), 200, lambda share: 250 if share > 0.1 else 0)
    assert len(more.points) == 250
    drawn = replace(of[0.5], region=Region(parts[1:])).sample(torch.zeros(1, dtype=torch.int64))
    assert (radius(drawn.points.flatten(0, 2), 2.0) <= squares[1] + 1e-9).all()


def test_what_no_prior_reaches_is_given_up(monkeypatch):
    monkeypatch.setattr("training.inference.region.MOST_DRAWS", 1000)
    posterior = Amortized(conditional_prior(), double([[0.5]]), 1024, 200, 0)
    region = Region([(Bounds.from_posterior(posterior), posterior)])
    assert restricted(lambda count: torch.full((count, 2), 9.0).double(), region, 5) is None
