"""Smoothed weights: ArviZ's, the shape of a known tail, and weights that have no tail."""

from types import ModuleType

import numpy as np
import pytest
import torch

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double, normal, seeded
from training.measure.posterior import importance
from training.measure.posterior.importance import effective_size, k_threshold, smoothed_weights


@pytest.mark.parametrize("count", [2, 20, 21, 60, 1000])
@pytest.mark.parametrize("efficiency", [1.0, 0.3])
def test_weights_and_shapes_are_those_of_arviz(
    count: int, efficiency: float, arviz: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(arviz, "psislw"):
        pytest.skip("ArviZ 1 fits shapes in another way, and not for its users")
    monkeypatch.setattr(importance, "BLOCK_NUMBERS", 3 * 95 * 60)
    scales = double([0.01, 0.5, 1, 2, 5, 50, 1000])[:, None]
    weights = torch.cat([scales * normal(7, count), -scales * normal(7, count).square()])
    weights[3, : count // 2] = -torch.inf
    found = smoothed_weights(weights + 700, efficiency)
    with np.errstate(all="ignore"):
        expected, k = arviz.psislw(weights.numpy().copy(), efficiency)
    np.testing.assert_allclose(found.k, k, rtol=1e-8)
    # Far below the largest weight logarithms lose what sums of 700 do.
    np.testing.assert_allclose(found.log_weights, expected, rtol=1e-9, atol=1e-9)


def test_the_shape_is_that_of_the_tail() -> None:
    """Weights ``u^-k`` have a Pareto tail of shape k."""
    uniform = torch.rand(20, 20_000, generator=seeded(), dtype=torch.float64)
    for k in (0.3, 0.7, 1.2):
        found = smoothed_weights(-k * uniform.log()).k
        assert float(found.mean()) == pytest.approx(k, abs=0.04)


def test_smoothing_makes_weighted_means_less_noisy() -> None:
    """A proposal 0.5 wide of a standard normal: k is 0.75 there, and smoothing pays."""
    x = 0.5 * normal(300, 500)
    log_weights = 1.5 * x.square()
    smoothed = smoothed_weights(log_weights)
    raw = log_weights.softmax(dim=1)
    errors = [
        ((weights * x).sum(dim=1)).square().mean().sqrt()
        for weights in (raw, smoothed.log_weights.exp())
    ]
    assert errors[1] < 0.95 * errors[0]
    torch.testing.assert_close(smoothed.log_weights.logsumexp(1).exp(), torch.ones(300).double())


def test_weights_without_a_tail_say_so() -> None:
    equal = torch.zeros(1, 100, dtype=torch.float64)
    few, none, one = (torch.full((1, 100), -torch.inf, dtype=torch.float64) for _ in range(3))
    # Many that are hardly above the smallest numbers there are, and one beside which they vanish.
    steep = torch.cat([torch.linspace(-708.3, -707.9, 99).double(), double([0.0])])[None]
    few[0, :3] = double([1.0, 2.0, 3.0])
    one[0, 5] = -1e5
    found = smoothed_weights(torch.cat([equal, few, none, one, steep]))
    assert found.k.tolist() == [-torch.inf, *[torch.inf] * 4]
    assert found.effective_size.tolist() == pytest.approx([100, 1.959, 0, 1, 1], abs=1e-3)
    assert (found.log_weights[2] == -torch.inf).all()


def test_the_effective_size_of_known_weights() -> None:
    weights = double([[1, 1, 1, 1], [1, 0, 0, 0], [3, 1, 0, 0], [0, 0, 0, 0]])
    found = effective_size(weights.log() + 5000)
    torch.testing.assert_close(found, double([4, 1, 1.6, 0]))


def test_the_threshold_falls_for_few_draws() -> None:
    assert k_threshold(100) == 0.5
    assert k_threshold(2200) == 0.7 == k_threshold(10**6)
    with pytest.raises(UsageError, match="at least two"):
        k_threshold(1)


@pytest.mark.parametrize(
    ("weights", "error"),
    [(torch.zeros(5), "must be"), (double([[torch.nan]]), "NaN"), (double([[torch.inf]]), "NaN")],
)
def test_what_is_no_weight_is_refused(weights: torch.Tensor, error: str) -> None:
    with pytest.raises(DataError, match=error):
        smoothed_weights(weights)
