"""Posterior samplers on a card draw what they draw on the CPU."""

from dataclasses import replace

import pytest
import torch

from tests.support.draws import double
from tests.support.fake_cuda import FakeCuda
from tests.support.posteriors import drawn, gaussian_prior
from tests.support.running import slowly
from training.inference.likelihoods import Gaussian
from training.inference.prior import Prior
from training.inference.sampling import Problem
from training.inference.target import Target
from training.names import SAMPLERS

CPU, CARD = torch.device("cpu"), torch.device("cuda", 1)
FEW = {"chains": 2, "draws": 2, "warmup": 1, "pool": 16, "particles": 2, "steps": 4}
FEW_ROUNDS: dict[str, object] = {
    "proposals.STEPS": 2,
    "weights.BISECTIONS": 3,
    "samplers.annealing.EXPONENTS": 3,
    "samplers.annealing.MOST_ROUNDS": 3,
    "samplers.annealing.MOST_FINAL": 2,
    "samplers.refining.AGAIN": (64,),
    "samplers.refining.DRAWN": (64, 64),
    "samplers.tempering.MOVES": 1,
    "samplers.tempering.LAST_MOVES": 2,
}


def prior_on(device: torch.device, deblurred: bool = False) -> Prior:
    prior = gaussian_prior(deblurred=deblurred)
    prior.flow.to(device)
    return replace(prior, times=prior.times.to(device))


def problem_on(device: torch.device) -> Problem:
    likelihood = Gaussian(double(0.4), operator=double([[1.0, 0.7]])).to(device)
    prior = prior_on(device)
    target = Target(prior, likelihood, double([[0.3], [-1.0]]).to(device), rows=512)
    return Problem(target, prior, [0, 1], True)


@pytest.mark.parametrize(
    "sampler", slowly([name for name in SAMPLERS if name != "auto"], "elliptical", "hmc", "refined")
)
def test_draws_are_the_cpus(cuda: FakeCuda, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a card that is pretended each operation takes long: few rounds and rough fits will do.
    for name, few in FEW_ROUNDS.items():
        monkeypatch.setattr(f"training.inference.{name}", few)
    expected, found = (drawn(problem_on(device), sampler, **FEW) for device in (CPU, CARD))
    torch.testing.assert_close(found.points.cpu(), expected.points)
    torch.testing.assert_close(found.log_likelihood.cpu(), expected.log_likelihood)


def test_points_without_the_noise_of_the_first_time(cuda: FakeCuda) -> None:
    prior = prior_on(CARD, deblurred=True)
    w = torch.ones(3, prior.dim, dtype=torch.float64, device=CARD)
    assert prior.points(w).points.device == CARD
    assert {moment.device for moment in prior.moments()} == {CARD}
