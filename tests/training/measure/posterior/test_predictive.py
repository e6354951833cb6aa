"""Posterior predictive checks: p-values, and what the verdict claims."""

import torch

from tests.support.draws import normal, seeded
from training.measure.posterior.predictive import Predictive, needed
from training.measure.posterior.ranks import ks_p_values


def check(shift: float, draws: int = 4000) -> Predictive:
    """Of one observation, whose second number is so far from what is simulated."""
    simulated, observed = normal(draws, 2, seed=1)[None], torch.zeros(1, 2).double()
    observed[0, 1] = shift
    return Predictive.of(simulated, observed, ["a", "b"], 0.01, seeded())


def test_p_values_of_data_that_the_model_makes_are_even() -> None:
    simulated, observed = normal(400 * 50, 1, seed=2).view(400, 50, 1), normal(400, 1, seed=3)
    p = Predictive.of(simulated, observed, ["a"], 0.01, seeded()).p_values
    assert float(ks_p_values(p)) > 0.01


def test_a_verdict_names_what_fails_or_what_would_have() -> None:
    wrong, right, few = check(6.0), check(0.5), check(0.5, 100)
    assert wrong.failed == ["b of observation 1"]
    assert "does not make data like the observations: b of observation 1" in wrong.verdict
    assert "4.1 standard deviations off" in right.verdict
    assert not check(right.detectable - 1.9).failed
    assert check(right.detectable).failed
    assert few.verdict.startswith("Too few simulations to tell")
    assert f"need {needed(2, 0.01)}" in few.verdict
