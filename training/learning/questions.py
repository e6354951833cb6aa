"""Random queries of rows for training, and their loss.

A batch consists of rows, each with its own query: some values are targets, others conditions, the
rest absent. Absence must carry no information about a row, but rows with a missing value may differ
from the others. Missing values are therefore imputed, anew in every epoch, by draws from the
mixture that the flow starts from, given the observed values, and are then made absent as often as
any. In queries of one target given all other values, the target is an observed value. The learned
distribution is right if values are missing at random given the observed ones, and if the mixture is
right about them.

The loss of a row is the mean over target numbers of the squared error of F (``learning.loss``),
plus the mean over target categories of the negative log probability of their levels.
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
from training.learning.loss import DenoisingLoss, DenoisingRegression, NoiseDraws, OthersOfBatch
from training.networks.mixture import ABSENT, ASKED, KNOWN
from training.networks.questions import QuestionNetwork
from training.trained.network import TrainedNetwork
from training.trained.questions import EncodedRows, pack

ONE_ASKED = 0.45
"""Fraction of rows with one target and all other values as conditions."""
OTHERS, OTHERS_OF_FEW = 0.5, 0.85
"""Fraction of rows with random queries in a training for one query, for many and for few rows. With
few rows, that query alone would be memorized, above all for categories, and too few held-out rows
would choose the weights.
"""
SOME_ABSENT = 0.25
"""Fraction of rows where some values that could be conditions are absent."""
ALIKE = 8
"""Number of consecutive rows with the same query and time, which share the inverses that the flow's
start needs. Their noise differs, so that little is lost.
"""
HELD_OUT_DRAWS, HELD_OUT_BLOCK = 4096, 1024
"""Number of rows in the validation loss, or of queries of fewer rows; and rows per network
evaluation.
"""
PARTS = ("numbers", "levels")
"""Parts of a network, each with its own loss and weights."""


class OneQuestion(NamedTuple):
    """The single query that a training is for.

    Attributes:
        columns: Indices of the target columns; all other columns are conditions.
        others: Fraction of rows with random queries.
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
    """Draw the states ``[B, P]`` of values in random queries: target, known or absent.

    Args:
        present: Whether values are observed ``[B, P]``, on the CPU; see ``EncodedRows.present``.
        generator: Random generator on the CPU.
        one: The query that the training is for, which some rows get; None for random queries only.
        drawn: Whether missing values were imputed; otherwise the state of missing values is absent.
        alike: Number of consecutive rows with the same query.
        atoms: Indices of the numbers with frequent values (atoms). Each has a category among the
            last categories, which gets the same state.
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
    # Missingness may depend on values that are absent from the query: then imputed values are
    # targets too.
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
    """Encode rows and their queries as a training batch.

    A query is given by the states ``[B, D + C]`` of the D numbers, then of the C categories:
    target, known or absent.

    Discrete columns are dequantized in ``cells``; ``known`` has the same rows with the exact values
    of conditions.
    """
    dim = cells.numbers.shape[1]
    labels = pack(known, states[:, :dim], states[:, dim:], level_counts)
    return Batch(cells.numbers.nan_to_num(0.0), labels)


class QuestionBatches:
    """Batches of rows, where each row occurs once per epoch, with a new query in every epoch.

    Args:
        cells_of: Function that returns all rows, with discrete columns dequantized by a generator.
        known: All rows, with the exact values of conditions.
        network: Network that is trained.
        batch: Batch size over all ranks.
        seed: Random seed of the orders, the queries and the draws.
        one: The query that the training is for; None for random queries only.
        complete: Function that imputes missing values, for random queries.
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
        """Yield this rank's share of each batch from a step on, endlessly."""
        for step in count(first_step):
            places, cells, known = self._at(step)
            generator = seeded_generator("cpu", self._seed, Stream.QUESTIONS, step)
            present, atoms = self._present[places], self._network.atoms
            drawn = self._complete is not None
            states = draw_states(present, generator, self._one, drawn, ALIKE, atoms)
            batch = questions(cells, known, states, self._network.level_counts)
            yield batch.at(distributed.shard(self._batch))

    def _at(self, step: int) -> tuple[Tensor, EncodedRows, EncodedRows]:
        """Return the rows of a step, which may span epochs.

        Returns:
            Their places; the rows with discrete columns dequantized; and the rows with the exact
            values of conditions.
        """
        size, places, cells, middles = len(self._known), [], [], []
        for epoch, rows in parts_of_epochs(step * self._batch, (step + 1) * self._batch, size):
            if epoch != self._epoch:
                self._epoch = epoch
                generator = seeded_generator("cpu", self._seed, Stream.DEQUANTIZATION, epoch)
                self._cells = self._cells_of(generator)
                if self._complete:
                    drawn = self._complete(self._known, generator)
                    self._cells, self._middle = self._cells.filled_from(drawn), drawn
                generator = seeded_generator("cpu", self._seed, Stream.DATA, epoch)
                self._order = torch.randperm(size, generator=generator)
            part = self._order[rows]
            places.append(part)
            cells.append(self._cells.at(part))
            middles.append(self._middle.at(part))
        return torch.cat(places), EncodedRows.joined(cells), EncodedRows.joined(middles)


class QuestionRegression(nn.Module):
    """Module that computes the losses of rows with queries."""

    def __init__(self, denoiser: NetworkDenoiser):
        super().__init__()
        self.of_numbers = DenoisingRegression(denoiser)

    def forward(self, clean: Tensor, t: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        """Return the contributions of numbers and categories to the loss, ``[2, B]``."""
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
    """Loss of rows with queries over one schedule's range of times."""

    def regression(self, denoiser: NetworkDenoiser) -> nn.Module:
        """Return the module that computes losses of rows with queries."""
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
        """Return the loss ``[B]`` of each row, summed over numbers and categories."""
        return denoiser(clean, draws.t, draws.noise, **conditions).sum(dim=0)


@dataclass(frozen=True)
class HeldOutQuestions(HeldOut):
    """Validation set of held-out rows with fixed queries."""

    @classmethod
    def from_rows(
        cls,
        cells: EncodedRows,
        known: EncodedRows,
        network: QuestionNetwork,
        loss: QuestionLoss,
        seed: int,
        one: OneQuestion | None = None,
    ) -> "HeldOutQuestions":
        """Create the queries of held-out rows; each row is repeated to have many queries.

        Arguments are those of ``QuestionBatches``.
        """
        places = torch.arange(HELD_OUT_DRAWS) % len(known)
        generator = seeded_generator("cpu", seed, Stream.HELD_OUT)
        present = known.at(places).present(network.atoms)
        states = draw_states(present, generator, one, alike=ALIKE, atoms=network.atoms)
        batch = questions(cells.at(places), known.at(places), states, network.level_counts)
        own = batch.at(distributed.shard(HELD_OUT_DRAWS))
        return cls(own, HELD_OUT_DRAWS, loss, seed, HELD_OUT_BLOCK)

    def _order(self, generator: torch.Generator) -> Tensor:
        # Rows of one query share one time, as in training.
        device = generator.device
        order = torch.randperm(self.total // ALIKE, generator=generator, device=device)
        return (ALIKE * order[:, None] + torch.arange(ALIKE, device=device)).flatten()

    def _sums(self, model: TrainedNetwork, t: Tensor, made: Tensor) -> Tensor:
        return made.sum(dim=1)

    def _score(self, model: TrainedNetwork, clean: Tensor, sums: Tensor) -> Score:
        of_parts = (distributed.sum_over_ranks(sums) / self.total).tolist()
        network = model.denoiser.network
        assert isinstance(network, QuestionNetwork)
        parts = dict(zip(PARTS, of_parts, strict=True)) if network.level_counts else {}
        return Score(sum(of_parts), parts=parts)
