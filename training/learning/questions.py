"""Questions about rows, drawn at random for a training, and its loss.

A batch is of rows, each with a question of its own: some cells are asked, others known, the rest
absent. To be absent must say nothing about a row, but rows of which a cell is missing may differ
from the others. So missing cells are drawn, anew in every epoch, from the mixture that the flow
starts from, given the cells that are there, and then left out as often as any. Where one cell alone
is asked, given all others, it is one that is there. What is learned is right if cells are missing
at random given those that are there, and the mixture is right about them.

The loss of a row is the mean over asked numbers of the squared error of F (``learning.loss``), and
the mean over asked categories of the negative log probability of their levels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.batches import Batch, parts_of_epochs
from training.flow.denoisers import NetworkDenoiser
from training.learning.held_out import HeldOut, Score
from training.learning.loss import DenoisingLoss, DenoisingRegression, NoiseDraws
from training.learning.targets import OthersOfBatch
from training.model.model import Model
from training.model.questions import EncodedRows, pack
from training.networks.mixture import ABSENT, ASKED, KNOWN
from training.networks.questions import QuestionNetwork

ONE_ASKED = 0.45
"""Share of rows of which one cell is asked, and all others are known."""
OTHERS, OTHERS_OF_FEW = 0.5, 0.85
"""Share of rows with any question in a training for one: of few rows the one alone would be learned
by heart, above all levels, and too few that are held out would choose the weights."""
SOME_ABSENT = 0.25
"""Share of rows of which some cells are absent that could be known."""
ALIKE = 8
"""Rows, one after the other, with the same question and time: they have the inverses that the start
of the flow takes in common. Their noise differs, and so little is lost."""
HELD_OUT_DRAWS, HELD_OUT_BLOCK = 4096, 1024
"""Rows whose loss is taken, or questions about fewer rows; and rows of one network call."""
PARTS = ("numbers", "levels")
"""Of a network, each with a loss and weights of its own."""


class OneQuestion(NamedTuple):
    """The one question that a training is for.

    Attributes:
        columns: Places of those that are asked, given all others.
        others: Share of rows that have any question.
    """

    columns: Sequence[int]
    others: float


def draw_states(
    present: Tensor,
    generator: torch.Generator,
    one: OneQuestion | None = None,
    drawn: bool = False,
    alike: int = 1,
    atoms: Sequence[int] = (),
) -> Tensor:
    """States of cells ``[B, P]`` of random questions.

    Args:
        present: Whether cells are not missing ``[B, P]``, on the CPU; see ``EncodedRows.present``.
        generator: The source of random numbers, on the CPU.
        one: The one question that matters, which some rows have; None for any question.
        drawn: Whether missing cells have been drawn; otherwise they are absent.
        alike: Rows, one after the other, of one question.
        atoms: Places of the numbers whose states the last categories have, too.
    """
    if atoms:
        own = present[:, : present.shape[1] - len(atoms)]
        states = draw_states(own, generator, one, drawn, alike)
        return torch.cat([states, states[:, list(atoms)]], dim=1)
    rows, columns = present.shape

    def uniform(count: int) -> Tensor:
        draw = torch.rand(ceil(rows / alike), count, generator=generator)
        return draw.repeat_interleave(alike, dim=0)[:rows]

    draw = uniform(columns + 4)
    share, kind, dropped, which = (draw[:, -4 + place, None] for place in range(4))
    known = draw[:, :columns] < share
    some = dropped < SOME_ABSENT
    # Which cells are missing may depend on those that are left out: then drawn ones are asked too.
    may = present | some if drawn else present
    there = may.cumsum(dim=1)
    chosen = 1 + (which * there[:, -1:]).long()
    single = (there == chosen) & may
    states = torch.where(kind < ONE_ASKED, ~single, known).long()
    absent = uniform(columns) < dropped / SOME_ABSENT
    states = states.masked_fill(some & absent & (states == KNOWN), ABSENT)
    states = states if drawn else states.masked_fill(~present, ABSENT)
    if one is None:
        return states
    own = torch.full((rows, columns), KNOWN)
    own[:, list(one.columns)] = ASKED
    return torch.where(uniform(1) < one.others, states, own.masked_fill(~present, ABSENT))


def questions(
    cells: EncodedRows, known: EncodedRows, states: Tensor, level_counts: Sequence[int]
) -> Batch:
    """Rows with the questions of their states ``[B, D + C]``, of numbers first: clean numbers, and
    labels. In ``cells`` discrete columns are spread over their steps; ``known`` are the same as
    they are where they are known."""
    dim = cells.numbers.shape[1]
    labels = pack(known, states[:, :dim], states[:, dim:], level_counts)
    return Batch(cells.numbers.nan_to_num(0.0), labels)


class QuestionBatches:
    """Rows, every one once an epoch, each time with a new question.

    Args:
        cells_of: Gives all rows by a generator, whose draws spread discrete columns.
        known: All rows, as they are where they are known.
        network: That is trained.
        batch: Batch size over all ranks.
        seed: Of the orders, the questions and the draws.
        one: The one question that matters; None for any question.
        complete: Draws missing cells, for questions that are any.
    """

    def __init__(
        self,
        cells_of: Callable[[torch.Generator], EncodedRows],
        known: EncodedRows,
        network: QuestionNetwork,
        batch: int,
        seed: int,
        one: OneQuestion | None = None,
        complete: Callable[[EncodedRows, torch.Generator], EncodedRows] | None = None,
    ):
        self._present = known.present(network.atoms)
        self._complete = None if bool(self._present.all()) else complete
        self._cells_of, self._known, self._network = cells_of, known, network
        self._batch, self._seed, self._one = batch, seed, one
        self._epoch, self._cells, self._middle = -1, known, known
        self._order = torch.arange(len(known))

    def batches(self, first_step: int) -> Iterator[Batch]:
        for step in count(first_step):
            places, cells, known = self._at(step)
            generator = seeded_generator("cpu", self._seed, Stream.QUESTIONS, step)
            present, atoms = self._present[places], self._network.atoms
            drawn = self._complete is not None
            states = draw_states(present, generator, self._one, drawn, ALIKE, atoms)
            batch = questions(cells, known, states, self._network.level_counts)
            yield batch.at(distributed.shard(self._batch))

    def _at(self, step: int) -> tuple[Tensor, EncodedRows, EncodedRows]:
        """Places of a step's rows, which may be of several epochs, and what they are there: spread,
        and as they are where they are known."""
        size, places, cells, middles = len(self._known), [], [], []
        for epoch, rows in parts_of_epochs(step * self._batch, (step + 1) * self._batch, size):
            if epoch != self._epoch:
                self._epoch = epoch
                generator = seeded_generator("cpu", self._seed, Stream.DEQUANTIZATION, epoch)
                self._cells = self._cells_of(generator)
                if self._complete:
                    drawn = self._complete(self._known, generator)
                    self._cells, self._middle = self._cells.or_else(drawn), drawn
                generator = seeded_generator("cpu", self._seed, Stream.DATA, epoch)
                self._order = torch.randperm(size, generator=generator)
            part = self._order[rows]
            places.append(part)
            cells.append(self._cells.at(part))
            middles.append(self._middle.at(part))
        return torch.cat(places), EncodedRows.joined(cells), EncodedRows.joined(middles)


class QuestionRegression(nn.Module):
    """The losses of rows with questions."""

    def __init__(self, denoiser: NetworkDenoiser):
        super().__init__()
        self.of_numbers = DenoisingRegression(denoiser)

    def forward(self, clean: Tensor, t: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        """What numbers and levels add to the loss, ``[2, B]``."""
        network = self.of_numbers.denoiser.network
        assert isinstance(network, QuestionNetwork)
        labels = labels.to(torch.get_default_dtype())
        residual, target = self.of_numbers(clean, t, noise, labels=labels)
        _, states, indicators, level_states = network.unpack(labels)
        asked = (states == ASKED).to(residual)
        errors = asked * (residual - target).square()
        of_numbers = errors.sum(dim=1) / asked.sum(dim=1).clamp(min=1)
        of_levels = torch.zeros_like(of_numbers)
        if network.level_counts:
            some = (level_states == ASKED).any(dim=1).nonzero()[:, 0]
            level_asked = (level_states[some] == ASKED).to(residual)
            nats = network.level_log_probabilities(labels[some]) * indicators[some]
            of_each = [part.sum(dim=1) for part in nats.split_with_sizes(network.level_counts, 1)]
            total = (torch.stack(of_each, dim=1) * level_asked).sum(dim=1)
            of_levels = of_levels.index_add(0, some, total / level_asked.sum(dim=1), alpha=-1)
        return torch.stack([of_numbers, of_levels])


@dataclass(frozen=True)
class QuestionLoss(DenoisingLoss):
    """The loss of rows with questions over one schedule's range of times."""

    def regression(self, denoiser: NetworkDenoiser) -> nn.Module:
        return QuestionRegression(denoiser)

    def _times(self, strata: float, generator: torch.Generator) -> Tensor:
        times = super()._times(strata / ALIKE, generator)
        return times.repeat_interleave(ALIKE)[: ceil(strata)]

    def per_sample(
        self,
        denoiser: nn.Module,
        clean: Tensor,
        draws: NoiseDraws,
        conditions: Mapping[str, Tensor] = MappingProxyType({}),
        others: OthersOfBatch | None = None,
    ) -> Tensor:
        return denoiser(clean, draws.t, draws.noise, **conditions).sum(dim=0)


@dataclass(frozen=True)
class HeldOutQuestions(HeldOut):
    """Questions about rows that are not trained on: always the same ones."""

    @classmethod
    def of(
        cls,
        cells: EncodedRows,
        known: EncodedRows,
        network: QuestionNetwork,
        loss: QuestionLoss,
        seed: int,
        one: OneQuestion | None = None,
    ) -> "HeldOutQuestions":
        """Questions about rows, each as often as it takes to make many; see ``QuestionBatches``."""
        places = torch.arange(HELD_OUT_DRAWS) % len(known)
        generator = seeded_generator("cpu", seed, Stream.HELD_OUT)
        present = known.at(places).present(network.atoms)
        states = draw_states(present, generator, one, alike=ALIKE, atoms=network.atoms)
        batch = questions(cells.at(places), known.at(places), states, network.level_counts)
        own = batch.at(distributed.shard(HELD_OUT_DRAWS))
        return cls(own, HELD_OUT_DRAWS, loss, seed, HELD_OUT_BLOCK)

    def _order(self, generator: torch.Generator) -> Tensor:
        # Rows of one question keep one time, as in the training.
        device = generator.device
        order = torch.randperm(self.total // ALIKE, generator=generator, device=device)
        return (ALIKE * order[:, None] + torch.arange(ALIKE, device=device)).flatten()

    def _sums(self, model: Model, t: Tensor, made: Tensor) -> Tensor:
        return made.sum(dim=1)

    def _score(self, model: Model, clean: Tensor, sums: Tensor) -> Score:
        of_parts = (distributed.sum_over_ranks(sums) / self.total).tolist()
        network = model.denoiser.network
        assert isinstance(network, QuestionNetwork)
        parts = dict(zip(PARTS, of_parts, strict=True)) if network.level_counts else {}
        return Score(sum(of_parts), parts=parts)
