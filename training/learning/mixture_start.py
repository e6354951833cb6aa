"""The mixture that a flow of rows starts from, fitted to rows with missing cells.

Each component is a normal law of numbers with a covariance of its own, and beside it independent
shares of the levels of each category: known levels tell the component, and through it numbers.

By expectation maximization, which takes what is missing as unknown: each component replaces a
number by its mean given the row's other cells, and adds its covariance (Ghahramani and Jordan 1994,
"Supervised learning from incomplete data via an EM approach"). So it is right where cells are
missing at random given the others. Covariances are drawn towards their mean as by four times as
many rows as there are numbers (Friedman 1989, "Regularized discriminant analysis"): so a component
costs little more than its mean, and few rows may have several. Shares are drawn towards the overall
ones as by one row. A last component is wide, of independent numbers, for rows that fit nowhere
else: of it only the weight is fitted. The number of the others is that of the best mean log density
of held-out numbers and levels; one makes a Gaussian copula.
"""

from collections.abc import Sequence
from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.learning.coordinates import shrunk_correlation
from training.model.questions import EncodedRows

MOST_ROWS = 10_000
"""With these a correlation has an error of 0.01."""
MOST_PATTERNS = 2_000
"""Of missing numbers: each has an inverse of its own, at every step."""
STEPS, CLOSE = 40, 1e-4
"""Steps of a fit at most, and nats a row, the gain of a step at which it is done."""
STEPS_OF_ONE, CLOSE_OF_ONE = 200, 1e-5
"""The same of one component alone, whose steps are cheap; those that are left out bias it where
much is missing."""
GAIN = 0.01
"""Nats a row of held-out numbers for which more components are taken."""
COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
FIRST = (1, 4)
"""That are tried where only spaces are to be compared."""
ROWS_PER_NUMBER = 2
"""Rows that there are, at least, for each number of the means."""
IN_COMMON = 4
"""Rows for each number, as by which covariances are drawn towards their mean."""
MOST_CUBED = 100_000
"""Components times the cube of the numbers, at most: every step of a training takes inverses."""
MOST_NUMBERS = 1 << 23
"""That are held at a time, of matrices, or of features, of all rows."""
WIDE, FEW = 2.0, 0.01
"""Variance of the numbers of the last component, and its weight at first; it keeps a tenth of
that."""
RIDGE = 1e-4
"""Of all variances, in units of the pooled ones."""


class Mixture(NamedTuple):
    """A mixture of M components.

    Attributes:
        weights: ``[M]``.
        means: Of numbers ``[M, D]``.
        covariances: ``[M, D, D]``.
        shares: Of levels ``[M, K]``, those of each category add to 1.
        reach: How far from 0 numbers are taken to be ``[D]``: one more than they are.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    shares: Tensor
    reach: Tensor


class _Rows(NamedTuple):
    """Rows to fit to.

    Attributes:
        values: Numbers ``[N, D]``, 0 where they are missing.
        patterns: Of these ``[U, D]``, bool, true where they are there.
        which: The pattern of each row ``[N]``.
        indicators: Of levels ``[N, K]``, all 0 where they are missing.
        level_counts: Levels of each category.
        features: 1, the numbers, and products of two of them, ``[N, 1 + D + D^2]``, of rows of
            which none is missing: a log density is linear in them, and their means are moments.
            None where some are missing, or they are too many.
    """

    values: Tensor
    patterns: Tensor
    which: Tensor
    indicators: Tensor
    level_counts: Sequence[int]
    features: Tensor | None

    @classmethod
    def of(cls, rows: EncodedRows, level_counts: Sequence[int]) -> "_Rows":
        parts = [torch.zeros(len(rows), 0, dtype=torch.float64)]
        for place, number in enumerate(level_counts):
            parts.append((rows.levels[:, place, None] == torch.arange(number)).double())
        patterns, which = torch.unique(~rows.numbers.isnan(), dim=0, return_inverse=True)
        values, features = rows.numbers.nan_to_num(0.0), None
        if bool(patterns.all()) and values.numel() * values.shape[1] <= MOST_NUMBERS:
            products = (values[:, :, None] * values[:, None]).flatten(1)
            features = torch.cat([torch.ones_like(values[:, :1]), values, products], dim=1)
        return cls(values, patterns, which, torch.cat(parts, dim=1), level_counts, features)

    def times(self, matrices: Tensor, vectors: Tensor) -> Tensor:
        """Vectors of rows ``[N, D]`` by the matrix of their pattern, of ``[U, D, D]``."""
        if len(matrices) == 1:
            return vectors @ matrices[0].mT
        size = max(1, MOST_NUMBERS // matrices[0].numel())
        parts = zip(torch.split(self.which, size), torch.split(vectors, size), strict=True)
        return torch.cat([(matrices[which] @ rows[..., None])[..., 0] for which, rows in parts])


def fit_mixture(
    rows: EncodedRows,
    held_out: EncodedRows,
    level_counts: Sequence[int],
    seed: int,
    counts: Sequence[int] = COMPONENTS,
) -> tuple[Mixture, float]:
    """The mixture with the best number of components.

    Args:
        rows: In coordinates of the flow, of variance 1; the first are taken of many.
        held_out: Rows that decide; may be none, and then there is one component.
        level_counts: Levels of each category.
        seed: Of where components start.
        counts: Numbers of components to try, rising from 1.

    Returns:
        The mixture, and the mean log density in nats of numbers and levels of the rows that are
        held out.
    """
    few = rows.at(slice(0, MOST_ROWS))
    if len(torch.unique(~few.numbers.isnan(), dim=0)) > MOST_PATTERNS:
        few = few.at(slice(0, MOST_PATTERNS))
    own = _Rows.of(few, level_counts)
    others = _Rows.of(held_out.at(slice(0, MOST_ROWS)), level_counts)
    dim = own.values.shape[1]
    unit = (others.patterns[others.which].sum(dim=1) * log(2 * pi) / 2).mean()

    def score(mixture: Mixture) -> float:
        if not len(others.values):
            return 0.0
        both = mixture.weights.log() + _log_densities(mixture, others)
        return float(both.logsumexp(dim=1).mean() - unit)

    pooled, completed = _pooled(own)
    pooled = _with_wide(pooled, own)
    best, of_best, worse = pooled, score(pooled), 0
    for count in counts[1:]:
        too_few = not len(others.values) or len(few) < ROWS_PER_NUMBER * count * dim
        if too_few or count * dim**3 > MOST_CUBED:
            break
        generator = seeded_generator("cpu", seed, Stream.QUESTIONS, count)
        fit = _fitted(own, completed, pooled, count, generator)
        of_fit = score(fit)
        worse = 0 if of_fit > of_best + GAIN else worse + 1
        if not worse:
            best, of_best = fit, of_fit
        elif worse == 2:
            break
    return best, of_best


def _pooled(rows: _Rows) -> tuple[Mixture, Tensor]:
    """One component, and the rows with their missing numbers at their means under it."""
    dim = rows.values.shape[1]
    eye = torch.eye(dim, dtype=torch.float64)
    mean = torch.zeros(1, dim, dtype=torch.float64)
    shares = torch.full((1, rows.indicators.shape[1]), 0.5, dtype=torch.float64)
    reach = 1 + rows.values.abs().amax(dim=0)
    mixture = Mixture(torch.ones(1, dtype=torch.float64), mean, eye[None], shares, reach)
    before = -torch.inf
    for _ in range(STEPS_OF_ONE):
        mixture, completed, total = _step(mixture, rows, None)
        if total - before < CLOSE_OF_ONE or bool(rows.patterns.all()):
            break
        before = total
    mean, std = completed.mean(dim=0), completed.std(dim=0, correction=0).clamp(min=RIDGE)
    # What is off the diagonal is shrunk, with what missing cells added.
    plain = (completed - mean).T @ (completed - mean) / len(completed)
    shrunk = plain
    if dim > 1:
        shrunk = shrunk_correlation((completed - mean) / std) * std[:, None] * std
    return mixture._replace(covariances=mixture.covariances + shrunk - plain), completed


def _with_wide(mixture: Mixture, rows: _Rows) -> Mixture:
    """The mixture with a last component more, whose weight is fitted."""
    dim = rows.values.shape[1]
    wide = Mixture(
        torch.cat([(1 - FEW) * mixture.weights, mixture.weights.new_full((1,), FEW)]),
        torch.cat([mixture.means, mixture.means.new_zeros(1, dim)]),
        torch.cat([mixture.covariances, WIDE * torch.eye(dim, dtype=torch.float64)[None]]),
        torch.cat([mixture.shares, mixture.shares.mean(dim=0, keepdim=True)]),
        mixture.reach,
    )
    log_densities = _log_densities(wide, rows)
    for _ in range(STEPS // 4):
        joint = wide.weights.log() + log_densities
        share = joint.softmax(dim=1).mean(dim=0)[-1].clamp(min=FEW / 10)
        weights = wide.weights[:-1] / wide.weights[:-1].sum()
        wide = wide._replace(weights=torch.cat([(1 - share) * weights, share[None]]))
    return wide


def _fitted(
    rows: _Rows, completed: Tensor, pooled: Mixture, count: int, generator: torch.Generator
) -> Mixture:
    """So many components, from rows that are far apart: a level that differs is as far as two
    standard deviations."""
    levels = rows.indicators

    def far_from(place: int) -> Tensor:
        differ = (levels - levels[place]).abs().sum(dim=1)
        return (completed - completed[place]).square().sum(dim=1) + 2 * differ

    places = [int(torch.randint(len(completed), (1,), generator=generator))]
    distance = far_from(places[0])
    for _ in range(count - 1):
        places.append(int(torch.multinomial(distance + RIDGE, 1, generator=generator)))
        distance = distance.minimum(far_from(places[-1]))
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    covariances = pooled.covariances[:1].repeat(count, 1, 1) / 2
    shares = _normalized(pooled.shares[:1] + levels[places], rows.level_counts)
    mixture = Mixture(weights, completed[places], covariances, shares, pooled.reach)
    mixture = _with_wide(mixture, rows)
    before = -torch.inf
    for _ in range(STEPS):
        mixture, _, total = _step(mixture, rows, pooled)
        if total - before < CLOSE:
            break
        before = total
    return mixture


def _step(mixture: Mixture, rows: _Rows, pooled: Mixture | None) -> tuple[Mixture, Tensor, float]:
    """A step of expectation maximization; of several components, towards what they have in common.
    Returns the mixture after it, the rows with missing numbers at their means, and their mean log
    density before it."""
    count, dim = rows.values.shape
    if rows.features is None:
        gains, of_numbers, of_levels = _of_components(mixture, rows)
        joint = mixture.weights.log() + of_numbers + of_levels  # [N, M]
        completed, *moments = _moments(mixture, rows, gains, joint.softmax(dim=1))
    else:
        joint = mixture.weights.log() + _log_densities(mixture, rows)
        completed, sums = rows.values, joint.softmax(dim=1).T @ rows.features
        moments = list(sums.split_with_sizes([1, dim, dim * dim], dim=1))
    total = moments[0] + 1e-9
    means = moments[1] / total
    of_means = means[:, :, None] * means[:, None]
    covariances = moments[2].view(-1, dim, dim) / total[..., None] - of_means
    shares = joint.softmax(dim=1).T @ rows.indicators
    weights = total[:, 0] / count
    if pooled is None:
        shares = shares + 0.5
    else:
        # Their mean is itself drawn towards the pooled covariance, as by one row for each number.
        counts = total[..., None]
        of_all = (counts * covariances)[:-1].sum(dim=0) + dim * pooled.covariances[0]
        in_common = of_all / (counts[:-1].sum() + dim)
        share = counts / (counts + IN_COMMON * dim)
        covariances = share * covariances + (1 - share) * in_common
        shares = shares + pooled.shares[0]
        # Of the last, which is wide, only the weight is fitted.
        weights = torch.cat([weights[:-1], weights[-1:] + FEW / 10])
        means, shares = (
            torch.cat([new[:-1], old[-1:]])
            for new, old in ((means, mixture.means), (shares, mixture.shares))
        )
        covariances = torch.cat([covariances[:-1], mixture.covariances[-1:]])
    ridge = torch.full((len(weights), 1), RIDGE, dtype=torch.float64)
    if pooled is not None:
        ridge[-1] = 0
    made = Mixture(
        weights / weights.sum(),
        means,
        covariances + torch.diag_embed(ridge.expand(-1, dim)),
        _normalized(shares, rows.level_counts),
        mixture.reach,
    )
    return made, completed, joint.logsumexp(dim=1).mean().item()


def _moments(
    mixture: Mixture, rows: _Rows, gains: Tensor, responsibilities: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows with missing numbers at their means ``[N, D]``; and of each component what it is
    responsible for: how many ``[M, 1]``, and sums of numbers ``[M, D]`` and of products of two
    ``[M, D, D]``."""
    present, seen = rows.patterns[rows.which], rows.patterns.double()
    completed, moments = torch.zeros_like(rows.values), []
    for mean, covariance, gain, share in zip(
        mixture.means, mixture.covariances, gains, responsibilities.T, strict=True
    ):
        guess = mean + rows.times(gain, (rows.values - mean) * present)
        filled = torch.where(present, rows.values, guess)
        completed += share[:, None] * filled
        of_patterns = torch.zeros(len(rows.patterns), dtype=share.dtype)
        of_patterns.index_add_(0, rows.which, share)
        left = covariance - gain @ (seen[:, :, None] * covariance)
        left = left * (1 - seen[:, :, None]) * (1 - seen[:, None, :])
        weighted = share[:, None] * filled
        second = weighted.T @ filled + (of_patterns[:, None, None] * left).sum(dim=0)
        moments.append((share.sum()[None], weighted.sum(dim=0), second))
    how_many, sums, products = (torch.stack(each) for each in zip(*moments, strict=True))
    return completed, how_many, sums, products


def _normalized(levels: Tensor, level_counts: Sequence[int]) -> Tensor:
    """Rows ``[M, K]`` that add to 1 in each category."""
    parts = torch.split(levels, list(level_counts), dim=1) if level_counts else (levels,)
    return torch.cat([part / part.sum(dim=1, keepdim=True) for part in parts], dim=1)


def _log_densities(mixture: Mixture, rows: _Rows) -> Tensor:
    """Of what is there of rows, by component, ``[N, M]``, but for a constant."""
    if rows.features is None:
        return sum(_of_components(mixture, rows)[1:], torch.zeros(()))
    factor = torch.linalg.cholesky(mixture.covariances)
    precision = torch.cholesky_inverse(factor)
    towards = (precision @ mixture.means[..., None])[..., 0]
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    constant = -(log_det + (towards * mixture.means).sum(dim=1)) / 2
    weights = torch.cat([constant[:, None], towards, -precision.flatten(1) / 2], dim=1)
    return rows.features @ weights.T + rows.indicators @ mixture.shares.log().T


def _of_components(mixture: Mixture, rows: _Rows) -> tuple[Tensor, Tensor, Tensor]:
    """What a missing number has of each that is there ``[M, U, D, D]``, and log densities of
    numbers that are there, but for a constant, and of levels ``[N, M]``."""
    seen = rows.patterns.double()
    log_densities, gains = [], []
    present = seen[rows.which]
    for mean, covariance in zip(mixture.means, mixture.covariances, strict=True):
        a = seen[:, :, None] * covariance * seen[:, None, :] + torch.diag_embed(1 - seen)
        factor = torch.linalg.cholesky(a)
        inverse = torch.cholesky_inverse(factor) * seen[:, :, None] * seen[:, None, :]
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        off = (rows.values - mean) * present
        square = (rows.times(inverse, off) * off).sum(dim=1)
        log_densities.append(-(square + log_det[rows.which]) / 2)
        gains.append(covariance @ inverse)
    of_levels = rows.indicators @ mixture.shares.log().T
    return torch.stack(gains), torch.stack(log_densities, dim=1), of_levels


def completed(
    mixture: Mixture, rows: EncodedRows, level_counts: Sequence[int], generator: torch.Generator
) -> EncodedRows:
    """Rows whose missing cells have one joint draw of the mixture, given the cells that are there.

    A draw ``x*`` of the whole component is moved to what is there: ``x* + G (x - x*)``, with the
    gain G of cells that are there (Matheron's rule).
    """
    parts = []
    factors = torch.linalg.cholesky(mixture.covariances)
    for some in torch.split(torch.arange(len(rows)), 4096):
        part = rows.at(some)
        own = _Rows.of(part, level_counts)
        gain, of_numbers, of_levels = _of_components(mixture, own)
        shares = (mixture.weights.log() + of_numbers + of_levels).softmax(dim=1)
        which = torch.multinomial(shares, 1, generator=generator)[:, 0]
        noise = torch.randn(own.values.shape, generator=generator, dtype=torch.float64)
        star = mixture.means[which] + (factors[which] @ noise[..., None])[..., 0]
        there = own.patterns[own.which]
        off = there * (own.values - star)
        moved = star + (gain[which, own.which] @ off[..., None])[..., 0]
        levels, first = part.levels.clone(), 0
        for place, number in enumerate(level_counts):
            of_each = mixture.shares[which, first : first + number]
            drawn = torch.multinomial(of_each, 1, generator=generator)[:, 0]
            levels[:, place] = torch.where(levels[:, place] < 0, drawn, levels[:, place])
            first += number
        parts.append(EncodedRows(torch.where(there, own.values, moved), levels))
    return EncodedRows.joined(parts) if parts else rows
