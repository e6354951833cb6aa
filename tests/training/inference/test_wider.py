"""The test by wider proposals: it passes what is right, and fails what is too narrow or beside."""

import pytest
import torch

from tests.support.draws import double, normal
from tests.support.posteriors import affine, gaussian_prior, posterior, problem
from training.inference import wider
from training.inference.draws import Draws
from training.inference.likelihoods import Gaussian


@pytest.mark.parametrize("dim", [2, 8])
@pytest.mark.parametrize(
    ("narrower", "beside", "passes"), [(1.0, 0.0, True), (0.6, 0.0, False), (1.0, 0.5, False)]
)
def test_draws_that_are_too_narrow_or_beside_fail(
    dim: int, narrower: float, beside: float, passes: bool
) -> None:
    likelihood, observed = Gaussian(double(0.05), torch.tensor([0])), double([[0.3]])
    which = problem(gaussian_prior(dim), likelihood, observed)
    which.target.rows = 256
    mean, covariance = posterior(which.coarse, likelihood, observed)
    root = torch.linalg.cholesky(covariance)
    noise = narrower * normal(4 * 500, dim)
    points = mean + (noise + beside * torch.eye(dim).double()[-1]) @ root.T
    start, columns = affine(which.coarse)
    w = torch.linalg.solve(columns, (points - start).T).T
    shape = (1, 4, 500)
    found = likelihood.log_prob(points, observed.expand(len(points), -1)).view(shape)
    draws = Draws(w.view(*shape, -1), points.view(*shape, -1), found, ["hmc"], torch.zeros(1))
    told = wider.tested(which.target, draws, torch.tensor([7]))
    assert told.stats["test_worth"] > wider.FEWEST_WORTH
    assert bool(told.stats["test"] <= 1) == passes
    assert told.calls > 0
    assert torch.equal(told.points, draws.points)
