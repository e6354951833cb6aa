"""Gaussian likelihoods against torch's distributions, and what they refuse."""

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double, normal, seeded
from tests.support.refusals import refusal
from training.inference.likelihoods import Gaussian

DIM = 3
POINTS = normal(5, DIM, seed=1)
COVARIANCE = double([[0.5, 0.1], [0.1, 0.2]])
PLACES = torch.tensor([2, 0])
OPERATOR = normal(2, DIM, seed=2)
FORMS: dict[str, tuple[Gaussian, Tensor, Tensor]] = {
    "std": (Gaussian(double(0.3)), torch.eye(DIM).double(), 0.09 * torch.eye(DIM).double()),
    "stds": (
        Gaussian(double([0.1, 0.2, 0.3])),
        torch.eye(DIM).double(),
        torch.diag(double([0.01, 0.04, 0.09])),
    ),
    "mask": (
        Gaussian(double([0.1, 0.2]), PLACES),
        torch.eye(DIM).double()[PLACES],
        torch.diag(double([0.01, 0.04])),
    ),
    "mask and covariance": (
        Gaussian(COVARIANCE, PLACES),
        torch.eye(DIM).double()[PLACES],
        COVARIANCE,
    ),
    "operator": (Gaussian(COVARIANCE, operator=OPERATOR), OPERATOR, COVARIANCE),
}
"""Likelihoods, their matrix and their covariance."""
every_form = pytest.mark.parametrize("form", FORMS)


@every_form
def test_the_density_is_torchs(form: str) -> None:
    likelihood, matrix, covariance = FORMS[form]
    observed = normal(len(POINTS), len(matrix), seed=3)
    expected = MultivariateNormal(POINTS @ matrix.T, covariance).log_prob(observed)
    torch.testing.assert_close(likelihood.log_prob(POINTS, observed), expected)
    root = likelihood.curvature_root(DIM)
    torch.testing.assert_close(root.T @ root, matrix.T @ torch.linalg.inv(covariance) @ matrix)


@every_form
def test_observations_have_the_mean_and_covariance_of_the_density(form: str) -> None:
    likelihood, matrix, covariance = FORMS[form]
    count = 20000
    found = likelihood.simulate(POINTS[:1].expand(count, -1), seeded())
    residuals = (found - matrix @ POINTS[0]) @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    assert (residuals.mean(dim=0).abs() < 4.5 / count**0.5).all()
    identity = torch.eye(len(matrix)).double()
    assert ((residuals.T.cov() - identity).abs() < 4.5 * (2 / count) ** 0.5).all()


@every_form
def test_deviations_are_those_of_what_the_prior_expects(form: str) -> None:
    likelihood, matrix, covariance = FORMS[form]
    root, mean = normal(DIM, DIM, seed=4), normal(DIM, seed=5)
    observed = normal(2, len(matrix), seed=6)
    std = (matrix @ root @ root.T @ matrix.T + covariance).diagonal().sqrt()
    z = Normal(matrix @ mean, std).cdf(observed)
    found = likelihood.deviations(mean, root @ root.T, observed)
    torch.testing.assert_close(Normal(0.0, 1.0).cdf(-found), torch.minimum(z, 1 - z))


@pytest.mark.parametrize(
    ("noise", "others", "parts"),
    [
        (0.0, {}, "must be positive"),
        ([0.1, -0.1], {"coordinates": PLACES}, "must be positive"),
        (float("nan"), {}, "must be positive"),
        ([0.1, 0.2], {"dim": 3}, "2 entries for 3"),
        ([0.1, 0.2, 0.3], {"coordinates": PLACES, "dim": 3}, "3 entries for 2"),
        ([[1.0, 0.0], [0.0, 1.0]], {"dim": 3}, "2 entries for 3"),
        ([[1.0, 0.5], [0.0, 1.0]], {}, "not symmetric"),
        ([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0]], {}, "shape [2, 3]"),
        ([[1.0, 2.0], [2.0, 1.0]], {}, "not positive definite"),
        (0.1, {"coordinates": PLACES, "operator": OPERATOR}, "not both"),
    ],
)
def test_noise_that_is_none_is_told(noise: object, others: dict[str, Tensor], parts: str) -> None:
    def make() -> Gaussian:
        return Gaussian(double(noise), **others)

    assert parts in refusal(make, kind=UsageError)


def test_observations_that_are_nan_are_told() -> None:
    observed = torch.zeros_like(POINTS)
    observed[2, 1] = torch.nan
    with pytest.raises(DataError, match="NaN or infinite at 1 of 5"):
        Gaussian(double(1.0)).log_prob(POINTS, observed)
