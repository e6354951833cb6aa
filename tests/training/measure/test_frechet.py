"""The Frechet distance: against closed forms, SciPy and torch-fidelity, also where singular."""

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from dnnlib.errors import DataError
from tests.support.draws import normal
from tests.support.rank_pool import RankPool
from torch_utils import distributed
from torch_utils.distributed import process_group
from training.measure.frechet import FeatureStatistics, Moments, frechet_distance

Gaussian = tuple[Tensor, Tensor]
SHARES = {"uneven": ([30, 11], 0.0), "far": ([20, 21], 1e3), "one has none": ([41, 0], 0.0)}


def gaussian(dim: int, seed: int, rank: int | None = None) -> Gaussian:
    """A mean and a covariance, of full rank or of the given one, with unequal eigenvalues."""
    factor = normal(dim, rank or dim, seed=seed) * torch.linspace(0.2, 2, rank or dim)
    return normal(dim, seed=seed + 1), factor @ factor.T / dim


def moments_of(batches: list[Tensor]) -> Moments:
    statistics = FeatureStatistics(batches[0].shape[1])
    for batch in batches:
        statistics.add(batch)
    return statistics.moments()


def singular_values(first: Tensor, second: Tensor) -> float:
    """The last trace for the covariances of few points, from the points: no ``d x d`` matrix."""
    first, second = ((x - x.mean(dim=0)) / (len(x) - 1) ** 0.5 for x in (first, second))
    return float(torch.linalg.svdvals(first @ second.T).sum())


def test_streamed_moments_are_those_of_numpy() -> None:
    points = normal(41, 5) * torch.logspace(0, -4, 5)
    # The points themselves are rounded when they are moved, and their products by as much.
    for offset, rounding in ((0.0, 1e-15), (1e6, 1e-9)):
        for batch in (1, 4, 100):
            found = moments_of(list((points + offset).split(batch)))
            assert found.count == 41
            assert found.mean.dtype == found.covariance.dtype == torch.float64
            mean = points.mean(dim=0) + offset
            np.testing.assert_allclose(found.mean, mean, rtol=0, atol=10 * rounding)
            covariance, atol = np.cov(points.T), 30 * rounding
            np.testing.assert_allclose(found.covariance, covariance, rtol=1e-12, atol=atol)
            assert torch.equal(found.covariance, found.covariance.T)
    single = (1000 + normal(3000, 2)).float()
    found = moments_of(list(single.split(7)))
    np.testing.assert_allclose(found.covariance, np.cov(single.double().T), rtol=1e-9, atol=1e-9)


def test_moments_can_be_taken_again_after_more_was_added() -> None:
    points = normal(9, 3)
    statistics = FeatureStatistics(3)
    statistics.add(points[:5])
    before = statistics.moments()
    statistics.add(points[:0])
    statistics.add(points[5:])
    np.testing.assert_allclose(before.covariance, np.cov(points[:5].T), atol=1e-14)
    np.testing.assert_allclose(statistics.moments().covariance, np.cov(points.T), atol=1e-14)


def test_points_without_a_covariance_are_an_error() -> None:
    for count in (0, 1):
        with pytest.raises(DataError, match=f"^{count} images or points have no covariance"):
            moments_of([normal(count, 3)])
    for value in (float("nan"), float("inf")):
        points = normal(5, 3)
        points[3, 1] = value
        with pytest.raises(DataError, match="not finite"):
            moments_of([points])


def of_a_rank(name: str, rank: int) -> list[Tensor]:
    """A rank's share of the points, far from the other's where the name says so."""
    sizes, distance = SHARES[name]
    part = normal(41, 4).split(sizes)[rank]
    return list((part + distance * rank).split(6))


def moments_of_shares() -> dict[str, Moments]:
    with process_group("cpu"):
        return {name: moments_of(of_a_rank(name, distributed.rank())) for name in SHARES}


def test_ranks_together_have_the_moments_of_one(two_ranks: RankPool) -> None:
    first, second = two_ranks.call(moments_of_shares)
    for name in SHARES:
        points = torch.cat([*of_a_rank(name, 0), *of_a_rank(name, 1)])
        found = first[name]
        assert found.count == second[name].count == 41
        np.testing.assert_allclose(found.mean, points.mean(dim=0), rtol=1e-13)
        np.testing.assert_allclose(found.covariance, np.cov(points.T), rtol=1e-12)
        assert torch.equal(found.mean, second[name].mean)
        assert torch.equal(found.covariance, second[name].covariance)


def test_it_is_the_formula_with_scipys_root_and_torch_fidelitys() -> None:
    # Imported here, since the ranks of the test above import this module and have no use for it.
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    for dim in (1, 2, 30):
        (mean1, cov1), (mean2, cov2) = gaussian(dim, 0), gaussian(dim, 10)
        root = linalg.sqrtm(cov1.numpy() @ cov2.numpy()).real
        expected = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * root.trace()
        found = frechet_distance(mean1, cov1, mean2, cov2)
        assert found == pytest.approx(float(expected), rel=1e-9)
    stats = [{"mu": mean1.numpy(), "sigma": cov1.numpy()}]
    stats += [{"mu": mean2.numpy(), "sigma": cov2.numpy()}]
    theirs = fid_statistics_to_metric(*stats, verbose=False)[KEY_METRIC_FID]
    assert found == pytest.approx(theirs, rel=1e-9)


def test_of_commuting_covariances_it_is_that_of_the_standard_deviations() -> None:
    axes, _ = torch.linalg.qr(normal(7, 7))
    stds1, stds2 = torch.linspace(0, 3, 7).double(), torch.tensor([2, 0, 0.1, 1, 5, 0, 1]).double()
    covs = [(axes * stds.square()) @ axes.T for stds in (stds1, stds2)]
    shift = normal(7, seed=3)
    found = frechet_distance(normal(7), covs[0], normal(7) + shift, covs[1])
    expected = shift.square().sum() + (stds1 - stds2).square().sum()
    assert found == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("ranks", [(20, 20), (5, 20), (5, 7)])
def test_order_shifts_and_rotations_do_not_matter_and_scales_do(ranks: tuple[int, int]) -> None:
    (mean1, cov1), (mean2, cov2) = gaussian(20, 0, ranks[0]), gaussian(20, 10, ranks[1])
    found = frechet_distance(mean1, cov1, mean2, cov2)
    assert frechet_distance(mean2, cov2, mean1, cov1) == pytest.approx(found, rel=1e-12)
    axes, _ = torch.linalg.qr(normal(20, 20, seed=5))
    moved = [(axes @ mean + 3, axes @ cov @ axes.T) for mean, cov in ((mean1, cov1), (mean2, cov2))]
    assert frechet_distance(*moved[0], *moved[1]) == pytest.approx(found, rel=1e-9)
    scaled = frechet_distance(3 * mean1, 9 * cov1, 3 * mean2, 9 * cov2)
    assert scaled == pytest.approx(9 * found, rel=1e-12)


def test_few_points_in_many_dimensions_are_at_no_distance_from_themselves() -> None:
    few = moments_of([normal(50, 400)])
    found = frechet_distance(few.mean, few.covariance, few.mean, few.covariance)
    # The root of the product of the covariances would leave 1e-7 of the trace.
    assert 0 <= found < 1e-12 * float(few.covariance.trace())


@pytest.mark.parametrize("sizes", [(10, 10), (10, 300), (200, 15)])
def test_singular_covariances_of_few_points_lose_no_digits(sizes: tuple[int, int]) -> None:
    scale = torch.logspace(0, -2, 256)
    first, second = normal(sizes[0], 256) * scale, normal(sizes[1], 256, seed=1) * scale
    (_, mean1, cov1), (_, mean2, cov2) = (vars(moments_of([x])).values() for x in (first, second))
    expected = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace()
    expected -= 2 * singular_values(first, second)
    found = frechet_distance(mean1, cov1, mean2, cov2)
    assert found == pytest.approx(float(expected), rel=1e-12)


def test_points_without_variance_are_as_far_as_their_means() -> None:
    nothing, (mean, cov) = torch.zeros(4, 4), gaussian(4, 0)
    assert frechet_distance(torch.zeros(4), nothing, torch.ones(4), nothing) == 4
    expected = float(mean.square().sum() + cov.trace())
    found = frechet_distance(torch.zeros(4), nothing, mean, cov)
    assert found == pytest.approx(expected, rel=1e-12)


def test_moments_rounded_to_float32_give_its_digits() -> None:
    (mean1, cov1), (mean2, cov2) = gaussian(200, 0, 50), gaussian(200, 10, 50)
    rounded = mean1.float(), cov1.float()
    assert torch.linalg.eigvalsh(rounded[1].double())[0] < -1e-9  # of noise, as in a file
    exact = frechet_distance(mean1, cov1, mean2, cov2)
    assert frechet_distance(*rounded, mean2, cov2) == pytest.approx(exact, rel=1e-3)
    assert frechet_distance(*rounded, *rounded) < 1e-6 * float(cov1.trace())


def test_what_is_no_gaussian_is_refused() -> None:
    good = gaussian(4, 0)
    for spoil, message in (
        (lambda mean, cov: (mean * float("nan"), cov), "not finite"),
        (lambda mean, cov: (mean, cov * float("inf")), "not finite"),
        (lambda mean, cov: (mean, cov + torch.ones(4, 4).triu(1)), "not symmetric"),
        (lambda mean, cov: (mean, cov - 2 * torch.eye(4) * cov.trace()), "negative eig"),
        (lambda mean, cov: (mean[None], cov), r"shape \[1, 4\]"),
        (lambda mean, cov: (mean, cov[:3]), r"shape \[3, 4\]"),
        (lambda mean, cov: (mean[:0], cov[:0, :0]), r"shape \[0\]"),
    ):
        with pytest.raises(DataError, match=f"the first Gaussian.*{message}"):
            frechet_distance(*spoil(*good), *good)
        with pytest.raises(DataError, match=f"the second Gaussian.*{message}"):
            frechet_distance(*good, *spoil(*good))
    with pytest.raises(DataError, match="Gaussians of 4 and 5 dimensions"):
        frechet_distance(*good, *gaussian(5, 0))
