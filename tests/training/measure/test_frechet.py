"""The Frechet distance: against closed forms, SciPy and torch-fidelity, also where singular."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from scipy import linalg
from torch import Tensor

from dnnlib.errors import DataError
from training.measure.frechet import FeatureStatistics, Moments, frechet_distance

Gaussian = tuple[Tensor, Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


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
    first, second = (
        (points - points.mean(dim=0)) / (len(points) - 1) ** 0.5 for points in (first, second)
    )
    return float(torch.linalg.svdvals(first @ second.T).sum())


# Moments.


@pytest.mark.parametrize("batch", [1, 4, 100])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_streamed_moments_are_those_of_numpy(batch: int, offset: float) -> None:
    points = normal(41, 5) * torch.logspace(0, -4, 5)
    found = moments_of(list((points + offset).split(batch)))
    assert (found.count, found.mean.dtype, found.covariance.dtype) == (
        41,
        torch.float64,
        torch.float64,
    )
    rounding = 1e-15 * max(offset, 1)
    np.testing.assert_allclose(found.mean, points.mean(dim=0) + offset, rtol=0, atol=10 * rounding)
    # The points themselves are rounded when they are moved, and their products by as much.
    np.testing.assert_allclose(found.covariance, np.cov(points.T), rtol=1e-12, atol=30 * rounding)
    assert torch.equal(found.covariance, found.covariance.T)


def test_features_in_float32_are_summed_in_float64() -> None:
    points = (1000 + normal(3000, 2)).float()
    found = moments_of(list(points.split(7)))
    np.testing.assert_allclose(found.covariance, np.cov(points.double().T), rtol=1e-9, atol=1e-9)


def test_moments_can_be_taken_again_after_more_was_added() -> None:
    points = normal(9, 3)
    statistics = FeatureStatistics(3)
    statistics.add(points[:5])
    before = statistics.moments()
    statistics.add(points[:0])
    statistics.add(points[5:])
    np.testing.assert_allclose(before.covariance, np.cov(points[:5].T), atol=1e-14)
    np.testing.assert_allclose(statistics.moments().covariance, np.cov(points.T), atol=1e-14)


@pytest.mark.parametrize("count", [0, 1])
def test_one_point_has_no_covariance(count: int) -> None:
    with pytest.raises(DataError, match=f"^{count} images or points have no covariance"):
        moments_of([normal(count, 3)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_an_error(value: float) -> None:
    points = normal(5, 3)
    points[3, 1] = value
    with pytest.raises(DataError, match="not finite"):
        moments_of([points])


SHARES = {"uneven": ([30, 11], 0.0), "far": ([20, 21], 1e3), "one has none": ([41, 0], 0.0)}


def of_a_rank(name: str, rank: int) -> list[Tensor]:
    """A rank's share of the points, far from the other's where the name says so."""
    sizes, distance = SHARES[name]
    part = normal(41, 4).split(sizes)[rank]
    return list((part + distance * rank).split(6))


def rank_main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {name: vars(moments_of(of_a_rank(name, rank))) for name in SHARES}
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_ranks_together_have_the_moments_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(rank_main, (tmp_path,), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for name in SHARES:
        points = torch.cat([*of_a_rank(name, 0), *of_a_rank(name, 1)])
        for found in ranks:
            assert found[name]["count"] == 41
            np.testing.assert_allclose(found[name]["mean"], points.mean(dim=0), rtol=1e-13)
            np.testing.assert_allclose(found[name]["covariance"], np.cov(points.T), rtol=1e-12)
        for key in ("mean", "covariance"):
            assert torch.equal(ranks[0][name][key], ranks[1][name][key])


# Distances.


@pytest.mark.parametrize("dim", [1, 2, 30])
def test_it_is_the_formula_with_scipys_root(dim: int) -> None:
    (mean1, cov1), (mean2, cov2) = gaussian(dim, 0), gaussian(dim, 10)
    root = linalg.sqrtm(cov1.numpy() @ cov2.numpy()).real
    expected = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * root.trace()
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(float(expected), rel=1e-9)


def test_it_is_torch_fidelitys() -> None:
    # Imported here, since the ranks of the test above import this module and have no use for it.
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    both = gaussian(30, 0), gaussian(30, 10)
    stats = [{"mu": mean.numpy(), "sigma": cov.numpy()} for mean, cov in both]
    expected = fid_statistics_to_metric(*stats, verbose=False)[KEY_METRIC_FID]
    assert frechet_distance(*both[0], *both[1]) == pytest.approx(expected, rel=1e-9)


def test_of_commuting_covariances_it_is_that_of_the_standard_deviations() -> None:
    axes, _ = torch.linalg.qr(normal(7, 7))
    stds1, stds2 = torch.linspace(0, 3, 7).double(), torch.tensor([2, 0, 0.1, 1, 5, 0, 1]).double()
    covs = [(axes * stds.square()) @ axes.T for stds in (stds1, stds2)]
    shift = normal(7, seed=3)
    found = frechet_distance(normal(7), covs[0], normal(7) + shift, covs[1])
    expected = shift.square().sum() + (stds1 - stds2).square().sum()
    assert found == pytest.approx(float(expected), rel=1e-12)


def test_points_with_the_moments_of_two_gaussians_have_their_distance() -> None:
    def points(mean: Tensor, stds: Tensor, seed: int) -> Tensor:
        raw = normal(50, 4, seed=seed)
        raw = raw - raw.mean(dim=0)
        white = torch.linalg.solve_triangular(
            torch.linalg.cholesky(torch.cov(raw.T)), raw.T, upper=False
        )
        return mean + white.T * stds

    means, stds = normal(2, 4), normal(2, 4, seed=1).abs()
    first, second = (moments_of([points(means[i], stds[i], i)]) for i in range(2))
    found = frechet_distance(first.mean, first.covariance, second.mean, second.covariance)
    expected = (means[0] - means[1]).square().sum() + (stds[0] - stds[1]).square().sum()
    assert found == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("ranks", [(20, 20), (5, 20), (5, 7)])
def test_order_shifts_and_rotations_of_both_do_not_matter_and_scales_do(
    ranks: tuple[int, int],
) -> None:
    (mean1, cov1), (mean2, cov2) = gaussian(20, 0, ranks[0]), gaussian(20, 10, ranks[1])
    found = frechet_distance(mean1, cov1, mean2, cov2)
    assert frechet_distance(mean2, cov2, mean1, cov1) == pytest.approx(found, rel=1e-12)
    axes, _ = torch.linalg.qr(normal(20, 20, seed=5))
    moved = [(axes @ mean + 3, axes @ cov @ axes.T) for mean, cov in ((mean1, cov1), (mean2, cov2))]
    assert frechet_distance(*moved[0], *moved[1]) == pytest.approx(found, rel=1e-9)
    scaled = frechet_distance(3 * mean1, 9 * cov1, 3 * mean2, 9 * cov2)
    assert scaled == pytest.approx(9 * found, rel=1e-12)


def test_50_points_in_2048_dimensions_are_at_no_distance_from_themselves() -> None:
    few = moments_of([normal(50, 2048)])
    found = frechet_distance(few.mean, few.covariance, few.mean, few.covariance)
    # The root of the product of the covariances would leave 1e-7 of the trace.
    assert 0 <= found < 1e-12 * float(few.covariance.trace())


@pytest.mark.parametrize("sizes", [(10, 10), (10, 300), (200, 15)])
def test_singular_covariances_of_few_points_lose_no_digits(sizes: tuple[int, int]) -> None:
    scale = torch.logspace(0, -2, 256)
    first, second = normal(sizes[0], 256) * scale, normal(sizes[1], 256, seed=1) * scale
    (_, mean1, cov1), (_, mean2, cov2) = (
        vars(moments_of([points])).values() for points in (first, second)
    )
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
    rounded = [value.float() for value in (mean1, cov1)]
    assert torch.linalg.eigvalsh(rounded[1].double())[0] < -1e-9  # of noise, as in a file
    exact = frechet_distance(mean1, cov1, mean2, cov2)
    assert frechet_distance(*rounded, mean2, cov2) == pytest.approx(exact, rel=1e-3)
    assert frechet_distance(*rounded, *rounded) < 1e-6 * float(cov1.trace())


def asymmetric(mean: Tensor, cov: Tensor) -> Gaussian:
    return mean, cov + torch.ones(4, 4).triu(1)


def indefinite(mean: Tensor, cov: Tensor) -> Gaussian:
    return mean, cov - 2 * torch.eye(4) * cov.trace()


def infinite(mean: Tensor, cov: Tensor) -> Gaussian:
    return mean, cov * float("inf")


BAD = {
    "a mean of nan": (lambda mean, cov: (mean * float("nan"), cov), "not finite"),
    "an infinite covariance": (infinite, "not finite"),
    "a covariance that is not symmetric": (asymmetric, "not symmetric"),
    "negative eigenvalues": (indefinite, "negative eigenvalue"),
    "a mean of two axes": (lambda mean, cov: (mean[None], cov), r"shape \[1, 4\]"),
    "no square": (lambda mean, cov: (mean, cov[:3]), r"shape \[3, 4\]"),
    "nothing": (lambda mean, cov: (mean[:0], cov[:0, :0]), r"shape \[0\]"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_what_is_no_gaussian_is_refused(
    spoil: Callable[[Tensor, Tensor], Gaussian], message: str
) -> None:
    good = gaussian(4, 0)
    with pytest.raises(DataError, match=f"the first Gaussian.*{message}"):
        frechet_distance(*spoil(*good), *good)
    with pytest.raises(DataError, match=f"the second Gaussian.*{message}"):
        frechet_distance(*good, *spoil(*good))


def test_different_dimensions_have_no_distance() -> None:
    with pytest.raises(DataError, match="Gaussians of 4 and 5 dimensions"):
        frechet_distance(*gaussian(4, 0), *gaussian(5, 0))
