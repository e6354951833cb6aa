"""A training: what is said of it, and what the data answer.

Each kind of data has a ``Training``: it knows the recipe, the choices that are tried, the model,
the loss, and where batches, what is held out, and points to calibrate on and to melt come from.
What all kinds share is in ``training.commands.train``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch

from dnnlib.logs import logger
from training.data.batches import Batch, BatchSource
from training.learning.building import Choices
from training.learning.calibrating import CalibrationPlan
from training.learning.held_out import Watch
from training.learning.loss import DenoisingLoss
from training.learning.melting import LawPlan
from training.learning.run import Ending
from training.learning.run_folder import Resumed
from training.learning.speed import look_seconds, step_seconds
from training.learning.trainer import Trainer, TrainingConfig
from training.model.model import Model
from training.names import ADAM
from training.recipes import TableRecipe, TrainingRecipe


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is said of a training, whatever it is on.

    Attributes:
        choices: Of the model, but for what follows from the data and the recipe.
        amounts: Of the recipe, by the names of its fields. None stands for what suits the data;
            other names are passed over.
        data_dim: Dimensions that the data are said to have, as a check.
        batch_gpu: Largest microbatch of one rank; None for no limit.
        loss_scale: Factor on the loss in the backward pass.
        keep_states: Number of training states that stay.
        calibration_fit: How the trained network is calibrated, a name in ``METHODS``; None for not
            at all.
        learns_law: Whether compressed latents get a law of their own in place of the Gaussian; None
            for models that have no such latents.
        dry_run: Whether it is only told what would be trained.
    """

    choices: Choices
    amounts: Mapping[str, Any]
    data_dim: int | None = None
    batch_gpu: int | None = None
    loss_scale: float = 1.0
    keep_states: int = 2
    calibration_fit: str | None = None
    learns_law: bool | None = None
    dry_run: bool = False

    @property
    def seed(self) -> int:
        """Of all random numbers."""
        return self.choices.seed

    def config(self, recipe: TrainingRecipe, antithetic: bool = False) -> TrainingConfig:
        """A recipe in samples, with what is no part of it."""
        return TrainingConfig(
            total=round(recipe.duration * 1e6),
            batch=recipe.batch,
            batch_gpu=self.batch_gpu,
            lr=recipe.lr,
            lr_ramp=round(recipe.lr_ramp * 1e6),
            lr_decay=recipe.lr_decay,
            ema_halflife=round(recipe.ema * 1e6),
            weight_decay=recipe.weight_decay if isinstance(recipe, TableRecipe) else 0.0,
            optimizer=recipe.optimizer if isinstance(recipe, TableRecipe) else ADAM,
            loss_scale=self.loss_scale,
            antithetic=antithetic,
            tick=recipe.tick * 1000,
            snapshot_ticks=recipe.snap,
            state_ticks=recipe.dump,
            keep_states=self.keep_states,
            seed=self.seed,
        )

    def calibration(self, points: Callable[[], Batch], count: int) -> CalibrationPlan | None:
        """How to calibrate on so many points, see ``CalibrationPlan``; None for not at all."""
        fit = self.calibration_fit
        return CalibrationPlan(points, count, self.seed, fit) if fit else None

    def law(self, plan: LawPlan) -> LawPlan | None:
        """What is left of a plan to learn the law of latents."""
        return None if self.learns_law is None else replace(plan, learned=self.learns_law)


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """What a training starts with.

    Attributes:
        recipe: Its amounts.
        model: Untrained.
        loss: To train it with.
        config: The recipe in samples.
        resolved: What options have come to, by their names.
        name: Parts of the name of the run's folder, those that are there.
        source: Gives where batches come from.
        ending: What the trained model gets.
        watch: Gives what looks at points that are held out, or None.
    """

    recipe: TrainingRecipe
    model: Model
    loss: DenoisingLoss
    config: TrainingConfig
    resolved: Mapping[str, Any]
    name: tuple[str | None, ...]
    source: Callable[[], BatchSource]
    ending: Ending
    watch: Callable[[], Watch | None] = lambda: None


@dataclass(frozen=True, kw_only=True, eq=False)
class Training(ABC):
    """A training on some data.

    Attributes:
        wanted: What is said of it.
        benchmarks: Whether cuDNN looks for its fastest kernels.
    """

    wanted: Wanted
    benchmarks: bool = False
    calibrates: ClassVar[bool] = True
    """Whether inflationary flows are calibrated if nothing is said."""

    @property
    def useful_threads(self) -> int | None:
        """Of a CPU; None for no limit."""
        return None

    @abstractmethod
    def start(self, device: torch.device, resumed: Resumed | None) -> Start:
        """What it starts with; what it chooses, it tells the log.

        Args:
            device: Where it runs.
            resumed: The state that it goes on from, if there is one.

        Raises:
            UsageError: What is said contradicts the data or itself.
            DataError: The state is of other data.
        """

    def within(self, minutes: float, start: Start) -> Self:
        """Return this training with as many samples as fit into a time.

        Args:
            minutes: Minutes of all steps and reports.
            start: The start of this training, whose steps and reports are timed.
        """
        model, config = start.model, start.config
        seconds = step_seconds(model, start.loss, config, start.source())
        report = look_seconds(model, start.watch())
        reports = config.total / config.tick
        steps = max(1, round((60 * minutes - reports * report) / seconds))
        duration = steps * config.batch / 1e6
        logger.info(
            f"A step takes {1000 * seconds:.3g} ms"
            + f", each of {reports:.0f} reports {1000 * report:.3g} ms" * (report > 0)
            + f": {minutes:g} minutes are {steps:,} steps, --duration={duration:g}"
        )
        if reports * report > 60 * minutes:
            logger.warning(
                f"Warning: {reports:.0f} reports alone take {reports * report / 60:.2g} minutes: "
                "give more minutes, or a larger --tick"
            )
        amounts = {**self.wanted.amounts, "duration": duration}
        return replace(self, wanted=replace(self.wanted, amounts=amounts))

    def begin(self, start: Start, resumed: Resumed | None) -> tuple[Trainer, BatchSource]:
        """The trainer before its first step, and where its batches come from."""
        return Trainer(start.model, start.loss, start.config), start.source()
