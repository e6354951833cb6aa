"""Models and trainers of small networks on circles, for tests."""

from typing import Any

import torch

from training.data.batches import ToyBatches
from training.data.toys import Toy
from training.flow.eigenbasis import EigenBasis
from training.learning.building import Choices
from training.learning.loss import DenoisingLoss
from training.learning.trainer import Trainer, TrainingConfig
from training.model.model import Model


def tiny_model(
    network: str = "mlp", space: str = "ES", dims_to_keep: int = 2, **sizes: int
) -> tuple[Model, DenoisingLoss]:
    """An untrained small network for circles, equal at each call, and its loss."""
    choices = Choices(
        precond="ifs",
        inflation={"dims_to_keep": dims_to_keep},
        network=network,
        network_arguments=sizes,
        space=space,
        noise_cond="log",
    )
    return choices.build(EigenBasis.from_moments(*Toy("circles").moments()))


def circles_trainer(
    width: int = 16, depth: int = 2, others: int = 0, **options: Any
) -> tuple[Trainer, ToyBatches]:
    """A trainer of a small network on circles, with its data, and so many points to average targets
    over; options go to the configuration."""
    model, loss = tiny_model(width=width, depth=depth)
    settings = {"total": 4000, "batch": 500, "lr": 2e-3, "lr_ramp": 1000, "tick": 1000}
    config = TrainingConfig(**{**settings, **options})
    cpu = torch.device("cpu")
    data = ToyBatches(Toy("circles"), config.batch, 0, cpu, others, config.antithetic)
    return Trainer(model, loss, config), data
