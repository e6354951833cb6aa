"""Training on trials with missing values: the distribution of the observed data of a trial.

The flow is of residuals. The mean and scale of each number are predicted from parameters and
covariates and removed (``GaussianPrediction``, or ``LinearPrediction`` if that does better on
held-out rows). Each number is predicted by itself, from the rows that have it. The flow starts from
a Gaussian mixture of the residuals. Its network answers queries: observed numbers are asked for,
the others are absent. Absent numbers are standard normal in the flow and carry no information.

In some rows further data are masked, so that the network learns patterns of missing values that are
rare in the simulations or do not occur there. Nothing is imputed. The result is right if whether a
number of a simulation is missing depends on its parameters and covariates, but not on data.
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
from training.names import LOG, TRIAL_NETWORK
from training.networks.mixture import ABSENT, ASKED
from training.recipes import TableRecipe
from training.subjects.table_spaces import Preparation, Space
from training.subjects.table_training import TableTraining
from training.trained.network import TrainedNetwork
from training.trained.questions import EncodedRows

MOST_NOISE = 1e3
"""Noise variance at the last time.

Correlated residuals remain correlated there, only less: with a correlation of 0.8 and a variance of
10, single trials had errors of 0.3 nats.
"""
PATIENCE = 30
"""Patience in reports: the network's gain over its start comes late, while learning rates fall."""
STARTS = ("gaussian", "on")
"""Candidates of ``Space.linear_start``, of which the best on held-out rows is used."""
HIDDEN = 0.25
"""Fraction of rows with further masked data.

Each number is masked with a probability drawn uniformly between 0 and 1 for the row. The share is
small, so that most rows contribute all their data.
"""


def residuals(coordinates: Coordinates, points: Tensor) -> tuple[Tensor, Tensor]:
    """Map each number of a trial to its residual; return residuals and log derivatives.

    Each number has its own map, given the conditions. The results for missing numbers (NaN) are
    arbitrary. Gradients propagate to the conditions.

    Args:
        coordinates: Coordinates, given the conditions of the points.
        points: Points ``[N, K]`` in data space.

    Returns:
        Residuals and log derivatives of the maps, both ``[N, K]``.
    """
    labels = coordinates.labels
    assert labels is not None
    grad = torch.is_grad_enabled() and labels.requires_grad
    # The replacement of a missing number has to be within its bounds.
    middle = coordinates.to_data(torch.zeros_like(points)).detach()
    points = torch.where(points.isnan(), middle, points).requires_grad_(True)
    with torch.enable_grad():
        u = coordinates.to_flow(points)
        (slopes,) = torch.autograd.grad(u.sum(), points, create_graph=grad)
    return u if grad else u.detach(), slopes.log()


def placed_with_missing(
    coordinates: Coordinates, rows: Rows, generator: torch.Generator
) -> tuple[Batch, Tensor]:
    """Convert rows to the network's input, with discrete columns dequantized and some data masked.

    Returns:
        Batch, whose labels are followed by the states of the data (asked for or absent); and log
        derivatives ``[N, K]`` of the maps, 0 for absent numbers.
    """
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
    """A table of trials with missing values, and its training."""

    def placed(self, coordinates: Coordinates, rows: Rows, generator: torch.Generator) -> Batch:
        """Convert rows to the network's input, with some of their data masked."""
        return placed_with_missing(coordinates, rows, generator)[0]

    def _fit(self, space: Space) -> Coordinates:
        generator = seeded_generator("cpu", self.recipe.seed, Stream.DEQUANTIZATION)
        table, rows = self.table, self.table.train_rows
        points = dither(rows.points, table.steps, generator)
        return fit_coordinates(
            points, table, space.marginals, "none", rows.conditions, space.linear_start
        )

    def build(self, coordinates: Coordinates) -> tuple[TrainedNetwork, DenoisingLoss]:
        """Return an untrained model that starts from a mixture of residuals, and its loss."""
        model, loss = self.model_config.build_from(self.mixture(coordinates)[0], MOST_NOISE)
        model.denoiser.to(self.device)
        return replace(model, coordinates=coordinates), loss

    def mixture(self, coordinates: Coordinates) -> tuple[Mixture, float]:
        """Return the starting mixture of residuals, and the mean held-out log density in nats."""
        train, _ = self._encoded(coordinates, self.table.train_rows)
        held_out, slopes = self._encoded(coordinates, self.table.held_out_rows)
        mixture, nats = fit_mixture(train, held_out, [], self.recipe.seed)
        return mixture, nats + (float(slopes.sum(dim=1).mean()) if len(slopes) else 0.0)

    def _encoded(self, coordinates: Coordinates, rows: Rows) -> tuple[EncodedRows, Tensor]:
        """Return residuals and log slopes ``[N, K]``, NaN and 0 for missing numbers."""
        generator = seeded_generator("cpu", self.recipe.seed, Stream.DEQUANTIZATION)
        points = dither(rows.points, coordinates.steps, generator)
        with torch.no_grad():
            u, slopes = residuals(coordinates.given(rows.conditions), points)
        u, slopes = u.masked_fill(points.isnan(), torch.nan), slopes.masked_fill(points.isnan(), 0)
        return EncodedRows(u, torch.zeros(len(u), 0, dtype=torch.long)), slopes

    def held_out(self, coordinates: Coordinates, loss: DenoisingLoss) -> HeldOut | None:
        """Return the evaluation of a network on held-out trials; None if there are none."""
        rows = self.table.held_out_rows
        if not len(rows):
            return None
        generator = seeded_generator("cpu", self.recipe.seed, Stream.HELD_OUT)
        batch, log_slopes = placed_with_missing(coordinates, rows, generator)
        # Absent numbers are standard normal plus noise for any network.
        assert batch.labels is not None
        gone = batch.labels[:, -coordinates.dim :] == ABSENT
        least = loss.schedule.noise_variance(torch.tensor(loss.t_min, dtype=torch.float64))
        variance = 1 + least
        squares = (batch.points.square() + least) / variance
        idle = gone * (squares + (2 * pi * variance).log()) / 2
        log_det = (log_slopes + idle).sum(dim=1)
        return HeldOut.of_rows(batch.points, log_det, loss, self.recipe.seed, batch.labels)

    def draws(self, coordinates: Coordinates) -> bool:
        """Return True, because other data are masked in each epoch."""
        return True  # other data are masked in each epoch


@dataclass(frozen=True, kw_only=True, eq=False)
class TrialTraining(TableTraining):
    """Training on the distribution of the observed data of a trial, with NaN for missing values."""

    network = TRIAL_NETWORK

    @cached_property
    def recipe(self) -> TableRecipe:
        """Recipe for the numbers of rows, columns and conditions, with the patience for trials."""
        recipe = super().recipe
        given = self.amounts.get("patience") is not None
        return recipe if given else replace(recipe, patience=PATIENCE)

    def _network_arguments(self) -> dict[str, Any]:
        return {"label_dim": self.table.condition_dim, **self.recipe.layers}

    def _preparation(self, device: torch.device) -> Preparation:
        kept, dim = self.model_config.inflation.get("dims_to_keep"), self.table.dim
        if self.model_config.precond != "ifs" or kept not in (None, dim):
            raise UsageError(
                f"trials with missing data need flows that keep all {dim} dimensions: "
                "leave --precond and --dims_to_keep out"
            )
        return TrialPreparation(self.table, self.full_config, self.recipe, device, True)

    def _seen(self, preparation: Preparation, resumed: Resumed | None) -> tuple[Space, Coordinates]:
        points = self.table.train_rows.points
        positive = bool(over_decades(filled(points, points.isnan())).any())
        assert isinstance(preparation, TrialPreparation)
        nats = {}
        for start in STARTS:
            space = Space(LOG if positive else "none", "none", start)
            mixture, nats[space] = preparation.mixture(preparation.coordinates(space))
            logger.info(
                f"  {space}: {len(mixture.weights)} Gaussian component(s), {nats[space]:.3f} nats"
            )
        space = max(nats, key=nats.__getitem__)
        coordinates = preparation.coordinates(space)
        if resumed:
            resumed.take_coordinates(coordinates)
        return space, coordinates
