"""What draws are worth: convergence of chains, and weights, against ArviZ and what is known."""

import numpy as np
import pytest
import torch

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double, normal, seeded
from tests.support.running import refusal
from training.measure.posterior import convergence as module
from training.measure.posterior import importance
from training.measure.posterior.convergence import convergence
from training.measure.posterior.importance import effective_size, k_threshold, smoothed_weights

OF_ARVIZ = {
    "r_hat": ("rhat", {"method": "rank"}),
    "ess_bulk": ("ess", {"method": "bulk"}),
    "ess_tail": ("ess", {"method": "tail", "prob": (0.05, 0.95)}),
    "mcse_mean": ("mcse", {"method": "mean"}),
    "mcse_std": ("mcse", {"method": "sd"}),
}


def autoregressive(correlation, *shape):
    """Stationary chains ``[C, S, ...]`` of variance 1."""
    noise = normal(*shape)
    states = [noise[:, 0]]
    for index in range(1, shape[1]):
        new = (1 - correlation**2) ** 0.5 * noise[:, index]
        states.append(correlation * states[-1] + new)
    return torch.stack(states, dim=1)


def require_equal(found, draws, arviz):
    for name, (function, options) in OF_ARVIZ.items():
        measure = getattr(arviz, function)
        with np.errstate(all="ignore"):
            expected = [measure(each.numpy(), **options) for each in draws.unbind(dim=2)]
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("shape", [(4, 500), (2, 37), (3, 101), (2, 4), (4, 5), (2, 9), (5, 12)])
def test_measures_are_those_of_arviz(shape, arviz):
    correlations = (-0.8, -0.2, 0.0, 0.5, 0.9, 0.99)
    chains = torch.stack([autoregressive(value, *shape, 3) for value in correlations], dim=-1)
    chains = chains.flatten(2)
    apart = chains + torch.arange(shape[0])[:, None, None]
    wider = chains * (1 + torch.arange(shape[0]))[:, None, None]
    drawn = torch.cat([chains, apart, wider, chains.exp() * 1e3, (2 * chains).round()], dim=2)
    require_equal(convergence(drawn), drawn, arviz)


def test_what_cannot_be_measured_is_what_arviz_says(arviz):
    constant = torch.ones(4, 50, 1, dtype=torch.float64)
    stuck = constant * torch.arange(4.0)[:, None, None]
    binary = (normal(4, 50, 1) > 0).double()
    broken = normal(4, 50, 1)
    broken[1, 7] = torch.nan
    draws = torch.cat([constant, binary, broken], dim=2)
    require_equal(convergence(draws), draws, arviz)
    assert convergence(draws).r_hat.isnan().tolist() == [True, False, True]
    assert convergence(stuck).r_hat.tolist() == [torch.inf]


def test_an_infinite_draw_leaves_nothing_to_measure_but_other_variables():
    draws = normal(4, 50, 2)
    alone = convergence(draws[..., 1])
    draws[0, 3, 0] = -torch.inf
    got = convergence(draws)
    for name in OF_ARVIZ:
        assert getattr(got, name)[0].isnan()
        # To rounding: sums of many variables may be taken in another order.
        torch.testing.assert_close(getattr(got, name)[1], getattr(alone, name))


def test_tails_do_not_know_how_repeated_draws_were_rounded():
    draws = normal(2, 15, 30).repeat_interleave(4, dim=1)  # the sixth draw is amid four
    rounded = draws * (1 + 4e-16 * normal(*draws.shape, seed=1).sign())
    assert (rounded != draws).any()
    torch.testing.assert_close(convergence(rounded).ess_tail, convergence(draws).ess_tail)


def test_no_variables_or_three_draws_a_chain_have_no_measures():
    assert convergence(torch.zeros(2, 10, 3, 0)).ess_tail.shape == (3, 0)
    got = convergence(normal(4, 3, 2, 5))
    assert got.r_hat.shape == (2, 5)
    assert all(getattr(got, name).isnan().all() for name in OF_ARVIZ)


@pytest.mark.parametrize("shape", [(10,), (0, 10)])
def test_what_is_no_set_of_chains_is_refused(shape):
    assert "must be [chains, draws, ...]" in refusal(convergence, torch.zeros(shape))


def test_the_errors_of_autoregressive_chains_are_those_of_theory():
    """The mean of n draws has the variance ``(1 + a) / (1 - a) / n``."""
    got = convergence(autoregressive(0.6, 4, 2000, 50))
    assert float(got.ess_bulk.mean()) == pytest.approx(8000 * 0.4 / 1.6, rel=0.03)
    assert float(got.mcse_mean.mean()) == pytest.approx((4 / 8000) ** 0.5, rel=0.03)
    assert (got.r_hat < 1.02).all()


def test_variables_do_not_depend_on_their_blocks(monkeypatch):
    draws = autoregressive(0.5, 2, 40, 3, 2)
    together = convergence(draws)
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 160)
    apart = convergence(draws)
    assert apart.r_hat.shape == (3, 2)
    for name in OF_ARVIZ:
        torch.testing.assert_close(getattr(apart, name), getattr(together, name))


@pytest.mark.parametrize("count", [2, 20, 21, 60, 1000])
def test_weights_and_shapes_are_those_of_arviz(count, arviz, monkeypatch):
    if not hasattr(arviz, "psislw"):
        pytest.skip("ArviZ 1 fits shapes in another way, and not for its users")
    monkeypatch.setattr(importance, "BLOCK_NUMBERS", 3 * 95 * 60)
    scales = double([0.01, 0.5, 1, 2, 5, 50, 1000])[:, None]
    weights = torch.cat([scales * normal(7, count), -scales * normal(7, count).square()])
    weights[3, : count // 2] = -torch.inf
    got = smoothed_weights(weights + 700)
    with np.errstate(all="ignore"):
        expected, k = arviz.psislw(weights.numpy().copy())
    np.testing.assert_allclose(got.k, k, rtol=1e-8)
    # Far below the largest weight logarithms lose what sums of 700 do.
    np.testing.assert_allclose(got.log_weights, expected, rtol=1e-9, atol=1e-9)


def test_the_shape_is_that_of_the_tail():
    """Weights ``u^-k`` have a Pareto tail of shape k."""
    uniform = torch.rand(20, 20_000, generator=seeded(), dtype=torch.float64)
    for k in (0.3, 0.7, 1.2):
        got = smoothed_weights(-k * uniform.log()).k
        assert float(got.mean()) == pytest.approx(k, abs=0.04)


def test_smoothing_makes_weighted_means_less_noisy():
    """A proposal 0.5 wide of a standard normal: k is 0.75 there, and smoothing pays."""
    x = 0.5 * normal(300, 500)
    log_weights = 1.5 * x.square()
    smoothed = smoothed_weights(log_weights)
    both = (log_weights.softmax(dim=1), smoothed.log_weights.exp())
    errors = [((weights * x).sum(dim=1)).square().mean().sqrt() for weights in both]
    assert errors[1] < 0.95 * errors[0]
    torch.testing.assert_close(smoothed.log_weights.logsumexp(1).exp(), torch.ones(300).double())


def test_weights_without_a_tail_say_so():
    equal = torch.zeros(1, 100, dtype=torch.float64)
    few, none, one = (torch.full((1, 100), -torch.inf, dtype=torch.float64) for _ in range(3))
    # Many that are hardly above the smallest numbers there are, and one beside which they vanish.
    steep = torch.cat([torch.linspace(-708.3, -707.9, 99).double(), double([0.0])])[None]
    few[0, :3] = double([1.0, 2.0, 3.0])
    one[0, 5] = -1e5
    got = smoothed_weights(torch.cat([equal, few, none, one, steep]))
    assert got.k.tolist() == [-torch.inf, *[torch.inf] * 4]
    assert got.effective_size.tolist() == pytest.approx([100, 1.959, 0, 1, 1], abs=1e-3)
    assert (got.log_weights[2] == -torch.inf).all()


def test_the_effective_size_of_known_weights_and_the_threshold_of_few_draws():
    weights = double([[1, 1, 1, 1], [1, 0, 0, 0], [3, 1, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(effective_size(weights.log() + 5000), double([4, 1, 1.6, 0]))
    assert k_threshold(100) == 0.5
    assert k_threshold(2200) == 0.7 == k_threshold(10**6)
    assert "at least two" in refusal(k_threshold, 1, kind=UsageError)


@pytest.mark.parametrize(
    ("weights", "error"),
    [(torch.zeros(5), "must be"), (double([[torch.nan]]), "NaN"), (double([[torch.inf]]), "NaN")],
)
def test_what_is_no_weight_is_refused(weights, error):
    with pytest.raises(DataError, match=error):
        smoothed_weights(weights)
