"""Posteriors that a conditional flow has learned: the flow models p(theta | y) for any y.

Sampling needs no likelihood and no chain. One integration of the flow, conditioned on the
observations, gives the draws for all of them, each with its log density q(theta | y). Where the log
posterior is known up to a constant, the importance weights ``p(y | theta) p(theta) / q(theta | y)``
correct the errors of the flow: the draws are resampled by these weights.

Where columns have bounds but are not mapped to the real line, draws out of bounds are rejected and
redrawn, and q is divided by the probability that it assigns to the bounds. Draws outside the region
that the flow was trained in (``training.inference.region``) are treated likewise.
``Amortized.log_prob`` is the log density of the draws, with bounds and sharpening taken into
account.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from math import ceil, log

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.quasirandom import SobolEngine

from dnnlib.errors import DataError
from torch_utils.seeds import hash_seed, normal_numbers
from torch_utils.streams import Stream
from training.flow.bin_averages import cell_log_prob, has_cells
from training.flow.coordinates.coordinates import Coordinates
from training.flow.likelihood import Density, Trace
from training.inference.draws import AMORTIZED, Draws, OnPart, weighted_picks, z_order
from training.inference.prior import Prior
from training.measure.posterior.importance import smoothed_weights

LogPosterior = Callable[[Tensor, Tensor], Tensor]
"""Log densities ``[N]``, up to a constant, of points ``[N, D]`` given conditions ``[N, C]``."""
MASS_ERROR, FEWEST_MASS_POINTS, MOST_MASS_POINTS = 0.01, 2**7, 2**13
"""Target standard error of the log probability within the bounds, in nats, and the smallest and
largest number of points used to estimate it.
"""
MORE, MAX_ROUNDS, MOST_TIMES, FEW = 1.1, 20, 4, 128
"""Settings of redrawing after rejections: factor on the expected number of draws, limit on the
rounds, limit on the draws per round as a multiple of those wanted, and size of a small block.
"""


@dataclass(frozen=True)
class Amortized:
    """Amortized posteriors of M observations: a conditional flow, evaluated at each observation.

    Attributes:
        prior: The conditional flow, as a map from standard normal variables to points.
        conditions: The observations, ``[M, C]``.
        rows: Number of points per network block. With blocks of one size, a posterior does not
            depend on the observations that are sampled in the same call.
        draws: Number of draws per observation, S.
        seed: Random seed of all draws.
        trace: Method for the Jacobian traces of log densities; None for no log densities.
        log_posterior: Log posterior up to a constant, to correct the draws by importance
            resampling; None for no correction.
        fewer: Whether draws may be repeated to reach S, if nearly all draws for an
            observation are out of bounds. The statistic ``distinct`` counts the different draws.
        region: Function from points ``[N, D]`` to a mask ``[N]`` of admissible points. Other points
            are redrawn, like points out of bounds. None to admit all points.
        plausible: Whether values of discrete columns are rounded to their quantization levels,
            within the range of the data. Log densities remain those of the points before rounding,
            whose distribution has a density.
    """

    prior: Prior
    conditions: Tensor
    rows: int
    draws: int
    seed: int
    trace: Trace | None = None
    log_posterior: LogPosterior | None = None
    fewer: bool = False
    region: Callable[[Tensor], Tensor] | None = None
    plausible: bool = False

    def sample(self, places: Tensor, on_part: OnPart = None) -> Draws:
        """Draw from the posteriors of some observations.

        Args:
            places: Indices of the m observations ``[m]``, which also seed their draws.
            on_part: Called with the fraction of the work done since the last call.

        Returns:
            S draws for each of the m observations, in a single chain.

        Raises:
            DataError: A point or its density is not finite, or nearly all draws are out of bounds.
        """
        size, numbers = self.draws, places.tolist()
        draws = self._proposed(
            torch.cat([self._noise(place, size, 0) for place in numbers]),
            places.repeat_interleave(size),
            self.rows,
            on_part,
        )
        parts = draws.split([size] * len(numbers))
        coordinates, stats = self.prior.flow.coordinates, {}
        proposed = torch.full((len(numbers),), float(size), dtype=torch.float64)
        if coordinates is not None and (coordinates.rejects or self.region is not None):
            within = self._within(parts, numbers, coordinates)
            stats = {"leaked": proposed.new_tensor([leaked for _, _, leaked in within])}
            if self.fewer:
                distinct = [min(len(part.w), size) for part, _, _ in within]
                stats["distinct"] = proposed.new_tensor(distinct)
            parts = [part.spread(size) for part, _, _ in within]
            proposed = proposed.new_tensor([count for _, count, _ in within])
        shape = (len(numbers), 1, size)
        density = [part.density for part in parts if part.density is not None]
        w, points = (torch.cat([getattr(part, key) for part in parts]) for key in ("w", "points"))
        possible = self.prior.possible(points)
        if self.plausible:
            points = self.prior.plausible(points)
        drawn = Draws(
            w.view(*shape, -1),
            points.view(*shape, -1),
            w.new_full(shape, torch.nan),
            [AMORTIZED] * len(numbers),
            draws.calls * proposed,
            stats,
            torch.cat(density).view(shape) if density else None,
        )
        return self._corrected(drawn, possible, places) if self.log_posterior else drawn

    def log_prob(
        self, points: Tensor, places: Tensor, trace: Trace, mass: Density | None = None
    ) -> Density:
        """Return the log density of the distribution that ``sample`` draws from.

        The density is that of the flow (of sharpened points if draws are sharpened), divided by the
        probability that the flow assigns to the bounds, and 0 outside the bounds. For discrete
        columns, the density is averaged over the quantization bin around each value. If draws are
        corrected, it is the posterior density divided by the evidence that their weights give.

        Args:
            points: Points ``[m, S, D]``, in the user's units.
            places: Indices of the observations ``[m]``.
            trace: Method for the traces of Jacobians.
            mass: Result of ``log_mass`` for these observations; None to estimate it.

        Returns:
            Log densities ``[m, S]`` in nats, and their standard errors.

        Raises:
            DataError: A density is not finite, or no draw of the flow is within the bounds.
        """
        if self.log_posterior:
            return self._corrected_log_prob(points, places, trace)
        flow, mass = self.prior.flow, mass or self.log_mass(places)
        inside = torch.ones_like(points[..., 0], dtype=torch.bool)
        if flow.coordinates is not None:
            inside = self._is_inside(points, flow.coordinates) & self.prior.possible(points)
        density = torch.full_like(points[..., 0], -torch.inf)
        error = mass.error[:, None].expand_as(density).clone()
        if inside.any():
            which = places.to(points.device)[:, None].expand_as(density)[inside]
            own = self._of_rows(points[inside], which, trace)
            density[inside] = own.log_prob
            error[inside] = error[inside].hypot(own.error)
        return Density(density - mass.log_prob[:, None], error)

    def _of_rows(self, rows: Tensor, which: Tensor, trace: Trace) -> Density:
        """Return log densities of rows ``[N, D]`` within the bounds, not yet normalized to these.

        Each row is given the observation with its number ``which [N]``. The densities are those
        before the division by the probability of the bounds.
        """
        given, of_points = self.conditions[which], partial(self._log_density, trace=trace)
        if not has_cells(self.prior.flow):
            density = of_points(rows, given)
            return Density(density, torch.zeros_like(density))
        times, solver = self.prior.way("densities")
        own = of_points if self.prior.sharpened else None
        averaged, _ = cell_log_prob(
            self.prior.flow, rows, times, solver, trace, labels=given, sharpened=own
        )
        return averaged

    def _corrected_log_prob(self, points: Tensor, places: Tensor, trace: Trace) -> Density:
        """Return log densities ``[m, S]`` of corrected draws, like ``log_prob``."""
        observations, which = torch.unique(places, return_inverse=True)
        stats = replace(self, trace=trace).sample(observations).stats
        evidence, worth = stats["evidence"][which], stats["effective_size"][which]
        wanted = self.log_posteriors(points, places)
        if self.prior.flow.coordinates is not None:
            inside = self._is_inside(points, self.prior.flow.coordinates)
            wanted = wanted.masked_fill(~(inside & self.prior.possible(points)), -torch.inf)
        error = (1 / worth - 1 / self.draws).clamp_min(0).sqrt()
        error = error.to(wanted)[:, None].expand_as(wanted)
        return Density(wanted - evidence.to(wanted)[:, None], error)

    @torch.no_grad()
    def log_posteriors(self, points: Tensor, places: Tensor) -> Tensor:
        """Return the log posterior ``[m, S]`` of points ``[m, S, D]``, up to a constant."""
        assert self.log_posterior is not None
        density = torch.empty_like(points[..., 0])
        for place in torch.unique(places).tolist():
            rows = points[places == place].flatten(0, 1)
            given = self.conditions[place].expand(len(rows), -1)
            density[places == place] = self.log_posterior(rows, given).view(-1, points.shape[1])
        return density

    def log_mass(self, places: Tensor) -> Density:
        """Return the log probability ``[m]`` that the flow assigns to points within the bounds.

        The probability is estimated with quasi-random points, the same for all observations. Their
        number is doubled until the standard error is below ``MASS_ERROR``, up to
        ``MOST_MASS_POINTS``.

        Args:
            places: Indices of the observations ``[m]``.

        Returns:
            Log probabilities ``[m]`` and their standard errors ``[m]``.

        Raises:
            DataError: No point is within the bounds.
        """
        coordinates = self.prior.flow.coordinates
        inside = torch.zeros(len(places), dtype=torch.float64)
        rejects = coordinates is not None and (coordinates.rejects or self.region is not None)
        if not rejects:
            return Density(inside.to(self.conditions.device), inside.to(self.conditions.device))
        assert coordinates is not None
        engine = SobolEngine(self.prior.dim, scramble=True, seed=self.seed)  # type: ignore[no-untyped-call]
        uniform = engine.draw(MOST_MASS_POINTS, dtype=torch.float64)
        w = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))
        alone = replace(self, trace=None)
        counts, start, size = inside.clone(), 0, FEWEST_MASS_POINTS
        left = torch.arange(len(places))
        while len(left) and start < MOST_MASS_POINTS:
            noise, which = w[start : start + size], places[left].repeat_interleave(size)
            drawn = alone._proposed(noise.repeat(len(left), 1), which, self.rows)
            within = self._is_inside(drawn.points, coordinates)
            inside[left] += within.view(len(left), size).sum(dim=1).cpu()
            start, size = start + size, start + size
            counts[left] = float(start)
            left = left[_mass_error(inside[left], counts[left]) > MASS_ERROR]
        if (inside == 0).any():
            place = int(places[inside == 0][0])
            raise DataError(
                f"observation {place + 1}: none of {MOST_MASS_POINTS} draws of the flow "
                "is within the column bounds. Train with --bounded=map"
            )
        device = self.conditions.device
        error = _mass_error(inside, counts)
        return Density((inside / counts).log().to(device), error.to(device))

    def log_density(self, points: Tensor, places: Tensor, trace: Trace) -> Tensor:
        """Return the log densities ``[m, S]`` of the flow at points, given an observation each.

        Points out of bounds have a density too: unlike in ``log_prob``, densities are not
        normalized to the bounds.

        Args:
            points: Points ``[m, S, D]``, in the user's units.
            places: Indices of the observations ``[m]``.
            trace: Method for the traces of Jacobians.
        """
        given = self.conditions[places.to(points.device)]
        given = given.repeat_interleave(points.shape[1], dim=0)
        return self._log_density(points.flatten(0, 1), given, trace).view(points.shape[:2])

    def _log_density(self, rows: Tensor, conditions: Tensor, trace: Trace) -> Tensor:
        """Return ``log q [N]`` at rows ``[N, D]``, each given conditions ``[N, C]``, in blocks."""
        densities = [
            self.prior.log_density(rows[block], {"labels": conditions[block]}, trace)
            for block in self._blocks(len(rows), self.rows)
        ]
        return torch.cat(densities)[: len(rows)]

    def _blocks(self, count: int, size: int) -> tuple[Tensor, ...]:
        """Return the indices of ``count`` rows in blocks of one size.

        The last block is padded with the first row.
        """
        order = torch.arange(count, device=self.conditions.device)
        return torch.split(F.pad(order, (0, -count % size)), size)

    def _proposed(self, w: Tensor, which: Tensor, rows: int, on_part: OnPart = None) -> "_Proposed":
        """Map variables ``[N, dim]`` to points, each given the conditions of an observation.

        The observations have the numbers ``which [N]``; rows are mapped in blocks of ``rows`` rows.
        """
        count, device = len(w), self.conditions.device
        w, which = w.to(device), which.to(device)
        points, density, calls = [], [], 0
        for block in self._blocks(count, rows):
            given = {"labels": self.conditions[which[block]]}
            if self.trace is None:
                generated = self.prior.points(w[block], given)
            else:
                generated, log_density = self.prior.points_and_density(w[block], given, self.trace)
                density.append(log_density)
            points.append(generated.points)
            calls = generated.calls
            if on_part:
                on_part(min(1.0, rows / count))
        of_points = torch.cat(density)[:count] if density else None
        return _Proposed(w, torch.cat(points)[:count], of_points, calls)

    def _within(
        self, parts: Sequence["_Proposed"], numbers: Sequence[int], coordinates: Coordinates
    ) -> list[tuple["_Proposed", int, float]]:
        """Collect enough draws within the bounds for each observation, or fewer if that is allowed.

        Return with each the number of proposed draws and the fraction rejected, which renormalizes
        the density of the others.
        """
        size = len(parts[0].w)
        proposed = [size] * len(parts)
        kept = self._inside(parts, coordinates)
        for turn in range(1, MAX_ROUNDS):
            missing = [index for index, part in enumerate(kept) if len(part.w) < size]
            if not missing:
                break
            counts = []
            for index in missing:
                share = max(len(kept[index].w), 1) / proposed[index]
                more_of = ceil((size - len(kept[index].w)) / share * MORE)
                counts.append(min(more_of, MOST_TIMES * size))
            places = [numbers[index] for index in missing]
            again = self._again(places, counts, turn)
            more = self._inside(again, coordinates)
            for index, part, some in zip(missing, again, more, strict=True):
                proposed[index] += len(part.w)
                kept[index] = kept[index].joined_with(some)
        return [self._enough(*each, size) for each in zip(kept, proposed, numbers, strict=True)]

    def _is_inside(self, points: Tensor, coordinates: Coordinates) -> Tensor:
        """Return whether points ``[..., D]`` are within the bounds and the region, ``[...]``."""
        inside = coordinates.inside(points)
        if self.region is not None:
            inside[inside.clone()] = self.region(points[inside])
        return inside

    def _inside(self, parts: Sequence["_Proposed"], coordinates: Coordinates) -> list["_Proposed"]:
        """Select the draws of each part that are within the bounds and the region."""
        inside = self._is_inside(torch.cat([part.points for part in parts]), coordinates)
        within = torch.split(inside, [len(part.w) for part in parts])
        return [part.at(mask) for part, mask in zip(parts, within, strict=True)]

    def _again(self, places: Sequence[int], counts: Sequence[int], turn: int) -> list["_Proposed"]:
        """Draw the given number of further points for each of these observations.

        The blocks of an observation depend on that observation alone, whatever else is sampled in
        the same call.
        """
        wanted = dict(zip(places, counts, strict=True))
        drawn: dict[int, _Proposed] = {}
        for many, rows in ((True, self.rows), (False, min(self.rows, FEW))):
            alike = {place: n for place, n in wanted.items() if (2 * n > self.rows) == many}
            if alike:
                sizes = list(alike.values())
                noise = torch.cat([self._noise(*each, turn) for each in alike.items()])
                which = torch.tensor(list(alike)).repeat_interleave(torch.tensor(sizes))
                parts = self._proposed(noise, which, rows).split(sizes)
                drawn |= dict(zip(alike, parts, strict=True))
        return [drawn[place] for place in places]

    def _enough(
        self, kept: "_Proposed", proposed: int, place: int, size: int
    ) -> tuple["_Proposed", int, float]:
        """Return one observation's draws, the number proposed, and the fraction rejected.

        Raises:
            DataError: Too few draws are left.
        """
        if len(kept.w) < (1 if self.fewer else size):
            beyond = (
                "the column bounds: train with --bounded=map"
                if self.region is None
                else (
                    "the truncated region of the last round, which misses the "
                    "posterior: give more simulations, or fewer rounds"
                )
            )
            raise DataError(
                f"of {proposed} draws for observation {place + 1}, {proposed - len(kept.w)} are "
                f"beyond {beyond}"
            )
        share = len(kept.w) / proposed
        density = None if kept.density is None else kept.density[:size] - log(share)
        return replace(kept.at(slice(size)), density=density), proposed, 1 - share

    def _noise(self, place: int, size: int, turn: int) -> Tensor:
        keys = (hash_seed(self.seed, place), Stream.POSTERIOR_DRAWS, turn)
        return normal_numbers((size, self.prior.dim), *keys)

    def _corrected(self, drawn: Draws, possible: Tensor, places: Tensor) -> Draws:
        """Resample the draws by their importance weights, and add statistics of these.

        The statistics are the effective sample size; the log evidence, which is the log mean
        weight; and how far the correction moves the mean of each coordinate, in standard deviations
        of the corrected posterior.

        Only possible points have a posterior density: it is 0 at draws beyond the last quantization
        level, even though these were rounded to that level.
        """
        assert drawn.log_density is not None
        density, points = drawn.log_density.flatten(1), drawn.points.flatten(1, 2)
        wanted = self.log_posteriors(points, places)
        log_weights = (wanted - density).where(possible.view_as(density), -torch.inf)
        if (log_weights.amax(dim=1) == -torch.inf).any():
            raise DataError(
                f"the posterior density is 0 at all {density.shape[1]} draws of the flow, which "
                "cannot be reweighted: check the prior, or train the flow longer"
            )
        smoothed = smoothed_weights(log_weights)
        seeds = torch.tensor([hash_seed(self.seed, place) for place in places.tolist()])
        order = z_order(points)
        picks = weighted_picks(smoothed.log_weights, seeds, density.shape[1], order)
        shape, rows = drawn.log_density.shape, torch.arange(len(points))[:, None]
        weights = smoothed.log_weights.exp()[..., None]
        mean = (weights * points).sum(dim=1)
        std = (weights * (points - mean[:, None]).square()).sum(dim=1).sqrt()
        return replace(
            drawn,
            w=drawn.w.flatten(1, 2)[rows, picks].view(*shape, -1),
            points=points[rows, picks].view(*shape, -1),
            log_density=density[rows, picks].view(shape),
            stats={
                **drawn.stats,
                "effective_size": smoothed.effective_size.cpu(),
                "pareto_k": smoothed.k.cpu(),
                "evidence": (log_weights.logsumexp(dim=1) - log(density.shape[1])).cpu(),
                "shift": ((mean - points.mean(dim=1)) / std).cpu(),
            },
        )


def _mass_error(inside: Tensor, counts: Tensor) -> Tensor:
    """Return standard errors ``[m]`` of the logs of fractions ``inside / counts``.

    The errors are those of independent points; quasi-random points have smaller errors.
    """
    share = inside / counts
    return ((1 - share) / (share * counts)).sqrt()


@dataclass(frozen=True)
class _Proposed:
    """Proposed posterior draws, before the rejection of draws out of bounds.

    Attributes:
        w: Standard normal variables ``[N, dim]``.
        points: Points ``[N, D]``, the images of the variables.
        density: Log densities ``[N]`` of the points; None if they are not computed.
        calls: Network evaluations per point.
    """

    w: Tensor
    points: Tensor
    density: Tensor | None
    calls: int

    def at(self, places: Tensor | slice) -> "_Proposed":
        density = None if self.density is None else self.density[places]
        return _Proposed(self.w[places], self.points[places], density, self.calls)

    def joined_with(self, other: "_Proposed") -> "_Proposed":
        density = None
        if self.density is not None and other.density is not None:
            density = torch.cat([self.density, other.density])
        w, points = torch.cat([self.w, other.w]), torch.cat([self.points, other.points])
        return _Proposed(w, points, density, self.calls)

    def spread(self, size: int) -> "_Proposed":
        """Repeat the draws, each about equally often, to a total of ``size`` draws."""
        return self.at(torch.arange(size, device=self.w.device) * len(self.w) // size)

    def split(self, counts: Sequence[int]) -> list["_Proposed"]:
        ends = accumulate(counts)
        return [self.at(slice(end - count, end)) for end, count in zip(ends, counts, strict=True)]
