"""Conditional queries about rows: draws, quantiles and log densities of target cells given others.

A flow of rows represents numbers in its own coordinates, where each column is nearly normal, and
categories as indices of their levels. See ``networks.questions`` for the definition of a query and
the factorization behind it.

A single target number has a flow of one dimension, which is monotone: the flow maps a quantile of
the latent to the same quantile of the number. Intervals of single cells therefore need no draws,
and the probability of an interval is the difference of the distribution function at its ends.
Numbers that are targets together are drawn jointly, and have a joint density. Scores of tables with
discrete columns evaluate them one after the other instead, each given those before,

    p(x_1, ..., x_D | known) = prod_i p(x_i | known, x_1, ..., x_(i-1)),

so that the probabilities of all bins of a discrete number add to 1.

The flow of one number is integrated in coordinates of its row. Let m and v be its mean and variance
by the mixture that the network starts from, given the known cells. With noise gamma, the state and
the time are

    y = (x - m) / sqrt(v + gamma),    psi = arctan sqrt(gamma / v),

    dy/dpsi = sqrt(v) (sin psi / cos^2 psi) (w - y / sqrt(v + gamma)),

where ``D = x - gamma w`` is the denoiser. The right side vanishes if the distribution is normal
with these moments: y changes only as far as the distribution differs from this. Its integral over a
range of psi is Gauss-Legendre quadrature with ``NODES`` nodes, whose states follow from the slopes
at the earlier nodes by linear interpolation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from math import log, pi
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.flow.bin_averages import log_normal_mass
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import weighted_sum
from training.networks.mixture import ABSENT, ASKED, KNOWN
from training.networks.questions import QuestionNetwork, SingleTarget

NODES = 8
"""Number of network evaluations per range of times."""
SEPARATE = 0.7
"""Rows with a smaller fraction of the variance within components have twice as many ranges."""
FAR, FAR_RANGES = 4.0, 8
"""Distance in standard deviations of values far out, and how many times as many ranges they need.

There the network may change the distribution by many standard deviations.
"""
LARGEST_ERROR = 0.05
"""Estimated error of a log density, in nats, above which it is computed with more ranges."""
WINDOW = 0.2
"""Width of intervals whose probability gives a density, in units of the noise of the first time.

The relative error is at most ``WINDOW^2 (z^2 - 1) / 24``, at z standard deviations.
"""


class EncodedRows(NamedTuple):
    """Rows encoded for a flow as numbers and category levels.

    Numbers ``[N, D]``, float64, are in coordinates of the flow, NaN where they are missing. Levels
    ``[N, C]``, int64, are indices, -1 where they are missing.
    """

    numbers: Tensor
    levels: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def present(self, atoms: Sequence[int] = ()) -> Tensor:
        """Return whether each cell is present, bool ``[N, D + C]``, numbers first.

        Args:
            atoms: Indices of the numbers that the last categories belong to; such a number is
                present if its category is.
        """
        numbers, levels = ~self.numbers.isnan(), self.levels >= 0
        numbers[:, list(atoms)] = levels[:, levels.shape[1] - len(atoms) :]
        return torch.cat([numbers, levels], dim=1)

    def at(self, places: Tensor | slice) -> "EncodedRows":
        """Select rows by their indices or by booleans."""
        return EncodedRows(self.numbers[places], self.levels[places])

    def filled_from(self, other: "EncodedRows") -> "EncodedRows":
        """Replace missing cells by the same cells of other rows."""
        numbers = torch.where(self.numbers.isnan(), other.numbers, self.numbers)
        return EncodedRows(numbers, torch.where(self.levels < 0, other.levels, self.levels))

    @classmethod
    def joined(cls, parts: Sequence["EncodedRows"]) -> "EncodedRows":
        """Concatenate several sets of rows."""
        return cls(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def pack(
    known: EncodedRows, states: Tensor, level_states: Tensor, level_counts: Sequence[int]
) -> Tensor:
    """Encode queries as network input ``[N, 2 D + K + C]``.

    The input has values and states of numbers, then indicators and states of levels.

    Args:
        known: Cells: the numbers that are conditions, and the levels that are conditions or targets
            already drawn.
        states: States of the numbers ``[N, D]``.
        level_states: States of the categories ``[N, C]``.
        level_counts: Number of levels of each category ``[C]``.
    """
    numbers = known.numbers
    values = torch.where(states == KNOWN, numbers.nan_to_num(0.0), 0.0)
    parts = [values, states.to(values)]
    for place, levels in enumerate(level_counts):
        level = known.levels[:, place, None]
        parts.append((level == torch.arange(levels, device=level.device)).to(values))
    return torch.cat([*parts, level_states.to(values)], dim=1)


@dataclass(frozen=True)
class SingleFlow:
    """The flow of a single target number in N rows: a monotone map to standard normal latents.

    Attributes:
        network: Network for this number, given the known cells of the rows.
        ends: Noise variances of the first and the last time.
        ranges: Number ``[N]`` of ranges of times, each with ``NODES`` network evaluations.
    """

    network: SingleTarget
    ends: tuple[float, float]
    ranges: Tensor

    def latents(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latents ``[N, Q]`` of points ``[N, Q]``, also by an embedded method.

        The second method has a lower order: the difference estimates the error.
        """
        return self._moved(points, *self.ends)

    def points(self, latents: Tensor) -> Tensor:
        """Return the points ``[N, Q]`` of latents ``[N, Q]``."""
        return self._moved(latents, *self.ends[::-1])[0]

    @torch.no_grad()
    def _moved(self, x: Tensor, first: float, last: float) -> tuple[Tensor, Tensor]:
        """Return the states ``[N, Q]`` at one noise variance, given those at another one.

        States at the last time are latents, in units of their standard deviation.
        """
        unit = (1 + self.ends[1]) ** 0.5
        x = x if first < last else unit * x
        mean, variance = self._moments
        start, end = ((gamma / variance).sqrt().atan() for gamma in (first, last))
        y = embedded = (x - mean) / (variance + first).sqrt()
        nodes, before, weights = quadrature()
        y, embedded = y.clone(), embedded.clone()
        for at in range(int(self.ranges.max())):
            rows = (self.ranges > at).nonzero()[:, 0]
            flow = self if len(rows) == len(x) else replace(self, network=self.network.at(rows))
            begin, own, slopes = start[rows], y[rows], list[Tensor]()
            step = (end[rows] - begin) / self.ranges[rows, None]
            for node, row in zip(nodes, before, strict=True):
                state = own + weighted_sum(row, slopes) if row else own
                slopes.append(step * flow._slope(state, begin + step * (at + node)))
            embedded[rows] += weighted_sum(weights[1], slopes)
            y[rows] = own + weighted_sum(weights[0], slopes)
        scale = (variance + last).sqrt()
        made, rough = mean + scale * y, mean + scale * embedded
        return (made, rough) if first > last else (made / unit, rough / unit)

    @property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean m and variance v of the number by the initial mixture, ``[N, 1]``."""
        start = self.network.start
        return start.mean[:, None], start.variance[:, None]

    def _slope(self, y: Tensor, psi: Tensor) -> Tensor:
        """Return ``dy/dpsi [N, Q]`` of states ``[N, Q]`` at angles ``[N, 1]``."""
        (mean, variance), cos = self._moments, psi.cos()
        gamma, std = variance * psi.tan().square(), variance.sqrt() / cos
        x = mean + std * y
        output = self.network(x / (1 + gamma).sqrt(), gamma).double()
        w = x / (1 + gamma) - output / (gamma * (1 + gamma)).sqrt()
        return psi.sin() / cos * (std * w - y)


@cache
def quadrature() -> tuple[list[float], list[list[float]], list[list[float]]]:
    """Return the nodes ``[NODES]`` of an integration over 0 to 1, and its weights.

    Returns:
        The nodes; for each node, the weights of the slopes at earlier nodes in its state; and the
        weights of all slopes at the end, by Gauss-Legendre quadrature and by the quadrature that
        leaves out one node, for an estimate of errors.
    """
    nodes, gauss = np.polynomial.legendre.leggauss(NODES)
    nodes, gauss = (nodes + 1) / 2, gauss / 2
    before = [[], [nodes[1]]]
    for count in range(2, NODES):
        # Trapezoids between nodes, and lines through two nodes before the first and after the last.
        row = np.zeros(count)
        places = [(0.0, nodes[0], 0), *((a, b, at) for at, (a, b) in enumerate(pairwise(nodes)))]
        for low, high, at in places[: count + 1]:
            at = min(at, count - 2)
            share = ((low + high) / 2 - nodes[at]) / (nodes[at + 1] - nodes[at])
            row[at : at + 2] += (high - low) * np.array([1 - share, share])
        before.append(row.tolist())
    kept = np.delete(np.arange(NODES), NODES // 2)
    powers = np.vander(nodes[kept], increasing=True).T
    rough = np.zeros(NODES)
    rough[kept] = np.linalg.solve(powers, 1 / np.arange(1, NODES))
    return nodes.tolist(), before, [gauss.tolist(), rough.tolist()]


@dataclass(frozen=True)
class QuestionFlow:
    """A flow that evaluates conditional queries; each row may have its own query.

    Attributes:
        flow: Flow of a ``QuestionNetwork``; its coordinates are ignored.
        network: The network of the flow.
        ranges: Number of ranges of times for single numbers (``SingleFlow``).
    """

    flow: ProbabilityFlow
    network: QuestionNetwork
    ranges: int = 1

    def of(self, labels: Tensor) -> ProbabilityFlow:
        """Return the flow of the target numbers, given N queries as network input ``[N, L]``."""
        bare = self.flow.under({"labels": labels.float()})
        bare.coordinates = None
        return bare

    @torch.no_grad()
    def level_probabilities(self, known: EncodedRows, states: Tensor, place: int) -> Tensor:
        """Return the probabilities ``[N, levels]`` of one category's levels, given the known cells.

        Args:
            known: Rows with the known cells.
            states: States of all cells ``[N, D + C]``.
            place: Index of the category.
        """
        first = sum(self.network.level_counts[:place])
        part = slice(first, first + self.network.level_counts[place])
        return self.network.level_log_probabilities(self._labels(known, states))[:, part].exp()

    def draws(self, known: EncodedRows, states: Tensor, generator: torch.Generator) -> EncodedRows:
        """Draw the targets of each row once; known cells are kept, and absent cells are missing.

        Levels are drawn one after the other, then numbers. Afterwards each level, except those of
        atoms, is drawn once more given all other cells. This Gibbs step leaves the joint
        distribution invariant. If the learned conditional distributions are not consistent with any
        joint distribution, the step moves the draws towards these last conditional distributions,
        which are the most frequent in training.

        Args:
            known: Rows with the known cells.
            states: States of all cells ``[N, D + C]``.
            generator: Generator on the CPU.
        """
        dim, categories = known.numbers.shape[1], known.levels.shape[1]
        levels, states = known.levels.clone(), states.clone()
        absent, asked = states == ABSENT, states[:, :dim] == ASKED
        level_asked = states[:, dim:] == ASKED

        def draw(place: int, numbers: Tensor) -> None:
            rows = level_asked[:, place].nonzero()[:, 0]
            # Numbers are drawn for all rows, so that a draw does not depend on other rows' queries.
            uniform = torch.rand(len(levels), generator=generator, dtype=torch.float64)
            if len(rows):
                states[rows, dim + place] = ASKED
                now = EncodedRows(numbers[rows], levels[rows])
                shares = self.level_probabilities(now, states[rows], place).double().cumsum(1)
                levels[rows, place] = (uniform[rows, None] > shares / shares[:, -1:]).sum(dim=1)
                states[rows, dim + place] = KNOWN

        for place in range(categories):
            draw(place, known.numbers)
        latents = torch.randn(len(levels), dim, generator=generator, dtype=torch.float64)
        numbers = known.numbers.clone()
        if asked.any():
            some = asked.any(dim=1)
            labels = self._labels(EncodedRows(known.numbers, levels), states)[some]
            numbers[some] = torch.where(
                asked[some], self._generated(labels, latents[some]), numbers[some]
            )
        states[:, :dim] = torch.where(asked, KNOWN, states[:, :dim])
        for place in range(categories - len(self.network.atoms)):  # atoms are not redrawn
            draw(place, numbers)
        numbers = torch.where(absent[:, :dim], torch.nan, numbers)
        return EncodedRows(numbers, torch.where(absent[:, dim:], -1, levels))

    def quantiles(self, known: EncodedRows, states: Tensor, place: int, levels: Tensor) -> Tensor:
        """Return quantiles ``[N, Q]`` of one number, the only target.

        Args:
            known: Rows with the known cells.
            states: States of all cells ``[N, D + C]``.
            place: Index of the number.
            levels: Quantile levels between 0 and 1, ``[Q]``, or ``[N, Q]`` for levels per row.
        """
        latents = torch.special.ndtri(levels.double().expand(len(known), -1))
        return self._single(known, states, place, latents=latents).points(latents)

    def ranks(self, known: EncodedRows, states: Tensor, place: int, points: Tensor) -> Tensor:
        """Return the distribution function ``[N, Q]`` of one number, the only target, at points.

        Args:
            known: Rows with the known cells.
            states: States of all cells ``[N, D + C]``.
            place: Index of the number.
            points: Values ``[N, Q]`` of the number, in coordinates of the flow.
        """
        return torch.special.ndtr(self._single(known, states, place, points).latents(points)[0])

    def log_prob(
        self, rows: EncodedRows, states: Tensor, bins: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log densities of targets, one after the other, each given those before.

        Levels come first, then numbers in their order. For one number, this is the joint density.

        Args:
            rows: Rows with all cells.
            states: States of all cells ``[N, D + C]``.
            bins: Lower and upper ends ``[N, D]`` of the bins of numbers, whose probabilities take
                the place of densities; equal ends for densities. None for densities only.

        Returns:
            Log densities ``[N]`` of target numbers, in coordinates of the flow, given the levels
            and the known cells; log probabilities ``[N]`` of target levels, given the known cells;
            and estimated errors ``[N]`` of the integration.
        """
        dim = rows.numbers.shape[1]
        of_levels, states = self.log_levels(rows, states)
        of_numbers, errors = torch.zeros(2, len(rows), dtype=torch.float64)
        # Numbers at atoms are not asked.
        asked = self.network.unpack(self._labels(rows, states))[1] == ASKED
        states[:, :dim] = torch.where(asked, ABSENT, states[:, :dim])
        low, high = bins or (rows.numbers, rows.numbers)
        least = WINDOW * self._ends[0] ** 0.5
        for place in range(dim):
            some = asked[:, place].nonzero()[:, 0]
            if not len(some):
                continue
            states[some, place] = ASKED
            ends = torch.stack([low[some, place], high[some, place]], dim=1)
            width = ends[:, 1] - ends[:, 0]
            half = torch.tensor([[-least / 2, least / 2]], dtype=torch.float64)
            wide = width >= least
            ends = torch.where(wide[:, None], ends, ends.mean(dim=1, keepdim=True) + half)
            mass, error = self._log_mass(rows.at(some), states[some], place, ends)
            unsure = (error > LARGEST_ERROR).nonzero()[:, 0]
            if len(unsure):
                finer, which = replace(self, ranges=FAR_RANGES * self.ranges), some[unsure]
                mass[unsure], error[unsure] = finer._log_mass(
                    rows.at(which), states[which], place, ends[unsure]
                )
            errors[some] += error
            narrow = torch.where(width > 0, width, 1.0).log() - log(least)
            of_numbers[some] += mass + torch.where(wide, 0.0, narrow)
            states[some, place] = KNOWN
        return of_numbers, of_levels, errors

    def log_levels(self, rows: EncodedRows, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log probabilities ``[N]`` of target levels, and states where they are known.

        Levels are evaluated one after the other, each given those before and the known cells.

        Args:
            rows: Rows with all cells.
            states: States of all cells ``[N, D + C]``.
        """
        dim = rows.numbers.shape[1]
        level_asked = states[:, dim:] == ASKED
        of_levels, states = torch.zeros(len(rows), dtype=torch.float64), states.clone()
        for place in range(rows.levels.shape[1]):
            some = level_asked[:, place].nonzero()[:, 0]
            if len(some):
                shares = self.level_probabilities(rows.at(some), states[some], place)
                level = rows.levels[some, place, None]
                of_levels[some] += shares.gather(1, level)[:, 0].double().log()
                states[some, dim + place] = KNOWN
        return of_levels, states

    def _log_mass(
        self, known: EncodedRows, states: Tensor, place: int, ends: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return log probabilities ``[N]`` of intervals ``[N, 2]`` of one number, and errors."""
        latents = self._single(known, states, place, ends).latents(ends)
        mass, rough = (log_normal_mass(*each.unbind(dim=1)) for each in latents)
        return mass, (mass - rough).abs()

    @property
    def _ends(self) -> tuple[float, float]:
        """Noise variances of the first and the last time."""
        times = self.flow.times(1)
        first, last = self.flow.schedule.noise_variance(times)[:, 0].tolist()
        return first, last

    @torch.no_grad()
    def _single(
        self,
        known: EncodedRows,
        states: Tensor,
        place: int,
        points: Tensor | None = None,
        latents: Tensor | None = None,
    ) -> SingleFlow:
        """Return the flow of one number, the only target.

        Rows with separate modes, or with points or latents ``[N, Q]`` far out, have more ranges.
        """
        network = self.network.single(self._labels(known, states), place)
        start, ranges = network.start, torch.full((len(known),), self.ranges)
        ranges[start.within < SEPARATE] = 2 * self.ranges
        if points is not None:
            latents = (points - start.mean[:, None]) / start.variance.sqrt()[:, None]
        assert latents is not None
        ranges[(latents.abs() > FAR).any(dim=1)] = FAR_RANGES * self.ranges
        return SingleFlow(network, self._ends, ranges)

    def joint_log_prob(self, rows: EncodedRows, states: Tensor) -> Tensor:
        """Return the joint log densities ``[N]`` of target numbers, in coordinates of the flow.

        They are densities of the distribution of ``draws``, given the known cells.

        Args:
            rows: Rows with all cells.
            states: States of all cells ``[N, D + C]``, without target levels.
        """
        dim = rows.numbers.shape[1]
        of_numbers = torch.zeros(len(rows), dtype=torch.float64)
        labels = self._labels(rows, states)
        asked = self.network.unpack(labels)[1] == ASKED  # except those at atoms
        some = asked.any(dim=1)
        if some.any():
            points = torch.where(asked, rows.numbers, 0.0)[some]
            flow = self.of(labels[some])
            times, solver = self.flow.integration("densities")
            joint = flow.log_prob_with_error(points, times, solver).log_prob
            # Other numbers are standard normal, with the noise of the first time, evaluated at 0.
            variance = 1 + float(self.flow.schedule.noise_variance(times[0])[0])
            idle = dim - asked[some].sum(dim=1)
            of_numbers[some] = joint + idle * log(2 * pi * variance) / 2
        return of_numbers

    def noise_at(self, rows: EncodedRows, states: Tensor) -> tuple[Tensor, float]:
        """Return the expected noise of the first time in target numbers; see ``flow.bin_averages``.

        Returns:
            The noise ``[N, D]``, in units of its standard deviation, and that standard deviation.
        """
        first = self.flow.times()[0]
        std = float(self.flow.schedule.noise_variance(first)[0].sqrt())
        labels = self._labels(rows, states)
        points = torch.where(self.network.unpack(labels)[1] == ASKED, rows.numbers, 0.0)
        with torch.no_grad():
            clean = self.of(labels).denoiser(points, first).double()
        return (points - clean) / std, std

    def _labels(self, known: EncodedRows, states: Tensor) -> Tensor:
        dim = known.numbers.shape[1]
        return pack(known, states[:, :dim], states[:, dim:], self.network.level_counts).float()

    def _generated(self, labels: Tensor, normal: Tensor) -> Tensor:
        """Generate numbers ``[N, D]`` from standard normal latents."""
        flow = self.of(labels)
        times, solver = self.flow.integration("points")
        return flow.decode(normal * flow.gaussian_latents(times[-1]).variance.sqrt(), times, solver)
