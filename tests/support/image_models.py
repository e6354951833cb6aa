"""Tiny image networks saved as network files, and tiny data sets, for tests of the image scripts.

A network whose output is zero makes the denoiser ``c_skip x``, which is exact for Gaussian data:
its flow is known in closed form.
"""

import numpy as np
import pytest
import torch

from tests.support.draws import normal, seeded
from tests.support.image_runs import write_images
from training.flow.eigenbasis import EigenBasis
from training.learning.building import ModelConfig

SHAPE = (1, 8, 8)


def image_basis(dim):
    generator = seeded(dim)
    mean = 0.2 * normal(dim, generator=generator)
    rotation, _ = torch.linalg.qr(normal(dim, dim, generator=generator))
    return EigenBasis(mean, torch.logspace(-0.5, -2, dim, dtype=torch.float64), rotation)


def image_model(
    dims_to_keep=None,
    *,
    output="zero",
    label_dim=0,
    image_shape=SHAPE,
    t_min=0.0,
    t_max=6.0,
    precond="ifs",
    space="IS",
    data_name="blobs",
    **inflation,
):
    """A DDPM++ as small as they come, whose output is ``zero`` or ``random``: moderate, depending
    on input, time and class. Further arguments are those of the schedule."""
    basis = image_basis(int(np.prod(image_shape)))
    if precond == "ifs":
        inflation["dims_to_keep"] = dims_to_keep or basis.dim
    sizes = {"model_channels": 8, "channel_mult": [1], "num_blocks": 1, "dropout": 0.0}
    about = {"image_shape": list(image_shape), "label_dim": label_dim}
    arguments = {**about, **sizes, "attention_resolutions": []}
    first = None if precond != "ifs" and t_min == 0 else t_min
    choices = ModelConfig(precond, inflation, "ddpmpp", arguments, space, "log", first, t_max)
    model, _ = choices.build(basis)
    fill(model.denoiser.network, output)
    model.about |= {"kind": "images", "data_name": data_name, **about, "seen": 0}
    return model


@torch.no_grad()
def fill(network, output):
    generator = seeded(1)
    for name, weights in network.named_parameters():
        if output == "zero" or weights.ndim < 2:
            weights.mul_(float(output != "zero"))
            continue
        gain = 0.2 if "to_image" in name else 1.0
        weights.normal_(std=gain / weights[0].numel() ** 0.5, generator=generator)


def save_image_model(path, *arguments, **options):
    model = image_model(*arguments, **options)
    model.save(path)
    return model


def write_image_set(path, count, image_shape=SHAPE, classes=0, seed=0):
    """Writes random images, with labels ``i % classes`` if any: ``[count, C, H, W]``."""
    channels, height, width = image_shape
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, height, width, channels), np.uint8)
    write_images(path, pixels, [index % classes for index in range(count)] if classes else None)
    return pixels.transpose(0, 3, 1, 2)


CLASSES, END = 3, 3.0
GAP = {"g_type": "constant_inflation_gap", "inflation_gap": 1.3}
RANDOM = {"output": "random", "label_dim": CLASSES}
KINDS = {
    "PRP": {},
    "PRR": {"dims_to_keep": 10},
    "gap": {"dims_to_keep": 10, "rho": 1.2, "gamma0": 1e-3, **GAP},
    "late": {"t_min": 0.5, "space": "ES"},
    "late PRR": {"dims_to_keep": 10, "t_min": 0.5},
    "VP": {"precond": "vp", "t_max": 1.0},
    "colors": {"image_shape": (3, 8, 8)},
    "random": {"output": "random"},
    "other": {"output": "random", "rho": 1.1},
    "classes": {"dims_to_keep": 10, **RANDOM},
    "classes in ES": {"space": "ES", **RANDOM},
}


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Files of image networks that know times up to 3; the output of most is zero."""
    folder = tmp_path_factory.mktemp("networks")
    paths = {name: folder / f"{name}.pkl" for name in KINDS}
    for name, options in KINDS.items():
        save_image_model(paths[name], **{"t_max": END, **options})
    return paths


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "blobs.zip"
    write_image_set(path, 30, classes=CLASSES)
    return path
