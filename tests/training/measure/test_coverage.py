"""Coverage of spheres that a flow carries, by itself and against that of another flow."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from tests.support.draws import double, normal
from tests.support.running import refusal, slowly
from training.measure.boundaries import gaussian_content, unit_sphere
from training.measure.coverage import (
    STAGES,
    Coverage,
    Points,
    Spheres,
    carry,
    contents_within,
    measure_coverage,
    membership,
    refitted,
    summary,
    table,
    transported,
    unfilled,
)
from training.measure.paired_coverage import pair

Map = Callable[[Tensor], Tensor]
RADII = np.linspace(0.5, 3.5, 7)


def spheres_of(dim: int, count: int, radii: np.ndarray = RADII) -> Spheres:
    return Spheres(radii, unit_sphere(dim, count))


def cover(
    spheres: Spheres, generate: Map, melt: Map, count: int = 3000, fresh: Tensor | None = None
) -> Coverage:
    """Coverage of one repetition with carried boundaries, and of fresh data or generated points."""
    start = Points(normal(1, count, spheres.dim), spheres.vertices)
    carried = carry(start, generate, melt)
    boundaries = {k: transported(points.boundary, spheres.unit) for k, points in carried.items()}
    return measure_coverage(carried, boundaries, carried["data"].test if fresh is None else fresh)


def bent(x: Tensor) -> Tensor:
    """A banana: a homeomorphism that is far from linear."""
    return torch.cat([x[:, :-1], x[:, -1:] + x[:, :1] ** 2], dim=1)


def unbent(x: Tensor) -> Tensor:
    return torch.cat([x[:, :-1], x[:, -1:] - x[:, :1] ** 2], dim=1)


@pytest.mark.parametrize("dim", [2, 3])
def test_spheres_have_their_radii_and_hold_nearly_their_content(dim: int) -> None:
    spheres = spheres_of(dim, 500)
    norms = spheres.vertices.norm(dim=2)
    np.testing.assert_allclose(norms, np.broadcast_to(RADII[:, None], norms.shape))
    np.testing.assert_allclose(spheres.content(), gaussian_content(RADII, dim))
    lacking = spheres.content() - spheres.content_within()
    assert (lacking > 0).all()
    assert (lacking < 0.005).all()


def test_radii_must_increase_from_above_zero_and_have_names() -> None:
    for radii in ([0.0, 1.0], [2.0, 1.0], [1.0, 1.0], [np.nan, 1.0]):
        assert "increase" in refusal(spheres_of, 2, 10, np.array(radii), kind=UsageError)
    assert spheres_of(2, 10, np.array([1.0, 1.00001])).names == ["1", "1.00001"]
    with pytest.raises(UsageError, match="two radii are 1 to six digits"):
        spheres_of(2, 10, np.array([0.5, 1.0, 1.0000001, 2.0]))


def test_carrying_goes_to_the_data_and_brings_all_back_to_their_places() -> None:
    calls: list[int] = []

    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        return bent(x)

    start = Points(normal(3, 5, 2), normal(4, 6, 2, seed=1))
    carried = carry(start, counted, unbent)
    assert calls == [3 * 5 + 4 * 6]
    assert tuple(carried) == STAGES
    torch.testing.assert_close(carried["data"].test[1], bent(start.test[1]))
    torch.testing.assert_close(carried["data"].boundary[2], bent(start.boundary[2]))
    torch.testing.assert_close(carried["end"].boundary, start.boundary)
    assert (cover(spheres_of(2, 10), bent, unbent).changed[:, 2] == 0).all()


@pytest.mark.parametrize("dim", [2, 3])
def test_membership_at_the_start_is_that_of_the_radius(dim: int) -> None:
    spheres = spheres_of(dim, 8000 if dim == 3 else 2000)
    points = normal(2, 300, dim)
    got = membership(points, transported(spheres.vertices, spheres.unit))
    assert got.shape == (7, 2, 300)
    expected = points.norm(dim=2) < torch.from_numpy(RADII)[:, None, None]
    assert (got != expected).double().mean() < 2e-3


@pytest.mark.parametrize("dim", [2, 3])
def test_a_linear_map_changes_nothing_however_few_the_boundary_points(dim: int) -> None:
    """As is the flow of a Gaussian, and each step of a solver along it."""
    spheres, matrix = spheres_of(dim, 12), normal(dim, dim, seed=7)
    within = spheres.content_within()
    for sign in (1, -1):
        matrix[0] *= sign
        got = cover(spheres, lambda x: x @ matrix.T + 5, lambda x: (x - 5) @ matrix.T.inverse())
        assert (got.changed == 0).all()
        assert (got.largest_change == 0).all()
        error = np.abs(got.test[0, 0] - within) / np.sqrt(within * (1 - within) / 3000)
        assert (error < 4).all()


@pytest.mark.parametrize(("dim", "counts"), [(2, (10, 40, 160)), (3, (25, 100, 400))])
def test_a_bent_boundary_converges_with_its_points(dim: int, counts: tuple[int, ...]) -> None:
    """Its error falls as the square of the distance between neighbours: 16 or 4 times a step."""
    moved = [cover(spheres_of(dim, count), bent, unbent).changed[0, 1].max() for count in counts]
    assert moved[0] > 0.02
    assert moved[2] < moved[0] / (40 if dim == 2 else 8)


def test_changes_that_cancel_in_a_count_are_seen_as_changes_of_sides() -> None:
    # The test points alone are turned by a right angle about a point of the sphere.
    spheres = spheres_of(2, 400, np.array([1.0]))
    test = double([[[0.2, 0.0], [1.8, 0.0], [0.3, 0.0], [1.7, 0.0]]])
    swapped = torch.stack([2 - test[..., 0], test[..., 1]], dim=-1)
    sides = dict(zip(STAGES, (test, swapped, test), strict=True))
    points = {stage: Points(side, spheres.vertices) for stage, side in sides.items()}
    boundaries = dict.fromkeys(STAGES, transported(spheres.vertices, spheres.unit))
    got = measure_coverage(points, boundaries, test)
    np.testing.assert_array_equal(got.test[0, :, 0], 0.5)
    np.testing.assert_array_equal(got.changed[0, :, 0], [0, 1, 0])
    assert got.largest_change == 0


def test_fresh_data_of_another_law_than_the_generated_one_shows() -> None:
    spheres = spheres_of(2, 400)
    wide = bent(2 * normal(20000, 2, seed=3))[None]
    got = cover(spheres, bent, unbent, fresh=wide)
    expected = gaussian_content(RADII / 2, 2)
    deviation = np.abs(got.fresh[0] - expected) / np.sqrt(expected * (1 - expected) / 20000)
    assert (deviation < 4).all()
    assert (np.abs(got.test[0, 1] - expected) > 0.01).any()


def test_repetitions_are_counted_apart() -> None:
    spheres = spheres_of(2, 100, np.array([1.0, 2.0]))
    inner = torch.zeros(5, 2, dtype=torch.float64)
    test = torch.stack([inner, inner + 1.2, inner + 9])
    boundary = transported(spheres.vertices, spheres.unit)
    points = dict.fromkeys(STAGES, Points(test, spheres.vertices))
    got = measure_coverage(points, dict.fromkeys(STAGES, boundary), test)
    for index in range(3):
        np.testing.assert_array_equal(got.test[:, index], [[1, 1], [0, 1], [0, 0]])
    np.testing.assert_array_equal(got.fresh, [[1, 1], [0, 1], [0, 0]])
    np.testing.assert_array_equal(got.columns["fresh"], got.fresh)


@pytest.mark.parametrize("dim", slowly([2, 3], 3))
def test_the_default_alpha_fills_the_spheres_and_others_are_warned_of(dim: int) -> None:
    for radii, alpha in ((RADII, 0.2), (np.array([2.5]), None), (np.array([0.5, 3.0]), 0.6)):
        spheres = spheres_of(dim, 200, radii)
        # Off the sphere by little, as after a flow: Qhull is slow otherwise.
        noise = 1e-6 * normal(*spheres.vertices.shape, seed=2)
        shapes = refitted(spheres.vertices + noise, spheres.default_alpha())
        test = normal(1000, dim)
        carried = membership(test, transported(spheres.vertices, spheres.unit))
        assert (membership(test, shapes) != carried).double().mean() < 2e-3
        if alpha is None:
            continue

        def warning(alpha: float, spheres: Spheres = spheres) -> str | None:
            shapes = refitted(spheres.vertices, alpha)
            return unfilled(spheres, contents_within(shapes), alpha)

        line = warning(alpha)
        assert f"alpha = {alpha:g} does not fill" in line
        enough = float(line.partition("--alpha=")[2].split()[0])
        assert warning(enough) is None
        assert warning(0.95 * enough) is not None


def test_what_alpha_shapes_hold_is_what_is_counted_in_them() -> None:
    spheres = spheres_of(2, 200)
    shapes = refitted(spheres.vertices, 0.3)
    within = contents_within(shapes)
    assert within[0] == 0  # the middle is open
    assert (within[1:] < spheres.content_within()[1:] - 0.1).all()
    counted = membership(normal(20000, 2), shapes).double().mean(dim=1).numpy()
    assert (np.abs(counted - within) < 4 * np.sqrt(within * (1 - within) / 20000) + 1e-12).all()


@pytest.mark.parametrize("repetitions", [1, 2])
def test_summary_and_table_have_the_same_numbers(repetitions: int) -> None:
    spheres = spheres_of(2, 200, np.array([0.5, 1.25]))
    test = np.array([[[0.1, 0.4], [0.11, 0.4], [0.1, 0.37]], [[0.3, 0.4]] * 3])[:repetitions]
    fresh, changed = np.array([[0.2, 0.5], [0.2, 0.7]])[:repetitions], np.zeros_like(test)
    changed[0, 1, 0] = 0.04
    got = Coverage(test, fresh, changed)
    facts = summary(spheres, got, np.array([0.1, 0.5]))
    assert facts["coverage"]["latent"]["by_seed"] == test[:, 0].tolist()
    assert facts["largest_change"] == pytest.approx([0.01, 0.03])
    assert (facts["changed_sides"], facts["exact_within_boundary"]) == ([0.04, 0], [0.1, 0.5])
    head, first, second = (line.split() for line in table(spheres, got))
    assert head[::2] == ["radius", "%", "%", "%", "%", "%", "moved"]
    if repetitions == 1:
        assert facts["coverage"]["fresh"]["two_std"] is None
        assert first == ["0.5", "11.75", "10.00", "11.00", "10.00", "20.00", "1.000", "4.000"]
        assert second[2:] == ["40.00", "40.00", "37.00", "50.00", "3.000", "0.000"]
    else:
        assert second[-4:-2] == ["60.00", "±28.28"]
        assert facts["coverage"]["fresh"]["mean"] == pytest.approx([0.2, 0.6])
        assert facts["coverage"]["fresh"]["two_std"] == pytest.approx([0, 0.2 * np.sqrt(2)])


SPHERES = Spheres(np.array([0.5, 1.0, 2.0]), unit_sphere(2, 200))
OURS, THEIRS = (transported(r * SPHERES.vertices, SPHERES.unit) for r in (1.05, 1.0))


@pytest.mark.parametrize("seeds", [1, 3])
def test_it_is_the_difference_of_the_counts_with_the_error_of_a_paired_sample(seeds: int) -> None:
    fresh = normal(seeds, 2000, 2)
    got = pair(fresh, OURS, THEIRS)
    radius, radii = fresh.norm(dim=2)[None].numpy(), SPHERES.radii[:, None, None]
    inner, outer = radius < radii, radius < 1.05 * radii
    each = outer.astype(float) - inner  # polygons of 200 sides are circles to 1e-4
    np.testing.assert_allclose(got.exact, inner.mean(axis=2).T, atol=2e-3)
    np.testing.assert_allclose(got.difference, each.mean(axis=2).T, atol=2e-3)
    error = each.std(axis=2, ddof=1).T / np.sqrt(2000)
    np.testing.assert_allclose(got.error, error, rtol=0.05)
    pooled = each.reshape(3, -1).std(axis=1, ddof=1) / np.sqrt(2000 * seeds)
    np.testing.assert_allclose(got.whole_error, pooled, rtol=0.05)
    of_count = np.sqrt(got.exact * (1 - got.exact) / 2000)
    assert (got.error < 0.6 * of_count).all()


def test_the_error_is_the_spread_of_the_difference_over_draws() -> None:
    got = pair(normal(400, 500, 2), OURS, THEIRS)
    spread = got.difference.std(axis=0, ddof=1)
    np.testing.assert_allclose(np.sqrt(np.square(got.error).mean(axis=0)), spread, rtol=0.15)
    np.testing.assert_allclose(got.whole_error, spread / 20, rtol=0.15)


def test_points_that_cancel_in_the_difference_are_in_the_error() -> None:
    fresh = double([[[0.9, 0.0], [1.1, 0.0], [0.0, 0.0], [9.0, 0.0]]])
    shift = double([0.5, 0.0])
    spheres = Spheres(np.array([1.0]), unit_sphere(2, 400))
    ours = transported(spheres.vertices + shift, spheres.unit)
    theirs = transported(spheres.vertices, spheres.unit)
    swap = double([[[-0.9, 0.0], [1.1, 0.0], [0.0, 0.0], [9.0, 0.0]]])
    got = pair(swap, ours, theirs)
    assert (got.difference, got.error) == (0, pytest.approx(np.sqrt((2 / 4) / 3)))
    assert pair(fresh, ours, theirs).difference == 0.25


@pytest.mark.parametrize("count", [1, 50])
def test_equal_boundaries_differ_by_nothing(count: int) -> None:
    got = pair(normal(2, count, 2), OURS, OURS)
    assert not got.difference.any()
    assert not got.error.any()
    facts = got.summary()
    assert facts["standard_error"] == [0, 0, 0]
    assert facts["fresh_exact"]["by_seed"] == got.exact.tolist()
    assert got.columns() == {"paired": ["+0.000"] * 3, "s.e.": ["0.000"] * 3}
    arrays = got.arrays()
    assert {array.shape for array in arrays.values()} == {(2, 3)}
