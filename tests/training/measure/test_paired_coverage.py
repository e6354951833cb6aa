"""Two sets of boundaries and the same fresh points: differences, and errors that are theirs."""

import numpy as np
import pytest
import torch

from tests.support.draws import double, normal
from training.measure.boundaries import unit_sphere
from training.measure.coverage import Points, Spheres, measure_coverage, transported
from training.measure.paired_coverage import pair

SPHERES = Spheres(np.array([0.5, 1.0, 2.0]), unit_sphere(2, 200))
OURS, THEIRS = (transported(r * SPHERES.vertices, SPHERES.unit) for r in (1.05, 1.0))


@pytest.mark.parametrize("seeds", [1, 3])
def test_it_is_the_difference_of_the_counts_with_the_error_of_a_paired_sample(seeds: int) -> None:
    fresh = normal(seeds, 2000, 2)
    found = pair(fresh, OURS, THEIRS)
    radius, radii = fresh.norm(dim=2)[None].numpy(), SPHERES.radii[:, None, None]
    inner, outer = radius < radii, radius < 1.05 * radii
    each = outer.astype(float) - inner  # polygons of 200 sides are circles to 1e-4
    np.testing.assert_allclose(found.exact, inner.mean(axis=2).T, atol=2e-3)
    np.testing.assert_allclose(found.difference, each.mean(axis=2).T, atol=2e-3)
    error = each.std(axis=2, ddof=1).T / np.sqrt(2000)
    np.testing.assert_allclose(found.error, error, rtol=0.05)
    pooled = each.reshape(3, -1).std(axis=1, ddof=1) / np.sqrt(2000 * seeds)
    np.testing.assert_allclose(found.whole_error, pooled, rtol=0.05)
    of_count = np.sqrt(found.exact * (1 - found.exact) / 2000)
    assert (found.error < 0.6 * of_count).all()


def test_the_error_is_the_spread_of_the_difference_over_draws() -> None:
    found = pair(normal(400, 500, 2), OURS, THEIRS)
    spread = found.difference.std(axis=0, ddof=1)
    np.testing.assert_allclose(np.sqrt(np.square(found.error).mean(axis=0)), spread, rtol=0.15)
    np.testing.assert_allclose(found.whole_error, spread / 20, rtol=0.15)


def test_points_that_cancel_in_the_difference_are_in_the_error() -> None:
    fresh = double([[[0.9, 0.0], [1.1, 0.0], [0.0, 0.0], [9.0, 0.0]]])
    shift = double([0.5, 0.0])
    spheres = Spheres(np.array([1.0]), unit_sphere(2, 400))
    ours = transported(spheres.vertices + shift, spheres.unit)
    theirs = transported(spheres.vertices, spheres.unit)
    swap = double([[[-0.9, 0.0], [1.1, 0.0], [0.0, 0.0], [9.0, 0.0]]])
    found = pair(swap, ours, theirs)
    assert (found.difference, found.error) == (0, pytest.approx(np.sqrt((2 / 4) / 3)))
    assert pair(fresh, ours, theirs).difference == 0.25


@pytest.mark.parametrize("count", [1, 50])
def test_equal_boundaries_differ_by_nothing(count: int) -> None:
    found = pair(normal(2, count, 2), OURS, OURS)
    assert not found.difference.any()
    assert not found.error.any()
    facts = found.summary()
    assert facts["standard_error"] == [0, 0, 0]
    assert facts["fresh_exact"]["by_seed"] == found.exact.tolist()
    assert found.columns() == {"paired": ["+0.000"] * 3, "s.e.": ["0.000"] * 3}
    arrays = found.arrays()
    assert {array.shape for array in arrays.values()} == {(2, 3)}


def test_the_difference_is_that_of_two_runs() -> None:
    fresh = normal(2, 300, 2)
    runs = []
    for boundaries in (OURS, THEIRS):
        points = {name: points_of(fresh) for name in ("latent", "data", "end")}
        runs.append(measure_coverage(points, dict.fromkeys(points, boundaries), fresh).fresh)
    found = pair(fresh, OURS, THEIRS)
    np.testing.assert_allclose(found.difference, runs[0] - runs[1], atol=1e-15)
    np.testing.assert_array_equal(found.exact, runs[1])


def points_of(test: torch.Tensor) -> Points:
    return Points(test, SPHERES.vertices)
