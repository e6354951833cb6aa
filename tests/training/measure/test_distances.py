"""Frechet and kernel distances: against closed forms, loops, SciPy and torch-fidelity."""

import statistics

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor
from torch_fidelity.metric_kid import kernel_poly, mmd2

from dnnlib.errors import DataError
from tests.support.draws import normal, seeded
from tests.support.rank_pool import RankPool
from tests.support.running import refusal
from torch_utils import distributed
from torch_utils.distributed import process_group
from training.measure import kernel_distance as module
from training.measure.frechet import FeatureStatistics, Moments, frechet_distance
from training.measure.kernel_distance import kernel_distance, subset_distances

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
            got = moments_of(list((points + offset).split(batch)))
            assert got.count == 41
            assert got.mean.dtype == got.covariance.dtype == torch.float64
            mean = points.mean(dim=0) + offset
            np.testing.assert_allclose(got.mean, mean, rtol=0, atol=10 * rounding)
            covariance, atol = np.cov(points.T), 30 * rounding
            np.testing.assert_allclose(got.covariance, covariance, rtol=1e-12, atol=atol)
            assert torch.equal(got.covariance, got.covariance.T)
    single = (1000 + normal(3000, 2)).float()
    got = moments_of(list(single.split(7)))
    np.testing.assert_allclose(got.covariance, np.cov(single.double().T), rtol=1e-9, atol=1e-9)


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
        assert "not finite" in refusal(moments_of, [points])


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
        got = first[name]
        assert got.count == second[name].count == 41
        np.testing.assert_allclose(got.mean, points.mean(dim=0), rtol=1e-13)
        np.testing.assert_allclose(got.covariance, np.cov(points.T), rtol=1e-12)
        assert torch.equal(got.mean, second[name].mean)
        assert torch.equal(got.covariance, second[name].covariance)


def test_it_is_the_formula_with_scipys_root_and_torch_fidelitys() -> None:
    # Imported here, since the ranks of the test above import this module and have no use for it.
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    for dim in (1, 2, 30):
        (mean1, cov1), (mean2, cov2) = gaussian(dim, 0), gaussian(dim, 10)
        root = linalg.sqrtm(cov1.numpy() @ cov2.numpy()).real
        expected = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * root.trace()
        got = frechet_distance(mean1, cov1, mean2, cov2)
        assert got == pytest.approx(float(expected), rel=1e-9)
    stats = [{"mu": mean1.numpy(), "sigma": cov1.numpy()}]
    stats += [{"mu": mean2.numpy(), "sigma": cov2.numpy()}]
    theirs = fid_statistics_to_metric(*stats, verbose=False)[KEY_METRIC_FID]
    assert got == pytest.approx(theirs, rel=1e-9)


def test_of_commuting_covariances_it_is_that_of_the_standard_deviations() -> None:
    axes, _ = torch.linalg.qr(normal(7, 7))
    stds1, stds2 = torch.linspace(0, 3, 7).double(), torch.tensor([2, 0, 0.1, 1, 5, 0, 1]).double()
    covs = [(axes * stds.square()) @ axes.T for stds in (stds1, stds2)]
    shift = normal(7, seed=3)
    got = frechet_distance(normal(7), covs[0], normal(7) + shift, covs[1])
    expected = shift.square().sum() + (stds1 - stds2).square().sum()
    assert got == pytest.approx(float(expected), rel=1e-12)


def test_few_points_in_many_dimensions_are_at_no_distance_from_themselves() -> None:
    few = moments_of([normal(50, 400)])
    got = frechet_distance(few.mean, few.covariance, few.mean, few.covariance)
    # The root of the product of the covariances would leave 1e-7 of the trace.
    assert 0 <= got < 1e-12 * float(few.covariance.trace())


@pytest.mark.parametrize("sizes", [(10, 10), (10, 300), (200, 15)])
def test_singular_covariances_of_few_points_lose_no_digits(sizes: tuple[int, int]) -> None:
    scale = torch.logspace(0, -2, 256)
    first, second = normal(sizes[0], 256) * scale, normal(sizes[1], 256, seed=1) * scale
    (_, mean1, cov1), (_, mean2, cov2) = (vars(moments_of([x])).values() for x in (first, second))
    expected = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace()
    expected -= 2 * singular_values(first, second)
    got = frechet_distance(mean1, cov1, mean2, cov2)
    assert got == pytest.approx(float(expected), rel=1e-12)


def test_points_without_variance_are_as_far_as_their_means() -> None:
    nothing, (mean, cov) = torch.zeros(4, 4), gaussian(4, 0)
    assert frechet_distance(torch.zeros(4), nothing, torch.ones(4), nothing) == 4
    expected = float(mean.square().sum() + cov.trace())
    got = frechet_distance(torch.zeros(4), nothing, mean, cov)
    assert got == pytest.approx(expected, rel=1e-12)


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
    assert "Gaussians of 4 and 5 dimensions" in refusal(frechet_distance, *good, *gaussian(5, 0))


def test_it_is_the_sum_over_pairs_that_defines_it_and_torch_fidelitys() -> None:
    first, second = normal(7, 3), 0.5 + normal(5, 3, seed=1)

    def k(x: Tensor, y: Tensor) -> float:
        return float((x @ y / 3 + 1) ** 3)

    def within(points: Tensor) -> float:
        pairs = [k(x, y) for i, x in enumerate(points) for j, y in enumerate(points) if i != j]
        return statistics.fmean(pairs)

    expected = within(first) + within(second)
    expected -= 2 * statistics.fmean(k(x, y) for x in first for y in second)
    assert kernel_distance(first, second) == pytest.approx(expected, rel=1e-10)
    one, other = (normal(40, 16, seed=seed).numpy() for seed in (0, 1))
    options = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_coef0": 1}
    pairs = ((one, one), (one, other), (other, other))
    kernels = [kernel_poly(x, y, kid_kernel_poly_gamma=None, **options) for x, y in pairs]
    got = kernel_distance(torch.from_numpy(one), torch.from_numpy(other))
    assert got == pytest.approx(mmd2(*kernels), rel=1e-10)


def test_neither_blocks_nor_order_nor_float32_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (normal(8, 4), normal(7, 4, seed=1))
    whole = kernel_distance(first, second)
    assert kernel_distance(second.flip(0), first) == pytest.approx(whole, rel=1e-12)
    first, second = first.float(), second.float()
    assert kernel_distance(first, second) == kernel_distance(first.double(), second.double())
    for block in (1, 3, 8):
        monkeypatch.setattr(module, "BLOCK", block)
        assert kernel_distance(first, second) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_on_average_it_is_the_distance_of_the_distributions(shift: float) -> None:
    # In one dimension (xy + 1)^3 expands, and the distance is sum_k binom(3, k) (m_k - m'_k)^2
    # with raw moments m_k: here of N(0, 1) and N(shift, 1).
    second, third = 1 + shift**2, shift**3 + 3 * shift
    expected = 3 * shift**2 + 3 * (second - 1) ** 2 + third**2
    draws = 1000
    x, y = normal(draws, 6, 1), shift + normal(draws, 5, 1, seed=1)
    got = [kernel_distance(x[draw], y[draw]) for draw in range(draws)]
    error = statistics.stdev(got) / draws**0.5
    assert abs(statistics.fmean(got) - expected) < 4 * error
    # Pairs of a point with itself would add more than that: E k(x, x) - E k(x, x') = 28 - 4.
    assert 4 * error < 24 * (1 / 6 + 1 / 5)


def test_subsets_have_the_mean_of_all_draw_no_point_twice_and_follow_the_seed() -> None:
    first, second = normal(60, 4), normal(90, 4, seed=1)
    got = subset_distances(first, second, seeded(), subsets=200, size=20)
    assert (got.subsets, got.size) == (200, 20)
    error = got.std / 200**0.5
    assert abs(got.mean - kernel_distance(first, second)) < 4 * error
    larger = subset_distances(first, second, seeded(), subsets=200, size=50)
    assert larger.std < got.std / 2
    first, second = normal(30, 4), normal(30, 4, seed=1)
    whole = subset_distances(first, second, seeded(), subsets=5, size=1000)
    assert whole.size == 30
    assert whole.mean == pytest.approx(kernel_distance(first, second), rel=1e-10)
    assert whole.std == pytest.approx(0, abs=1e-12)
    runs = [subset_distances(first, second, seeded(seed), 5, 10) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_sizes_and_numbers_are_the_customary_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def note(first: Tensor, second: Tensor) -> float:
        sizes.append((len(first), len(second)))
        return 0.0

    monkeypatch.setattr(module, "kernel_distance", note)
    got = subset_distances(normal(1001, 1), normal(1500, 1), seeded())
    assert (got.subsets, got.size) == (100, 1000)
    assert sizes == [(1000, 1000)] * 100


def test_what_has_no_distance_is_refused() -> None:
    good = normal(4, 3)
    for bad, message in (
        (normal(1, 3), r"shape \[1, 3\]"),
        (normal(0, 3), r"shape \[0, 3\]"),
        (normal(6), r"shape \[6\]"),
        (normal(4, 3) / 0, "not finite"),
        (normal(4, 2), "2 and 3 dimensions|3 and 2 dimensions"),
    ):
        for pair in ((bad, good), (good, bad)):
            with pytest.raises(DataError, match=message):
                kernel_distance(*pair)
            with pytest.raises(DataError, match=message):
                subset_distances(*pair, generator=seeded())
