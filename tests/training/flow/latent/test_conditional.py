"""The learned law of compressed latents: a density, and a triangular map to a normal one."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from tests.support.draws import normal, seeded
from tests.support.flows import exact_flow
from training.flow.latent.conditional import ConditionalMixture
from training.flow.latent.laws import GaussianLaw, LearnedLaw

KEPT, COMPRESSED = 2, 3


def wild(chained: bool = True) -> ConditionalMixture:
    """One whose every parameter depends on all that it may."""
    generator = seeded(5)
    mixture = ConditionalMixture(KEPT, COMPRESSED, width=12, depth=1, chained=chained)
    for parameter in mixture.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    mixture.offset.copy_(normal(COMPRESSED, generator=generator))
    mixture.axes.copy_(torch.eye(COMPRESSED) + 0.2 * normal(3, 3, generator=generator))
    return mixture.requires_grad_(False)


def jacobians(mixture: ConditionalMixture, kept: Tensor, compressed: Tensor) -> Tensor:
    """``[N, C, C]`` of scores by what they are of."""
    whole = torch.autograd.functional.jacobian(
        lambda x: mixture.whiten(kept, x).sum(dim=0), compressed
    )
    return whole.permute(1, 0, 2)


@pytest.mark.parametrize("chained", [True, False])
def test_whitening_is_inverted_and_its_jacobian_is_the_density(chained: bool) -> None:
    mixture = wild(chained)
    kept, w = normal(40, KEPT), normal(40, COMPRESSED, generator=seeded(1))
    latents = mixture.unwhiten(kept, w)
    assert float((mixture.whiten(kept, latents) - w).abs().max()) < 1e-10
    standard = torch.distributions.Normal(0.0, 1.0).log_prob(w).sum(dim=1)
    log_det = torch.linalg.slogdet(jacobians(mixture, kept, latents)).logabsdet
    torch.testing.assert_close(mixture.log_prob(kept, latents), standard + log_det)


def test_a_chained_latent_depends_on_those_before_it_alone() -> None:
    mixture = wild()
    mixture.axes.copy_(torch.eye(COMPRESSED))
    slopes = jacobians(mixture, normal(40, KEPT), normal(40, COMPRESSED))
    assert torch.equal(slopes, slopes.tril())
    assert (slopes.abs().amax(dim=0).tril() > 1e-3).sum() == 6
    free = wild(chained=False)
    free.axes.copy_(torch.eye(COMPRESSED))
    slopes = jacobians(free, normal(40, KEPT), normal(40, COMPRESSED))
    assert torch.equal(slopes, torch.diag_embed(slopes.diagonal(dim1=1, dim2=2)))


def test_gradients_reach_kept_latents_and_scores() -> None:
    mixture = wild()
    leaves = (normal(2, KEPT).requires_grad_(), normal(2, COMPRESSED).requires_grad_())
    assert gradcheck(mixture.unwhiten, leaves)
    assert gradcheck(mixture.whiten, leaves)


def test_untrained_it_is_nearly_standard_normal() -> None:
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]
    found = ConditionalMixture(0, 1).requires_grad_(False).log_prob(x[:, :0], x)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x[:, 0])
    assert float((found - expected).abs().max()) < 0.02


def test_a_law_of_latents_has_draws_densities_and_its_own_digest() -> None:
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


def test_the_density_and_the_samples_of_a_flow_are_those_of_its_law() -> None:
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
