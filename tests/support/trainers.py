"""Models and trainers of small networks on circles, for tests, and what is done with trainers."""

import math
import os
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from operator import eq
from typing import Any

import torch
from torch import Tensor, nn

from torch_utils.stats import RunningMeans
from training.data.batches import Batch, BatchSource, ToyBatches
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


@dataclass
class Troubled:
    """A source whose batches are not finite at some steps, and bring a signal at others."""

    source: BatchSource
    spoilt: Container[int] = ()
    signals: Mapping[int, int] = field(default_factory=dict)

    def batches(self, first_step: int) -> Iterator[Batch]:
        for step, batch in zip(count(first_step), self.source.batches(first_step)):
            points = batch.points.clone()
            if step in self.spoilt:
                points[0, 0] = math.nan
            if step in self.signals:
                os.kill(os.getpid(), self.signals[step])
            yield Batch(points)


def tensors(state: Any, prefix: str = "") -> dict[str, Any]:
    """A nested state as one flat dictionary."""
    if not isinstance(state, dict | list | tuple):
        return {prefix: state}
    items = state.items() if isinstance(state, dict) else enumerate(state)
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= tensors(value, f"{prefix}/{key}")
    return flat


def assert_same_state(one: Any, other: Any) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    for key, value in first.items():
        same = torch.equal if isinstance(value, Tensor) else eq
        assert same(value, second[key]), key


def run_steps(trainer: Trainer, source: BatchSource, steps: int = 1) -> RunningMeans:
    """Trains, and gives the statistics."""
    batches, means = source.batches(trainer.step), RunningMeans(trainer.device)
    for _ in range(steps):
        trainer.train_step(next(batches), means)
    return means


def weights(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()
