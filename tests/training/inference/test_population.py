"""Populations against quadrature, and where a posterior may be."""

from dataclasses import replace
from math import log, pi

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from dnnlib.errors import DataError
from tests.support.draws import double, seeded
from tests.support.posteriors import conditional_prior
from training.inference.amortized import Amortized
from training.inference.population import PopulationPlan, sample_population
from training.inference.region import Bounds, Region, restricted

SEEN = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]).double()
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]).double()
"""Effects of coaching in eight schools, and their standard errors (Rubin 1981)."""

CENTER, SCALE = double([5.0]), double([12.0])
PLAN = PopulationPlan(draws=500, warmup=200, thin=4)
EVEN = torch.special.ndtri((torch.arange(500).double() + 0.5) / 500)
"""Draws of a normal law without chance."""


def reference() -> tuple[Tensor, Tensor, Tensor]:
    """Means and standard deviations ``[2]`` of mu and tau under flat priors, and means ``[M]`` of
    the members, on a grid."""
    axes = torch.linspace(-60, 80, 561).double(), torch.linspace(0.05, 120, 2400).double()
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
    members = (weights[..., None] * means).sum(dim=(0, 1))
    return mean, std, members


@pytest.fixture(scope="module")
def draws() -> Tensor:
    """Of members alone, whose prior is flat."""
    return (SEEN[:, None] + ERRORS[:, None] * EVEN)[..., None]


def test_population_and_members_are_those_of_quadrature(draws: Tensor) -> None:
    even = torch.zeros(draws.shape[:2]).double()
    population = sample_population(draws, even, CENTER, SCALE, PLAN)
    assert population.r_hat.max() < 1.03
    mean, std, members = reference()
    sampled = torch.cat([population.mean, population.spread], dim=2).flatten(0, 1)
    assert ((sampled.mean(dim=0) - mean).abs() / std).tolist() == pytest.approx([0, 0], abs=0.1)
    assert (sampled.std(dim=0) / std).tolist() == pytest.approx([1, 1], abs=0.1)
    own = draws[torch.arange(8), population.members.flatten(0, 1), 0].mean(dim=0)
    assert ((own - members).abs() / ERRORS).max() < 0.1


def test_the_prior_of_each_posterior_is_taken_off(draws: Tensor) -> None:
    # Under a prior N(0, 20^2), draws are of the product with it.
    wide, law = 20.0, Normal(torch.tensor(0.0).double(), 20.0)
    precision = ERRORS**-2 + wide**-2
    centers = (SEEN * ERRORS**-2 / precision)[:, None]
    shrunken = (centers + precision[:, None] ** -0.5 * EVEN)[..., None]
    flat = sample_population(draws, torch.zeros(draws.shape[:2]).double(), CENTER, SCALE, PLAN)
    other = sample_population(shrunken, law.log_prob(shrunken[..., 0]), CENTER, SCALE, PLAN)
    for name in ("mean", "spread"):
        one, two = (getattr(each, name).flatten() for each in (flat, other))
        assert abs(float(one.mean() - two.mean())) < 0.15 * float(one.std())


def test_few_members_are_no_population(draws: Tensor) -> None:
    with pytest.raises(DataError, match="there are 3 posteriors"):
        sample_population(draws[:3], torch.zeros(3, 500).double(), CENTER, SCALE, PLAN)


STD = double([0.6, 1.0])
HALF = 6.0


def radius(points: Tensor, y: float) -> Tensor:
    """Squared, in standard deviations."""
    return ((points - double([0.64 * y, 0.0])) / STD).square().sum(dim=1)


def test_a_region_is_where_density_is_and_its_share_is_told() -> None:
    generator = seeded()

    def prior(count: int) -> Tensor:
        return HALF * (2 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 1)

    of = {
        y: Amortized(conditional_prior(), double([[y]]), rows=1024, chains=1, draws=2000, seed=0)
        for y in (0.5, 2.0)
    }
    parts = [(Bounds.of(posterior), posterior) for posterior in of.values()]
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
    found, ellipses = Region(parts)(points), inside[0] & inside[1]
    assert (ellipses | ~found).all()
    assert (ellipses & ~found).sum() <= 0.06 * ellipses.sum()  # the box has no room for tips
    more = restricted(prior, Region(parts[:1]), 200, lambda share: 250 if share > 0.1 else 0)
    assert len(more.points) == 250
    drawn = replace(of[0.5], region=Region(parts[1:])).sample(torch.zeros(1, dtype=torch.int64))
    assert (radius(drawn.points.flatten(0, 2), 2.0) <= squares[1] + 1e-9).all()


def test_what_no_prior_reaches_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.inference.region.MOST_DRAWS", 1000)
    posterior = Amortized(conditional_prior(), double([[0.5]]), 1024, 1, 200, 0)
    region = Region([(Bounds.of(posterior), posterior)])
    assert restricted(lambda count: torch.full((count, 2), 9.0).double(), region, 5) is None
