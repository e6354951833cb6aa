"""The law of latents: what it draws, its density, and the three ways to make one."""

import pytest
import torch
from torch.distributions import Independent, Normal

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
from tests.support.flows import exact_flow
from training.flow.latent.laws import GaussianLaw

VARIANCE = double([4.0, 1.0, 1e-4])


def test_draws_and_densities_are_those_of_independent_normals() -> None:
    law = GaussianLaw(VARIANCE)
    draws = [law.sample(50_000, seeded(1)) for _ in range(2)]
    assert torch.equal(*draws)
    ratio = draws[0].square().mean(0) / VARIANCE
    assert ((ratio - 1).abs() < 4 * (2 / 50_000) ** 0.5).all()
    assert (draws[0].mean(0).abs() < 4 * law.std / 50_000**0.5).all()
    latents = law.sample(12, seeded()).view(3, 4, 3)
    expected = Independent(Normal(torch.zeros(3).double(), law.std), 1).log_prob(latents)
    torch.testing.assert_close(law.log_prob(latents), expected)


def test_a_law_is_that_of_the_schedule_or_has_the_second_moments_of_a_melt() -> None:
    _, flow = exact_flow("s_curve", 2)
    t = double(6.0)
    variance = flow.basis.eigenvalues + flow.schedule.noise_variance(t)
    assert torch.equal(flow.latent_law(t).variance, flow.schedule.scale(t) ** 2 * variance)
    melted = 1 + normal(500, 2)
    expected = melted.var(0, correction=0) + melted.mean(0) ** 2
    torch.testing.assert_close(GaussianLaw.empirical(melted).variance, expected)


def test_a_number_sets_the_compressed_dimensions_alone() -> None:
    law = GaussianLaw(VARIANCE)
    assert law.with_compressed(0.5, 1).variance.tolist() == [4.0, 0.5, 0.5]
    assert torch.equal(law.with_compressed(0.5, 3).variance, VARIANCE)
    assert GaussianLaw.paper(3, 2, 0.5, end_std=2.0).variance.tolist() == [4.0, 4.0, 0.5]
    assert law.variance is VARIANCE
    with pytest.raises(UsageError, match="eps is nan: it must be a positive"):
        law.with_compressed(float("nan"), 1)
