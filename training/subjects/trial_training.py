"""A training on trials with holes: the law of the data that are there of a trial.

The flow is of residuals: of each number, what parameters and covariates say of its mean and scale
is taken off (``GaussianPrediction``, or ``LinearPrediction`` where that does better on rows that
are held out; each number by itself, on the rows that have it). A mixture of
normal laws of residuals is what the flow starts from, and its network is one of questions: numbers
that are there are asked, the others absent. These are standard normal to the flow, and say nothing.

In some rows further data are hidden, so that patterns of holes are learned that are rare in the
simulations, or not there at all. Nothing is drawn in place of what is missing: what is learned is
right if whether a number of a simulation is missing depends on its parameters and covariates, and
not on data.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from math import pi
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.batches import Batch
from training.data.tables.table import Rows
from training.flow.coordinates.coordinates import Coordinates, dither
from training.learning.coordinates import filled, fit_coordinates, over_decades
from training.learning.held_out import HeldOut
from training.learning.loss import DenoisingLoss
from training.learning.mixture_start import Mixture, fit_mixture
from training.learning.run_folder import Resumed
from training.learning.trainer import TrainingConfig
from training.model.model import Model
from training.model.questions import EncodedRows
from training.names import LOG, TRIAL_NETWORK
from training.networks.mixture import ABSENT, ASKED
from training.recipes import TableRecipe
from training.subjects.table_spaces import Preparation, Space
from training.subjects.table_training import TableTraining

MOST_NOISE = 1e3
"""Variance of the noise at the last time. Residuals that go along with each other still do there,
by as much less: with a correlation of 0.8 and a variance of 10, single trials were 0.3 nats off."""
PATIENCE = 30
"""Reports: what the network adds to its start comes late, while learning rates fall."""
STARTS = ("gaussian", "on")
"""What may be taken off data, see ``Space.linear_start``: the best on rows that are held out is."""
HIDDEN = 0.25
"""Share of rows of which further data are hidden, each number with a probability that is drawn
between 0 and 1 for the row: few enough that most rows tell all that they have."""


def residuals(coordinates: Coordinates, points: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers in coordinates in which each has a map of its own, and logarithms of the slopes of
    these, both ``[N, K]``; of numbers that are missing, NaN, whatever they are. Gradients flow back
    to conditions.

    Args:
        coordinates: Given the conditions of the points.
        points: ``[N, K]`` of data space.
    """
    labels = coordinates.labels
    assert labels is not None
    grad = torch.is_grad_enabled() and labels.requires_grad
    # What is in place of a missing number has to be within its bounds.
    middle = coordinates.to_data(torch.zeros_like(points)).detach()
    points = torch.where(points.isnan(), middle, points).requires_grad_(True)
    with torch.enable_grad():
        u = coordinates.to_flow(points)
        (slopes,) = torch.autograd.grad(u.sum(), points, create_graph=grad)
    return u if grad else u.detach(), slopes.log()


def placed_with_holes(
    coordinates: Coordinates, rows: Rows, generator: torch.Generator
) -> tuple[Batch, Tensor]:
    """Rows as the network sees them, some of their data hidden, discrete columns dithered, with
    states of data behind their labels; and log slopes ``[N, K]``, 0 of what is not asked."""
    missing = rows.points.isnan()
    given = coordinates.given(rows.conditions)
    points = dither(rows.points, coordinates.steps, generator)
    with torch.no_grad():
        u, log_slopes = residuals(given, points)
        labels = given.labels
    assert labels is not None
    some, share = torch.rand(2, len(u), 1, generator=generator, dtype=torch.float64).to(u)
    drawn = torch.rand(u.shape, generator=generator, dtype=torch.float64).to(u)
    fewer = missing | ((some < HIDDEN) & (drawn < share))
    gone = torch.where(fewer.all(dim=1, keepdim=True), missing, fewer)
    noise = torch.randn(u.shape, generator=generator, dtype=torch.float64).to(u)
    states = torch.where(gone, float(ABSENT), float(ASKED)).to(labels)
    batch = Batch(torch.where(gone, noise, u), torch.cat([labels, states], dim=1))
    return batch, log_slopes.masked_fill(gone, 0.0)


class TrialPreparation(Preparation):
    """A table of trials with holes."""

    def placed(self, coordinates: Coordinates, rows: Rows, generator: torch.Generator) -> Batch:
        return placed_with_holes(coordinates, rows, generator)[0]

    def _fit(self, space: Space) -> Coordinates:
        generator = seeded_generator("cpu", self.config.seed, Stream.DEQUANTIZATION)
        columns, rows = self.table.columns, self.table.train_rows
        points = dither(rows.points, columns.steps, generator)
        return fit_coordinates(
            points, columns, space.marginals, "none", rows.conditions, space.linear_start
        )

    def build(self, coordinates: Coordinates) -> tuple[Model, DenoisingLoss]:
        """An untrained model, which starts from a mixture of residuals, and its loss."""
        model, loss = self.choices.build_from(self.mixture(coordinates)[0], MOST_NOISE)
        model.denoiser.to(self.device)
        return replace(model, coordinates=coordinates), loss

    def mixture(self, coordinates: Coordinates) -> tuple[Mixture, float]:
        """What residuals start from, and mean nats of data of rows that are held out."""
        train, _ = self._encoded(coordinates, self.table.train_rows)
        held_out, slopes = self._encoded(coordinates, self.table.held_out_rows)
        mixture, nats = fit_mixture(train, held_out, [], self.config.seed)
        return mixture, nats + (float(slopes.sum(dim=1).mean()) if len(slopes) else 0.0)

    def _encoded(self, coordinates: Coordinates, rows: Rows) -> tuple[EncodedRows, Tensor]:
        """Residuals, NaN where they are missing, and log slopes ``[N, K]``, 0 there."""
        generator = seeded_generator("cpu", self.config.seed, Stream.DEQUANTIZATION)
        points = dither(rows.points, coordinates.steps, generator)
        with torch.no_grad():
            u, slopes = residuals(coordinates.given(rows.conditions), points)
        u, slopes = u.masked_fill(points.isnan(), torch.nan), slopes.masked_fill(points.isnan(), 0)
        return EncodedRows(u, torch.zeros(len(u), 0, dtype=torch.long)), slopes

    def held_out(self, coordinates: Coordinates, loss: DenoisingLoss) -> HeldOut | None:
        rows = self.table.held_out_rows
        if not len(rows):
            return None
        generator = seeded_generator("cpu", self.config.seed, Stream.HELD_OUT)
        batch, log_slopes = placed_with_holes(coordinates, rows, generator)
        # Absent numbers are standard normal, with noise besides, to any network.
        assert batch.labels is not None
        gone = batch.labels[:, -coordinates.dim :] == ABSENT
        least = loss.schedule.noise_variance(torch.tensor(loss.t_min, dtype=torch.float64))
        variance = 1 + least
        squares = (batch.points.square() + least) / variance
        idle = gone * (squares + (2 * pi * variance).log()) / 2
        log_det = (log_slopes + idle).sum(dim=1)
        return HeldOut.of_rows(batch.points, log_det, loss, self.config.seed, batch.labels)

    def draws(self, coordinates: Coordinates) -> bool:
        return True  # other data are hidden in each epoch


@dataclass(frozen=True, kw_only=True, eq=False)
class TrialTraining(TableTraining):
    """A training of the law of what is there of a trial: data are points, NaN where they are
    missing."""

    network = TRIAL_NETWORK

    @cached_property
    def recipe(self) -> TableRecipe:
        recipe = super().recipe
        given = self.wanted.amounts.get("patience") is not None
        return recipe if given else replace(recipe, patience=PATIENCE)

    def _network_arguments(self) -> dict[str, Any]:
        return {"label_dim": self.table.condition_dim, **self.recipe.layers}

    def _preparation(self, config: TrainingConfig, device: torch.device) -> Preparation:
        kept, dim = self.wanted.choices.inflation.get("dims_to_keep"), self.table.dim
        if self.wanted.choices.precond != "ifs" or kept not in (None, dim):
            raise UsageError(
                f"data of which some are missing have flows that keep all {dim} numbers: leave "
                "--precond and --dims_to_keep out"
            )
        return TrialPreparation(self.table, self.choices, config, device, True)

    def _seen(self, preparation: Preparation, resumed: Resumed | None) -> tuple[Space, Coordinates]:
        points = self.table.train_rows.points
        positive = bool(over_decades(filled(points, points.isnan())).any())
        assert isinstance(preparation, TrialPreparation)
        nats = {}
        for start in STARTS:
            space = Space(LOG if positive else "none", "none", start)
            mixture, nats[space] = preparation.mixture(preparation.coordinates(space))
            logger.info(f"  {space}: {len(mixture.weights)} normal law(s), {nats[space]:.3f} nats")
        space = max(nats, key=nats.__getitem__)
        coordinates = preparation.coordinates(space)
        if resumed:
            resumed.take_coordinates(coordinates)
        return space, coordinates
