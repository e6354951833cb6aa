"""Neural likelihood estimation (NLE): likelihoods of trials from a flow that models one trial.

The log likelihood of n trials is

    log p(y_1, ..., y_n | theta) = sum_i log p(y_i | theta, v_i),

with covariates v of each trial. All pairs of a point and a trial of its observation are rows of one
evaluation, whatever the number of trials. A cheap approximation with gradients locates the
posteriors; the learned distribution itself weights the draws.

The log density of a trial is a smooth function of theta. For few trials and at most two parameters
it is therefore interpolated between Chebyshev points (Trefethen 2013, chapters 3 and 4): with
parameters u scaled to [-1, 1], S points ``x_i = cos(pi (2 i + 1) / (2 S))`` along each, and the
polynomials ``T_j(cos a) = cos(j a)``,

    f(u) = sum_jk c_jk T_j(u_1) T_k(u_2),
    c_jk = (2 - d_j0) (2 - d_k0) / S^2 sum_il T_j(x_i) T_k(x_l) f(x_i, x_l).

The coefficients of the trials of an observation add up. The error is measured at other points.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from math import inf, log, pi

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.quasirandom import SobolEngine

from dnnlib.errors import UsageError
from training.flow.bin_averages import log_normal_mass, offsets
from training.flow.coordinates.coordinates import Coordinates
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import weighted_sum
from training.inference.likelihoods import Likelihood, checked

BLOCK = 4096
"""Number of pairs per evaluation. With blocks of one size, a likelihood does not depend on the
other rows.
"""
FEW = 64
"""Number of pairs per evaluation where gradients are needed."""
MOST_PAIRS = 2**22
"""Largest number of pairs held in memory at once."""
SIDES, CHECKED = (256, 62), 252
"""Numbers S of Chebyshev points along each of one or of two parameters, and number of points that
measure the error. With two parameters, a trial takes one evaluation of ``BLOCK`` pairs.
"""
MOST_SMOOTH = 2**10
"""Largest number of trials whose coefficients are kept."""
FEW_TRIALS, TABLE_ERROR, RELEVANT = 20, 0.01, 10.0
"""Largest number of trials whose log likelihood is interpolated, and largest sum of the root mean
square errors of their log densities, in nats, where these are less than ``RELEVANT`` below the
maximum.
"""
EDGE = 1e-6
"""Distance of integrated edges from those of a bin, where maps may end, in half widths."""
CELL_POINTS = 8
"""Number of points in the quantization bin of a trial with discrete columns."""


@dataclass(frozen=True, eq=False)
class Trials:
    """Trials of M observations, sorted by observation.

    Attributes:
        data: Trials ``[T, K]``.
        covariates: Covariates of the trials ``[T, V]``.
        counts: Number of trials of each observation ``[M]``.
    """

    data: Tensor
    covariates: Tensor
    counts: Tensor

    def __len__(self) -> int:
        return len(self.counts)

    @classmethod
    def sorted(cls, data: Tensor, covariates: Tensor, datasets: Tensor) -> "Trials":
        """Sort T trials by the index of their observation.

        Args:
            data: Trials ``[T, K]`` in any order.
            covariates: Covariates of the trials ``[T, V]``.
            datasets: Index of the observation of each trial ``[T]``.
        """
        order = datasets.argsort(stable=True)
        return cls(data[order], covariates[order], torch.bincount(datasets))

    def to(self, device: torch.device) -> "Trials":
        """Move the trials to another device."""
        parts = (self.data, self.covariates, self.counts)
        return Trials(*(part.to(device) for part in parts))


@dataclass(frozen=True, eq=False)
class DistinctTrials:
    """The U distinct trials of M observations, with their numbers in each observation.

    Attributes:
        data: Distinct trials ``[U, K]``.
        covariates: Their covariates ``[U, V]``.
        kinds: Indices ``[T]`` of the distinct trials of the observations, one after the other.
        repeats: Number of repetitions of each of these ``[T]``.
        counts: Number of distinct trials of each observation ``[M]``.
    """

    data: Tensor
    covariates: Tensor
    kinds: Tensor
    repeats: Tensor
    counts: Tensor

    @classmethod
    def of(cls, trials: Trials) -> "DistinctTrials":
        """Find the distinct trials of observations."""
        rows = torch.cat([trials.data, trials.covariates], dim=1)
        _, kind = torch.unique(rows, dim=0, return_inverse=True)
        size = int(kind.max()) + 1
        order = torch.arange(len(rows), device=kind.device)
        first = torch.full_like(kind[:size], len(rows)).scatter_reduce(0, kind, order, "amin")
        of = torch.arange(len(trials), device=kind.device).repeat_interleave(trials.counts)
        pairs, repeats = torch.unique(of * size + kind, return_counts=True)
        counts = torch.bincount(pairs // size, minlength=len(trials))
        return cls(trials.data[first], trials.covariates[first], pairs % size, repeats, counts)

    def part(self, number: int) -> slice:
        """Return the places in ``kinds`` and ``repeats`` of an observation."""
        end = int(self.counts[: number + 1].sum())
        return slice(end - int(self.counts[number]), end)

    def to(self, device: torch.device) -> "DistinctTrials":
        """Move the trials to another device."""
        parts = (self.data, self.covariates, self.kinds, self.repeats, self.counts)
        return DistinctTrials(*(part.to(device) for part in parts))


class TrialDistribution(ABC):
    """Distribution of one trial given parameters and covariates, ``p(y | theta, v)``.

    The density of a row does not depend on the other rows, nor, for blocks of one size, on the
    number of rows.
    """

    is_rough: bool = False
    """Whether the cheap approximation is the distribution itself."""

    @abstractmethod
    def log_prob(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        """Return the log densities ``[n]`` of trials, in nats.

        Categorical and quantized columns contribute log probabilities, up to a constant.

        Args:
            trials: Trials ``[n, K]``.
            covariates: Covariates ``[n, V]``.
            parameters: Parameters ``[n, D]``.
        """

    @abstractmethod
    def rough(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        """Return the log densities ``[n]`` of trials under a cheap approximation, in nats.

        The approximation is used to locate posteriors and has gradients with respect to parameters.

        Args:
            trials: Trials ``[n, K]``.
            covariates: Covariates ``[n, V]``.
            parameters: Parameters ``[n, D]``.
        """

    @abstractmethod
    def to(self, device: torch.device) -> "TrialDistribution":
        """Move the distribution to another device."""


def cell_shifts(steps: Tensor) -> Tensor:
    """Return the offsets ``[P, K]`` from a trial to P points of its quantization bin.

    Args:
        steps: Bin width of each column ``[K]``, 0 for continuous columns.
    """
    if not steps.any():
        return 0 * steps[None]
    return offsets(steps > 0).flatten(0, 1)[:CELL_POINTS].to(steps) * steps


class FlowTrialDistribution(TrialDistribution):
    """Distribution of a trial that a conditional flow has learned.

    The flow's points are trials, and its conditions are parameters followed by covariates.

    A value of a discrete column represents its quantization bin: the density of a trial is then the
    mean over points of the bin, the same points for all theta. For a single column, it is the
    probability of the bin, from the latents of its two edges. The cheap approximation is the
    Gaussian that the flow starts from; it takes one evaluation, while the flow's own densities take
    dozens.
    """

    def __init__(self, flow: ProbabilityFlow):
        coordinates = flow.coordinates
        assert coordinates is not None
        self._flow, self._cells = flow, cell_shifts(coordinates.steps)
        # For categories, the Gaussian has one density per bin: that of its center.
        self._rough_cells = self._cells[:1] * 0 if coordinates.levels else self._cells
        one = coordinates.dim == 1 and not coordinates.levels
        self._is_one_bin = one and bool(coordinates.steps.all())
        self.is_rough = bool(getattr(flow.denoiser, "is_trivial", False))

    def to(self, device: torch.device) -> "FlowTrialDistribution":
        """Return the distribution with its flow moved to another device."""
        return FlowTrialDistribution(self._flow.to(device))

    def log_prob(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        """Return log densities ``[n]`` of trials, averaged over quantization bins, in nats."""
        flow = self._flow.given(labels=torch.cat([parameters, covariates], dim=1))
        if not self._is_one_bin:
            return self._over_cells(trials, self._cells, flow.log_prob)
        times, solver = flow.integration("densities")

        def latents(points: Tensor) -> Tensor:
            return flow.latent_law(times[-1]).whiten(flow.encode(points, times, solver))

        return self._of_bins(trials, latents)

    def rough(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        """Return log densities ``[n]`` of the Gaussian that the flow starts from, in nats."""
        flow = self._flow
        assert flow.coordinates is not None
        coordinates = flow.coordinates.given(torch.cat([parameters, covariates], dim=1))
        variance = flow.noisy_variance(flow.times(1)[0])

        def log_prob(y: Tensor) -> Tensor:
            u, log_det = coordinates(y)
            squares = flow.basis.to_eigen(u).square() / variance
            return log_det - (squares + variance.log() + log(2 * pi)).sum(dim=1) / 2

        def latents(points: Tensor) -> Tensor:
            return flow.basis.to_eigen(coordinates.to_flow(points)) / variance.sqrt()

        if self._is_one_bin:
            return self._of_bins(trials, latents)
        return self._over_cells(trials, self._rough_cells, log_prob)

    def _of_bins(self, trials: Tensor, latents: Callable[[Tensor], Tensor]) -> Tensor:
        """Return log mean densities ``[n]`` of the bins of one discrete column.

        Args:
            trials: Trials ``[n, 1]``.
            latents: Monotone function from points ``[n, 1]`` to standard normal latents ``[n, 1]``.
        """
        assert self._flow.coordinates is not None
        steps = self._flow.coordinates.steps
        half = steps / 2 * (1 - EDGE)
        centers = self._flow.coordinates.rounded(trials)
        mass = log_normal_mass(latents(centers - half), latents(centers + half))
        return (mass - steps.log())[:, 0]

    def _over_cells(
        self, trials: Tensor, cells: Tensor, log_prob: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return log mean densities ``[n]`` over points of the bins of trials.

        Args:
            trials: Trials ``[n, K]``.
            cells: Offsets ``[P, K]`` of the points of a bin.
            log_prob: Log density of trials.
        """
        assert self._flow.coordinates is not None
        centers = self._flow.coordinates.rounded(trials)
        of_cell = [log_prob(centers + shift) for shift in cells]
        return torch.stack(of_cell).logsumexp(dim=0) - log(len(of_cell))


class MixedTrialDistribution(TrialDistribution):
    """Distribution of trials that consist of numbers followed by categories.

    The coordinates model the probabilities of the categories, the last of their conditions; the
    distribution of the numbers has the categories as covariates.
    """

    def __init__(self, numbers: TrialDistribution, coordinates: Coordinates):
        self._numbers, self._coordinates = numbers, coordinates
        self.is_rough = numbers.is_rough

    def to(self, device: torch.device) -> "MixedTrialDistribution":
        """Return the distribution with both of its parts moved to another device."""
        return MixedTrialDistribution(self._numbers.to(device), self._coordinates.to(device))

    def log_prob(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        """Return joint log densities ``[n]`` of the numeric and categorical values of trials."""
        return self._with_levels(self._numbers.log_prob, trials, covariates, parameters)

    def rough(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        """Return log densities ``[n]`` with the cheap approximation for the numbers, in nats."""
        return self._with_levels(self._numbers.rough, trials, covariates, parameters)

    def _with_levels(
        self,
        of_numbers: Callable[[Tensor, Tensor, Tensor], Tensor],
        trials: Tensor,
        covariates: Tensor,
        parameters: Tensor,
    ) -> Tensor:
        numbers, levels = trials.tensor_split([self._coordinates.dim], dim=1)
        beside = torch.cat([covariates, levels], dim=1)
        log_levels = self._coordinates.log_levels(torch.cat([parameters, beside], dim=1))
        return log_levels + of_numbers(numbers, beside, parameters)


@dataclass(frozen=True, eq=False)
class ChebyshevGrid:
    """Interpolation of functions of one or two parameters within bounds.

    Attributes:
        ends: Lower and upper bounds of the parameters ``[D, 2]``.
    """

    ends: Tensor

    @cached_property
    def points(self) -> Tensor:
        """Chebyshev points, followed by those that measure the error, ``[G, D]``."""
        dim, (low, high) = len(self.ends), self.ends.T
        engine = SobolEngine(dim, scramble=True, seed=0)  # type: ignore[no-untyped-call]
        others = engine.draw(CHECKED, dtype=torch.float64).to(low)
        side = SIDES[dim - 1]
        nodes = (pi * (2 * torch.arange(side).to(low) + 1) / (2 * side)).cos()
        units = (1 + torch.cartesian_prod(*[nodes] * dim).view(-1, dim)) / 2
        return low + (high - low) * torch.cat([units, others])

    def fit(self, values: Tensor) -> tuple[Tensor, float]:
        """Interpolate a function, given its values ``[G]`` at the points.

        Returns:
            Coefficients ``[S, S]``, or ``[S, 1]`` for one parameter; and the root mean square error
            where the function is less than ``RELEVANT`` below its maximum.
        """
        points, dim, others = self.points, len(self.ends), values[-CHECKED:]
        inward = self.basis(points[: SIDES[dim - 1]])[dim - 1] * 2 / SIDES[dim - 1]
        inward[:, 0] /= 2
        made = inward.T @ values[:-CHECKED].view(len(inward), -1)
        made = made @ inward if dim > 1 else made
        off = self.at(self.basis(points[-CHECKED:]), made) - others
        error = off[others > values.max() - RELEVANT].square().mean().sqrt()
        return made, float(error.nan_to_num(inf))

    def basis(self, parameters: Tensor) -> list[Tensor]:
        """Return polynomials ``[N, S]`` of both parameters ``[N, D]``; ones for a lacking one."""
        low, high = self.ends.T
        angles = (2 * (parameters - low) / (high - low) - 1).clamp(-1, 1).acos()
        orders = torch.arange(SIDES[len(low) - 1]).to(low)
        made = [(own[:, None] * orders).cos() for own in angles.T]
        return [*made, torch.ones_like(angles)][:2]

    def at(self, basis: Sequence[Tensor], coefficients: Tensor) -> Tensor:
        """Return the values ``[N]`` of a function with these coefficients, given ``basis``."""
        return ((basis[0] @ coefficients) * basis[1]).sum(dim=1)


class TrialLikelihood(Likelihood):
    """Learned likelihood of the trials of M observations; methods take the indices of observations.

    Args:
        distribution: Distribution of one trial.
        trials: Trials of the observations.
        places: Indices of the likelihood's parameters, in their order, among the coordinates of
            points.
        ends: Bounds of the simulated parameters ``[D, 2]``, beyond which the likelihood is 0. None
            for no bounds.
        rough: Whether to use the cheap approximation of the distribution.
    """

    own = dear = True

    def __init__(
        self,
        distribution: TrialDistribution,
        trials: Trials,
        places: Sequence[int],
        ends: Tensor | None = None,
        rough: bool = False,
    ):
        self._law, self.trials, self._places, self._ends = distribution, trials, list(places), ends
        self._rough = rough or distribution.is_rough
        self._distinct = DistinctTrials.of(trials)
        self._table: tuple[Tensor, dict[int, Tensor]] | None = None
        self._smooth: dict[int, tuple[Tensor, float]] = {}
        self._grid = self._made_grid()
        self._approximation: TrialLikelihood | None = self if self._rough else None

    @property
    def numbers(self) -> Tensor:
        """Indices ``[M, 1]`` of all observations, from 0, for the argument ``observed``."""
        return torch.arange(len(self.trials), dtype=torch.float64)[:, None]

    def _made_grid(self) -> ChebyshevGrid | None:
        """Return the grid of the parameters if log densities may be interpolated."""
        ends = self._ends
        if ends is None or len(ends) > len(SIDES) or not ends.isfinite().all():
            return None
        return ChebyshevGrid(ends.to(self.trials.data.device))

    def to(self, device: torch.device) -> "TrialLikelihood":
        """Move the distribution and the trials to another device; return the likelihood."""
        self._law, self.trials = self._law.to(device), self.trials.to(device)
        self._distinct, self._table, self._smooth = self._distinct.to(device), None, {}
        self._grid = self._made_grid()
        self._approximation = self if self._rough else None
        return self

    def approximate(self) -> "TrialLikelihood":
        """Return a cheaper, differentiable approximation of this likelihood."""
        if self._approximation is None:
            self._approximation = copy(self)
            self._approximation._rough, self._approximation._table = True, None
            self._approximation._smooth = {}
        return self._approximation

    def log_prob(self, points: Tensor, observed: Tensor) -> Tensor:
        """Return log likelihoods ``[N]``, in nats; minus infinity beyond the bounds.

        Args:
            points: Points ``[N, D]``.
            observed: Index of the observation of each point, ``[N, 1]``.
        """
        # Chains follow gradients of the cheap approximation; the learned distribution weights their
        # draws.
        with torch.set_grad_enabled(self._rough and torch.is_grad_enabled()):
            total = checked(self._of_points(points, observed), "the learned likelihood")
            return torch.where(self.inside(points), total, -torch.inf)

    @torch.no_grad()
    def log_prob_each(self, points: Tensor, observed: Tensor) -> Tensor:
        """Return the log likelihoods ``[m, P]`` of m observations at each of P points, in nats.

        Distinct trials are evaluated once for all observations, and kept for later calls with the
        same points.
        """
        numbers, grid = observed[:, 0].long().tolist(), self._grid
        smooth = self._interpolants(numbers)
        left = [number for number in numbers if number not in smooth]
        made = dict(zip(left, self._evaluated_each(points, left), strict=True))
        if grid is not None and smooth:
            basis = grid.basis(points[:, self._places])
            made |= {number: grid.at(basis, own) for number, own in smooth.items()}
        rows = checked(torch.stack([made[number] for number in numbers]), "the learned likelihood")
        return rows.masked_fill(~self.inside(points), -torch.inf)

    def _evaluated_each(self, points: Tensor, numbers: Sequence[int]) -> Sequence[Tensor]:
        """Return the log likelihoods ``[P]`` of observations at each of P points."""
        distinct = self._distinct
        if len(distinct.data) * len(points) > MOST_PAIRS:
            observed = torch.tensor(numbers, device=points.device)[:, None]
            return [*super().log_prob_each(points, observed)] if numbers else []
        known = self._table[0] if self._table else points[:0]
        if (known.data_ptr(), len(known)) != (points.data_ptr(), len(points)):
            self._table = points, {}
        assert self._table is not None
        table, rows, made = self._table[1], torch.arange(len(points), device=points.device), []
        for number in numbers:
            own = distinct.part(number)
            kinds = distinct.kinds[own].tolist()
            for kind in kinds:
                if kind not in table:
                    table[kind] = self._densities(torch.full_like(rows, kind), points, rows)
            each = torch.stack([table[kind] for kind in kinds])
            made.append(distinct.repeats[own].to(each) @ each)
        return made

    def _interpolants(self, numbers: Sequence[int]) -> dict[int, Tensor]:
        """Return the coefficients of the log likelihoods that are interpolated, by observation.

        This depends on the trials of the observation alone.
        """
        distinct, grid, made = self._distinct, self._grid, {}
        if grid is None:
            return {}
        places = grid.points
        points = places.new_zeros(len(places), max(self._places) + 1)
        points[:, self._places] = places
        rows = torch.arange(len(points), device=points.device)
        for number in numbers:
            own = distinct.part(number)
            repeats, kinds = distinct.repeats[own].tolist(), distinct.kinds[own].tolist()
            if sum(repeats) > FEW_TRIALS:
                continue
            if len(self._smooth) > MOST_SMOOTH:
                self._smooth.clear()
            for kind in kinds:
                if kind not in self._smooth:
                    values = self._densities(torch.full_like(rows, kind), points, rows)
                    self._smooth[kind] = grid.fit(values)
            coefficients, errors = zip(*(self._smooth[kind] for kind in kinds), strict=True)
            if sum(n * error for n, error in zip(repeats, errors, strict=True)) <= TABLE_ERROR:
                made[number] = weighted_sum(repeats, coefficients)
        return made

    def inside(self, points: Tensor) -> Tensor:
        """Return a mask ``[N]`` of points within the bounds of the simulated parameters."""
        if self._ends is None:
            return torch.ones_like(points[:, 0], dtype=torch.bool)
        low, high = self._ends.to(points.device).T
        own = points[:, self._places]
        return ((own > low) & (own < high)).all(dim=1)

    def _of_points(self, points: Tensor, observed: Tensor) -> Tensor:
        which, total = observed[:, 0].long(), points.new_zeros(len(points))
        left = torch.ones_like(which, dtype=torch.bool)
        grid = None if torch.is_grad_enabled() else self._grid
        if grid is not None:
            basis = grid.basis(points[:, self._places])
            for number, own in self._interpolants(torch.unique(which).tolist()).items():
                rows = (which == number).nonzero()[:, 0]
                total[rows] = grid.at([each[rows] for each in basis], own)
                left[rows] = False
        counts = self._distinct.counts[which[left]]
        # Take as many rows at once as fit into ``MOST_PAIRS`` pairs; a single row may have more.
        ends = torch.bincount(counts.cumsum(0) // MOST_PAIRS)
        for rows in torch.split(left.nonzero()[:, 0], ends[ends > 0].tolist()):
            total[rows] = self._sums(points[rows], which[rows], self._distinct.counts[which[rows]])
        return total

    def _sums(self, points: Tensor, which: Tensor, counts: Tensor) -> Tensor:
        """Return log likelihoods ``[n]`` of points.

        Args:
            points: Points ``[n, D]``.
            which: Index of the observation of each point, ``[n]``.
            counts: Number of distinct trials of each of these observations, ``[n]``.
        """
        trials = self._distinct
        row = torch.arange(len(points), device=points.device).repeat_interleave(counts)
        first = trials.counts.cumsum(0) - trials.counts
        within = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        trial = first[which][row] + within
        density = self._densities(trials.kinds[trial], points, row) * trials.repeats[trial]
        return points.new_zeros(len(points)).index_add_(0, row, density)

    def _densities(self, kinds: Tensor, points: Tensor, row: Tensor) -> Tensor:
        """Return the log densities ``[n]`` of distinct trials, each at one point.

        Args:
            kinds: Indices of the distinct trials ``[n]``.
            points: Points ``[N, D]``.
            row: Index of the point of each trial ``[n]``.
        """
        order = torch.arange(len(row), device=row.device)
        size = FEW if torch.is_grad_enabled() else BLOCK  # chains have few points at a time
        log_prob = self._law.rough if self._rough else self._law.log_prob
        data, covariates = self._distinct.data, self._distinct.covariates
        densities = [
            log_prob(data[kinds[at]], covariates[kinds[at]], points[row[at]][:, self._places])
            for at in torch.split(F.pad(order, (0, -len(row) % size)), size)
        ]
        return torch.cat(densities)[: len(row)]

    def simulate(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Raise UsageError: a learned likelihood cannot simulate observations."""
        raise UsageError(
            "a learned likelihood cannot simulate observations: check it on simulations of your "
            "own program with --truth=data"
        )
