"""Small trainers on the CPU, and of every network on a card."""

import math
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import nn

from tests.support.draws import normal, seeded
from tests.support.image_models import image_basis
from tests.support.image_runs import equal
from torch_utils.stats import RunningMeans
from training.data.augment import AugmentedBatches, GeometricAugmentation
from training.data.batches import Batch, BatchSource, ToyBatches
from training.data.toys import Toy
from training.flow.eigenbasis import EigenBasis
from training.learning.building import ModelConfig
from training.learning.trainer import Trainer
from training.recipes import Recipe


def tiny_model(network="mlp", space="ES", dims_to_keep=2, **sizes):
    """An untrained small network for circles, equal at each call, and its loss."""
    choices = ModelConfig("ifs", {"dims_to_keep": dims_to_keep}, network, sizes, space, "log")
    return choices.build(EigenBasis.from_moments(*Toy("circles").moments()))


def circles_trainer(width=16, depth=2, others=0, **options):
    """A trainer of a small network on circles, with its data, and so many points to average targets
    over; options go to the recipe."""
    model, loss = tiny_model(width=width, depth=depth)
    settings = {"duration": 0.004, "batch": 500, "lr": 2e-3, "lr_ramp": 1e-3, "tick": 1}
    recipe = Recipe(**{**settings, **options})
    cpu = torch.device("cpu")
    data = ToyBatches(Toy("circles"), recipe.batch, 0, cpu, others, recipe.antithetic)
    return Trainer(model, loss, recipe), data


@dataclass
class Troubled:
    """A source whose batches are not finite at some steps, and bring a signal at others."""

    source: BatchSource
    spoilt: Container[int] = ()
    signals: Mapping[int, int] = field(default_factory=dict)

    def batches(self, first_step):
        for step, batch in zip(count(first_step), self.source.batches(first_step)):
            points = batch.points.clone()
            if step in self.spoilt:
                points[0, 0] = math.nan
            if step in self.signals:
                os.kill(os.getpid(), self.signals[step])
            yield Batch(points)


def tensors(state, prefix=""):
    """A nested state as one flat dictionary."""
    if not isinstance(state, dict | list | tuple):
        return {prefix: state}
    items = state.items() if isinstance(state, dict) else enumerate(state)
    flat = {}
    for key, value in items:
        flat |= tensors(value, f"{prefix}/{key}")
    return flat


def assert_same_state(one, other):
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    assert not [key for key in first if not equal(first[key], second[key])]


def run_steps(trainer, source, steps=1):
    batches, means = source.batches(trainer.step), RunningMeans(trainer.device)
    for _ in range(steps):
        trainer.train_step(next(batches), means)
    return means


def weights(module):
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


BATCH = 4
SHAPE = (1, 8, 8)
UNET = {"image_shape": SHAPE, "model_channels": 8, "channel_mult": [1], "num_blocks": 1}
UNET |= {"attention_resolutions": [8], "dropout": 0.0}
"""Without dropout, whose draws go by the layout in memory, which can differ on a card."""
MLP = {"width": 8, "depth": 1}
NETWORKS = {
    "DDPM++ of classes": ("ddpmpp", {**UNET, "channel_mult": [1, 1], "label_dim": 3}),
    "NCSN++ of augmented images": ("ncsnpp", {**UNET, "augment_dim": 9}),
    "ADM": ("adm", {**UNET, "head_channels": 8}),
    "MLP": ("mlp", MLP),
    "ensemble with conditions": ("mlp", {**MLP, "members": 2, "label_dim": 3, "dropout": 0.1}),
    "embedded conditions": ("mlp", {**MLP, "label_dim": 16, "condition_shape": [1, 4, 4]}),
    "ToyConvUNet": ("ToyConvUNet", {"channels": 8}),
    "ToySongUNet": ("ToySongUNet", {"channels": 8}),
}


@dataclass
class Repeated:
    batch: Batch

    def batches(self, first_step):
        while True:
            yield self.batch


def model_of(name):
    """A model of a network in ``NETWORKS`` with random weights, equal at each call."""
    network, sizes = NETWORKS[name]
    images = "image_shape" in sizes
    basis = image_basis(64) if images else EigenBasis(torch.ones(2), torch.ones(2), torch.eye(2))
    space, gain = "ES" if network == "mlp" else "IS", not images
    choices = ModelConfig(
        "ifs", {"dims_to_keep": 1}, network, sizes, space, "log", output_gain=gain
    )
    model, loss = choices.build(basis)
    generator = seeded()
    for weights in model.denoiser.parameters():
        nn.init.normal_(weights, std=0.1, generator=generator)
    return model, loss


def points_and_labels(name, count=BATCH):
    _, sizes = NETWORKS[name]
    labels = sizes.get("label_dim")
    points = normal(count, 64 if "image_shape" in sizes else 2).float()
    return Batch(points, normal(count, labels, seed=1).float() if labels else None)


def trainer_on(device, name, precision="fp32", **settings):
    """A trainer on a device, and batches from the CPU; settings go to the recipe."""
    model, loss = model_of(name)
    model.denoiser.to(device)
    model.denoiser.precision = precision
    trainer = Trainer(model, loss, Recipe(duration=1e-4, batch=BATCH, lr_ramp=0, **settings))
    source = Repeated(points_and_labels(name))
    if "augment_dim" in NETWORKS[name][1]:
        there = Repeated(Batch(points_and_labels(name).points.to(device)))
        source = AugmentedBatches(there, GeometricAugmentation(0.5), SHAPE, BATCH, seed=0)
    return trainer, source


def tensors_of(trainer):
    moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
    modules = (trainer.denoiser, trainer.averaged.denoiser)
    return [*moments, *(tensor for module in modules for tensor in module.state_dict().values())]
