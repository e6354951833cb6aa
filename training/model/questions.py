"""Any question about rows: what cells are, given others, by draws, quantiles and log densities.

A flow of rows holds numbers in its own coordinates, where each column is nearly normal, and
categories as places of their levels. See ``networks.questions`` for what a question is and in which
order it is answered.

One number that is asked alone has a flow of one dimension, which is monotone: the flow's image of
the latent's quantile is the quantile. So intervals of single cells take no draws.
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
    """Numbers ``[N, D]``, float64, in coordinates of the flow, NaN where they are missing, and
    places of levels ``[N, C]``, int64, -1 where they are missing."""

    numbers: Tensor
    levels: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def present(self, atoms: Sequence[int] = ()) -> Tensor:
        """Whether cells are not missing ``[N, D + C]``, numbers first; numbers of the last levels,
        by their places, are there as much as these."""
        numbers, levels = ~self.numbers.isnan(), self.levels >= 0
        numbers[:, list(atoms)] = levels[:, levels.shape[1] - len(atoms) :]
        return torch.cat([numbers, levels], dim=1)

    def at(self, places: Tensor | slice) -> "EncodedRows":
        """Some rows, by their places or by booleans."""
        return EncodedRows(self.numbers[places], self.levels[places])

    def or_else(self, other: "EncodedRows") -> "EncodedRows":
        """These cells, and where they are missing those of other rows."""
        numbers = torch.where(self.numbers.isnan(), other.numbers, self.numbers)
        return EncodedRows(numbers, torch.where(self.levels < 0, other.levels, self.levels))

    @classmethod
    def joined(cls, parts: Sequence["EncodedRows"]) -> "EncodedRows":
        """Rows of several, one after the other."""
        return cls(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def pack(
    known: EncodedRows, states: Tensor, level_states: Tensor, level_counts: Sequence[int]
) -> Tensor:
    """Questions as a network takes them, ``[N, 2 D + K + C]``: values and states of numbers, then
    indicators and states of levels.

    Args:
        known: The cells: numbers where they are known, levels also where they are asked and have
            been drawn.
        states: ``[N, D]``.
        level_states: ``[N, C]``.
        level_counts: ``[C]``.
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
    """Answers questions; all rows of a call may have different ones.

    Attributes:
        flow: With a ``QuestionNetwork``; its coordinates are not looked at.
        network: That network.
        times: Increasing; None, with no solver, for the flow's own courses.
        solver: The solver.
    """

    flow: ProbabilityFlow
    network: QuestionNetwork
    times: Tensor | None = None
    solver: Solver | None = None

    def of(self, labels: Tensor) -> ProbabilityFlow:
        """The flow of asked numbers, given questions ``[N, L]``."""
        bare = self.flow.under({"labels": labels.float()})
        bare.coordinates = None
        return bare

    @torch.no_grad()
    def level_probabilities(self, known: EncodedRows, states: Tensor, place: int) -> Tensor:
        """Of the levels of a category at a place among these, given what is known by states ``[N, D
        + C]``, ``[N, levels]``."""
        first = sum(self.network.level_counts[:place])
        part = slice(first, first + self.network.level_counts[place])
        return self.network.level_log_probabilities(self._labels(known, states))[:, part].exp()

    def draws(self, known: EncodedRows, states: Tensor, generator: torch.Generator) -> EncodedRows:
        """One draw of what is asked for each row by states ``[N, D + C]``, by a generator on the
        CPU; known cells stay, absent ones are missing.

        Levels come one after the other, then numbers. After these each level, but for those of
        atoms, is drawn once more, given all others: a step of Gibbs sampling, which leaves a law as
        it is. Where what was learned is none, as questions do not agree, it is nearer to these last
        questions, of which a training has most."""
        dim, categories = known.numbers.shape[1], known.levels.shape[1]
        levels, states = known.levels.clone(), states.clone()
        absent, asked = states == ABSENT, states[:, :dim] == ASKED
        level_asked = states[:, dim:] == ASKED

        def draw(place: int, numbers: Tensor) -> None:
            rows = level_asked[:, place].nonzero()[:, 0]
            # All are drawn, so that a row's draw does not depend on questions of others.
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
        for place in range(categories - len(self.network.atoms)):  # of these, numbers are drawn
            draw(place, numbers)
        numbers = torch.where(absent[:, :dim], torch.nan, numbers)
        return EncodedRows(numbers, torch.where(absent[:, dim:], -1, levels))

    def quantiles(self, known: EncodedRows, states: Tensor, place: int, levels: Tensor) -> Tensor:
        """Quantiles ``[N, Q]`` of one number that alone is asked by states ``[N, D + C]``, at
        levels between 0 and 1, ``[Q]``, or each row's own, ``[N, Q]``."""
        count, dim = known.numbers.shape
        levels = levels.double().expand(count, -1)
        latents = torch.zeros(levels.shape[1], count, dim, dtype=torch.float64)
        latents[..., place] = torch.special.ndtri(levels).T
        labels = self._labels(known, states).repeat(len(latents), 1)
        points = self._generated(labels, latents.flatten(0, 1))
        return points[:, place].view(len(latents), count).T

    def ranks(self, rows: EncodedRows, states: Tensor, place: int) -> Tensor:
        """What the distribution function of one number, which alone is asked by states ``[N, D +
        C]``, has at its value ``[N]``."""
        points = torch.zeros_like(rows.numbers)
        points[:, place] = rows.numbers[:, place]
        flow = self.of(self._labels(rows, states))
        times, solver = self.flow.course("latents", self.times, self.solver)
        latents = flow.encode(points, times, solver)
        std = flow.gaussian_law(times[-1]).variance.sqrt()
        return torch.special.ndtr((latents / std)[:, place])

    def log_prob(self, rows: EncodedRows, states: Tensor) -> tuple[Tensor, Tensor]:
        """Log densities ``[N]`` of asked numbers in coordinates of the flow, given levels and what
        is known by states ``[N, D + C]``; and log probabilities ``[N]`` of asked levels, given what
        is known."""
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
        asked = self.network.unpack(labels)[1] == ASKED  # but those at atoms
        some = asked.any(dim=1)
        if some.any():
            points = torch.where(asked, rows.numbers, 0.0)[some]
            flow = self.of(labels[some])
            times, solver = self.flow.course("densities", self.times, self.solver)
            joint = flow.log_prob_with_error(points, times, solver).log_prob
            # What is not asked is a standard normal number at 0, with the noise of the first time.
            variance = 1 + float(self.flow.schedule.noise_variance(times[0])[0])
            idle = dim - asked[some].sum(dim=1)
            of_numbers[some] = joint + idle * log(2 * pi * variance) / 2
        return of_numbers, of_levels

    def noise_at(self, rows: EncodedRows, states: Tensor) -> tuple[Tensor, float]:
        """The mean of the noise of the first time ``[N, D]`` in asked numbers, in units of its
        standard deviation, and this; see ``flow.cells``."""
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
        """Numbers ``[N, D]`` of standard normal latents."""
        flow = self.of(labels)
        times, solver = self.flow.course("points", self.times, self.solver)
        return flow.decode(normal * flow.gaussian_law(times[-1]).variance.sqrt(), times, solver)
