"""Coordinates: invertible, with the log determinant of autograd, and fitted as they say."""

from itertools import product
from math import inf

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.preprocessing import PowerTransformer

from dnnlib.errors import DataError, UsageError
from tests.support.draws import seeded
from tests.support.running import refusal
from training.data.tables.table import Columns
from training.flow.coordinates.coordinates import Coordinates
from training.learning.coordinates import basis_in, fit_coordinates, over_decades
from training.names import AXES_TOO, EVENED, LOG, MARGINALS, WHITENINGS

NAMES = ["gamma", "uniform", "rate", "sum"]
SPACES = [*product((*MARGINALS, "quantile-0.2"), WHITENINGS), *product((AXES_TOO,), ("pca", "zca"))]


def table(count=2000, seed=0):
    """A skewed column, one between 0 and 1, a positive one, and almost the sum of the others."""
    draw = np.random.default_rng(seed)
    columns = [draw.gamma(2, 3, count), draw.uniform(size=count), draw.lognormal(size=count)]
    return torch.from_numpy(np.stack([*columns, sum(columns) + draw.normal(0, 0.1, count)], 1))


def bounded_columns():
    plain = Columns.plain(NAMES)
    low, high = plain.low.clone(), plain.high.clone()
    low[1], high[1], low[2] = 0, 1, 0
    return Columns(NAMES, plain.steps, plain.offsets, low, high)


@pytest.fixture(params=[(*space, bounded) for space in SPACES for bounded in (False, True)])
def fitted(request):
    marginals, whiten, bounded = request.param
    columns = bounded_columns() if bounded else Columns.plain(NAMES)
    return fit_coordinates(table(), columns, marginals, whiten)


def test_points_come_back_and_the_log_determinant_is_that_of_autograd(fitted):
    fitted.check()
    points = table(50, seed=1)
    if fitted.names[0] == "yeo-johnson":
        points[0] = fitted.maps[0].location  # where sign and abs have no slope
    u, log_det = fitted(points)
    torch.testing.assert_close(fitted.to_data(u), points, rtol=1e-9, atol=1e-9)
    rows = [
        torch.autograd.functional.jacobian(fitted.to_flow, point[None])[0, :, 0]
        for point in points[:8]
    ]
    expected = torch.stack(rows).slogdet().logabsdet
    torch.testing.assert_close(log_det[:8], expected, rtol=1e-7, atol=1e-7)


def test_coordinates_are_read_as_they_were_fitted(fitted):
    read = Coordinates(fitted.dim, fitted.names, fitted.knots)
    read.load_state_dict(fitted.state_dict())
    points = table(50, seed=3)
    for got, expected in zip(read(points), fitted(points), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("whiten", WHITENINGS)
def test_units_far_apart_are_no_dependence(whiten):
    units = torch.tensor([1e-6, 1.0, 1e6, 1.0])
    columns, both = Columns.plain(NAMES), (table() * units, table())
    one, other = (fit_coordinates(rows, columns, "none", whiten) for rows in both)
    torch.testing.assert_close(one.to_flow(table() * units), other.to_flow(table()))


def test_the_way_back_is_defined_far_out_and_inverts(fitted):
    u = 6 * torch.randn(500, 4, generator=seeded(2), dtype=torch.float64)
    points = fitted.to_data(u)
    assert points.isfinite().all()
    inside = fitted.to_flow(points.clamp(max=1e12)) if "bounded" not in fitted.names else u
    torch.testing.assert_close(inside, u, rtol=1e-5, atol=1e-5)


def test_rows_of_the_fit_have_mean_zero_and_variance_one(fitted):
    u = fitted.to_flow(table())
    torch.testing.assert_close(u.mean(dim=0), torch.zeros(4).double(), rtol=0, atol=1e-9)
    covariance, unit = u.T.cov(correction=0), torch.eye(4).double()
    if fitted.names[-1] == "standardize":
        covariance = covariance.diag().diag()
        assert basis_in(fitted, table()).participation_ratio < 3.5
    else:
        assert torch.equal(basis_in(fitted, table()).eigenvectors, unit)
    torch.testing.assert_close(covariance, unit, rtol=0, atol=1e-9)


def test_splines_along_axes_draw_in_a_row_that_is_far_from_all_others():
    points = table()
    points[0, 3] += 20  # not far in its column, but off the plane of the others
    columns = Columns.plain(NAMES)
    plain, axes = (fit_coordinates(points, columns, m, "pca") for m in ("quantile", AXES_TOO))
    far, near = (float(each.to_flow(points[:1]).norm()) for each in (plain, axes))
    assert near < 6 < far
    with pytest.raises(UsageError, match="whiten=pca or zca"):
        fit_coordinates(points, columns, AXES_TOO, "none")


def test_scores_make_columns_normal_and_powers_are_those_of_scikit_learn():
    points = table(6000)
    distance = {}
    for marginals in ("none", "quantile"):
        u = fit_coordinates(points, Columns.plain(NAMES), marginals, "none").to_flow(points)
        levels = norm.cdf(u[:, 0].sort().values.numpy())
        distance[marginals] = np.abs(levels - (np.arange(6000) + 0.5) / 6000).max()
    assert distance["quantile"] < 0.01 < 0.05 < distance["none"]
    fitted = fit_coordinates(points[:, [0]], Columns.plain(["gamma"]), "yeo-johnson", "none")
    power = fitted.maps[0]
    scaled = (points[:, [0]] - power.location) / power.scale
    expected = PowerTransformer(standardize=False).fit(scaled.numpy())
    assert float(power.exponent) == pytest.approx(expected.lambdas_[0], abs=1e-3)
    known = torch.from_numpy(expected.transform(scaled.numpy()))
    torch.testing.assert_close(power(points[:, [0]])[0], known, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", EVENED)
def test_a_column_gets_the_quantiles_that_it_has_with_noise(name):
    draw, columns = np.random.default_rng(0), Columns.plain(["heaps"])
    where = np.where(draw.random(20_000) < 0.7, draw.normal(size=20_000), 0.7)
    points = torch.from_numpy(where + 0.01 * draw.normal(size=20_000))[:, None]
    plain, evened = (
        fit_coordinates(points, columns, marginals, "none").to_flow(points)
        for marginals in ("yeo-johnson", name)
    )
    noisy = plain + EVENED[name] * torch.randn(plain.shape, generator=seeded()).double()
    levels = torch.linspace(0.02, 0.98, 97).double()
    plain, evened, noisy = (
        ((u - u.mean()) / u.std()).quantile(levels) for u in (plain, evened, noisy)
    )
    assert (evened - noisy).abs().max() < (plain - noisy).abs().max() / 3


def test_whitening_back_keeps_what_is_thin():
    points = table()
    points[:, 3] = points[:, :3].sum(dim=1) + 1e-4 * torch.randn(2000, generator=seeded())
    fitted = fit_coordinates(points, Columns.plain(NAMES), "none", "zca")
    back = fitted.to_data(fitted.to_flow(points))
    thickness = (back[:, 3] - back[:, :3].sum(dim=1)).std()
    assert float(thickness) == pytest.approx(1e-4, rel=0.05)


def test_discrete_columns_are_dithered_within_their_step_and_rounded_back_to_decimals():
    tenths = (618 + torch.arange(70)).double() / 10
    between = (25 + 10 * torch.arange(70)).double() / 100
    points = torch.stack([tenths, torch.arange(70).double() * 0.3, between], 1)
    columns = Columns.plain(["tenths", "real", "between"])
    steps, offsets = torch.tensor([[0.1, 0, 0.1], [61.8, 0, 0.25]], dtype=torch.float64)
    columns = Columns(columns.names, steps, offsets, columns.low, columns.high)
    fitted = fit_coordinates(points, columns, "none", "none")
    dithered = fitted.dithered(points, seeded())
    assert torch.equal(dithered[:, 1], points[:, 1])
    assert 0 < float((dithered - points)[:, 0].abs().max()) <= 0.05
    assert torch.equal(fitted.rounded(dithered), points)


def test_what_has_no_coordinates_is_said_with_the_name_of_its_column():
    points, columns = table(), bounded_columns()
    points[7, 1] = 1.5
    assert "column 'uniform' has 1.5 in row 8" in refusal(fit_coordinates, points, columns)
    points = table()
    points[:, 2] = 3
    for marginals, whiten in (("quantile", "zca"), ("none", "none")):
        with pytest.raises(DataError, match="column 'rate' is constant"):
            fit_coordinates(points, Columns.plain(NAMES), marginals, whiten)
    points = table()
    points[:, 3] = points[:, 0] - points[:, 2]
    with pytest.raises(DataError, match=r"depend on each other.*'sum'"):
        fit_coordinates(points, Columns.plain(NAMES))
    fitted = fit_coordinates(table(), bounded_columns())
    outside = table(3)
    outside[1, 1] = -inf
    with pytest.raises(DataError, match=r"1 point.*first in row 2, column 2"):
        fitted.to_flow(outside)


BROKEN = [
    ("bounded", "has_low", 1.0, "not below"),
    ("yeo-johnson", "exponent", 2.5, "exponent"),
    ("normal scores", "places", 0.0, "do not increase"),
    ("normal scores", "slopes", -1.0, "not positive"),
    ("standardize", "std", 0.0, "not positive"),
    ("zca", "axes", 1.0, "not orthonormal"),
]


@pytest.mark.parametrize(("name", "buffer", "value", "match"), BROKEN)
def test_singular_coordinates_are_refused(name, buffer, value, match):
    coordinates = Coordinates(3, [name], 4)
    coordinates.check()
    getattr(coordinates.maps[0], buffer).fill_(value)
    if name == "bounded":
        coordinates.maps[0].has_high.fill_(1)
    with pytest.raises(ValueError, match=match):
        coordinates.check()


def test_coordinates_are_made_of_maps_that_there_are():
    with pytest.raises(ValueError, match="unknown map 'fold'"):
        Coordinates(2, ["fold"])
    with pytest.raises(ValueError, match="at least 2 knots"):
        Coordinates(2, ["normal scores"], 1)
    coordinates = Coordinates(2, ["zca"])
    coordinates.steps.fill_(-1)
    with pytest.raises(ValueError, match="a step is negative"):
        coordinates.check()
    assert "maps=['zca']" in repr(coordinates)


def test_no_point_of_the_flow_is_on_a_bound():
    fitted = fit_coordinates(table(), bounded_columns(), "none", "zca")
    far = fitted.to_data(torch.tensor([[-60.0], [60.0]]).double().expand(2, 4))
    low, high = far[:, 1]
    assert 0 < low < 1e-9
    assert 1 - 1e-9 < high < 1
    assert fitted(far)[1].isfinite().all()


def test_fewer_rows_than_columns_are_whitened_by_correlations_that_are_shrunk():
    draw = np.random.default_rng(0)
    common = draw.normal(size=(200, 3)) @ draw.normal(size=(3, 60))
    points = torch.from_numpy(10 * (common + draw.normal(size=(200, 60))))
    columns = Columns.plain([f"c{index}" for index in range(60)])

    def nats(whiten):
        u, log_det = fit_coordinates(points[:50], columns, "none", whiten)(points[50:])
        return float((log_det - u.square().sum(dim=1) / 2).mean())

    assert nats("zca") == pytest.approx(nats("pca"))
    # What has been seen of the correlations is of use for rows that have not.
    assert nats("pca") > nats("none") + 20


def test_draws_are_put_at_steps_that_the_data_had():
    plain = Columns.plain(["sex", "age", "height"])
    steps = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    columns = Columns(plain.names, steps, 0.5 * steps, plain.low, plain.high)
    whole = torch.tensor([[0.5, 0.75, 1.23], [1.5, 80.25, -1.0]], dtype=torch.float64)
    dithered = torch.cat([whole + 0.4 * steps, whole - 0.4 * steps])
    coordinates = fit_coordinates(dithered, columns, "none", "none")
    draws = torch.tensor([[-1.9, -7.0, -9.87], [1.2, 6.141900006, 0.5], [7.0, 99.0, 9.0]])
    expected = [[0.5, 0.75, -9.87], [1.5, 6.25, 0.5], [1.5, 80.25, 9.0]]
    got = coordinates.plausible(draws.double())
    torch.testing.assert_close(got, torch.tensor(expected).double())
    assert float(coordinates.rounded(draws.double())[2, 0]) == 6.5  # a row of other data stays


def test_columns_over_decades_are_logarithms_and_others_stay_as_they_are():
    draw = np.random.default_rng(0)
    wide, plain = 10 ** draw.uniform(-3, 3, 2000), draw.normal(size=2000)
    skewed, gap = draw.exponential(size=2000), np.where(np.arange(2000) == 9, 0.0, wide)
    points = torch.from_numpy(np.stack([wide, plain, skewed, gap], axis=1))
    columns = Columns.plain(["wide", "plain", "skewed"])
    assert over_decades(points).tolist() == [True, False, False, False]
    fitted = fit_coordinates(points[:, :3], columns, LOG, "none")
    u, log_det = fitted(points[:, :3])
    logs = torch.cat([points[:, :1].log(), points[:, 1:3]], dim=1)
    torch.testing.assert_close(u, (logs - logs.mean(dim=0)) / logs.std(dim=0, correction=0))
    slopes = 1 / (points[:, 0] * logs.std(dim=0, correction=0).prod())
    torch.testing.assert_close(log_det, slopes.log())
    assert (fitted.to_data(6 * torch.randn(500, 3, dtype=torch.float64))[:, 0] > 0).all()
    torch.testing.assert_close(fitted.to_data(u), points[:, :3])
