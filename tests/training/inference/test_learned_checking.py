"""Checks of posteriors that a flow has learned: the right one passes, on average and anywhere."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.support.draws import normal
from tests.support.posteriors import conditional_prior, limited
from training.inference.amortized import Amortized
from training.inference.checking import check_learned
from training.inference.prior import Prior
from training.measure.posterior.calibration import RunValues, calibrate
from training.measure.posterior.local import calibrate_near

RUNS, NEAR, STD = 300, 75, 0.6
ORDER = normal(RUNS, 1, seed=5)[:, 0].argsort()
ENDS = torch.stack([ORDER[:NEAR], ORDER[-NEAR:]])
"""Runs near a low observation, and near a high one."""


@pytest.fixture(scope="module")
def prior() -> Prior:
    return conditional_prior()


def simulated(noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Truths ``[R, 2]`` of the posteriors of conditions ``[R, 1]``."""
    y = 1.25 * normal(RUNS, 1, seed=5)
    noise = normal(RUNS, 2, seed=6) if noise is None else noise
    return torch.cat([0.64 * y + STD * noise[:, :1], noise[:, 1:]], dim=1), y


def values(prior: Prior, truths: Tensor, y: Tensor, references: Tensor | None = None) -> RunValues:
    amortized = Amortized(prior, y, rows=2048, chains=1, draws=60, seed=2)
    return check_learned(amortized, truths, torch.arange(RUNS), "ab", references)


def test_the_right_posterior_passes(prior: Prior) -> None:
    truths, y = simulated()
    found = values(prior, truths, y)
    assert found.names == ("a", "b", "log density")
    of_truths = torch.distributions.Normal(torch.cat([0.64 * y, 0 * y], 1), torch.tensor([STD, 1]))
    expected = of_truths.log_prob(truths).sum(dim=1)
    assert found.density is not None
    # But for the noise of the first time.
    torch.testing.assert_close(found.density, expected, rtol=0, atol=0.15)
    check = calibrate(found)
    mean, error = float(expected.mean()), float(expected.std()) / RUNS**0.5
    assert check.density == pytest.approx((mean, error), abs=0.02)
    assert check.passed
    assert not calibrate_near(found, ENDS).failed


Change = Callable[[Tensor, Tensor], Tensor]
CHANGES: dict[str, tuple[Change, list[str]]] = {
    # Truths that are spread by 1.9 are found by a posterior that is too narrow.
    "wide here, narrow there": (
        lambda noise, high: torch.where(high, 0.45 * noise, 1.9 * noise),
        ["too narrow", "too wide"],
    ),
    "low here, high there": (
        lambda noise, high: noise + torch.where(high, -0.7, 0.7),
        ["too low", "too high"],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_wrong_on_both_sides_is_told_where_it_is(name: str, prior: Prior) -> None:
    change, tendencies = CHANGES[name]
    noise = normal(RUNS, 2, seed=6)
    high = (ORDER.argsort() >= RUNS // 2)[:, None]
    noise[:, :1] = change(noise[:, :1], high)
    found = values(prior, *simulated(noise))
    near = calibrate_near(found, ENDS)
    assert near.failed == [0, 1]
    assert [(test.quantity, test.tendency) for test in near.tests] == [
        ("a", tendency) for tendency in tendencies
    ]


def test_a_posterior_that_is_wrong_for_half_of_the_observations_fails(prior: Prior) -> None:
    noise = normal(RUNS, 2, seed=6)
    noise[ORDER[: RUNS // 2]] *= 2
    found = values(prior, *simulated(noise))
    assert not calibrate(found).passed
    near = calibrate_near(found, ENDS)
    assert near.failed == [0]
    assert "narrow" in near.tests[0].tendency


def test_only_points_that_know_conditions_see_a_posterior_that_does_not() -> None:
    prior, (truths, y) = conditional_prior("off"), simulated()
    alone = calibrate(values(prior, truths, y))
    assert alone.passed
    nearest = torch.cat([0.64 * y + STD * normal(RUNS, 1, seed=8), normal(RUNS, 1, seed=9)], dim=1)
    found = calibrate(values(prior, truths, y, nearest))
    assert [name for name, p in found.adjusted.items() if p < 0.01] == ["TARP"]


def test_what_leaks_is_not_taken_for_density(prior: Prior) -> None:
    """Truths of the posterior between bounds, of which the flow has a third beyond."""
    low = -0.4
    inside = torch.special.ndtr(torch.tensor(low).double())
    level = inside + (1 - inside) * torch.special.ndtr(normal(RUNS, 1, seed=10))
    noise = torch.cat([normal(RUNS, 1, seed=6), torch.special.ndtri(level)], dim=1)
    found = values(limited(prior, low), *simulated(noise))
    assert calibrate(found).passed
    assert not calibrate(values(prior, *simulated(noise))).passed
