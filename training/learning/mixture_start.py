"""The mixture of normal laws that a flow of rows starts from, fitted to rows with missing cells.

By expectation maximization, which takes what is missing as unknown: each component replaces it by
its mean given the row's other cells, and adds its covariance (Ghahramani and Jordan 1994,
"Supervised learning from incomplete data via an EM approach"). So it is right where cells are
missing at random given the others. A component's covariance is drawn towards the pooled one as by
as many rows as there are columns. The number of components is that of the best mean log density of
rows that are held out: of few rows it is 1, which makes a Gaussian copula.
"""

from collections.abc import Sequence
from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.flow.questions import EncodedRows
from training.learning.coordinates import shrunk_correlation

MOST_ROWS = 20_000
"""With these a correlation has an error of 0.007."""
MOST_PATTERNS = 2_000
"""Of missing cells: each has an inverse of its own, at every step."""
STEPS, STARTS = 60, 2
CLOSE = 5e-4
"""Nats a row: gain of a step at which a fit is done."""
COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16)
ROWS_PER_NUMBER = 2
"""Rows that there are, at least, for each number of a mixture."""
MOST_NUMBERS = 1 << 23
"""Of matrices that are held at a time, one for each row."""
RIDGE = 1e-4
"""Of all variances, in units of the pooled ones."""


class Mixture(NamedTuple):
    """Weights ``[M]``, means ``[M, P]`` and covariances ``[M, P, P]``."""

    weights: Tensor
    means: Tensor
    covariances: Tensor


class _Rows(NamedTuple):
    """Rows ``[N, P]``, 0 where cells are missing; the patterns of these ``[U, P]``, bool, true
    where cells are there; and the pattern of each row ``[N]``."""

    values: Tensor
    patterns: Tensor
    which: Tensor

    @classmethod
    def of(cls, values: Tensor) -> "_Rows":
        patterns, which = torch.unique(~values.isnan(), dim=0, return_inverse=True)
        return cls(values.nan_to_num(0.0), patterns, which)

    def times(self, matrices: Tensor, vectors: Tensor) -> Tensor:
        """Vectors of rows ``[N, P]`` by the matrix of their pattern, of ``[U, P, P]``."""
        if len(matrices) == 1:
            return vectors @ matrices[0].mT
        size = max(1, MOST_NUMBERS // matrices[0].numel())
        parts = zip(torch.split(self.which, size), torch.split(vectors, size), strict=True)
        return torch.cat([(matrices[which] @ rows[..., None])[..., 0] for which, rows in parts])


def with_indicators(cells: EncodedRows, level_counts: Sequence[int]) -> Tensor:
    """Numbers and indicators of levels ``[N, D + K]``, NaN where they are missing."""
    parts = [cells.numbers]
    for place, number in enumerate(level_counts):
        level = cells.levels[:, place, None]
        indicators = (level == torch.arange(number)).double()
        parts.append(indicators.masked_fill(level < 0, torch.nan))
    return torch.cat(parts, dim=1)


def fit_mixture(
    rows: EncodedRows, held_out: EncodedRows, level_counts: Sequence[int], seed: int
) -> tuple[Mixture, float]:
    """The mixture with the best number of components.

    Args:
        rows: In coordinates of the flow; the first are taken of many.
        held_out: Rows that decide; may be none, and then there is one component.
        level_counts: Levels of each category.
        seed: Of where components start.

    Returns:
        The mixture, and the mean log density in nats of numbers of the rows that are held out,
        given their levels.
    """
    values = with_indicators(rows.at(slice(0, MOST_ROWS)), level_counts)
    other = with_indicators(held_out.at(slice(0, MOST_ROWS)), level_counts)
    if len(torch.unique(~values.isnan(), dim=0)) > MOST_PATTERNS:
        values = values[:MOST_PATTERNS]
    dim, size = rows.numbers.shape[1], values.shape[1]
    mean, scale = torch.zeros(size).double(), values.square().nanmean(dim=0).sqrt()
    mean[dim:] = values[:, dim:].nanmean(dim=0)
    scale[dim:] = (mean * (1 - mean))[dim:].sqrt()
    scale = scale.nan_to_num(1.0).clamp(min=RIDGE)
    scaled = _Rows.of((values - mean) / scale)
    others = _Rows.of((other - mean) / scale)
    given = _Rows.of((other - mean) / scale * torch.where(torch.arange(size) < dim, torch.nan, 1.0))
    unit = (~other[:, :dim].isnan() * (scale[:dim].log() + log(2 * pi) / 2)).sum(dim=1)

    def score(mixture: Mixture) -> float:
        if not len(other):
            return 0.0
        of_numbers = _log_density(mixture, others) - _log_density(mixture, given) - unit
        return of_numbers.mean().item()

    pooled, completed = _pooled(scaled)
    best, scores = pooled, [score(pooled)]
    for count in COMPONENTS[1:]:
        numbers = count * size * (size + 3) / 2
        if not (dim and len(other)) or len(values) < ROWS_PER_NUMBER * numbers:
            break
        generator = seeded_generator("cpu", seed, Stream.QUESTIONS, count)
        fits = [_fitted(scaled, completed, pooled, count, generator) for _ in range(STARTS)]
        fit = max(fits, key=lambda each: _log_density(each, scaled).mean().item())
        scores.append(score(fit))
        if scores[-1] == max(scores):
            best = fit
        elif len(scores) - scores.index(max(scores)) > 2:
            break
    outer = scale[:, None] * scale
    made = Mixture(best.weights, mean + best.means * scale, best.covariances * outer)
    return made, max(scores)


def _pooled(rows: _Rows) -> tuple[Mixture, Tensor]:
    """One component, and the rows with their missing cells at their means under it."""
    size = rows.values.shape[1]
    eye = torch.eye(size, dtype=torch.float64)
    mixture = Mixture(torch.ones(1, dtype=torch.float64), torch.zeros(1, size).double(), eye[None])
    before = -torch.inf
    for _ in range(STEPS):
        mixture, completed, total = _step(mixture, rows, None)
        if total - before < CLOSE or bool(rows.patterns.all()):
            break
        before = total
    mean = completed.mean(dim=0)
    std = completed.std(dim=0, correction=0).clamp(min=RIDGE)
    # What is off the diagonal is shrunk, with what missing cells added.
    plain = (completed - mean).T @ (completed - mean) / len(completed)
    shrunk = shrunk_correlation((completed - mean) / std) * std[:, None] * std
    covariance = mixture.covariances + (shrunk - plain) + RIDGE * eye
    return Mixture(mixture.weights, mixture.means, covariance), completed


def _fitted(
    rows: _Rows, completed: Tensor, pooled: Mixture, count: int, generator: torch.Generator
) -> Mixture:
    """So many components, from means that are far apart."""
    first = int(torch.randint(len(completed), (1,), generator=generator))
    means, distance = [completed[first]], (completed - completed[first]).square().sum(dim=1)
    for _ in range(count - 1):
        place = int(torch.multinomial(distance, 1, generator=generator))
        means.append(completed[place])
        distance = distance.minimum((completed - completed[place]).square().sum(dim=1))
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    mixture = Mixture(weights, torch.stack(means), pooled.covariances.repeat(count, 1, 1) / 2)
    before = -torch.inf
    for _ in range(STEPS):
        mixture, _, total = _step(mixture, rows, pooled.covariances[0])
        if total - before < CLOSE:
            break
        before = total
    return mixture


def _step(mixture: Mixture, rows: _Rows, prior: Tensor | None) -> tuple[Mixture, Tensor, float]:
    """A step of expectation maximization.

    Returns:
        The mixture after it; the rows with missing cells at their means; and their mean log density
        before it.
    """
    count, size = rows.values.shape
    gain, log_density = _of_components(mixture, rows)
    joint = mixture.weights.log() + log_density  # [N, M]
    shares = joint.softmax(dim=1)
    weights, means, covariances = [], [], []
    completed = torch.zeros_like(rows.values)
    present = rows.patterns[rows.which]
    for k, share in enumerate(shares.T):
        mean = mixture.means[k]
        guess = mean + rows.times(gain[k], (rows.values - mean) * present)
        filled = torch.where(present, rows.values, guess)
        completed += share[:, None] * filled
        total = share.sum()
        of_patterns = torch.zeros(len(rows.patterns), dtype=share.dtype)
        of_patterns.index_add_(0, rows.which, share)
        seen = rows.patterns.double()
        covariance = mixture.covariances[k]
        left = covariance - gain[k] @ (seen[:, :, None] * covariance)
        left = left * (1 - seen[:, :, None]) * (1 - seen[:, None, :])
        mean = (share[:, None] * filled).sum(dim=0) / total
        off = filled - mean
        second = (share[:, None] * off).T @ off + (of_patterns[:, None, None] * left).sum(dim=0)
        kept = 0 if prior is None else size
        covariance = (second + kept * (0 if prior is None else prior)) / (total + kept)
        weights.append(total / count)
        means.append(mean)
        covariances.append(covariance + RIDGE * torch.eye(size, dtype=covariance.dtype))
    made = Mixture(torch.stack(weights), torch.stack(means), torch.stack(covariances))
    return made, completed, joint.logsumexp(dim=1).mean().item()


def _of_components(mixture: Mixture, rows: _Rows) -> tuple[Tensor, Tensor]:
    """What a missing cell has of each that is there ``[M, U, P, P]``, and log densities of what is
    there ``[N, M]``."""
    seen = rows.patterns.double()
    log_densities, gains = [], []
    present = seen[rows.which]
    for mean, covariance in zip(mixture.means, mixture.covariances, strict=True):
        a = seen[:, :, None] * covariance * seen[:, None, :] + torch.diag_embed(1 - seen)
        factor = torch.linalg.cholesky(a + RIDGE * torch.eye(a.shape[-1], dtype=a.dtype))
        inverse = torch.cholesky_inverse(factor) * seen[:, :, None] * seen[:, None, :]
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        off = (rows.values - mean) * present
        square = (rows.times(inverse, off) * off).sum(dim=1)
        log_densities.append(-(square + log_det[rows.which]) / 2)
        gains.append(covariance @ inverse)
    return torch.stack(gains), torch.stack(log_densities, dim=1)


def _log_density(mixture: Mixture, rows: _Rows) -> Tensor:
    """Of the cells of each row that are there ``[N]``, but for a constant."""
    return (mixture.weights.log() + _of_components(mixture, rows)[1]).logsumexp(dim=1)
