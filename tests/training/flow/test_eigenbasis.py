"""Eigenbases: streamed fits against NumPy and scikit-learn, closed forms, bad data."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from tests.support.draws import normal, seeded
from tests.support.flows import random_basis
from training.flow.eigenbasis import EigenBasis

# Far from zero: naive sums of squares would lose 12 of their 16 digits.
OFFSET = 1e6
UNEVEN = [1, 7, 500, 2, 990]


@pytest.fixture(scope="module")
def points():
    """1500 correlated points of six dimensions, far from the origin."""
    generator = seeded(5)
    mixing = normal(6, 6, generator=generator)
    return OFFSET + normal(1500, 6, generator=generator) @ mixing


def test_a_fit_has_the_axes_of_the_covariance_however_the_data_is_cut(points):
    basis = EigenBasis.fit([points])
    eigenvalues, eigenvectors = np.linalg.eigh(np.cov(points.numpy().T, bias=True))
    np.testing.assert_allclose(basis.eigenvalues, eigenvalues[::-1], rtol=1e-9)
    overlap = np.abs(basis.eigenvectors.numpy().T @ eigenvectors[:, ::-1])
    np.testing.assert_allclose(overlap, np.eye(6), atol=1e-8)
    np.testing.assert_allclose(basis.mean, points.mean(0), rtol=1e-15)
    coordinates = np.abs(PCA(svd_solver="full").fit_transform(points.numpy()))
    np.testing.assert_allclose(basis.to_eigen(points).abs(), coordinates, atol=1e-7)
    for sizes in (UNEVEN, list(reversed(UNEVEN)), [100] * 15):
        cut = EigenBasis.fit(points.split(sizes))
        for name, tensor in basis.state_dict().items():
            torch.testing.assert_close(cut.state_dict()[name], tensor, rtol=1e-9, atol=1e-9)


def test_images_are_vectors_and_single_precision_is_summed_in_double(points):
    flat, shaped = EigenBasis.fit([points]), EigenBasis.fit([points.reshape(-1, 1, 2, 3)])
    assert torch.equal(flat.eigenvectors, shaped.eigenvectors)
    single = (points - OFFSET).float().split(UNEVEN)
    summed, double = (EigenBasis.fit(parts) for parts in (single, [p.double() for p in single]))
    torch.testing.assert_close(summed.eigenvalues, double.eigenvalues, rtol=1e-12, atol=0)


def test_participation_ratios_of_known_spectra():
    spectra = {(3.0,) * 5: 5, (2.0, 0.0, 0.0): 1, (4.0, 1.0): 25 / 17, (1.0, 1.0, 0.0, 0.0): 2}
    for variances, ratio in spectra.items():
        covariance = torch.tensor(variances).diag()
        basis = EigenBasis.from_moments(torch.zeros(len(variances)), covariance)
        assert basis.participation_ratio == pytest.approx(ratio, rel=1e-12)


def test_coordinates_come_back_and_second_moments_are_mean_squares(points):
    basis = random_basis(5)
    one, other = data = normal(2, 7, 5)
    torch.testing.assert_close(basis.from_eigen(basis.to_eigen(data)), data, rtol=0, atol=1e-12)
    difference = basis.to_eigen(one) - basis.to_eigen(other)
    torch.testing.assert_close(basis.rotate(one - other), difference)
    torch.testing.assert_close(basis.rotate_back(difference), one - other, rtol=0, atol=1e-12)
    basis = random_basis(6)
    others = points - OFFSET
    expected = basis.to_eigen(others).square().mean(dim=0)
    for sizes in (UNEVEN, [1500]):
        torch.testing.assert_close(basis.second_moments(others.split(sizes)), expected)


def test_variances_of_constant_dimensions_are_floored_and_no_others(points):
    padded = torch.cat([points, torch.full((len(points), 2), 3.0, dtype=torch.float64)], dim=1)
    basis = EigenBasis.fit([padded])
    floored = basis.floored_variance(1e-6)
    assert (basis.eigenvalues[-2:] < 1e-12).all()
    assert (floored[-2:] == 1e-6 * basis.top_variance).all()
    assert torch.equal(floored[:-2], basis.eigenvalues[:-2])


def test_axes_have_a_sign_and_a_tiny_negative_eigenvalue_is_taken_as_zero(points):
    covariance = points.T.cov()
    for sign in (1, -1):  # a reflected data set keeps its axes
        axes = EigenBasis.from_moments(sign * points.mean(0), covariance).eigenvectors
        assert (axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)) > 0).all()
    basis = EigenBasis.from_moments(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.0, -1e-18]]))
    assert basis.eigenvalues.tolist() == [1.0, 0.0]


def test_rotations_in_single_precision_follow_a_basis_that_is_loaded_moved_or_copied():
    basis = random_basis(4)
    other = EigenBasis(basis.mean, basis.eigenvalues, basis.eigenvectors.flip(0))
    vectors = torch.eye(4)
    with torch.inference_mode():
        basis.rotate(vectors)  # whose copy of W must be of use where there are gradients
    basis.rotate(vectors.requires_grad_()).sum().backward()
    for changed in (basis, deepcopy(basis)):
        changed.rotate(vectors)
        changed.load_state_dict(other.state_dict())
        assert torch.equal(changed.rotate(vectors), other.eigenvectors.float())
        assert torch.equal(changed.rotate_back(vectors), other.eigenvectors.T.float())
    assert changed.to("meta").rotate(vectors.to("meta")).is_meta
