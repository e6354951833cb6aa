"""Eigenbases: streamed fits against NumPy and scikit-learn, closed forms, bad data."""

from collections.abc import Callable
from math import inf, nan

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from dnnlib.errors import DataError
from training.flow.eigenbasis import EigenBasis

# Far from zero: naive sums of squares would lose 12 of their 16 digits.
OFFSET = 1e6
UNEVEN = [1, 7, 500, 2, 990]


@pytest.fixture(scope="module")
def points() -> Tensor:
    """1500 correlated points of six dimensions, far from the origin."""
    generator = torch.Generator().manual_seed(5)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    normal = torch.randn(1500, 6, generator=generator, dtype=torch.float64)
    return OFFSET + normal @ mixing


def test_a_streamed_fit_has_the_eigenvalues_and_axes_of_the_covariance(points: Tensor) -> None:
    basis = EigenBasis.fit(points.split(UNEVEN))
    covariance = np.cov(points.numpy().T, bias=True)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    np.testing.assert_allclose(basis.eigenvalues, eigenvalues[::-1], rtol=1e-9)
    overlap = np.abs(basis.eigenvectors.numpy().T @ eigenvectors[:, ::-1])
    np.testing.assert_allclose(overlap, np.eye(6), atol=1e-8)
    np.testing.assert_allclose(basis.mean, points.mean(0), rtol=1e-15)


def test_coordinates_are_those_of_scikit_learn_up_to_sign(points: Tensor) -> None:
    basis = EigenBasis.fit(points.split(UNEVEN))
    pca = PCA(svd_solver="full").fit(points.numpy())
    unbiased = len(points) / (len(points) - 1)
    np.testing.assert_allclose(basis.eigenvalues * unbiased, pca.explained_variance_, rtol=1e-9)
    coordinates = np.abs(pca.transform(points.numpy()))
    np.testing.assert_allclose(basis.to_eigen(points).abs(), coordinates, atol=1e-7)


def test_how_the_data_is_cut_into_batches_does_not_matter(points: Tensor) -> None:
    whole = EigenBasis.fit([points])
    for sizes in (UNEVEN, list(reversed(UNEVEN)), [100] * 15):
        cut = EigenBasis.fit(points.split(sizes))
        for name, tensor in whole.state_dict().items():
            torch.testing.assert_close(cut.state_dict()[name], tensor, rtol=1e-9, atol=1e-9)


def test_images_are_taken_as_vectors(points: Tensor) -> None:
    flat, shaped = EigenBasis.fit([points]), EigenBasis.fit([points.reshape(-1, 1, 2, 3)])
    assert torch.equal(flat.eigenvectors, shaped.eigenvectors)


def test_single_precision_batches_are_summed_in_double(points: Tensor) -> None:
    single = (points - OFFSET).float()
    torch.testing.assert_close(
        EigenBasis.fit(single.split(UNEVEN)).eigenvalues,
        EigenBasis.fit(single.double().split(UNEVEN)).eigenvalues,
        rtol=1e-12,
        atol=0,
    )


def test_melted_coordinates_are_centered_and_uncorrelated(points: Tensor) -> None:
    basis = EigenBasis.fit([points])
    eigen = basis.to_eigen(points)
    covariance = eigen.T @ eigen / len(points)
    torch.testing.assert_close(covariance, basis.eigenvalues.diag(), rtol=1e-8, atol=1e-8)
    assert (eigen.mean(0).abs() < 1e-8).all()
    assert (basis.eigenvalues.diff() <= 0).all()


@pytest.mark.parametrize(
    ("variances", "ratio"),
    [([3.0] * 5, 5), ([2.0, 0.0, 0.0], 1), ([4.0, 1.0], 25 / 17), ([1.0, 1.0, 0.0, 0.0], 2)],
)
def test_participation_ratios_of_known_spectra(variances: list[float], ratio: float) -> None:
    basis = EigenBasis.from_moments(torch.zeros(len(variances)), torch.tensor(variances).diag())
    assert basis.participation_ratio == pytest.approx(ratio, rel=1e-12)


def test_eigenspace_and_back_is_the_identity(
    random_basis: Callable[[int], EigenBasis], generator: torch.Generator
) -> None:
    basis = random_basis(5)
    data = torch.randn(4, 7, 5, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(basis.from_eigen(basis.to_eigen(data)), data, rtol=0, atol=1e-12)
    torch.testing.assert_close(basis.rotate_back(basis.rotate(data)), data, rtol=0, atol=1e-12)


def test_differences_of_points_rotate_without_the_mean(
    random_basis: Callable[[int], EigenBasis], generator: torch.Generator
) -> None:
    basis = random_basis(5)
    one, other = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    difference = basis.to_eigen(one) - basis.to_eigen(other)
    torch.testing.assert_close(basis.rotate(one - other), difference)
    image = basis.from_eigen(one) - basis.from_eigen(other)
    torch.testing.assert_close(basis.rotate_back(one - other), image)


def test_second_moments_are_mean_squares_along_the_axes(
    random_basis: Callable[[int], EigenBasis], points: Tensor
) -> None:
    basis = random_basis(6)
    others = points - OFFSET
    expected = basis.to_eigen(others).square().mean(dim=0)
    for sizes in (UNEVEN, [1500]):
        torch.testing.assert_close(basis.second_moments(others.split(sizes)), expected)


def test_variances_of_constant_dimensions_are_floored_and_no_others(points: Tensor) -> None:
    padded = torch.cat([points, torch.full((len(points), 2), 3.0, dtype=torch.float64)], dim=1)
    basis = EigenBasis.fit([padded])
    floored = basis.floored_variance(1e-6)
    assert (basis.eigenvalues[-2:] < 1e-12).all()
    assert (floored[-2:] == 1e-6 * basis.top_variance).all()
    assert torch.equal(floored[:-2], basis.eigenvalues[:-2])


def test_the_largest_component_of_each_axis_is_positive(points: Tensor) -> None:
    covariance = points.T.cov()
    for sign in (1, -1):  # a reflected data set keeps its axes
        axes = EigenBasis.from_moments(sign * points.mean(0), covariance).eigenvectors
        largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
        assert (largest > 0).all()


def test_a_tiny_negative_eigenvalue_is_taken_as_zero() -> None:
    basis = EigenBasis.from_moments(torch.zeros(2), torch.tensor([[1.0, 0.0], [0.0, -1e-18]]))
    assert basis.eigenvalues.tolist() == [1.0, 0.0]


def test_a_fit_needs_data() -> None:
    with pytest.raises(DataError, match="no data"):
        EigenBasis.fit([])


def test_one_point_is_too_few() -> None:
    with pytest.raises(DataError, match="at least two"):
        EigenBasis.fit([torch.ones(1, 3)])


@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize("place", [0, 1200])
def test_a_value_that_is_not_finite_is_a_data_error(points: Tensor, bad: float, place: int) -> None:
    spoilt = points.clone()
    spoilt[place, 2] = bad
    with pytest.raises(DataError, match="finite"):
        EigenBasis.fit(spoilt.split(UNEVEN))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 12345.6789])
def test_constant_data_is_a_data_error(value: float) -> None:
    batches = [torch.full((n, 3), value, dtype=torch.float64) for n in (3, 10, 7)]
    with pytest.raises(DataError, match="does not vary"):
        EigenBasis.fit(batches)
