"""Measures of convergence: ArviZ's, and what is known of chains of a known autocorrelation."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dnnlib.errors import DataError
from tests.support.draws import normal
from training.measure.posterior import convergence as module
from training.measure.posterior.convergence import Convergence, convergence

OF_ARVIZ: dict[str, tuple[str, dict[str, Any]]] = {
    "r_hat": ("rhat", {"method": "rank"}),
    "ess_bulk": ("ess", {"method": "bulk"}),
    "ess_tail": ("ess", {"method": "tail", "prob": (0.05, 0.95)}),
    "mcse_mean": ("mcse", {"method": "mean"}),
    "mcse_std": ("mcse", {"method": "sd"}),
}


def autoregressive(correlation: float, *shape: int) -> Tensor:
    """Stationary chains ``[C, S, ...]`` of variance 1."""
    noise = normal(*shape)
    states = [noise[:, 0]]
    for index in range(1, shape[1]):
        new = (1 - correlation**2) ** 0.5 * noise[:, index]
        states.append(correlation * states[-1] + new)
    return torch.stack(states, dim=1)


def require_equal(found: Convergence, draws: Tensor, arviz: ModuleType) -> None:
    """Compares all measures of draws ``[C, S, V]`` with those of ArviZ."""
    for name, (function, options) in OF_ARVIZ.items():
        measure = getattr(arviz, function)
        with np.errstate(all="ignore"):
            expected = [measure(each.numpy(), **options) for each in draws.unbind(dim=2)]
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("shape", [(4, 500), (2, 37), (3, 101), (2, 4), (4, 5), (2, 9), (5, 12)])
def test_measures_are_those_of_arviz(shape: tuple[int, int], arviz: ModuleType) -> None:
    correlations = (-0.8, -0.2, 0.0, 0.5, 0.9, 0.99)
    chains = torch.stack([autoregressive(value, *shape, 3) for value in correlations], dim=-1)
    chains = chains.flatten(2)
    apart = chains + torch.arange(shape[0])[:, None, None]
    wider = chains * (1 + torch.arange(shape[0]))[:, None, None]
    drawn = torch.cat([chains, apart, wider, chains.exp() * 1e3, (2 * chains).round()], dim=2)
    require_equal(convergence(drawn), drawn, arviz)


def test_what_cannot_be_measured_is_what_arviz_says(arviz: ModuleType) -> None:
    constant = torch.ones(4, 50, 1, dtype=torch.float64)
    stuck = constant * torch.arange(4.0)[:, None, None]
    binary = (normal(4, 50, 1) > 0).double()
    broken = normal(4, 50, 1)
    broken[1, 7] = torch.nan
    draws = torch.cat([constant, binary, broken], dim=2)
    require_equal(convergence(draws), draws, arviz)
    assert convergence(draws).r_hat.isnan().tolist() == [True, False, True]
    assert convergence(stuck).r_hat.tolist() == [torch.inf]


def test_an_infinite_draw_leaves_nothing_to_measure_but_other_variables() -> None:
    draws = normal(4, 50, 2)
    alone = convergence(draws[..., 1])
    draws[0, 3, 0] = -torch.inf
    found = convergence(draws)
    for name in OF_ARVIZ:
        assert getattr(found, name)[0].isnan()
        # To rounding: sums of many variables may be taken in another order.
        torch.testing.assert_close(getattr(found, name)[1], getattr(alone, name))


def test_tails_do_not_know_how_repeated_draws_were_rounded() -> None:
    draws = normal(2, 15, 30).repeat_interleave(4, dim=1)  # the sixth draw is amid four
    rounded = draws * (1 + 4e-16 * normal(*draws.shape, seed=1).sign())
    assert (rounded != draws).any()
    torch.testing.assert_close(convergence(rounded).ess_tail, convergence(draws).ess_tail)


def test_no_variables_have_no_measures() -> None:
    assert convergence(torch.zeros(2, 10, 3, 0)).ess_tail.shape == (3, 0)


def test_three_draws_a_chain_are_too_few() -> None:
    found = convergence(normal(4, 3, 2, 5))
    assert found.r_hat.shape == (2, 5)
    assert all(getattr(found, name).isnan().all() for name in OF_ARVIZ)


@pytest.mark.parametrize("shape", [(10,), (0, 10)])
def test_what_is_no_set_of_chains_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"must be \[chains, draws, \.\.\.\]"):
        convergence(torch.zeros(shape))


def test_the_errors_of_autoregressive_chains_are_those_of_theory() -> None:
    """The mean of n draws has the variance ``(1 + a) / (1 - a) / n``."""
    found = convergence(autoregressive(0.6, 4, 2000, 50))
    assert float(found.ess_bulk.mean()) == pytest.approx(8000 * 0.4 / 1.6, rel=0.03)
    assert float(found.mcse_mean.mean()) == pytest.approx((4 / 8000) ** 0.5, rel=0.03)
    assert (found.r_hat < 1.02).all()


def test_variables_do_not_depend_on_the_blocks_they_come_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draws = autoregressive(0.5, 2, 40, 3, 2)
    together = convergence(draws)
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 160)
    apart = convergence(draws)
    assert apart.r_hat.shape == (3, 2)
    for name in OF_ARVIZ:
        torch.testing.assert_close(getattr(apart, name), getattr(together, name))
