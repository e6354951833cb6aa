"""Training on records, for any query about their rows or for one.

The rows have three roles. The *training set* fits the weights. The *validation set*, a tenth of the
rows that are not held out, selects the coordinates, the mixture from which the flow starts, and the
end of the training. The *calibration set*, the held-out rows, only calibrates intervals
(``held_cells``): no choice depends on its rows.
"""

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.batches import Batch
from training.data.row_hashes import RowHashes
from training.data.tables.schema import CATEGORY
from training.data.tables.table import DataTable
from training.files.records import columns_json
from training.learning.cost import require_batch
from training.learning.finishing import NETWORK_ROWS, LatentPlan
from training.learning.held_out import Validation
from training.learning.mixture_start import completed
from training.learning.questions import (
    OTHERS,
    OTHERS_OF_FEW,
    HeldOutQuestions,
    OneQuestion,
    QuestionBatches,
    QuestionLoss,
    draw_states,
    questions,
)
from training.learning.run import PostTraining
from training.learning.run_folder import Resumed
from training.names import QUESTIONS, RECORDS
from training.networks.questions import QuestionNetwork
from training.recipes import FEW_ROWS, TableRecipe, describe_table_recipe, fitted_to_questions
from training.subjects.record_spaces import (
    Chosen,
    RecordSpace,
    choose_space,
    digest_of,
    numbers_of_rows,
)
from training.subjects.records import CalibrationScores, Margins, RecordFlow
from training.subjects.training import Start, Training
from training.trained.network import TrainedNetwork
from training.trained.questions import EncodedRows

MOST_NOISE = 1e4
"""Noise variance at the last time.

Known cells then shift the means of latents by a hundredth of their effect, in standard deviations.
"""
VALIDATION = 0.1
"""Fraction of the rows that are not held out that form the validation set."""
TRIED = 1280
"""Number of rows; a tenth of them, each with a query, serve to find integration schedules."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordTraining(Training):
    """Training on the rows of records that are not held out.

    Attributes:
        records: Data set of records.
        path: Path of the records, whose stem names the results.
        ask: Names of the target columns if the network has only one query; empty for any query.
        chosen: Coordinates and mixture; None if they have not been chosen yet.
    """

    records: DataTable
    path: Path
    ask: Sequence[str] = ()
    chosen: Chosen | None = None
    calibrates = False

    @cached_property
    def recipe(self) -> TableRecipe:
        """Recipe of the training, which depends on the number of rows."""
        return fitted_to_questions(self._rows, self.amounts)

    @property
    def _rows(self) -> int:
        """Number of rows of the training set."""
        return int((~self._fitted.held_out).sum())

    @cached_property
    def _fitted(self) -> DataTable:
        """Rows of the training set, with the validation set as held-out rows.

        Without held-out rows all rows train, and there is no validation.
        """
        rows = self.records.at(~self.records.held_out)
        if not self.records.held_out.any():
            return rows
        generator = seeded_generator("cpu", self.seed, Stream.HELD_OUT)
        order = torch.randperm(len(rows), generator=generator).numpy()
        validation = np.zeros(len(rows), dtype=bool)
        validation[order[: max(1, round(VALIDATION * len(rows)))]] = True
        return replace(rows, held_out=validation)

    @cached_property
    def _chosen(self) -> Chosen:
        """Coordinates and mixture, whose choice takes as long as many training steps."""
        return self.chosen or choose_space(self._fitted, self.seed)

    def within(self, seconds: float, start: Start) -> tuple["RecordTraining", float]:
        """Return this training with the number of samples that fits into a time.

        The coordinates and the mixture are not chosen again.
        """
        training, fits = super().within(seconds, start)
        return replace(training, chosen=self._chosen), fits

    @property
    def useful_threads(self) -> int | None:
        """Largest useful number of CPU threads; None for no limit."""
        return self.recipe.useful_threads

    def start(self, device: torch.device, resumed: Resumed | None) -> Start:
        """Return the start of the training, and log the choices made.

        Raises:
            UsageError: Options do not fit conditional queries, the rows or the device.
        """
        records, recipe = self._fitted, self.recipe
        logger.info(describe_table_recipe(recipe, self._rows, len(records.columns)))
        chosen = self._chosen
        space, one = chosen.space, self._one_question(chosen)
        kept = self.model_config.inflation.get("dims_to_keep")
        if self.model_config.precond != "ifs" or kept not in (None, space.dim):
            raise UsageError(
                f"conditional queries need flows that keep all {space.dim} dimensions: "
                "leave --precond and --dims_to_keep out"
            )
        logger.info(_told_of(chosen))
        require_batch(recipe.batch, space.dim, device)
        model, loss = self._model(chosen)
        network = model.denoiser.network
        assert isinstance(network, QuestionNetwork)
        if resumed:
            resumed.take_coordinates(space.coordinates)
        asked = _Questions(chosen, one, self.seed, records.at(~records.held_out).values)
        validation = records.at(records.held_out).values
        calibration = self.records.at(self.records.held_out).values

        def watch() -> Validation | None:
            if not len(validation):
                return None
            scored = asked.held_out(validation, network, loss)
            return Validation(scored, True, recipe.patience, looks_first=True)

        distribution = LatentPlan(asked.points, None, TRIED, self.seed, NETWORK_ROWS, False, False)
        return Start(
            recipe=recipe,
            model=model,
            loss=loss,
            resolved={**recipe.chosen, "arch": QUESTIONS},
            space={"marginals": chosen.marginals},
            name=(self.path.stem, loss.schedule.name, QUESTIONS, "-".join(self.ask) or None),
            source=partial(asked.batches, network, recipe.batch),
            ending=PostTraining(
                distribution=self.distribution(distribution),
                closing=partial(self._calibrate, calibration) if len(calibration) else None,
            ),
            watch=watch,
        )

    def _calibrate(self, rows: np.ndarray, model: TrainedNetwork) -> None:
        """Add the scores of the calibration set ``[n, P]`` to the model."""
        if distributed.is_main():
            start = time.monotonic()
            own = replace(model, denoiser=deepcopy(model.denoiser).cpu(), path=self.path)
            flow = RecordFlow.of(own)
            places = [
                at
                for at, column in enumerate(self.records.columns)
                if column.type != CATEGORY and (not flow.ask or at in flow.ask)
            ]
            held = CalibrationScores.of(flow.contents, rows, places, self.seed)
            model.about["held_cells"] = held.listed
            seconds = time.monotonic() - start
            logger.info(f"Calibrated intervals on {len(rows)} validation rows in {seconds:.1f} s")
        distributed.barrier()

    def _one_question(self, chosen: Chosen) -> OneQuestion | None:
        """Return the only query of the network, or None for any query.

        Raises:
            UsageError: A column is unknown.
        """
        for name in self.ask:
            if name not in self.records.names:
                raise UsageError(
                    f"--ask={name}: {self.path} has no such column; it has "
                    f"{', '.join(self.records.names)}"
                )
        if not self.ask:
            return None
        places = [self.records.names.index(name) for name in self.ask]
        levels = any(self.records.columns[place].type == CATEGORY for place in places)
        others = OTHERS_OF_FEW if levels and self._rows < FEW_ROWS else OTHERS
        return OneQuestion([chosen.space.cell(place) for place in places], others)

    def _model(self, chosen: Chosen) -> tuple[TrainedNetwork, QuestionLoss]:
        space, recipe, choices = chosen.space, self.recipe, self.model_config
        choices = replace(
            choices,
            inflation={**choices.inflation, "dims_to_keep": space.dim, "gamma0": recipe.gamma0},
            network=QUESTIONS,
            network_arguments={
                "level_counts": space.level_counts,
                "atoms": space.atoms,
                **recipe.layers,
            },
        )
        model, loss = choices.build_from(chosen.mixture, MOST_NOISE)
        model.coordinates = space.coordinates
        model.about |= about_records(self.records, chosen, self.path.stem, self.ask)
        return model, QuestionLoss(loss.schedule, loss.t_min, loss.t_max, loss.t_sampling)


@dataclass(frozen=True, eq=False)
class _Questions:
    """Queries of a training about its rows ``[N, P]``.

    Attributes:
        chosen: Coordinates and mixture.
        one: Only query, or None for any query.
        seed: Random seed.
        rows: Rows ``[N, P]``.
    """

    chosen: Chosen
    one: OneQuestion | None
    seed: int
    rows: np.ndarray

    @cached_property
    def known(self) -> EncodedRows:
        """Encoded rows, with discrete numbers at the centers of their bins."""
        return self.chosen.space.encoded(self.rows)

    def points(self, count: int) -> Batch:
        """Return ``count`` random rows with queries."""
        space = self.chosen.space
        generator = seeded_generator("cpu", self.seed, Stream.MELTED_POINTS)
        places = torch.randperm(len(self.known), generator=generator)[:count]
        some = self.known.at(places)
        states = draw_states(some.present(space.atoms), generator, self.one, atoms=space.atoms)
        cells = space.encoded(self.rows[places.numpy()], generator)
        return questions(cells, some, states, space.level_counts)

    def held_out(
        self, rows: np.ndarray, network: QuestionNetwork, loss: QuestionLoss
    ) -> HeldOutQuestions:
        """Return the score of a network on the validation set ``[n, P]``."""
        space, generator = self.chosen.space, seeded_generator("cpu", self.seed, Stream.HELD_OUT)
        spread, middle = space.encoded(rows, generator), space.encoded(rows)
        return HeldOutQuestions.from_rows(spread, middle, network, loss, self.seed, self.one)

    def batches(self, network: QuestionNetwork, batch: int) -> QuestionBatches:
        """Return the rows in batches, dequantized anew in each epoch."""
        space = self.chosen.space

        def complete(rows: EncodedRows, generator: torch.Generator) -> EncodedRows:
            return completed(self.chosen.mixture, rows, space.level_counts, generator)

        cells = partial(space.encoded, self.rows)
        return QuestionBatches(cells, self.known, network, batch, self.seed, self.one, complete)


def about_records(
    records: DataTable, chosen: Chosen, name: str, ask: Sequence[str]
) -> dict[str, object]:
    """Return the description of the training records that is stored in a network file."""
    return {
        "kind": RECORDS,
        "data_name": name,
        "columns": records.names,
        "records": columns_json(replace(records, order=records.order or records.names)),
        "values": [list(values) for values in chosen.space.values],
        "ask": list(ask),
        "margins": Margins.of(records.at(~records.held_out).values).listed,
        "rows_sha256": digest_of(records),
        "rows": RowHashes.from_hashes(numbers_of_rows(records, chosen.space.numbers)).listed,
    }


def _told_of(chosen: Chosen) -> str:
    """Describe the choices in one line."""
    count = len(chosen.mixture.weights)
    scores = ", ".join(f"{name} {nats:.3f}" for name, nats in chosen.nats.items())
    return (
        f"Base distribution: {count} Gaussian component(s), marginals {chosen.marginals}, "
        f"{len(chosen.space.numbers)} number(s) and {len(chosen.space.categories)} "
        f"category column(s){_describe_atoms(chosen.space)}; validation log density in "
        f"nats by marginals: {scores}"
    )


def _describe_atoms(space: RecordSpace) -> str:
    """Describe which numbers have atoms."""
    texts = [
        f"{space.columns[place].name} is {' or '.join(f'{atom + 0.0:g}' for atom in atoms)}"
        for place in space.numbers
        if (atoms := space.atoms_at(place))
    ]
    return f", and probabilities that {', '.join(texts)}" if texts else ""
