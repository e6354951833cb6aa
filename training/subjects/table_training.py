"""Training on the rows of a table, with some of its columns as conditions if chosen.

End time of a flow with conditions that is trained on few rows, chosen on held-out rows.

A flow that ends when the data is a tenth of the variance misses part of the conditional mean. One
that lasts until the data is a thousandth does not (``InflationSchedule.default_t_max``). At large
noise, however, the network learns nothing but this mean, and with few rows it overfits. The shorter
flow can then have the higher density on other rows. Both are therefore trained, which takes
seconds, and the log densities of held-out rows decide.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from math import isfinite, prod
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from dnnlib.errors import UsageError, agree
from dnnlib.logs import logger
from dnnlib.warned import warn
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.snapshots import first_line
from torch_utils.streams import Stream
from training.data.row_hashes import RowHashes, row_numbers
from training.data.tables.table import DataTable
from training.flow.coordinates.conditions import are_there
from training.flow.coordinates.coordinates import Coordinates
from training.flow.coordinates.raw import RawScale
from training.flow.schedules import InflationSchedule
from training.flow.widths import Widths
from training.inference.amortized import Amortized
from training.learning.building import ModelConfig
from training.learning.cost import require_batch
from training.learning.held_out import Validation
from training.learning.run import PostTraining
from training.learning.run_folder import Resumed
from training.names import (
    ANY_NUMBER,
    BY_WEIGHT,
    DISCRETE,
    LIKELIHOOD,
    MODULE,
    MOST_SHARPENED,
    PRIOR,
    TABLE,
    TABLE_NETWORK,
    TRIALS,
)
from training.recipes import FEW_ROWS, TableRecipe, describe_table_recipe, fitted_to_table
from training.subjects.table_spaces import Preparation, Space, choose_space, kept_dimensions
from training.subjects.tables import TableFlow
from training.subjects.training import Start, Training
from training.trained.network import TrainedNetwork, class_name

SIMULATIONS, DRAWS = 2000, 100
"""Largest number of simulations for fitting widths, and of posterior draws for each.

Held-out simulations come first. With 100 draws, the error of a standard deviation is 7 %.
"""
FEWEST = 200
"""Smallest number of simulations for fitting widths."""


def fit_widths(table: DataTable, seed: int, model: TrainedNetwork) -> None:
    """Fit the error scale (widths) of a model of parameters given data; store it in the model.

    Args:
        table: Simulations that trained the model.
        seed: Random seed of the draws.
        model: Trained model.
    """
    held_out = torch.from_numpy(table.held_out)
    chosen = torch.cat([held_out.nonzero()[:, 0], (~held_out).nonzero()[:, 0]])[:SIMULATIONS]
    rows = table.rows.at(chosen)
    if len(rows) < FEWEST or rows.conditions is None or table.dim > MOST_SHARPENED:
        return
    subject = TableFlow.of(model, {})
    device = subject.flow.device
    posterior = Amortized(
        subject.sharpened(subject.neural_posterior()),
        rows.conditions.to(device),
        subject.amortized_block(device),
        draws=DRAWS,
        seed=seed,
        fewer=True,
    )
    points = posterior.sample(torch.arange(len(chosen))).points[:, 0].cpu()
    mean, std, trained = points.mean(dim=1), points.std(dim=1), ~held_out[chosen]
    model.widths = Widths(table.dim).fit(mean, std, rows.points, trained)
    logger.info(f"Fitted the scale of posterior errors to {len(chosen)} simulations")


MOST_STEPS = 5000
"""Largest number of training steps for which two further trainings choose the end time."""


def choose_end(preparation: Preparation, coordinates: Coordinates, patience: int) -> ModelConfig:
    """Return a model's configuration; with few training rows, validation rows choose the end time.

    Args:
        preparation: Table and training; the user left the end time open.
        coordinates: Coordinates of the flow for the table.
        patience: Number of reports without a better validation score, after which a training ends.
    """
    choices, table = preparation.model_config, preparation.table
    preparation = preparation.quick
    few = len(table.train_rows) < FEW_ROWS and len(table.held_out_rows) > 0
    short_training = preparation.recipe.steps <= MOST_STEPS
    if not (few and short_training) or choices.t_max is not None or preparation.of_sets:
        return choices
    model, _ = preparation.build(coordinates)
    schedule, long = model.denoiser.schedule, float(model.about["tmax"])
    if not isinstance(schedule, InflationSchedule):
        return choices
    short = long * schedule.default_t_max() / schedule.default_t_max(conditional=True)
    scores = {
        end: held_out_log_prob(
            replace(preparation, model_config=replace(preparation.model_config, t_max=end)),
            coordinates,
            patience,
        )
        for end in (long, short)
    }
    chosen = max(scores, key=lambda end: scores[end])
    logger.info(
        f"End time {chosen:.4g}: mean log density of validation rows {scores[long]:.3f} "
        f"nats with {long:.4g}, {scores[short]:.3f} with {short:.4g}"
    )
    return replace(choices, t_max=chosen)


def held_out_log_prob(preparation: Preparation, coordinates: Coordinates, patience: int) -> float:
    """Train a model as the run would, and return its mean log density of held-out rows.

    Returns:
        Log density in nats per row, the same on all ranks.
    """
    model, _ = preparation.trained(coordinates, patience)
    rows, flow = preparation.table.held_out_rows, model.flow
    generator = seeded_generator("cpu", preparation.recipe.seed, Stream.HELD_OUT)
    points = coordinates.dequantized(rows.points, generator).to(flow.device)
    assert rows.conditions is not None
    with torch.no_grad():
        total = flow.given(labels=rows.conditions.to(flow.device)).log_prob(points).sum()
    return float(distributed.sum_over_ranks(total) / distributed.world_size()) / len(points)


LEAST_GAIN = 0.01
"""Smallest gain in held-out log density, in nats per trial, for using a network in a likelihood.

Without a network the likelihood is much faster, so it is preferred below this gain.
"""
PATIENCE = 3
"""Patience, in reports without a better validation score, for data that are all categories.

The network only corrects their probabilities.
"""
COMPARISON = 0.15
"""Largest fraction of the minutes of a run for a comparison of coordinates, of which there may be
two.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class TableTraining(Training):
    """Training on the rows of a table that are not held out.

    Attributes:
        table: Table with the requested conditions.
        path: Path of the table, whose stem names the results.
        space: Coordinates of the flow; ``auto`` is decided by held-out rows.
        likelihood: Whether points are data of one trial, given parameters and covariates.
        condition_shape: Shape of the conditions, ``(C,)``, ``(C, L)`` or ``(C, H, W)``, or
            ``(ANY_NUMBER, C)`` for sets of trials; None if the network's input is the numbers
            themselves.
        minutes: Minutes of the whole run; None for no limit.
        embedding: Network of the user's that embeds raw conditions; None for none.
    """

    table: DataTable
    path: Path
    space: Space
    likelihood: bool = False
    condition_shape: tuple[int, ...] | None = None
    minutes: float | None = None
    embedding: nn.Module | None = None
    calibrates = False
    network = TABLE_NETWORK
    """Name of the network, in ``NETWORKS``."""

    @cached_property
    def recipe(self) -> TableRecipe:
        """Recipe for the numbers of rows, columns and conditions.

        Each trial of a set counts as a row: each epoch uses other subsets of the trials, so a
        longer training does not overfit.
        """
        table, train = self.table, self.table.train_rows
        rows = len(train)
        if self.of_sets and train.conditions is not None:
            trials = train.conditions.view(rows, -1, table.condition_dim)
            rows = int(are_there(trials).sum())
        amounts = dict(self.amounts)
        if self.likelihood and table.levels and amounts.get("patience") is None:
            amounts["patience"] = PATIENCE
        raw = table.raw is not None
        return fitted_to_table(rows, table.dim, amounts, table.condition_dim, raw)

    @property
    def useful_threads(self) -> int | None:
        """Largest useful number of CPU threads; None for no limit."""
        return self.recipe.useful_threads

    @property
    def of_sets(self) -> bool:
        """Whether the conditions are sets of trials."""
        return self.condition_shape is not None and self.condition_shape[0] == ANY_NUMBER

    @cached_property
    def full_config(self) -> ModelConfig:
        """Configuration of the model to build.

        Raises:
            UsageError: The conditions do not have the requested shape.
        """
        recipe, choices = self.recipe, self.model_config
        inflation = dict(choices.inflation)
        if choices.precond == "ifs":
            kept = kept_dimensions(inflation.get("dims_to_keep"), self.table)
            inflation |= {"dims_to_keep": kept, "gamma0": recipe.gamma0}
            if self.table.conditions is not None and not self.likelihood:
                choices = replace(choices, t_sampling=choices.t_sampling or BY_WEIGHT)
        return replace(
            choices,
            inflation=inflation,
            network=self.network,
            network_arguments=self._network_arguments(),
        )

    def _network_arguments(self) -> dict[str, Any]:
        """Return arguments of the network's constructor."""
        return {**self.recipe.layers, **self._of_conditions()}

    def _preparation(self, device: torch.device) -> Preparation:
        """Return the table as prepared for its training."""
        seconds = None if self.minutes is None else 60 * self.minutes * COMPARISON
        how = (self.recipe, device, self.likelihood, self.of_sets, seconds)
        return Preparation(self.table, self.full_config, *how)

    def _of_conditions(self) -> dict[str, Any]:
        """Return arguments of the network about the conditions."""
        count, shape = self.table.condition_dim + self.of_sets, self.condition_shape
        if not count:
            return {}
        seen: dict[str, Any] = {"label_dim": count, "condition_features": self.recipe.cond_waves}
        if self.table.raw is not None:
            scale = RawScale(**self.table.raw.plain)
            raw = {**self.table.raw.plain, "summaries": scale.width}
            seen |= {"label_dim": scale.inputs, "raw": raw}
            if self.embedding is not None:
                raw["module_class"] = class_name(self.embedding)
                raw["learned"] = _outputs_of(self.embedding, self.table.raw.shape)
                seen[MODULE] = self.embedding
            return seen
        if shape is None:
            return seen
        if not self.of_sets and (prod(shape) != count or len(shape) > 3):
            raise UsageError(
                f"--cond_shape={'x'.join(map(str, shape))} does not match the {count} "
                f"conditions of the table: give C, CxL or CxHxW with the product {count}"
            )
        return {**seen, "condition_shape": list(shape)}

    def within(self, seconds: float, start: Start) -> tuple["TableTraining", float]:
        """Return this training with the number of samples that fits into a time.

        The coordinates are not chosen again.
        """
        training, fits = super().within(seconds, start)
        return replace(training, space=Space(**start.space)), fits

    def with_choices(self, chosen: Mapping[str, Any]) -> Self:
        """Return this training with the recipe and the coordinates of the run that it continues.

        Raises:
            DataError: A coordinate choice is missing or unknown.
        """
        return replace(super().with_choices(chosen), space=Space.of(chosen))

    def start(self, device: torch.device, resumed: Resumed | None) -> Start:
        """Return the start of the training, and log the choices made.

        Coordinates are chosen by held-out rows, or taken from the resumed run.

        Raises:
            UsageError: Options do not fit the table or the device.
        """
        table, recipe = self.table, self.recipe
        conditions = table.condition_dim
        logger.info(describe_table_recipe(recipe, len(table.train_rows), table.dim, conditions))
        require_batch(recipe.batch, table.dim, device)
        agree("data_dim", self.data_dim, table.dim, f"the table {self.path}")
        preparation = self._preparation(device)
        space, coordinates = self._seen(preparation, resumed)
        if conditions and not (self.likelihood or resumed):
            ended = choose_end(preparation, coordinates, recipe.patience)
            preparation = replace(preparation, model_config=ended)
        model, loss = preparation.build(coordinates)
        model.about |= about_table(table, self.path.stem)
        if self.likelihood:
            model.about |= about_likelihood(table)
        only_given = bool(conditions) and model.about["dims_to_keep"] == table.dim

        def watch() -> Validation | None:
            held_out = preparation.held_out(coordinates, loss)
            if held_out is None:
                return None
            return Validation(held_out, True, recipe.patience, self.likelihood, LEAST_GAIN)

        return Start(
            recipe=recipe,
            model=model,
            loss=loss,
            resolved={**recipe.chosen, "arch": self.network},
            space=asdict(space),
            name=(
                self.path.stem,
                loss.schedule.name,
                self.network,
                "likelihood" if self.likelihood else "cond" if conditions else None,
            ),
            source=lambda: preparation.source(coordinates),
            ending=PostTraining(
                preparation.calibration(coordinates) if self.calibrate else None,
                self.distribution(
                    replace(preparation.distribution(coordinates), checked=not only_given)
                ),
                partial(fit_widths, table, self.seed) if self._has_widths else None,
            ),
            watch=watch,
        )

    @property
    def _has_widths(self) -> bool:
        """Whether widths of posteriors are fitted: not for likelihoods, sets, or signals."""
        of_numbers = self.condition_shape is None and self.table.raw is None
        return of_numbers and self.table.conditions is not None and not self.likelihood

    def _seen(self, preparation: Preparation, resumed: Resumed | None) -> tuple[Space, Coordinates]:
        """Return the coordinates of the table, from the resumed run or by held-out rows."""
        wanted = self.space
        if self.condition_shape is not None or self.table.raw is not None:
            wanted = replace(wanted, cond_screen="off")
        if self.embedding is not None:  # there are no summary statistics to predict from
            wanted = replace(wanted, linear_start="off")
        space = choose_space(preparation.quick, wanted)
        coordinates = preparation.coordinates(space)
        preparation.learn_levels(coordinates)
        if resumed:
            resumed.take_coordinates(coordinates)
        far = preparation.describe_far_rows(coordinates, space)
        if far:
            warn("far-held-out", far)
        return space, coordinates


def _outputs_of(module: nn.Module, shape: Sequence[int]) -> int:
    """Return the number of features of a network of the user's for raw data of a shape.

    Raises:
        UsageError: The network fails for such data, or returns other shapes than ``[N, K]``.
    """
    own = next((each for each in module.parameters()), torch.zeros(()))
    name, given = type(module).__name__, [2, *shape]
    try:
        with torch.no_grad():
            made = deepcopy(module).eval()(own.new_zeros(given))
    except RuntimeError as error:
        raise UsageError(
            f"the embedding {name} fails for data of shape {given}: {first_line(error)}"
        ) from error
    if made.ndim != 2 or len(made) != 2:
        raise UsageError(
            f"the embedding {name} returns shape {list(made.shape)} for data of shape {given}: it "
            "must return features [N, K]"
        )
    return int(made.shape[1])


def about_table(table: DataTable, name: str) -> dict[str, Any]:
    """Return the description of the training table that is stored in a network file."""
    dropped, given = table.dropped, table.condition_dim
    hashes = np.concatenate([row_numbers(block.cells(given)) for block in table.rows.blocks()])
    return {
        "kind": TABLE,
        **({PRIOR: table.prior} if table.prior else {}),
        "data_name": name,
        "columns": table.names,
        "condition_names": table.condition_names,
        "rows": RowHashes.from_hashes(hashes).listed,
        "dropped": {
            "names": list(dropped.names),
            "offsets": dropped.offsets.tolist(),
            "slopes": dropped.slopes.tolist(),
            "order": list(table.order),
        },
    }


FEWEST_VALUES = 30
"""Smallest number of bins between the ends of a parameter for it to count as continuous."""


def about_likelihood(table: DataTable) -> dict[str, Any]:
    """Return the description of a likelihood's parameters that is stored in a network file.

    The description contains the bounds by name (None for no bound), the names of discrete
    parameters, and the number of training trials.
    """
    assert table.conditions is not None
    bounds, discrete = {}, []
    for column, values in zip(table.condition_columns, table.conditions.T, strict=True):
        if column.name in table.covariates:
            continue
        ends = (column.low, column.high)
        bounds[column.name] = [end if isfinite(end) else None for end in ends]
        if values.max() - values.min() < FEWEST_VALUES * column.step:
            discrete.append(column.name)
    return {LIKELIHOOD: bounds, TRIALS: len(table.train_rows), DISCRETE: discrete}
