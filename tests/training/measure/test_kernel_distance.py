"""The kernel distance: against loops, torch-fidelity and a closed form; unbiased at any size."""

import statistics

import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_kid import kernel_poly, mmd2

from dnnlib.errors import DataError
from tests.support.draws import normal, seeded
from training.measure import kernel_distance as module
from training.measure.kernel_distance import kernel_distance, subset_distances


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
    found = kernel_distance(torch.from_numpy(one), torch.from_numpy(other))
    assert found == pytest.approx(mmd2(*kernels), rel=1e-10)


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
    found = [kernel_distance(x[draw], y[draw]) for draw in range(draws)]
    error = statistics.stdev(found) / draws**0.5
    assert abs(statistics.fmean(found) - expected) < 4 * error
    # Pairs of a point with itself would add more than that: E k(x, x) - E k(x, x') = 28 - 4.
    assert 4 * error < 24 * (1 / 6 + 1 / 5)


def test_subsets_have_the_mean_of_all_draw_no_point_twice_and_follow_the_seed() -> None:
    first, second = normal(60, 4), normal(90, 4, seed=1)
    found = subset_distances(first, second, seeded(), subsets=200, size=20)
    assert (found.subsets, found.size) == (200, 20)
    error = found.std / 200**0.5
    assert abs(found.mean - kernel_distance(first, second)) < 4 * error
    larger = subset_distances(first, second, seeded(), subsets=200, size=50)
    assert larger.std < found.std / 2
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
    found = subset_distances(normal(1001, 1), normal(1500, 1), seeded())
    assert (found.subsets, found.size) == (100, 1000)
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
