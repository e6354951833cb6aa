"""Calibration of a trained model."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dnnlib.errors import DataError
from dnnlib.logs import logger
from torch_utils import distributed
from training.data.batches import Batch
from training.flow.calibration import NODES, calls_of_fit, fit_calibration
from training.model.trained_network import TrainedNetwork

USUAL_GAINS = (0.5, 2.5)
"""Usual range of gains of kept dimensions. A gain far from 1 compensates for a network that has
hardly learned.
"""


@dataclass(frozen=True)
class CalibrationPlan:
    """Plan for the calibration of a trained model.

    Attributes:
        points: Function that returns this rank's part of the clean points of the fit, with their
            conditions.
        count: Largest number of points of the fit over all ranks.
        seed: Random seed of the noise.
        method: A name in ``METHODS`` of the calibration.
    """

    points: Callable[[], Batch]
    count: int
    seed: int
    method: str

    @property
    def calls(self) -> int:
        """Number of network evaluations of the calibration, counted per point."""
        return self.count * calls_of_fit(NODES, self.method)


def node_times(model: TrainedNetwork) -> Tensor:
    """Return the times ``[NODES]`` of a model's calibration, within the range of the training."""
    about = model.about
    return torch.linspace(about["tmin"], about["tmax"], NODES, dtype=torch.float64)


def calibrate(model: TrainedNetwork, plan: CalibrationPlan) -> None:
    """Fit the calibration of a model that is ready for evaluation, and store it in the model.

    Raises:
        DataError: The network returns values that are not finite.
    """
    start, denoiser, about = time.monotonic(), model.denoiser, model.about
    device, batch = denoiser.basis.mean.device, plan.points()
    # The default precision of simulations, whatever the training used.
    denoiser.precision = "fp32"
    points = denoiser.basis.to_eigen(batch.points.to(device))
    conditions = batch.conditions(device)
    nodes = NODES * (1 if plan.method == "gain" else 2)
    logger.info(f"Calibrating on {len(points)} points per rank; the network is saved already")
    with distributed.progress_bar(total=nodes, desc="calibration", unit="node") as bar:
        try:
            calibration = fit_calibration(
                denoiser,
                points,
                node_times(model),
                plan.seed,
                plan.method,
                conditions=conditions,
                on_node=bar.update,
            )
        except ValueError as error:
            raise DataError(
                f"the network cannot be calibrated and is saved without a calibration: {error}"
            ) from error
    denoiser.calibration = calibration
    count = int(distributed.sum_over_ranks(torch.tensor([len(points)], device=device)))
    kept = slice(about["dims_to_keep"])
    gains = calibration.gains[:, kept]
    shown = f"gains {float(gains.min()):.3f} to {float(gains.max()):.3f}"
    if plan.method != "gain":
        shown += f", largest slope {float(calibration.slopes[:, kept].abs().max()):.3f}"
    logger.info(
        f"Calibrated on {count} points at {NODES} times in {time.monotonic() - start:.1f} "
        f"s: {shown} in kept dimensions"
    )
    unusual = float(gains.min()) < USUAL_GAINS[0] or float(gains.max()) > USUAL_GAINS[1]
    if unusual and distributed.is_main():
        logger.warning(
            f"Warning: trained networks usually have gains from {USUAL_GAINS[0]:g} to "
            f"{USUAL_GAINS[1]:g}: train longer, or compare with samples made with "
            "--no-calibration"
        )
