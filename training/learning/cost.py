"""Cost of training steps, and the precision that makes them faster on this machine.

The precision is chosen by a short trial. Processors with matrix units for bfloat16 train about
three times as fast in it. On others the loss of digits brings hardly any gain, or bfloat16 is
slower.
"""

import copy
import json
import time
from collections.abc import Mapping
from statistics import mean
from time import process_time
from typing import Any

import psutil
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.stats import RunningMeans
from training.data.batches import Batch, BatchSource
from training.learning.held_out import Validation
from training.learning.loss import DenoisingLoss, NoiseDraws
from training.learning.trainer import Trainer
from training.networks import NETWORKS, TOY_NETWORKS
from training.recipes import Recipe
from training.trained.network import TrainedNetwork

Conditions = Mapping[str, Tensor]


class TrialGradient:
    """Gradient of the loss of a copy of a model, for samples that are all zero, on the CPU.

    Args:
        model: The model; it is not changed.
        loss: Training loss.
        precision: Precision of the network.
        rows: Number of samples.
    """

    def __init__(self, model: TrainedNetwork, loss: DenoisingLoss, precision: str, rows: int):
        denoiser = copy.deepcopy(model.denoiser).train().requires_grad_(True)
        denoiser.precision = precision
        self._loss, self._regression = loss, loss.regression(denoiser)
        arguments = model.architecture.network_arguments
        # Pixels come in single precision, other points in double.
        dtype = torch.float64 if model.architecture.network in TOY_NETWORKS else torch.float32
        times = torch.full((rows,), loss.t_max, dtype=torch.float64)
        points = torch.zeros(rows, denoiser.basis.dim, dtype=dtype)
        self._clean = denoiser.basis.to_eigen(points).to(dtype)
        self._draws = NoiseDraws(times, torch.zeros_like(points))
        sizes = {"labels": "label_dim", "augment_labels": "augment_dim"}
        self._conditions = {
            name: torch.zeros(rows, arguments[size])
            for name, size in sizes.items()
            if arguments.get(size)
        }

    def losses(self) -> Tensor:
        """Return the losses of the samples ``[rows]``."""
        return self._loss.per_sample(self._regression, self._clean, self._draws, self._conditions)

    def take(self) -> None:
        """Compute the gradient of the mean loss, and drop it."""
        torch.autograd.backward(self.losses().mean())
        self._regression.zero_grad(set_to_none=True)

    def seconds(self) -> float:
        """Return the CPU seconds of a gradient."""
        began = process_time()
        self.take()
        return process_time() - began


def print_dry_run(record: Mapping[str, Any], model: TrainedNetwork) -> None:
    """Log the record of a run that is not started, with the number of parameters."""
    count = sum(weights.numel() for weights in model.denoiser.parameters())
    logger.info(json.dumps({**record, "parameters": count}, indent=2, default=str))


PARAMETER_BYTES = 20
"""Bytes per parameter: the parameter, its average, its gradient and its two moments in Adam, all in
float32.
"""
NUMBER_BYTES = 24
"""Bytes per value of a batch: clean, noise, and noisy, in float64."""
NEAR_BYTES = 4
"""Bytes per value of a neighboring point, in float32."""


def require_network(name: str, arguments: Mapping[str, Any], device: torch.device) -> None:
    """Check that a network can be built and fits into the memory of the device.

    Args:
        name: A name in ``NETWORKS``.
        arguments: Constructor arguments of the network.
        device: Device of the training.

    Raises:
        UsageError: The network cannot be built, or needs more memory than the device has.
    """
    with torch.device("meta"):
        network = NETWORKS[name](**arguments)
    count = sum(parameter.numel() for parameter in network.parameters())
    _require(f"a network of {count:,} parameters", count * PARAMETER_BYTES, device)


def require_batch(batch: int, dim: int, device: torch.device, near: int = 0) -> None:
    """Check that a batch has a sample for each rank, and fits into the memory of its device.

    Args:
        batch: Number of samples.
        dim: Number of dimensions.
        device: Device of the batch.
        near: Largest number of near points over which the target of a sample is averaged.

    Raises:
        UsageError: The batch is smaller than the number of ranks, or needs more memory than the
            device has.
    """
    if batch < distributed.world_size():
        raise UsageError(
            f"batch is {batch}, smaller than the number of ranks, {distributed.world_size()}: give "
            "a larger batch or fewer ranks"
        )
    needed = batch * dim * (NUMBER_BYTES + near * NEAR_BYTES)
    _require(f"--batch={batch} of {dim} dimensions", needed, device)


def _require(what: str, needed: int, device: torch.device) -> None:
    there = psutil.virtual_memory().total
    if device.type == "cuda":
        there = torch.cuda.mem_get_info(device)[1]
    if needed > there:
        raise UsageError(
            f"{what} needs at least {needed / 2**30:.3g} GiB of memory, but {device.type} has "
            f"{there / 2**30:.3g}: give a smaller size"
        )


LEAST = 10_000
"""Number of training samples from which on a trial pays off: it costs as much as about 60
samples.
"""
ROWS, REPEATS = 8, 2
TRIED, MOST_TRIED, TRIAL = 3, 50, 5.0
"""Smallest and largest number of steps of a trial, and seconds after which it ends."""
FASTER = 1.5
"""Speedup that justifies fewer digits. It exceeds the variation of times on busy machines."""


def fastest_precision(model: TrainedNetwork, loss: DenoisingLoss, recipe: Recipe) -> str:
    """Return the faster precision for training on a CPU, from a short trial.

    The precision is ``bf16`` if gradients take at most two thirds of the CPU time of ``fp32``, else
    ``fp32``. The result is the same on all ranks. The model is not changed.
    """
    if recipe.samples < LEAST:
        return "fp32"
    rows = min(ROWS, recipe.batch_gpu or ROWS)
    single = gradient_seconds(model, loss, "fp32", rows)
    factors = torch.tensor([single / gradient_seconds(model, loss, "bf16", rows, single)])
    factor = float(distributed.sum_over_ranks(factors)) / distributed.world_size()
    chosen = "bf16" if factor >= FASTER else "fp32"
    logger.info(
        f"In a short trial fp32 took {factor:.2f} times the CPU time of bf16: using {chosen}"
    )
    return chosen


def gradient_seconds(
    model: TrainedNetwork,
    loss: DenoisingLoss,
    precision: str,
    rows: int,
    enough: float = torch.inf,
) -> float:
    """Return the CPU seconds of a gradient in a given precision: the minimum of several trials.

    Args:
        model: The model.
        loss: Training loss.
        precision: Precision of the network.
        rows: Number of samples.
        enough: Seconds to compare with. If the first trial takes at least twice as long, no other
            trial follows.
    """
    with torch.random.fork_rng(devices=[]):  # dropout must not affect training
        gradient = TrialGradient(model, loss, precision, rows)
        gradient.take()  # the first one allocates memory
        taken = [gradient.seconds()]
        while taken[0] < 2 * enough and len(taken) <= REPEATS:
            taken.append(gradient.seconds())
        return min(taken)


def step_seconds(
    model: TrainedNetwork, loss: DenoisingLoss, recipe: Recipe, source: BatchSource
) -> float:
    """Return the mean seconds of a training step on the slowest rank, without the first step.

    The mean includes steps that take far longer than most, such as the first step of an epoch,
    which imputes missing values anew. The model, on its device, is not changed.
    """
    trainer, taken = Trainer(copy.deepcopy(model), loss, recipe), list[float]()
    means, batches = RunningMeans(trainer.device), source.batches(0)
    try:
        while len(taken) < TRIED or (sum(taken) < TRIAL and len(taken) < MOST_TRIED):
            began = time.monotonic()
            trainer.train_step(next(batches), means)
            means.collect()  # collecting waits for the device
            taken.append(time.monotonic() - began)
    finally:
        del batches  # this ends the reader processes
    return slowest(mean(taken[1:]), trainer.device)


def look_seconds(model: TrainedNetwork, watch: Validation | None) -> float:
    """Return the seconds of a validation on the slowest rank; 0 without validation.

    The score is not stored.
    """
    if watch is None:
        return 0.0
    began = time.monotonic()
    watch.held_out.score(model)
    return slowest(time.monotonic() - began, model.denoiser.basis.mean.device)


@torch.no_grad()
def evaluation_seconds(model: TrainedNetwork, batch: Batch) -> float:
    """Return the seconds of a network evaluation in single precision, per point of a batch.

    Args:
        model: The model, on its device; it is not changed.
        batch: Points in the space of the basis, with their conditions.
    """
    denoiser, taken = model.denoiser, list[float]()
    device, precision = denoiser.basis.mean.device, denoiser.precision
    points = denoiser.basis.to_eigen(batch.points.to(device)).double()
    time_of_points = points.new_tensor(model.about["tmax"])
    denoiser.precision = "fp32"
    for _ in range(2):  # the first one allocates memory
        began = time.monotonic()
        denoiser.residual(points, time_of_points, **batch.conditions(device)).sum().item()
        taken.append(time.monotonic() - began)
    denoiser.precision = precision
    return min(taken) / len(points)


def slowest(seconds: float, device: torch.device) -> float:
    """Return the largest of the seconds of all ranks."""
    of_each = torch.zeros(distributed.world_size(), device=device, dtype=torch.float64)
    of_each[distributed.rank()] = seconds
    return float(distributed.sum_over_ranks(of_each).max())
