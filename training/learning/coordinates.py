"""Coordinates that suit the columns of a table, fitted to its rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from training.data.tables.schema import Schema
from training.data.tables.table import Levels
from training.flow.coordinates.categories import LevelPrediction
from training.flow.coordinates.conditions import (
    MOST_CONDITIONS,
    GaussianPrediction,
    LinearPrediction,
    Prediction,
    are_there,
)
from training.flow.coordinates.coordinates import GAUSSIAN, LEVELS, MEAN, PREDICTION, Coordinates
from training.flow.coordinates.maps import (
    MOST_GAPS,
    NOWHERE,
    Bounded,
    Gaps,
    Logarithm,
    NormalScores,
    PointMap,
    Standardize,
    WhitenPCA,
    YeoJohnson,
)
from training.flow.eigenbasis import EigenBasis
from training.learning.gaussian_start import fit_gaussian, fit_levels
from training.names import AXES_TOO, EVENED, LOG, RANKS

CHAINS: dict[str, list[str]] = {
    "none": [],
    "yeo-johnson": ["yeo-johnson"],
    RANKS: ["yeo-johnson", "normal scores"],
    LOG: ["log", "standardize"],
    AXES_TOO: ["yeo-johnson", "normal scores"],
} | {name: ["yeo-johnson", "normal scores"] for name in EVENED}
"""Names of maps, by the transformation of the marginals."""
NOISES = 20
"""Number of noise values per row, for quantiles of a column with noise."""
MOST_ROWS = 20_000
"""Number of rows that an exponent is fitted to: its error is then a hundredth."""
SKEWED = 1.0
"""Skewness from which on a condition is power-transformed; an exponential distribution has 2."""
ROWS_PER_KNOT = 60
FEWEST_KNOTS, MOST_KNOTS = 4, 64
LEAST_GAP = 1e-4
"""Smallest gap between knots, in units of a column's spread: equal values would have an infinite
slope.
"""
LEAST_RISE = 1e-9
"""Smallest gap between knots of a condition, and between their scores, where values are equal."""
FAR = 20.0
"""Number of spreads from the median at which a row counts as far from all others; an exponential
distribution exceeds it once in 1e7.
"""
DECADES = 1e3
"""Ratio of the 99 % and 1 % quantiles of positive numbers from which on logarithms are used."""
LEAST_OF_SMALLEST = 1e-3
"""Lower limit of positive conditions, as a fraction of the smallest; smaller values are treated
like 0.
"""
FEWEST_SCORED = 64
"""Smallest number of rows for a spline whose outermost knots are the extreme rows."""
LEAST_VARIANCE = 1e-13
"""Smallest variance of a principal axis, as a fraction of the largest: rounding errors are
smaller.
"""


def fit_coordinates(
    points: Tensor,
    columns: Schema,
    marginals: str = "none",
    whiten: str = "zca",
    conditions: Tensor | None = None,
    start: str = "off",
    map_bounds: bool = True,
    relevant: Sequence[int] = (),
    levels: Levels | None = None,
    groups: Tensor | None = None,
    of_trial: int = 0,
    raw: dict[str, Any] | None = None,
) -> Coordinates:
    """Fit invertible maps of a table's columns, which give points mean 0 and variance 1.

    Args:
        points: Training points ``[N, D]`` of data space, with discrete columns dequantized. NaN for
            missing values, only without conditions; then each column is mapped by itself.
        columns: Metadata of the columns.
        marginals: Transformation of each column. ``none``: no transformation. ``yeo-johnson``: a
            power transform. ``ranks``: a power transform, then a spline to normal scores. A name
            in ``EVENED``, such as ``ranks-0.2``: like ``ranks``, but the result has the
            distribution of the column plus noise of standard deviation 0.2, which keeps relations
            between columns closer to linear. ``log``: the logarithm of positive columns that span
            decades. ``ranks-axes``: like ``ranks``, then splines along the whitened axes, and
            a second whitening.
        whiten: Whether columns are only standardized (``none``), whitened along the principal axes
            (``pca``), or also rotated back to the columns (``zca``).
        conditions: Conditions of the points ``[N, C]``; None for none.
        start: Prediction from the conditions that is removed before points are whitened: the best
            linear prediction (``on``), a mean by a network (``mean``), a mean and a covariance by a
            network (``gaussian``), or none (``off``).
        map_bounds: Whether bounded columns are mapped to the real line, or left as they are.
        relevant: Indices of the conditions that the flow uses; empty for all.
        levels: Categories of all columns, if all columns are categories; None for numbers.
        groups: Groups ``[N]`` of dependent rows, such as trials of one dataset; None to group rows
            by equal conditions.
        of_trial: Number of conditions per trial, if a row of conditions has several trials side by
            side (NaN for absent trials); 0 if a row has no trials.
        raw: Arguments of ``RawScale`` if the conditions are raw data; None otherwise.

    Raises:
        DataError: A value is out of its bounds, a column is constant, or columns depend on each
            other.
    """
    names = [LEVELS] if levels else _chain(columns, marginals, whiten, start, map_bounds)
    each, most = conditions, 0
    if conditions is not None and of_trial:
        each = conditions.reshape(len(conditions), -1, of_trial)
        each, most = each[are_there(each)], each.shape[1]
    coordinates = _empty(points, names, each, most, relevant, levels, raw)
    x = filled(points.double(), points.isnan())
    coordinates.hold_steps(columns.steps, columns.offsets, x)
    if conditions is not None:
        assert each is not None
        _fit_conditions(coordinates, conditions.double(), each.double())
    c = coordinates.given(conditions).predictors
    for map_ in coordinates.maps:
        if isinstance(map_, Prediction):
            assert c is not None
            _fit_prediction(map_, c, x, groups, levels)
            x, _ = map_(x, c)
        else:
            assert isinstance(map_, PointMap)
            _fit(map_, x, columns, EVENED.get(marginals))
            x, _ = map_(x)
    return coordinates


def _empty(
    points: Tensor,
    names: Sequence[str],
    each: Tensor | None,
    trials: int,
    relevant: Sequence[int],
    levels: Levels | None,
    raw: dict[str, Any] | None,
) -> Coordinates:
    """Create coordinates of points ``[N, D]`` with unfitted maps of these names.

    The transformations of conditions ``[N, C]``, or of those of each trial, are chosen from their
    values.
    """
    count, dim = points.shape
    knots = min(max(count // ROWS_PER_KNOT, FEWEST_KNOTS), MOST_KNOTS)
    given = 0 if each is None else each.shape[1]
    if raw:
        return Coordinates(dim, names, knots, given, surprise=True, raw=raw)
    surprise = 0 < given <= MOST_CONDITIONS
    tails, skewed = [], []
    if each is not None and surprise:  # large numbers of conditions are images or series
        seen, y = sorted(set(relevant or range(given))), each.double()
        is_long, is_skewed = long_tails(y), skewed_conditions(y)
        tails = [place for place in seen if is_long[place]]
        skewed = [place for place in seen if is_skewed[place] and not is_long[place]]
    counts = levels.counts if levels else ()
    return Coordinates(dim, names, knots, given, surprise, relevant, skewed, tails, counts, trials)


def _fit_prediction(
    map_: Prediction, c: Tensor, x: Tensor, groups: Tensor | None, levels: Levels | None
) -> None:
    """Fit the prediction of points ``[N, D]`` from conditions ``c [N, C]``."""
    if isinstance(map_, GaussianPrediction):
        fit_gaussian(map_, c, x, groups)
    elif isinstance(map_, LevelPrediction):
        assert levels is not None
        map_.hold(first=levels.first, step=levels.steps)
        fit_levels(map_, c, x, groups)
    elif isinstance(map_, LinearPrediction):
        map_.fit(c, x)


def filled(x: Tensor, missing: Tensor) -> Tensor:
    """Impute missing values of a column by its observed values, in the order of their rows.

    Each column keeps the distribution of its observed values.

    Args:
        x: Values ``[N, D]``.
        missing: Mask ``[N, D]`` of the missing values.
    """
    if not missing.any():
        return x
    x = x.clone()
    for column, gone in zip(x.T, missing.T, strict=True):
        there, count = column[~gone], int(gone.sum())
        column[gone] = there[torch.arange(count) % len(there)]
    return x


def _chain(columns: Schema, marginals: str, whiten: str, start: str, map_bounds: bool) -> list[str]:
    """Return the names of the maps, in their order."""
    bounded = bool(columns.low.isfinite().any() or columns.high.isfinite().any())
    last = "standardize" if whiten == "none" else whiten
    # Without scaling, principal axes of columns in very different units would be those of the
    # largest, and the rest rounding errors.
    scaled = marginals != "none" or whiten == "none"
    chain = CHAINS[marginals] if scaled else ["standardize"]
    limits = "bounded" if map_bounds else "limits"
    predicted = {
        "off": [],
        "on": [PREDICTION],
        "mean": ["standardize", MEAN],
        "gaussian": ["standardize", GAUSSIAN],
    }[start]
    gaps = any(column.gaps for column in columns.columns)
    names = [*[limits] * bounded, *["gaps"] * gaps, *chain, *predicted, last]
    return [*names, "normal scores", last] if marginals == AXES_TOO else names


def _fit(map_: PointMap, x: Tensor, columns: Schema, noise: float | None) -> None:
    if isinstance(map_, Gaps):
        places = torch.full((x.shape[1], MOST_GAPS), NOWHERE, dtype=torch.float64)
        for own, column in zip(places, columns.columns, strict=True):
            own[: len(column.gaps)] = torch.tensor(column.gaps, dtype=torch.float64)
        map_.hold(places=places, steps=torch.where(columns.steps > 0, columns.steps, 1.0))
    elif isinstance(map_, Logarithm):
        unbounded = torch.full_like(x[0], torch.inf)
        map_.set_bounds(torch.where(over_decades(x), 0.0, -unbounded), unbounded)
    elif isinstance(map_, Bounded):
        outside = (x <= columns.low) | (x >= columns.high)
        if outside.any():
            row, column = outside.nonzero()[0].tolist()
            raise DataError(
                f"column '{columns.names[column]}' has {float(x[row, column]):g} in row "
                f"{row + 1}, outside its bounds {float(columns.low[column]):g} to "
                f"{float(columns.high[column]):g}: correct the value, or give wider bounds"
            )
        map_.set_bounds(columns.low, columns.high)
    elif isinstance(map_, YeoJohnson):
        _require_spread(_thinned(x).std(dim=0, correction=0), columns)
        _fit_powers(map_, x)
    elif isinstance(map_, NormalScores):
        _fit_scores(map_, x, noise)
    elif isinstance(map_, WhitenPCA):
        _fit_axes(map_, x, columns)
    elif isinstance(map_, Standardize):
        std = x.std(dim=0, correction=0)
        _require_spread(std, columns)
        map_.hold(mean=x.mean(dim=0), std=std)


def basis_in(coordinates: Coordinates, points: Tensor) -> EigenBasis:
    """Return the eigenbasis of a flow in these coordinates, fitted to points ``[N, D]``.

    Points are in data space.

    Coordinates of a conditional flow must already contain the conditions of the points
    (``Coordinates.given``). After whitening, all variances are 1, and axes are arbitrary: the basis
    then has the axes of the coordinates.
    """
    if coordinates.names[-1] == "standardize":
        return EigenBasis.fit([coordinates.to_flow(points)])
    return EigenBasis.standard(coordinates.dim)


def _require_spread(spread: Tensor, columns: Schema) -> None:
    if not (spread > 0).all():
        column = int((spread <= 0).int().argmax())
        raise DataError(f"column '{columns.names[column]}' is constant: leave the column out")


def _fit_powers(map_: YeoJohnson, x: Tensor) -> None:
    """Fit the exponents of columns by maximum likelihood.

    Columns are measured from their median in units of their spread.
    """
    from scipy.optimize import minimize_scalar  # scipy.optimize takes a second to import
    from scipy.stats import yeojohnson_llf

    few, (middle, spread) = _thinned(x), _middle(x)
    spread = torch.where(spread > 0, spread, few.std(dim=0))

    def best(column: np.ndarray) -> float:
        optimum = minimize_scalar(
            lambda power: -yeojohnson_llf(power, column), bounds=(0, 2), method="bounded"
        )
        return float(optimum.x)

    exponents = [best(column) for column in ((few - middle) / spread).numpy().T]
    map_.hold(location=middle, scale=spread, exponent=torch.tensor(exponents))


def _fit_conditions(coordinates: Coordinates, conditions: Tensor, each: Tensor) -> None:
    """Fit the scale of conditions ``[N, C]``, or of sets ``[N, n C]`` of trials ``[T, C]``."""
    scale = coordinates.each
    assert coordinates.scale is not None
    if scale is not None and scale.powers is not None:
        _fit_powers(scale.powers, each[:, scale.skewed])
    if scale is not None and scale.scores is not None:
        y = each[:, scale.tails]
        positive, (middle, spread) = over_decades(y), _middle(y)
        scale.scores.location.copy_(torch.where(positive, 0.0, middle))
        scale.scores.scale.copy_(torch.where(positive, LEAST_OF_SMALLEST * y.amin(dim=0), spread))
        x, spline = scale.scores.logarithms(y), scale.scores.scores
        levels, places = _quantiles(x, spline.knots)
        means = []
        for column in places.T:
            _, group, sizes = column.unique(return_inverse=True, return_counts=True)
            sums = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, group, levels)
            means.append((sums / sizes)[group])
        least = LEAST_RISE * torch.arange(spline.knots, dtype=torch.float64)[:, None]
        _hold_spline(spline, places, torch.special.ndtri(torch.stack(means, dim=1)) + least, least)
    coordinates.scale.fit(conditions)
    if coordinates.surprise is not None:
        coordinates.surprise.fit(coordinates.straight(conditions), coordinates.relevant)


def over_decades(x: Tensor) -> Tensor:
    """Return a mask ``[D]`` of the columns of points that are positive and span three decades."""
    low, high = _thinned(x).quantile(x.new_tensor([0.01, 0.99]), dim=0)
    return (x.amin(dim=0) > 0) & (high > DECADES * low)


def _thinned(x: Tensor) -> Tensor:
    """Take enough rows for quantiles: torch.quantile does not accept large inputs."""
    return x[:: -(-len(x) // MOST_ROWS)]


def _middle(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return medians ``[D]``, and half the widths of the central 68 % of rows ``[N, D]``."""
    low, middle, high = _thinned(x).quantile(x.new_tensor([0.16, 0.5, 0.84]), dim=0)
    return middle, (high - low) / 2


def long_tails(y: Tensor) -> Tensor:
    """Return a mask ``[C]`` of the conditions ``[N, C]`` that have long tails.

    Conditions have long tails if a row is far from all other rows, or if their values are positive
    and span decades. With few rows, no condition counts as having long tails.
    """
    middle, spread = _middle(y)
    far = (spread > 0) & ((y - middle).abs().amax(dim=0) > FAR * spread)
    return (far | over_decades(y)) & (len(y) >= FEWEST_SCORED)


def skewed_conditions(y: Tensor) -> Tensor:
    """Return a mask ``[C]`` of the conditions ``[N, C]`` whose distribution is skewed."""
    centered = y - y.mean(dim=0)
    # The result for a constant condition is 0 divided by a positive number.
    scale = centered.square().mean(dim=0).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    return (centered / scale).pow(3).mean(dim=0).abs() > SKEWED


def _fit_scores(map_: NormalScores, x: Tensor, noise: float | None) -> None:
    """Set knots at quantiles, with slopes that are harmonic means of those on both sides.

    (Fritsch and Butland 1984.) Scores are normal, or quantiles with noise, in standard deviations.
    """
    levels, places = _quantiles(x, map_.knots)
    std = x.std(dim=0)
    steps = torch.arange(map_.knots, dtype=torch.float64)[:, None] * LEAST_GAP * std
    if noise is None:
        scores = torch.special.ndtri(levels)[:, None].expand_as(places).contiguous()
    else:
        some = _thinned(x)
        draws = torch.special.ndtri((torch.arange(NOISES, dtype=torch.float64) + 0.5) / NOISES)
        spread = some[:, None] + noise * std * draws[:, None]
        scores = _at_levels(spread.flatten(0, 1), levels)
        scores = (scores - steps).cummax(dim=0).values + steps
    _hold_spline(map_, places, scores, steps)


def _quantiles(x: Tensor, knots: int) -> tuple[Tensor, Tensor]:
    """Return levels ``[K]``, and the quantiles ``[K, D]`` of rows at these levels."""
    inner = (torch.arange(knots - 2, dtype=torch.float64) + 0.5) / (knots - 2)
    # The outermost knots are the extreme rows: lines that began further in would map rare values of
    # columns that hardly vary far out.
    end = torch.tensor([0.5 / len(x)], dtype=torch.float64)
    levels = torch.cat([end, inner, 1 - end])
    return levels, _at_levels(x, levels)


def _at_levels(x: Tensor, levels: Tensor) -> Tensor:
    """Return quantiles ``[K, D]`` of rows ``[N, D]`` at levels ``[K]``."""
    ordered = x.sort(dim=0).values
    # Linear between order statistics; torch.quantile does not accept large inputs.
    place = (levels * len(x) - 0.5).clamp(0, len(x) - 1)
    below = place.floor().long()
    above = (below + 1).clamp(max=len(x) - 1)
    part = (place - below)[:, None]
    return ordered[below] * (1 - part) + ordered[above] * part


def _hold_spline(map_: NormalScores, places: Tensor, scores: Tensor, steps: Tensor) -> None:
    """Set the knots of a spline.

    Each is larger than all before it by at least the difference of their steps.
    """
    places = (places - steps).cummax(dim=0).values + steps
    widths, rises = places.diff(dim=0), scores.diff(dim=0)
    means = rises / widths
    before, after = 2 * widths[1:] + widths[:-1], widths[1:] + 2 * widths[:-1]
    middle = (before + after) / (before / means[:-1] + after / means[1:])
    slopes = torch.cat([means[:1], middle, means[-1:]])
    map_.hold(places=places, scores=scores, slopes=slopes)


def shrunk_correlation(s: Tensor, present: Tensor | None = None) -> Tensor:
    """Return the correlations ``[D, D]`` of standardized points ``[N, D]``, shrunk towards 0.

    The shrinkage factor ``1 - lambda`` minimizes the expected squared error, with

        lambda = sum_ij Var(r_ij) / sum_ij r_ij^2    over i != j,

    where Var is the variance of the mean, over rows, of products (Schaefer and Strimmer 2005).

    Args:
        s: Standardized points ``[N, D]``, 0 where they are missing.
        present: Which values are present ``[N, D]``, bool: each correlation is that of the rows
            that have both values. None if no value is missing.
    """
    count: Tensor | float = float(len(s))
    if present is not None:
        count = (present.to(s).T @ present.to(s)).clamp(min=2)
    correlation = s.T @ s / count
    squares = s.square().T @ s.square() / count - correlation.square()
    variance = squares * count**2 / (count - 1) ** 3
    off = ~torch.eye(s.shape[1], dtype=torch.bool)
    share = float((variance[off].sum() / correlation[off].square().sum()).clamp(max=1))
    return torch.where(off, (1 - share) * correlation, correlation)


def _fit_axes(map_: WhitenPCA, x: Tensor, columns: Schema) -> None:
    if len(x) > x.shape[1] + 1:
        basis = EigenBasis.fit([x])
    else:  # too few for a covariance
        mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
        shrunk = shrunk_correlation((x - mean) / std) * std[:, None] * std
        basis = EigenBasis.from_moments(mean, shrunk)
    if basis.eigenvalues[-1] < LEAST_VARIANCE * basis.top_variance:
        share = basis.eigenvectors[:, -1].abs()
        most = share.topk(min(3, len(share))).indices.tolist()
        named = ", ".join(f"'{columns.names[index]}'" for index in most)
        raise DataError(
            f"columns are exact functions of each other, most clearly {named}: leave one of these "
            "columns out"
        )
    map_.hold(mean=basis.mean, axes=basis.eigenvectors, std=basis.eigenvalues.sqrt())
