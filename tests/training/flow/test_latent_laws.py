"""Laws of latents: normal ones, learned ones, and the mixtures that these are made of."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.distributions import Independent, Normal

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
from tests.support.flows import exact_flow
from training.flow.latent.conditional import ConditionalMixture
from training.flow.latent.laws import GaussianLaw, LearnedLaw
from training.flow.latent.normal_mixtures import NormalMixture, log_ndtri

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
    jacobian = torch.autograd.functional.jacobian
    whole = jacobian(lambda x: mixture.whiten(kept, x).sum(dim=0), compressed)
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


ROWS, COMPONENTS = 500, 6


def mixtures(rows: int = ROWS, seed: int = 0) -> NormalMixture:
    """Of wide and of narrow components, some of them far apart."""
    logits, mean, log_std = normal(3, rows, COMPONENTS, generator=seeded(seed)).unbind()
    return NormalMixture(logits.log_softmax(dim=-1), 2 * mean, log_std - 1.5)


def test_quantiles_and_normal_scores_are_inverse_however_far_out() -> None:
    mixture, w = mixtures(), 3 * normal(ROWS, generator=seeded(1))
    w[:4] = torch.tensor([-30.0, 30.0, -60.0, 60.0])
    v = mixture.quantile(w)
    assert float((mixture.normal_score(v) - w).abs().max()) < 1e-10
    # Between two far modes a score is known better than its value: so only values that can be had.
    likely = mixture.log_density(v) > -20
    again = mixture.quantile(mixture.normal_score(v))
    assert float((again - v)[likely].abs().max()) < 1e-10


def test_scores_are_the_normal_quantiles_of_the_distribution_function() -> None:
    mixture, v = mixtures(), normal(ROWS, generator=seeded(2))
    z = (v[:, None] - mixture.mean) / mixture.log_std.exp()
    below = (mixture.log_weight.exp() * torch.special.ndtr(z)).sum(dim=1)
    middle = (below > 1e-3) & (below < 1 - 1e-3)
    expected = torch.special.ndtri(below)
    torch.testing.assert_close(mixture.normal_score(v)[middle], expected[middle])


def test_the_slope_of_scores_is_the_ratio_of_densities() -> None:
    mixture, v = mixtures(), normal(ROWS, generator=seeded(3)).requires_grad_()
    w = mixture.normal_score(v)
    (slope,) = torch.autograd.grad(w.sum(), v)
    ratio = mixture.log_density(v) - torch.distributions.Normal(0.0, 1.0).log_prob(w)
    torch.testing.assert_close(slope.log(), ratio.detach(), atol=1e-9, rtol=1e-9)


def test_gradients_reach_values_and_parameters() -> None:
    start = (*mixtures(3), normal(3, generator=seeded(4)))
    leaves = tuple(tensor.clone().requires_grad_() for tensor in start)

    def score(*parts: Tensor) -> Tensor:
        return NormalMixture(*parts[:3]).normal_score(parts[3])

    def quantile(*parts: Tensor) -> Tensor:
        return NormalMixture(parts[0].log_softmax(dim=-1), *parts[1:3]).quantile(parts[3])

    assert gradcheck(score, leaves)
    assert gradcheck(quantile, leaves)


def test_logarithms_of_probabilities_that_underflow_have_a_quantile() -> None:
    x = torch.tensor([-0.1, -3.0, -37.0, -60.0, -1e4], dtype=torch.float64)
    torch.testing.assert_close(log_ndtri(torch.special.log_ndtr(x)), x, rtol=1e-12, atol=1e-12)
