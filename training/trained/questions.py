"""Conditional queries about rows: draws, quantiles and log densities of target cells given others.

A flow of rows represents numbers in its own coordinates, where each column is nearly normal, and
categories as indices of their levels. See ``networks.questions`` for the definition of a query and
the factorization behind it.

A single target number has a flow of one dimension, which is monotone: the flow maps a quantile of
the latent to the same quantile of the number. Intervals of single cells therefore need no draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor

from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver
from training.networks.mixture import ABSENT, ASKED, KNOWN
from training.networks.questions import QuestionNetwork


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
class QuestionFlow:
    """A flow that evaluates conditional queries; each row may have its own query.

    Attributes:
        flow: Flow of a ``QuestionNetwork``; its coordinates are ignored.
        network: The network of the flow.
        times: Increasing times; None, together with no solver, for the flow's own integration
            schedules.
        solver: ODE solver; None, together with no times.
    """

    flow: ProbabilityFlow
    network: QuestionNetwork
    times: Tensor | None = None
    solver: Solver | None = None

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
        count, dim = known.numbers.shape
        levels = levels.double().expand(count, -1)
        latents = torch.zeros(levels.shape[1], count, dim, dtype=torch.float64)
        latents[..., place] = torch.special.ndtri(levels).T
        labels = self._labels(known, states).repeat(len(latents), 1)
        points = self._generated(labels, latents.flatten(0, 1))
        return points[:, place].view(len(latents), count).T

    def ranks(self, rows: EncodedRows, states: Tensor, place: int) -> Tensor:
        """Evaluate the distribution function of one number, the only target, at its values ``[N]``.

        Args:
            rows: Rows with the values.
            states: States of all cells ``[N, D + C]``.
            place: Index of the number.
        """
        points = torch.zeros_like(rows.numbers)
        points[:, place] = rows.numbers[:, place]
        flow = self.of(self._labels(rows, states))
        times, solver = self.flow.integration("latents", self.times, self.solver)
        latents = flow.encode(points, times, solver)
        std = flow.gaussian_latents(times[-1]).variance.sqrt()
        return torch.special.ndtr((latents / std)[:, place])

    def log_prob(self, rows: EncodedRows, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log densities of target numbers and the log probabilities of target levels.

        Args:
            rows: Rows with all cells.
            states: States of all cells ``[N, D + C]``.

        Returns:
            Log densities ``[N]`` of target numbers, in coordinates of the flow, given the levels
            and the known cells; and log probabilities ``[N]`` of target levels, given the known
            cells.
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
        of_numbers, labels = torch.zeros_like(of_levels), self._labels(rows, states)
        asked = self.network.unpack(labels)[1] == ASKED  # except those at atoms
        some = asked.any(dim=1)
        if some.any():
            points = torch.where(asked, rows.numbers, 0.0)[some]
            flow = self.of(labels[some])
            times, solver = self.flow.integration("densities", self.times, self.solver)
            joint = flow.log_prob_with_error(points, times, solver).log_prob
            # Other numbers are standard normal, with the noise of the first time, evaluated at 0.
            variance = 1 + float(self.flow.schedule.noise_variance(times[0])[0])
            idle = dim - asked[some].sum(dim=1)
            of_numbers[some] = joint + idle * log(2 * pi * variance) / 2
        return of_numbers, of_levels

    def noise_at(self, rows: EncodedRows, states: Tensor) -> tuple[Tensor, float]:
        """Return the expected noise of the first time in target numbers; see ``flow.cells``.

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
        times, solver = self.flow.integration("points", self.times, self.solver)
        return flow.decode(normal * flow.gaussian_latents(times[-1]).variance.sqrt(), times, solver)
