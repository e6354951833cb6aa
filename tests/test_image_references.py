"""What posteriors of images are compared with where they are known."""

from itertools import product
from math import log, log1p

import torch
from torch.distributions import MultivariateNormal
from torch.nn.functional import pad

from benchmarks.inverse import jumps
from tests.support.draws import double, normal, seeded
from training.inference.likelihoods import Gaussian


def by_all_segmentations(operator, noise, seen, blur):
    """Means and standard deviations of a signal of which so much was seen."""
    dim = operator.shape[1]
    cuts = torch.tensor(list(product((0, 1), repeat=dim - 1)))
    number = pad(cuts, (1, 0)).cumsum(dim=1)
    signal = (number[:, :, None] == number[:, None]).double() + blur * torch.eye(dim).double()
    covariance = operator @ signal @ operator.T + noise
    gain = torch.linalg.solve(covariance, operator @ signal).mT
    likely = MultivariateNormal(torch.zeros_like(seen), covariance).log_prob(seen)
    prior = torch.where(cuts.bool(), log(jumps.JUMP), log1p(-jumps.JUMP)).sum(dim=1)
    weights, means = (prior + likely).softmax(dim=0), gain @ seen
    variances = (signal - gain @ operator @ signal).diagonal(dim1=1, dim2=2)
    mean = weights @ means
    return mean, (weights @ (variances + means.square()) - mean.square()).sqrt()


def test_levels_that_jump_are_denoised_and_drawn_as_sums_over_all_segmentations_say(monkeypatch):
    fields, unit = jumps.Jumps(3), torch.eye(9).double()
    truth, flow = fields.sample(1, seed=4)[0], fields.flow
    axes = flow.basis.eigenvectors.double()
    for gamma in (1e-3, 0.05, 2.0):
        noisy, time = truth + gamma**0.5 * normal(9), flow.schedule.time_of_log_noise
        got = flow.denoiser((noisy @ axes)[None], time(double(log(gamma)))) @ axes.T
        expected, _ = by_all_segmentations(unit, gamma * unit, noisy, 0)
        torch.testing.assert_close(got[0], expected, rtol=0, atol=1e-6)
    monkeypatch.setattr(jumps, "SWEEPS", 100)
    operator, std = normal(3, 9) / 3, double(0.2)
    likelihood = Gaussian(std, operator=operator)
    seen = likelihood.simulate(truth[None], seeded())
    draws = fields.posterior(likelihood, seen)
    noise = std.square() * torch.eye(3).double()
    mean, std = by_all_segmentations(operator, noise, seen[0], jumps.GAMMA0)
    assert ((draws.mean[0] - mean) / std).abs().max() < 0.08
    assert (draws.std[0] / std - 1).abs().max() < 0.06
