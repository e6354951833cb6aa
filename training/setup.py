"""From plain choices to a model, its loss and a run: what the training scripts share."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.snapshots import read_state
from training.data.batches import Batch, BatchSource
from training.flow.calibration import NODES, fit_calibration
from training.flow.denoisers import noise_condition
from training.flow.eigenbasis import EigenBasis
from training.loop import Trainer, TrainingConfig, train
from training.loss import DenoisingLoss
from training.model import Model, Recipe, make_schedule, parameter_count
from training.networks import TOY_NETWORKS
from training.run_folder import RunFolder, states_in

INFLATION_DEFAULTS = {
    "g_type": "orig",
    "inflation_gap": 1.02,
    "g_rescaling": 1.0,
    "rho": 1.0,
    "gamma0": 5e-4,
}
T_SAMPLING = {"ifs": "uniform", "edm": "normal", "vp": "uniform", "ve": "log_uniform"}
"""How times are drawn by default; the isotropic models do as Karras et al. 2022 (table 1)."""


@dataclass(frozen=True)
class Choices:
    """What a user decides about a model; None is a default that depends on the rest.

    Attributes:
        precond: A name in ``SCHEDULES`` and ``PRECONDITIONINGS``.
        inflation: Arguments of the inflationary schedule; the others take none.
        network: A name in ``NETWORKS``.
        network_arguments: Its constructor's, but for those that follow from the flow.
        space: Coordinates of the network.
        noise_cond: How it is told the time.
        t_min: First time.
        t_max: Last time.
        t_sampling: How times are drawn in training.
        seed: Of the initial weights.
    """

    precond: str
    inflation: Mapping[str, Any]
    network: str
    network_arguments: Mapping[str, Any]
    space: str
    noise_cond: str
    t_min: float | None = None
    t_max: float | None = None
    t_sampling: str | None = None
    seed: int = 0

    def build(
        self, basis: EigenBasis, data_variance: Tensor | None = None
    ) -> tuple[Model, DenoisingLoss]:
        """An untrained model, and the loss to train it with.

        Args:
            basis: Of the data.
            data_variance: ``[D]`` of what the network is trained on, if it is not just the data.
        """
        if self.precond == "ifs":
            given = {name: value for name, value in self.inflation.items() if value is not None}
            arguments: dict[str, Any] = {"dims_to_keep": basis.dim, **INFLATION_DEFAULTS, **given}
        else:
            arguments = {"t_min": self.t_min}
        schedule = make_schedule(self.precond, arguments, basis)
        t_min = schedule.t_min if self.t_min is None else self.t_min
        t_max = schedule.default_t_max() if self.t_max is None else self.t_max
        loss = DenoisingLoss(schedule, t_min, t_max, self.t_sampling or T_SAMPLING[self.precond])
        network_arguments = dict(self.network_arguments)
        if self.network in TOY_NETWORKS:
            ends = torch.tensor([t_min, t_max], dtype=torch.float64)
            noise_range = noise_condition(schedule, ends, self.noise_cond).tolist()
            network_arguments |= {"dim": basis.dim, "noise_range": noise_range}
        denoiser_arguments = {
            "space": self.space,
            "noise_cond": self.noise_cond,
            "preconditioning": self.precond,
        }
        recipe = Recipe(
            self.precond, arguments, self.network, network_arguments, denoiser_arguments
        )
        torch.manual_seed(self.seed)
        model = recipe.build(basis, data_variance)
        model.about = {
            "data_dim": basis.dim,
            "dims_to_keep": arguments.get("dims_to_keep", basis.dim),
            "tmin": t_min,
            "tmax": t_max,
        }
        return model, loss


def describe_training(model: Model, loss: DenoisingLoss, config: TrainingConfig) -> str:
    return (
        f"Schedule {loss.schedule.name}, t from {loss.t_min:g} to {loss.t_max:.4g}; "
        f"{model.recipe.network} with {parameter_count(model.denoiser.network):,} parameters in "
        f"{model.denoiser.space}; {config.total / 1e6:g} M samples in batches of {config.batch}"
    )


@dataclass(frozen=True)
class Resumed:
    """A training state to go on from."""

    path: Path
    state: dict[str, Any]

    @classmethod
    def find(cls, location: Path) -> "Resumed":
        """The state in a file, or the latest one in a run's folder that can be read.

        Raises:
            DataError: There is none.
        """
        if not location.is_dir():
            return cls(location, read_state(location))
        states = states_in(location)
        if not states:
            raise DataError(f"{location} has no training-state-*.pt to resume from")
        for path in reversed(states):
            try:
                return cls(path, read_state(path))
            except DataError as error:
                last_error = error
                if distributed.is_main():
                    logger.warning(f"Warning: {error}; looking for an older state")
        raise DataError(f"{location} has no state that can be read: {last_error}")

    @property
    def basis(self) -> EigenBasis:
        """The basis of the run, which is fitted only once."""
        try:
            return EigenBasis(**self.state["basis"])
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{self.path} has no basis of its data") from error

    @property
    def data_variance(self) -> Tensor:
        """What the preconditioning of the run counts on."""
        try:
            return torch.as_tensor(self.state["data_variance"])
        except (KeyError, TypeError) as error:
            raise DataError(f"{self.path} has no variance of its data") from error


def run_training(
    trainer: Trainer,
    source: BatchSource,
    place: tuple[Path, str, bool],
    record: Mapping[str, Any],
    resumed: Resumed | None,
    calibration_points: Callable[[], Batch] | None = None,
) -> None:
    """Trains in a new folder, or goes on in the folder of a state.

    Args:
        trainer: At its start; takes up the state here.
        source: Where batches come from.
        place: ``outdir``, the run's name, and whether outdir itself is to be the folder.
        record: What ``training_options.json`` is to say.
        resumed: The state to go on from, or None.
        calibration_points: Gives this rank's share of the clean points that the trained model is
            calibrated on; None for no calibration.
    """
    if resumed:
        trainer.restore(resumed.state, str(resumed.path))
        folder = RunFolder.reopen(resumed.path.parent, trainer.seen, trainer.config.keep_states)
        logger.info(f"Going on from {resumed.path}")
    else:
        folder = RunFolder.create(*place, record)
        logger.info(f"Training in {folder.path}")

    def finish(model: Model) -> None:
        if calibration_points is not None:
            calibrate(model, calibration_points(), trainer.config.seed)

    train(trainer, source, folder, finish)


def set_deterministic(asked: bool) -> None:
    """Whether this process uses only algorithms that give the same bytes every time.

    Call it before CUDA is used. An operation that has no such algorithm raises RuntimeError.
    """
    if asked:
        # cuBLAS reads it when it starts: with a workspace of fixed sizes it sums in a fixed order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = asked
    torch.use_deterministic_algorithms(asked)


def calibrates(asked: bool | None, precond: str) -> bool:
    """Whether a model is calibrated after training: by default where it can be.

    Raises:
        UsageError: It was asked for, but is not defined for the isotropic models.
    """
    if asked and precond != "ifs":
        raise UsageError(f"--calibrate goes with --precond=ifs only, not {precond}: leave it out")
    return precond == "ifs" if asked is None else asked


def calibrate(model: Model, batch: Batch, seed: int) -> None:
    """Fits a model's calibration along its melt, and puts it in its place.

    Args:
        model: Ready for evaluation.
        batch: This rank's share of the clean points, with labels if the network takes them.
        seed: Of the noise.

    Raises:
        DataError: The network gives values that are not finite.
    """
    start, denoiser, about = time.monotonic(), model.denoiser, model.about
    device = denoiser.basis.mean.device
    # What simulations compute in by default, whatever the training did.
    denoiser.precision = "fp32"
    points = denoiser.basis.to_eigen(batch.points.to(device))
    times = torch.linspace(about["tmin"], about["tmax"], NODES, dtype=torch.float64)
    try:
        calibration = fit_calibration(
            denoiser, points, times, seed, conditions=batch.conditions(device)
        )
    except ValueError as error:
        raise DataError(f"the network cannot be calibrated: {error}") from error
    denoiser.calibration = calibration
    largest = float(calibration.slopes[:, : about["dims_to_keep"]].abs().max())
    count = int(distributed.sum_over_ranks(torch.tensor([len(points)], device=device)))
    logger.info(
        f"Calibrated on {count} points at {NODES} times in {time.monotonic() - start:.1f} s: "
        f"largest slope {largest:.3f} (kept dimensions)"
    )
