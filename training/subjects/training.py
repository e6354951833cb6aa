"""A training: its settings, and what follows from the data.

Each kind of data has a ``Training``. It defines the recipe, the candidates that are compared, the
model and the loss. It also provides batches, held-out data, and the points for calibration and for
inflating. Code shared by all kinds is in ``training.cli.train``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch

from dnnlib.logs import logger
from training.data.batches import Batch, BatchSource
from training.learning.building import ModelConfig
from training.learning.cost import look_seconds, step_seconds
from training.learning.finishing import CalibrationPlan, LatentPlan
from training.learning.held_out import Validation
from training.learning.loss import DenoisingLoss
from training.learning.run import PostTraining
from training.learning.run_folder import Resumed
from training.learning.trainer import Trainer
from training.recipes import Recipe
from training.trained.network import TrainedNetwork

MOST_FOR_FITS = 0.25
"""Largest fraction of the time of a run for fits that can be limited."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Start of a training.

    Attributes:
        recipe: Duration, batch size, rates, intervals and settings of the training.
        model: Untrained model.
        loss: Loss of the training.
        resolved: Resolved amounts of the recipe and values of options, by name.
        space: Chosen coordinates, by name.
        name: Parts of the name of the run's folder; None for parts that are left out.
        source: Function that returns the source of batches.
        ending: Steps that complete the trained model.
        watch: Function that returns the monitor of held-out data, or None.
    """

    recipe: Recipe
    model: TrainedNetwork
    loss: DenoisingLoss
    resolved: Mapping[str, Any]
    space: Mapping[str, Any] = field(default_factory=dict)
    name: tuple[str | None, ...]
    source: Callable[[], BatchSource]
    ending: PostTraining
    watch: Callable[[], Validation | None] = lambda: None


@dataclass(frozen=True, kw_only=True, eq=False)
class Training(ABC):
    """A training of a network on data; each kind of data has a subclass.

    Attributes:
        model_config: Configuration of the model, without values that follow from the data and the
            recipe.
        amounts: Amounts that the user gave, such as the number of samples, by name. None stands for
            the amount in the recipe; unknown names are ignored.
        data_dim: Expected dimension of the data, as a check.
        calibrate: Whether the trained network is calibrated.
        inflates: Whether the model is an inflationary flow, whose latents are tested and learned.
        dry_run: Whether the training is only described.
        benchmarks: Whether cuDNN searches for its fastest kernels.
    """

    model_config: ModelConfig
    amounts: Mapping[str, Any]
    data_dim: int | None = None
    calibrate: bool = False
    inflates: bool = False
    dry_run: bool = False
    benchmarks: bool = False
    calibrates: ClassVar[bool] = True
    """Whether inflationary flows are calibrated by default."""
    calibration_method: ClassVar[str] = "gain"
    """Method of the calibration, a name in ``METHODS``."""

    @property
    def seed(self) -> int:
        """Random seed."""
        return self.model_config.seed

    def calibration(self, points: Callable[[], Batch], count: int) -> CalibrationPlan | None:
        """Return a plan for calibration on ``count`` points; None for no calibration."""
        plan = CalibrationPlan(points, count, self.seed, self.calibration_method)
        return plan if self.calibrate else None

    def distribution(self, plan: LatentPlan) -> LatentPlan | None:
        """Return the plan for the base distribution; None for other models."""
        return plan if self.inflates else None

    @property
    def useful_threads(self) -> int | None:
        """Largest useful number of CPU threads; None for no limit."""
        return None

    @abstractmethod
    def start(self, device: torch.device, resumed: Resumed | None) -> Start:
        """Return the start of the training, and log the choices made.

        Args:
            device: Device of the training.
            resumed: State from which the training continues, or None.

        Raises:
            UsageError: The user's choices contradict the data or each other.
            DataError: The state is for other data.
        """

    def with_choices(self, chosen: Mapping[str, Any]) -> Self:
        """Return this training with the choices of the run that it continues, by name."""
        given = {name: value for name, value in self.amounts.items() if value is not None}
        return replace(self, amounts={**chosen, **given})

    def within(self, seconds: float, start: Start) -> tuple[Self, float]:
        """Return this training with the number of samples that fits into a time.

        Args:
            seconds: Seconds for all steps, reports, and fits after the training.
            start: Start of this training, whose steps and reports are timed.

        Returns:
            The training, and the estimated seconds of the fits.
        """
        model, recipe = start.model, start.recipe
        step = step_seconds(model, start.loss, recipe, start.source())
        report = look_seconds(model, start.watch())
        reports = recipe.samples / recipe.tick_samples
        fits = start.ending.seconds(model, step, recipe.batch)
        if start.ending.limited:
            fits = min(fits, MOST_FOR_FITS * seconds)
        left = max(seconds - fits, step)
        steps = max(1, round((left - reports * report) / step))
        duration = steps * recipe.batch / 1e6
        logger.info(
            f"A step takes {1000 * step:.3g} ms"
            + f", each of {reports:.0f} reports {1000 * report:.3g} ms" * (report > 0)
            + f", fits at the end {fits:.0f} s" * (fits >= 1)
            + f": {steps:,} steps fit, --duration={duration:g}"
        )
        if reports * report > left:
            logger.warning(
                f"Warning: {reports:.0f} reports alone take {reports * report / 60:.2g} "
                "minutes: give more minutes, or a larger --tick"
            )
        return replace(self, amounts={**self.amounts, "duration": duration}), fits

    def begin(self, start: Start, resumed: Resumed | None) -> tuple[Trainer, BatchSource]:
        """Return the trainer before its first step, and the source of batches."""
        return Trainer(start.model, start.loss, start.recipe), start.source()
