"""Populations against quadrature: normal members whose own errors are known."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from dnnlib.errors import DataError
from tests.support.draws import double
from training.inference.population import PopulationPlan, sample_population

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
    mu, tau = torch.meshgrid(
        torch.linspace(-60, 80, 561).double(),
        torch.linspace(0.05, 120, 2400).double(),
        indexing="ij",
    )
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
