"""Gaussian mixture that a flow of rows starts from, fitted to rows with missing values.

Each component is a normal distribution of numbers with its own covariance, and independent
probabilities of the levels of each category. Known categories inform the component, and through it
the numbers.

The fit is by expectation maximization, which treats missing values as unknown: each component
replaces a number by its mean given the row's other values, and adds its covariance (Ghahramani and
Jordan 1994, "Supervised learning from incomplete data via an EM approach"). It is therefore right
where values are missing at random given the others. Covariances are shrunk towards their mean, with
the weight of four times as many rows as there are numbers (Friedman 1989, "Regularized discriminant
analysis"). A component thus costs little more than its mean, and few rows can support several.
Category probabilities are shrunk towards the overall ones with the weight of one row. The last
component is wide, with independent numbers, for rows that fit nowhere else: only its weight is
fitted. The number of the other components is chosen by the mean log density of held-out rows; with
one, the model is a Gaussian copula.
"""

from collections.abc import Sequence
from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.learning.coordinates import shrunk_correlation
from training.trained.questions import EncodedRows

MOST_ROWS = 10_000
"""Largest number of rows to fit to; a correlation then has an error of 0.01."""
MOST_PATTERNS = 2_000
"""Largest number of patterns of missing numbers: each needs an inverse in every step."""
EM_STEPS, CLOSE = 40, 1e-4
"""Largest number of steps of a fit, and gain of a step, in nats per row, below which it ends."""
STEPS_OF_ONE, CLOSE_OF_ONE = 200, 1e-5
"""The same for a single component, whose steps are cheap; omitted steps bias it where many values
are missing.
"""
GAIN = 0.01
"""Gain on held-out rows, in nats per row, that justifies more components."""
COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
FIRST = (1, 4)
"""Numbers of components to try where only coordinates are compared."""
ROWS_PER_NUMBER = 2
"""Smallest number of rows per value of the means."""
IN_COMMON = 4
"""Weight, in rows per number, of the mean covariance in the shrinkage."""
MOST_CUBED = 100_000
"""Largest product of the components and the cube of the numbers, since every training step computes
inverses.
"""
MOST_INVERTED = 1 << 28
"""Largest product of the patterns of missing numbers and the cube of the numbers.

In wider tables each correlation is that of the rows that have both numbers, and fewer rows decide.
"""
FEWEST_SCORED = 32
"""Least number of rows that decide in such tables."""
MOST_NUMBERS = 1 << 23
"""Largest number of values held at once, in matrices or in features of all rows."""
MOST_DRAWN = 1 << 25
"""Largest number of values of regression matrices that are held while missing values are drawn."""
WIDE, WIDE_WEIGHT = 2.0, 0.01
"""Variance of the numbers of the last component, and its initial weight; it keeps at least a tenth
of that.
"""
RIDGE = 1e-4
"""Ridge added to all variances, in units of the pooled ones."""


class Mixture(NamedTuple):
    """Mixture of M components for rows of numbers and categories.

    Attributes:
        weights: Weights ``[M]``.
        means: Means of numbers ``[M, D]``.
        covariances: Covariances of numbers ``[M, D, D]``.
        shares: Probabilities of levels ``[M, K]``; probabilities of each category sum to 1.
        reach: Assumed largest distance of numbers from 0 ``[D]``: the largest observed distance
            plus 1.
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
        patterns: Patterns of observed numbers ``[U, D]``, bool.
        which: Pattern of each row ``[N]``.
        indicators: Indicators of levels ``[N, K]``, all 0 where a category is missing.
        level_counts: Number of levels of each category.
        features: Features ``[N, 1 + D + D^2]`` of complete rows: 1, the numbers, and products of
            two numbers. A log density is linear in them, and their means are moments. None where
            numbers are missing, or there are too many.
    """

    values: Tensor
    patterns: Tensor
    which: Tensor
    indicators: Tensor
    level_counts: Sequence[int]
    features: Tensor | None

    @classmethod
    def from_rows(cls, rows: EncodedRows, level_counts: Sequence[int]) -> "_Rows":
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
        """Multiply a vector ``[D]`` of each row by the matrix of its pattern of missing values.

        The vectors are ``[N, D]``, the matrices of the U patterns ``[U, D, D]``.
        """
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
    """Fit mixtures with several numbers of components, and return the best mixture.

    Args:
        rows: Rows in coordinates of the flow, of variance 1; only the first rows are used if there
            are many.
        held_out: Validation rows, which decide the number of components. Without validation rows,
            there is a single component.
        level_counts: Number of levels of each category.
        seed: Random seed of the initial components.
        counts: Numbers of components to try, increasing from 1.

    Returns:
        The mixture, and the mean log density of the held-out rows in nats.
    """
    few = rows.at(slice(0, MOST_ROWS))
    if len(torch.unique(~few.numbers.isnan(), dim=0)) > MOST_PATTERNS:
        few = few.at(slice(0, MOST_PATTERNS))
    own = _Rows.from_rows(few, level_counts)
    dim, scored = own.values.shape[1], MOST_ROWS
    is_wide = len(own.patterns) * dim**3 > MOST_INVERTED
    if is_wide:
        scored = max(FEWEST_SCORED, MOST_INVERTED // dim**3)
    others = _Rows.from_rows(held_out.at(slice(0, scored)), level_counts)
    unit = (others.patterns[others.which].sum(dim=1) * log(2 * pi) / 2).mean()

    def score(mixture: Mixture) -> float:
        if not len(others.values):
            return 0.0
        both = mixture.weights.log() + _log_densities(mixture, others)
        return float(both.logsumexp(dim=1).mean() - unit)

    if is_wide:
        one = _pairwise(own)
        wide = _with_wide(one, _Rows.from_rows(few.at(slice(0, scored)), level_counts))
        return wide, score(wide)
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
    """Fit one component; return it with the rows, where missing numbers are at their means."""
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
    # Off-diagonal entries are shrunk, and the contribution of missing values is added.
    plain = (completed - mean).T @ (completed - mean) / len(completed)
    shrunk = plain
    if dim > 1:
        shrunk = shrunk_correlation((completed - mean) / std) * std[:, None] * std
    return mixture._replace(covariances=mixture.covariances + shrunk - plain), completed


def _pairwise(rows: _Rows) -> Mixture:
    """Fit one component, whose moments of two numbers are those of the rows that have both."""
    present = rows.patterns[rows.which]
    count = present.sum(dim=0).clamp(min=1)
    mean = rows.values.sum(dim=0) / count
    off = torch.where(present, rows.values - mean, 0.0)
    std = (off.square().sum(dim=0) / count).sqrt().clamp(min=RIDGE)
    correlation = shrunk_correlation(off / std, present)
    # Correlations of different rows may contradict each other.
    eigenvalues, vectors = torch.linalg.eigh(correlation)
    correlation = (vectors * eigenvalues.clamp(min=RIDGE)) @ vectors.T
    shares = _normalized(rows.indicators.sum(dim=0, keepdim=True) + 0.5, rows.level_counts)
    return Mixture(
        torch.ones(1, dtype=torch.float64),
        mean[None],
        (correlation * std[:, None] * std)[None],
        shares,
        1 + rows.values.abs().amax(dim=0),
    )


def _with_wide(mixture: Mixture, rows: _Rows) -> Mixture:
    """Append the wide last component to a mixture, and fit its weight."""
    dim = rows.values.shape[1]
    wide = Mixture(
        torch.cat(
            [(1 - WIDE_WEIGHT) * mixture.weights, mixture.weights.new_full((1,), WIDE_WEIGHT)]
        ),
        torch.cat([mixture.means, mixture.means.new_zeros(1, dim)]),
        torch.cat([mixture.covariances, WIDE * torch.eye(dim, dtype=torch.float64)[None]]),
        torch.cat([mixture.shares, mixture.shares.mean(dim=0, keepdim=True)]),
        mixture.reach,
    )
    log_densities = _log_densities(wide, rows)
    for _ in range(EM_STEPS // 4):
        joint = wide.weights.log() + log_densities
        share = joint.softmax(dim=1).mean(dim=0)[-1].clamp(min=WIDE_WEIGHT / 10)
        weights = wide.weights[:-1] / wide.weights[:-1].sum()
        wide = wide._replace(weights=torch.cat([(1 - share) * weights, share[None]]))
    return wide


def _fitted(
    rows: _Rows, completed: Tensor, pooled: Mixture, count: int, generator: torch.Generator
) -> Mixture:
    """Fit ``count`` components, starting from rows that are far apart.

    A category that differs counts like a distance of two standard deviations.
    """
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
    for _ in range(EM_STEPS):
        mixture, _, total = _step(mixture, rows, pooled)
        if total - before < CLOSE:
            break
        before = total
    return mixture


def _step(mixture: Mixture, rows: _Rows, pooled: Mixture | None) -> tuple[Mixture, Tensor, float]:
    """Take a step of expectation maximization, with shrinkage if there are several components.

    Returns:
        The mixture after the step, the rows with missing numbers at their means, and the mean log
        density before the step.
    """
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
        # The mean covariance is itself shrunk towards the pooled one, with the weight of one row
        # per number.
        counts = total[..., None]
        of_all = (counts * covariances)[:-1].sum(dim=0) + dim * pooled.covariances[0]
        in_common = of_all / (counts[:-1].sum() + dim)
        share = counts / (counts + IN_COMMON * dim)
        covariances = share * covariances + (1 - share) * in_common
        shares = shares + pooled.shares[0]
        # Only the weight of the last, wide component is fitted.
        weights = torch.cat([weights[:-1], weights[-1:] + WIDE_WEIGHT / 10])
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
    """Return imputed rows, and the expected moments of each component.

    Returns:
        The rows ``[N, D]`` with missing numbers at their means; and for each component the sums of
        responsibilities ``[M, 1]``, of numbers ``[M, D]`` and of products of two numbers
        ``[M, D, D]``.
    """
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
    """Normalize rows ``[M, K]`` to sum to 1 in each category."""
    parts = torch.split(levels, list(level_counts), dim=1) if level_counts else (levels,)
    return torch.cat([part / part.sum(dim=1, keepdim=True) for part in parts], dim=1)


def _log_densities(mixture: Mixture, rows: _Rows) -> Tensor:
    """Return log densities ``[N, M]`` of the observed values of rows, by component.

    They are known up to a constant.
    """
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
    """Return regressions on observed numbers and log densities, by component.

    Returns:
        Regression coefficients of missing on observed numbers ``[M, U, D, D]``; and log densities
        ``[N, M]`` of observed numbers, up to a constant, and of categories.
    """
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
    """Impute the missing values of each row by one joint draw of the mixture.

    The draw is conditional on the observed values of the row.

    A draw ``x*`` of all numbers is corrected by the observed values x: ``x* + G (x - x*)``, where G
    is the matrix of the regression on the observed values (Matheron's rule).
    """
    parts, size = [], max(1, min(4096, MOST_DRAWN // mixture.covariances.numel()))
    factors = torch.linalg.cholesky(mixture.covariances)
    for some in torch.split(torch.arange(len(rows)), size):
        part = rows.at(some)
        own = _Rows.from_rows(part, level_counts)
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
