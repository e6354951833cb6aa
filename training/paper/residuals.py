"""Residuals of a denoiser along time, and their correlations.

Residuals of a denoiser, ``D(x_tilde, t) - e``, for the same clean points ``e`` at every time.

Residuals are computed in eigenspace, at the times of a grid, for noisy points of one of two kinds:

- *independent*: ``x_tilde = e + sqrt(gamma(t)) n`` with fresh standard normal ``n`` at each time
  (Inflationary Flows, appendix C.1);
- *path*: ``x_tilde`` on the probability-flow ODE that starts at ``e``. With ``r`` the rate of
  ``log gamma``, ``y = x_tilde - e`` obeys ``dy/dt = (r/2) (y - residual)``, so the trajectory
  integrates these residuals.

A residual has two parts: the irreducible error of any denoiser, and the error of this one. Where
the exact denoiser is known, the second is computed alone, as ``D - D_exact``.

Correlations between a vector at a first time and at later ones, over the same samples.

For samples ``r_0, r_t [N, D]`` in the same order (Inflationary Flows, appendix C.1),

    C_t = E[(r_0 - mean r_0) (r_t - mean r_t)^T] / (sigma_0 sigma_t^T),

a matrix ``[D, D]`` for each lag, whose diagonal is each dimension's autocorrelation. Sums are taken
in float64 about the first sample, in one pass over batches of rows, so that memory is of order
``D^2 + batch D`` and a dimension that does not vary has a variance of exactly zero. Correlations
with such a dimension are undefined; they are set to 0, and the number of these dimensions is
reported.

*Correlation time*, as far as N samples at saved times determine it. It is ``int_0^s C(t) dt``, by
the trapezoidal rule, up to the first lag s at which C has fallen to the sampling error of
correlations. For samples in independent random order, a correlation has mean 0 and variance
``1 / (N - 1)``, whatever their distribution (Pitman, 1937, Significance tests which may be applied
to samples from any populations II); two standard deviations count as zero. The mean over D
dimensions varies as much where they are dependent, and less where they are not, by up to
``1 / sqrt(D)``. If it ended at zero itself, the integral would depend on where C happens to cross
zero: a correlation that has vanished stays positive at random over some lags, more of them the more
times are saved.

A correlation that falls below ``1/e`` before the next saved time, with an integral less than that
time, is faster than the times can resolve: the trapezoid from 1 to nothing has the area of half
their spacing, whatever the decay. Then the time is known only to be less than the spacing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import e, isnan, nan
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils import distributed
from torch_utils.distributed import gather_rows
from torch_utils.seeds import normal_numbers
from training.flow.denoisers import Denoiser
from training.flow.pfode import ProbabilityFlow, State
from training.flow.solvers import Solver

NOISE_BLOCK = 512
"""Number of noise rows drawn together; a row's noise depends only on its number."""

Quantities = dict[str, Tensor]
"""Quantities by name, ``[n, D]``: ``net_outputs``, ``net_residuals`` and, where the exact denoiser
is known, ``exact_residuals``.
"""
Take = Callable[[int, Quantities], None]
"""Callback with the index of a time and the quantities at that time."""
Put = Callable[[int, int, Mapping[str, np.ndarray]], None]
"""Callback ``put(index of the time, first row, rows [n, D] by name)``."""
Source = Callable[[range], tuple[Tensor, dict[str, Tensor]]]
"""Function from sample numbers to points ``[n, D]`` of data space and the network's conditions."""


@dataclass(frozen=True)
class ResidualProbe:
    """Computation of a denoiser's residuals on a grid of times.

    Attributes:
        flow: Flow with the denoiser.
        times: Times ``[T]``, increasing.
        exact: Exact denoiser; None if unknown.
    """

    flow: ProbabilityFlow
    times: Tensor
    exact: Denoiser | None = None

    @torch.no_grad()
    def independent(self, clean: Tensor, rows: range, seed: int, stream: int, take: Take) -> None:
        """Compute the residuals of points with independent noise at each time.

        Args:
            clean: Clean points ``[n, D]`` in eigenspace.
            rows: Indices of the n points among all samples.
            seed: Random seed of the noise, which is a function of (seed, stream, index of the time,
                row).
            stream: Random stream of the noise.
            take: Callback that receives the results at each time.
        """
        for index, t in enumerate(self.times.to(clean)):
            noise = noise_rows(rows, clean.shape[1], seed, stream, index).to(clean)
            self._look(
                clean + self.flow.schedule.noise_variance(t).sqrt() * noise, clean, index, take
            )

    def path(self, clean: Tensor, solver: Solver, take: Take) -> int:
        """Compute the residuals along the trajectories of inflated points.

        Solver steps are between the times of the grid. Memory holds one state.

        Args:
            clean: Clean points ``[n, D]`` in eigenspace.
            solver: Solver of the probability-flow ODE.
            take: Callback that receives the results at each time.

        Returns:
            The number of network evaluations of the solver.
        """
        scale = self.flow.schedule.scale
        indices = iter(range(len(self.times)))

        def on_state(state: State) -> None:
            self._look(state.x / scale(state.time), clean, next(indices), take)

        start = scale(self.times[0].to(clean)) * clean
        return self.flow.simulate(start, self.times, solver, save_every=1, on_state=on_state).calls

    def _look(self, noisy: Tensor, clean: Tensor, index: int, take: Take) -> None:
        t = self.times[index].to(clean)
        output = self.flow.denoiser(noisy, t)
        quantities = {"net_outputs": output, "net_residuals": output - clean}
        if self.exact is not None:
            quantities["exact_residuals"] = output - self.exact(noisy, t)
        for name, values in quantities.items():
            if not values.isfinite().all():
                raise DataError(
                    f"{name} are NaN or infinite at t = {float(t):g}: check the weights, or use "
                    "more time points"
                )
        take(index, quantities)


def noise_rows(rows: range, dim: int, *keys: int) -> Tensor:
    """Return standard normal noise ``[n, dim]`` for samples, float64.

    Each row depends only on the keys and on its index.

    Args:
        rows: Indices of the n samples.
        dim: Number of values per row.
        keys: Random seed and further keys.
    """
    first = rows.start // NOISE_BLOCK
    blocks = range(first, max(first + 1, -(-rows.stop // NOISE_BLOCK)))
    drawn = torch.cat([normal_numbers((NOISE_BLOCK, dim), *keys, block) for block in blocks])
    offset = rows.start - first * NOISE_BLOCK
    return drawn[offset : offset + len(rows)]


@dataclass(frozen=True)
class Extractor:
    """Computation of residuals for all samples, in batches that the ranks share.

    Memory holds one batch.

    Attributes:
        probe: The probe, on this rank's device.
        source: Function from the indices of samples to the samples.
        count: Number of samples, N.
        batch: Number of samples at a time, over all ranks.
        seed: Random seed of independent noise.
        stream: Random stream of independent noise.
        solver: Solver of the paths; None for independent noise.
    """

    probe: ResidualProbe
    source: Source
    count: int
    batch: int
    seed: int
    stream: int
    solver: Solver | None

    def run(self, put: Put | None) -> int:
        """Compute all residuals, and pass them to a callback on the main rank, as float32.

        Args:
            put: Callback, called batch by batch and, within a batch, in the order of time; None on
                other ranks.

        Returns:
            The largest number of network evaluations per sample.
        """
        calls = 0
        starts = range(0, self.count, self.batch)
        total = len(starts) * len(self.probe.times)
        with distributed.progress_bar(total=total, desc="residuals", unit="time") as bar:
            for start in starts:
                batch = range(start, min(start + self.batch, self.count))

                def take(index: int, quantities: Quantities, batch: range = batch) -> None:
                    shares = torch.stack(list(quantities.values())).float()
                    whole = distributed.gather_rows(shares, len(batch), dim=1).cpu().numpy()
                    if put:
                        put(index, batch.start, dict(zip(quantities, whole, strict=True)))
                    bar.update()

                mine = batch[distributed.shard(len(batch))]
                calls = max(calls, len(self.probe.times) + self._look(mine, take))
        return calls

    def _look(self, rows: range, take: Take) -> int:
        """Compute residuals of these rows; return the solver's evaluations."""
        flow = self.probe.flow
        points, conditions = self.source(rows)
        clean = flow.to_eigen(points.to(flow.device).double())
        probe = self.probe
        if conditions:
            here = {name: values.to(flow.device) for name, values in conditions.items()}
            probe = replace(probe, flow=flow.given(**here))
        if self.solver is None:
            probe.independent(clean, rows, self.seed, self.stream, take)
            return 0
        return probe.path(clean, self.solver, take)


LARGEST_STD = torch.finfo(torch.float32).max
"""Largest standard deviation that can be saved. Far beyond it, sums of squares overflow to NaN."""

ROUNDING = 1e-6
"""Relative rounding error of float32, the precision of networks and files: a few units in the last
place.
"""


class Correlation(NamedTuple):
    """Correlations between the values of D dimensions at two times.

    Attributes:
        matrix: Correlations ``C [D, D]``, rows for the first time and columns for the later time; 0
            where undefined.
        std: Standard deviations at the later time ``[D]``.
    """

    matrix: Tensor
    std: Tensor

    @property
    def diagonal(self) -> Tensor:
        """Autocorrelation ``[D]`` of each dimension."""
        return self.matrix.diagonal()


class _Sums:
    """Sums over the samples of one time, relative to the first sample."""

    def __init__(self, rows: Tensor):
        self.origin = rows[0].clone()
        self.first = torch.zeros_like(self.origin)
        self.second = torch.zeros_like(self.origin)

    def add(self, rows: Tensor) -> Tensor:
        """Add samples ``[n, D]`` to the sums, and return them relative to the first sample."""
        shifted = rows - self.origin
        self.first += shifted.sum(dim=0)
        self.second += shifted.square().sum(dim=0)
        return shifted

    def std(self, count: int) -> Tensor:
        variance = self.second / count - (self.first / count).square()
        return variance.clamp(min=0).sqrt()


def correlate(pairs: Iterable[tuple[Tensor, Tensor]], source: str) -> Correlation:
    """Compute the correlations of a quantity between two times, batch by batch, in float64.

    Args:
        pairs: Values ``[n, D]`` of the same samples at both times, batch by batch.
        source: Name of the quantity in error messages.

    Raises:
        DataError: There are fewer than two samples, or a standard deviation exceeds the range
            of float32.
    """
    count, cross = 0, torch.empty(0)
    sums: tuple[_Sums, _Sums] | None = None
    for first, later in pairs:
        first, later = first.double(), later.double()
        if sums is None:
            sums = _Sums(first), _Sums(later)
            cross = first.new_zeros(first.shape[1], later.shape[1])
        cross.addmm_(sums[0].add(first).T, sums[1].add(later))
        count += len(first)
    if sums is None or count < 2:
        raise DataError(f"{source}: {count} samples have no correlation: give at least two")
    stds = sums[0].std(count), sums[1].std(count)
    if not all(bool((std <= LARGEST_STD).all()) for std in stds):
        raise DataError(
            f"{source} has a standard deviation above {LARGEST_STD:.2g}, which is too large: check "
            "the network"
        )
    cross /= count
    cross.addr_(sums[0].first / count, sums[1].first / count, alpha=-1)
    inverse = [torch.where(std > 0, 1 / std, 0) for std in stds]
    cross *= inverse[0][:, None]
    cross *= inverse[1]
    return Correlation(cross, stds[1])


def varying(stds: Tensor) -> Tensor:
    """Return a mask ``[Q, T, D]`` of dimensions that vary by more than rounding errors.

    A dimension counts as constant at a time if its standard deviation at that time or at time 0 is
    at most 1e-6 of the largest standard deviation of all dimensions and quantities. The limit is
    relative to the largest, since differences and rotations of large values have the rounding
    errors of these values, however small the result.

    Args:
        stds: Standard deviations ``[Q, T, D]`` of Q quantities, such as a denoiser's output and its
            residual, at T times.
    """
    largest = stds.amax(dim=(0, 2))[:, None]
    above = stds > ROUNDING * largest
    return above & above[:, :1]


def mean_autocorrelation(diagonals: Tensor, varies: Tensor) -> Tensor:
    """Return the mean autocorrelation ``[T]`` over the dimensions that vary at all times.

    The mean is 0 if no dimension always varies. The dimensions are the same at every lag, since
    a mean over changing dimensions would have artificial steps.

    Args:
        diagonals: Autocorrelations ``[T, D]``.
        varies: Mask ``[T, D]`` of the dimensions that vary at each time.
    """
    always = varies.all(dim=0)
    return (diagonals * always).sum(dim=1) / always.sum().clamp(min=1)


class Autocorrelations:
    """Autocorrelations of several quantities with time 0, at the times of one rank.

    Args:
        names: Names of the quantities.
        count: Number of times of this rank.
        dim: Number of dimensions D.
    """

    def __init__(self, names: Iterable[str], count: int, dim: int):
        self._names = list(names)
        self._table = torch.zeros(len(self._names), count, 2, dim, dtype=torch.float64)

    def put(self, name: str, index: int, correlation: Correlation) -> None:
        """Store the autocorrelations and standard deviations of a quantity at one time.

        Args:
            name: Name of the quantity.
            index: Index of the time among the times of this rank.
            correlation: Correlation with time 0.
        """
        row = torch.stack([correlation.diagonal, correlation.std])
        self._table[self._names.index(name), index] = row.cpu()

    def gathered(self, count: int, device: torch.device) -> "Autocorrelations":
        """Return the autocorrelations at the times of all ranks.

        Args:
            count: Number of times over all ranks.
            device: Device for the communication between ranks.
        """
        whole = Autocorrelations(self._names, 0, 0)
        whole._table = gather_rows(self._table.to(device), count, dim=1).cpu()
        return whole

    def summary(self, times: Tensor, samples: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the results as arrays by name, and the main numbers by quantity.

        All quantities share ``n_samples []``, which determines the size of chance correlations.
        Each quantity has, with T times: ``_diagonal [T, D]``, the autocorrelations; ``_mean [T]``,
        their mean over the dimensions that always vary; ``_std [T, D]``, the standard deviations at
        each time; and ``_constant [T]``, the number of dimensions that do not vary at that time or
        at time 0 (see ``varying``).

        Args:
            times: Times ``[T]``.
            samples: Number of samples.
        """
        lags = times - times[0]
        arrays, facts = {"times": times, "lags": lags, "n_samples": torch.tensor(samples)}, {}
        diagonals, stds = self._table.unbind(dim=2)
        every = zip(self._names, diagonals, stds, varying(stds), strict=True)
        for name, diagonal, std, varies in every:
            mean = mean_autocorrelation(diagonal, varies)
            constant = (~varies).sum(dim=1)
            arrays |= {
                f"{name}_diagonal": diagonal.float(),
                f"{name}_mean": mean.float(),
                f"{name}_std": std.float(),
                f"{name}_constant": constant,
            }
            lasting = correlation_time(lags, mean, scatter_of(samples))
            facts[name] = {
                "correlation_time": {
                    key: None if isinstance(value, float) and isnan(value) else value
                    for key, value in {**lasting._asdict(), "told": str(lasting)}.items()
                },
                "mean_at_next_time": float(mean[1]),
                "mean_at_last_time": float(mean[-1]),
                "most_constant_dims": int(constant.max()),
                "dims_of_mean": int(varies.all(dim=0).sum()),
            }
        return arrays, facts


UPPER, LOWER = "upper", "lower"


class CorrelationTime(NamedTuple):
    """Time scales of an autocorrelation, in units of t.

    Attributes:
        integral: The correlation time, or a bound on the correlation time.
        bound: ``upper`` if the integral is an upper bound, as the correlation time is less than the
            first spacing; ``lower`` if the integral is a lower bound, as the correlation persists
            at the last time; else None.
        gone: First lag at which the correlation cannot be distinguished from zero; NaN if there is
            none. Like ``e_folding``, the lag is interpolated linearly between times, and is at
            least the first spacing.
        e_folding: First lag at which the correlation is ``1/e``; NaN if there is none.
    """

    integral: float
    bound: str | None
    gone: float
    e_folding: float

    def __str__(self) -> str:
        signs = {UPPER: "< ", LOWER: "at least ", None: ""}
        return f"{signs[self.bound]}{self.integral:.3g}"


def scatter_of(count: int) -> float:
    """Return two standard deviations of the chance correlation of ``count`` independent samples."""
    return 2 / (count - 1) ** 0.5


def correlation_time(
    lags: Tensor, autocorrelation: Tensor, scatter: float = 0.0
) -> CorrelationTime:
    """Compute the time scales of an autocorrelation.

    Args:
        lags: Increasing lags ``[T]`` from 0, at least two.
        autocorrelation: Autocorrelation ``[T]`` at these lags, 1 at lag 0; 0 at all lags if
            undefined.
        scatter: Size below which a correlation counts as zero. With few samples this size is large,
            and the correlation time is uninformative.
    """
    lags, values = lags.double(), autocorrelation.double()
    spacing = float(lags[1])
    gone = _first_crossing(lags, values, scatter)
    e_folding = _first_crossing(lags, values, 1 / e)
    if values[0] <= 0:
        return CorrelationTime(0.0, None, gone, e_folding)
    fast = bool(values[1] <= max(scatter, 1 / e))
    if not isnan(gone):
        kept = lags < gone
        end = torch.tensor([gone, scatter], dtype=torch.float64)
        lags, values = torch.cat([lags[kept], end[:1]]), torch.cat([values[kept], end[1:]])
    integral = float(torch.trapezoid(values, lags))
    gone, e_folding = (lag if isnan(lag) else max(lag, spacing) for lag in (gone, e_folding))
    if fast and integral < spacing:
        return CorrelationTime(spacing, UPPER, gone, e_folding)
    return CorrelationTime(integral, LOWER if isnan(gone) else None, gone, e_folding)


def _first_crossing(lags: Tensor, values: Tensor, level: float) -> float:
    """Return the lag at which values first fall to a level; NaN if they never do."""
    (below,) = torch.where(values <= level)
    if not len(below):
        return nan
    index = int(below[0])
    if index == 0:
        return float(lags[0])
    before, after = float(values[index - 1]), float(values[index])
    fraction = (before - level) / (before - after)
    return float(lags[index - 1] + fraction * (lags[index] - lags[index - 1]))
