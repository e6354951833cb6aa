"""Normal scores and quantiles of mixtures, against each other and in far tails."""

import torch
from torch import Tensor
from torch.autograd import gradcheck

from tests.support.draws import normal, seeded
from training.flow.latent.normal_mixtures import NormalMixture, log_ndtri

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
