"""From plain choices to a model, its loss and a run: what the training scripts share."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.snapshots import read_state
from training.data.batches import Batch, BatchSource
from training.flow.calibration import NODES, fit_calibration
from training.flow.denoisers import noise_condition
from training.flow.eigenbasis import EigenBasis
from training.flow.output_gain import OutputGain
from training.learning.loop import train
from training.learning.loss import DenoisingLoss
from training.learning.run_folder import RunFolder, states_in
from training.learning.trainer import Trainer, TrainingConfig
from training.model.model import Model, Recipe, make_schedule, parameter_count
from training.networks import TOY_NETWORKS

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
        output_gain: Whether a gain of the network's output is trained with it.
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
    output_gain: bool = False
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
        output_gain = OutputGain.ones(t_min, t_max, basis.dim) if self.output_gain else None
        torch.manual_seed(self.seed)
        model = recipe.build(basis, data_variance, output_gain)
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


@dataclass(frozen=True)
class CalibrationPlan:
    """How a trained model is to be calibrated.

    Attributes:
        points: Gives this rank's share of the clean points to fit to, with their labels.
        seed: Of the noise.
        method: A name in ``METHODS`` of the calibration.
    """

    points: Callable[[], Batch]
    seed: int
    method: str

    @classmethod
    def of(
        cls,
        options: Mapping[str, Any],
        default_method: str,
        points: Callable[[], Batch],
        seed: int,
    ) -> "CalibrationPlan | None":
        """The plan of a training script's options, or None if they ask for no calibration."""
        method = options["calibration_fit"] or default_method
        return cls(points, seed, method) if options["calibrate"] else None


def run_training(
    trainer: Trainer,
    source: BatchSource,
    place: tuple[Path, str, bool],
    record: Mapping[str, Any],
    resumed: Resumed | None,
    calibration: CalibrationPlan | None = None,
) -> None:
    """Trains in a new folder, or goes on in the folder of a state.

    Args:
        trainer: At its start; takes up the state here.
        source: Where batches come from.
        place: ``outdir``, the run's name, and whether outdir itself is to be the folder.
        record: What ``training_options.json`` is to say.
        resumed: The state to go on from, or None.
        calibration: How to calibrate the trained model; None for not at all.
    """
    if resumed:
        trainer.restore(resumed.state, str(resumed.path))
        folder = RunFolder.reopen(resumed.path.parent, trainer.seen, trainer.config.keep_states)
        logger.info(f"Going on from {resumed.path}")
    else:
        folder = RunFolder.create(*place, record)
        logger.info(f"Training in {folder.path}")

    finish = partial(calibrate, plan=calibration) if calibration else None
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


def calibrates(options: Mapping[str, Any]) -> bool:
    """Whether options ask for a calibration after training: by default where there can be one.

    Raises:
        UsageError: It was asked for, but is not defined for the isotropic models; or what to fit
            was said, but there is no fit.
    """
    asked, precond = options["calibrate"], options["precond"]
    if asked and precond != "ifs":
        raise UsageError(f"--calibrate goes with --precond=ifs only, not {precond}: leave it out")
    asked = precond == "ifs" if asked is None else asked
    if options["calibration_fit"] and not asked:
        raise UsageError("--calibration_fit is given, but there is no calibration: leave it out")
    return bool(asked)


def calibrate(model: Model, plan: CalibrationPlan) -> None:
    """Fits a model's calibration, and puts it in its place.

    Args:
        model: Ready for evaluation.
        plan: How.

    Raises:
        DataError: The network gives values that are not finite.
    """
    start, denoiser, about = time.monotonic(), model.denoiser, model.about
    device, batch = denoiser.basis.mean.device, plan.points()
    # What simulations compute in by default, whatever the training did.
    denoiser.precision = "fp32"
    points = denoiser.basis.to_eigen(batch.points.to(device))
    times = torch.linspace(about["tmin"], about["tmax"], NODES, dtype=torch.float64)
    conditions = batch.conditions(device)
    nodes = NODES * (1 if plan.method == "gain" else 2)
    logger.info(f"Calibrating on {len(points)} points a rank; the network is saved already")
    hidden = None if distributed.is_main() else True
    with tqdm(total=nodes, desc="calibration", unit="node", disable=hidden) as bar:
        try:
            calibration = fit_calibration(
                denoiser,
                points,
                times,
                plan.seed,
                plan.method,
                conditions=conditions,
                on_node=bar.update,
            )
        except ValueError as error:
            raise DataError(
                f"the network cannot be calibrated, and is saved without: {error}"
            ) from error
    denoiser.calibration = calibration
    count = int(distributed.sum_over_ranks(torch.tensor([len(points)], device=device)))
    kept = slice(about["dims_to_keep"])
    gains = calibration.gains[:, kept]
    found = f"gains {float(gains.min()):.3f} to {float(gains.max()):.3f}"
    if plan.method != "gain":
        found += f", largest slope {float(calibration.slopes[:, kept].abs().max()):.3f}"
    logger.info(
        f"Calibrated on {count} points at {NODES} times in {time.monotonic() - start:.1f} s: "
        f"{found} (kept dimensions)"
    )
