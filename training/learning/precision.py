"""In what precision a network trains fastest on this CPU, by a short trial.

Processors that have matrix units for bfloat16 train about three times as fast in it, where others
hardly gain anything for what it loses in digits.
"""

import torch

from dnnlib.logs import logger
from torch_utils import distributed
from training.learning.cost import PaperStep
from training.learning.loss import DenoisingLoss
from training.learning.trainer import TrainingConfig
from training.model.model import Model

LEAST = 10_000
"""Samples of a training for which a trial pays: it costs as much as about 60 of them."""
ROWS, REPEATS = 8, 2
FASTER = 1.5
"""Factor from which on fewer digits are worth it. It is beyond what busy machines make of one."""


def fastest_precision(model: Model, loss: DenoisingLoss, config: TrainingConfig) -> str:
    """``bf16`` if gradients take at most two thirds of the time in it, and ``fp32`` otherwise; the
    same on all ranks.

    Args:
        model: The model, on a CPU; it is not changed.
        loss: The loss.
        config: Of the training.
    """
    if config.total < LEAST:
        return "fp32"
    rows = min(ROWS, config.batch_gpu or ROWS)
    seconds = {name: gradient_seconds(model, loss, config, name, rows) for name in ("fp32", "bf16")}
    factors = torch.tensor([seconds["fp32"] / seconds["bf16"]])
    factor = float(distributed.sum_over_ranks(factors)) / distributed.world_size()
    chosen = "bf16" if factor >= FASTER else "fp32"
    logger.info(f"In a trial bf16 was {factor:.2f} times as fast as fp32: training in {chosen}")
    return chosen


def gradient_seconds(
    model: Model, loss: DenoisingLoss, config: TrainingConfig, precision: str, rows: int
) -> float:
    """The least seconds of the CPU that gradients of some samples took in a precision."""
    with torch.random.fork_rng(devices=[]):  # dropout draws, and the training is not to notice
        step = PaperStep(model, loss, config, precision, fake=False)
        return min(step.seconds(rows) for _ in range(1 + REPEATS))
