"""Choices that make a training faster on this machine: precision and compilation.

The precision is chosen by a short trial.

Processors with matrix units for bfloat16 train about three times as fast in it. On others the loss
of digits brings hardly any gain, or bfloat16 is slower.
"""

import copy
import time
from statistics import mean

import torch

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.snapshots import first_line
from torch_utils.stats import RunningMeans
from training.data.batches import BatchSource
from training.learning.cost import PaperStep
from training.learning.held_out import Validation
from training.learning.loss import DenoisingLoss
from training.learning.trainer import Trainer, TrainingConfig
from training.model.trained_network import TrainedNetwork

LEAST = 10_000
"""Number of training samples from which on a trial pays off: it costs as much as about 60
samples.
"""
ROWS, REPEATS = 8, 2
TRIED, MOST_TRIED, TRIAL = 3, 50, 5.0
"""Smallest and largest number of steps of a trial, and seconds after which it ends."""
FASTER = 1.5
"""Speedup that justifies fewer digits. It exceeds the variation of times on busy machines."""


def fastest_precision(model: TrainedNetwork, loss: DenoisingLoss, config: TrainingConfig) -> str:
    """Return the faster precision for training on a CPU, from a short trial.

    The precision is ``bf16`` if gradients take at most two thirds of the CPU time of ``fp32``, else
    ``fp32``. The result is the same on all ranks. The model is not changed.
    """
    if config.total < LEAST:
        return "fp32"
    rows = min(ROWS, config.batch_gpu or ROWS)
    single = gradient_seconds(model, loss, config, "fp32", rows)
    factors = torch.tensor([single / gradient_seconds(model, loss, config, "bf16", rows, single)])
    factor = float(distributed.sum_over_ranks(factors)) / distributed.world_size()
    chosen = "bf16" if factor >= FASTER else "fp32"
    logger.info(
        f"In a short trial fp32 took {factor:.2f} times the CPU time of bf16: using {chosen}"
    )
    return chosen


def gradient_seconds(
    model: TrainedNetwork,
    loss: DenoisingLoss,
    config: TrainingConfig,
    precision: str,
    rows: int,
    enough: float = torch.inf,
) -> float:
    """Return the CPU seconds of a gradient in a given precision: the minimum of several trials.

    Args:
        model: The model.
        loss: Training loss.
        config: Settings of the training.
        precision: Precision of the network.
        rows: Number of samples.
        enough: Seconds to compare with. If the first trial takes at least twice as long, no other
            trial follows.
    """
    with torch.random.fork_rng(devices=[]):  # dropout must not affect training
        step = PaperStep(model, loss, config, precision, fake=False)
        taken = [step.seconds(rows)]
        while taken[0] < 2 * enough and len(taken) <= REPEATS:
            taken.append(step.seconds(rows))
        return min(taken)


def step_seconds(
    model: TrainedNetwork, loss: DenoisingLoss, config: TrainingConfig, source: BatchSource
) -> float:
    """Return the mean seconds of a training step on the slowest rank, without the first step.

    The mean includes steps that take far longer than most, such as the first step of an epoch,
    which imputes missing values anew. The model, on its device, is not changed.
    """
    trainer, taken = Trainer(copy.deepcopy(model), loss, config), list[float]()
    means, batches = RunningMeans(trainer.device), source.batches(0)
    try:
        while len(taken) < TRIED or (sum(taken) < TRIAL and len(taken) < MOST_TRIED):
            began = time.monotonic()
            trainer.train_step(next(batches), means)
            means.collect()  # collecting waits for the device
            taken.append(time.monotonic() - began)
    finally:
        del batches  # this ends the reader processes
    return _slowest(mean(taken[1:]), trainer.device)


def look_seconds(model: TrainedNetwork, watch: Validation | None) -> float:
    """Return the seconds of a validation on the slowest rank; 0 without validation.

    The score is not stored.
    """
    if watch is None:
        return 0.0
    began = time.monotonic()
    watch.held_out.score(model)
    return _slowest(time.monotonic() - began, model.denoiser.basis.mean.device)


def _slowest(seconds: float, device: torch.device) -> float:
    """Return the largest of the seconds of all ranks."""
    of_each = torch.zeros(distributed.world_size(), device=device, dtype=torch.float64)
    of_each[distributed.rank()] = seconds
    return float(distributed.sum_over_ranks(of_each).max())


def compile_network(trainer: Trainer, source: BatchSource) -> None:
    """Compile the network of a trainer, with the help of a batch that is not trained on.

    Raises:
        UsageError: PyTorch cannot compile here, for example because there is no C++ compiler.
    """
    batch = next(source.batches(0))
    try:
        trainer.denoiser.network.compile()
    except RuntimeError as error:  # for example, Python is too new
        raise _refusal(error) from error
    from torch._dynamo.exc import TorchDynamoException  # the import takes a second

    try:
        trainer.accumulate(batch, trainer.draw(batch.points.dtype), RunningMeans(trainer.device))
    except TorchDynamoException as error:
        raise _refusal(error) from error
    trainer.optimizer.zero_grad(set_to_none=True)


def _refusal(error: Exception) -> UsageError:
    return UsageError(
        f"PyTorch cannot compile the network on this machine ({first_line(error)}): leave "
        "--compile out"
    )
