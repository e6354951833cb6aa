"""End time of a flow with conditions that is trained on few rows, chosen on held-out rows.

A flow that ends when the data is a tenth of the variance misses part of the conditional mean. One
that lasts until the data is a thousandth does not (``InflationSchedule.default_t_max``). At large
noise, however, the network learns nothing but this mean, and with few rows it overfits. The shorter
flow can then have the higher density on other rows. Both are therefore trained, which takes
seconds, and the log densities of held-out rows decide.
"""

from dataclasses import replace

import torch

from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.flow.coordinates.coordinates import Coordinates
from training.flow.schedules import InflationSchedule
from training.learning.building import ModelConfig
from training.recipes import FEW_ROWS
from training.subjects.table_spaces import Preparation

MOST_STEPS = 5000
"""Largest number of training steps for which two further trainings choose the end time."""


def choose_end(preparation: Preparation, coordinates: Coordinates, patience: int) -> ModelConfig:
    """Return a model's configuration; with few training rows, validation rows choose the end time.

    Args:
        preparation: Table and training; the user left the end time open.
        coordinates: Coordinates of the flow for the table.
        patience: Number of reports without a better validation score, after which a training ends.
    """
    choices, table = preparation.model_config, preparation.table
    few = len(table.train_rows) < FEW_ROWS and len(table.held_out_rows) > 0
    short_training = preparation.config.total_steps <= MOST_STEPS
    if not (few and short_training) or choices.t_max is not None or preparation.of_sets:
        return choices
    model, _ = preparation.build(coordinates)
    schedule, long = model.denoiser.schedule, float(model.about["tmax"])
    if not isinstance(schedule, InflationSchedule):
        return choices
    short = long * schedule.default_t_max() / schedule.default_t_max(conditional=True)
    scores = {
        end: held_out_log_prob(
            replace(preparation, model_config=replace(choices, t_max=end)), coordinates, patience
        )
        for end in (long, short)
    }
    chosen = max(scores, key=lambda end: scores[end])
    logger.info(
        f"End time {chosen:.4g}: mean log density of validation rows {scores[long]:.3f} "
        f"nats with {long:.4g}, {scores[short]:.3f} with {short:.4g}"
    )
    return replace(choices, t_max=chosen)


def held_out_log_prob(preparation: Preparation, coordinates: Coordinates, patience: int) -> float:
    """Train a model as the run would, and return its mean log density of held-out rows.

    Returns:
        Log density in nats per row, the same on all ranks.
    """
    model, _ = preparation.trained(coordinates, patience)
    rows, flow = preparation.table.held_out_rows, model.flow
    generator = seeded_generator("cpu", preparation.config.seed, Stream.HELD_OUT)
    points = coordinates.dequantized(rows.points, generator).to(flow.device)
    assert rows.conditions is not None
    with torch.no_grad():
        total = flow.given(labels=rows.conditions.to(flow.device)).log_prob(points).sum()
    return float(distributed.sum_over_ranks(total) / distributed.world_size()) / len(points)
