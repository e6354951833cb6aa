"""Tiny trainings, on images and not, and how two of them are compared."""

import hashlib
import json
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

import train
from tests.support.running import good, run_script, trained
from torch_utils.snapshots import Part, read_network, read_state
from training.data.sources.writer import image_writer
from training.trained.network import TrainedNetwork

ROOT = Path(train.__file__).parent
IMAGES, CLASSES, SIDE = 70, 4, 8
TINY = (
    *("--preset=published", "--cbase=8", "--cres=1", "--batch=16", "--duration=0.000064"),
    *("--workers=0", "--no-calibrate"),
)
# Forty steps, a state at both reports.
SHORT = (
    *("--cbase=8", "--cres=1", "--batch=50", "--duration=0.002", "--workers=0", "--tick=1"),
    *("--dump=1", "--cond", "--dims_to_keep=5", "--device_name=cpu"),
)
# With all that draws random numbers or asks for data.
DRAWING = ("--workers=2", "--seed=5", "--xflip", "--augment=0.5", "--dropout=0.3", "--ema=0.0001")


def write_images(path, images, labels=None):
    """A data set of ``images [N, H, W, C]`` around 127.5."""
    with image_writer(path) as writer:
        for index, pixels in enumerate(np.clip(images.round(), 0, 255).astype(np.uint8)):
            writer.add(pixels, None if labels is None else labels[index])
    return path


def network_file(folder):
    return max(folder.glob("network-snapshot-*.pkl"))


def load(folder):
    return TrainedNetwork.load(network_file(folder))


def weights(folder):
    return read_network(network_file(folder))[0]["network"].state


def stats(folder):
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return equal(one.numpy(), other.numpy())
    if isinstance(one, np.ndarray):
        same_kind = (one.dtype, one.shape) == (other.dtype, other.shape)
        return same_kind and one.tobytes() == other.tobytes()
    if isinstance(one, Part):
        return isinstance(other, Part) and equal(vars(one), vars(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def same_end(one, other):
    states = [read_state(max(folder.glob("training-state-*.pt"))) for folder in (one, other)]
    networks = [read_network(network_file(folder)) for folder in (one, other)]
    return equal(*states) and equal(*networks)


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    """Noisy gray images around one pattern a class, with labels."""
    random = np.random.default_rng(0)
    patterns = random.normal(size=(CLASSES, SIDE, SIDE, 1))
    labels = [index % CLASSES for index in range(IMAGES)]
    noise = random.normal(size=(IMAGES, SIDE, SIDE, 1))
    path = tmp_path_factory.mktemp("data") / "blobs.zip"
    return write_images(path, 127.5 + 40 * patterns[labels] + 15 * noise, labels)


@pytest.fixture(scope="session")
def colors(tmp_path_factory):
    images = 127.5 + 30 * np.random.default_rng(1).normal(size=(40, SIDE, SIDE, 3))
    return write_images(tmp_path_factory.mktemp("data") / "colors.zip", images)


@pytest.fixture(scope="session")
def few(tmp_path_factory):
    images = 127.5 + 60 * np.random.default_rng(2).normal(size=(12, SIDE, SIDE, 1))
    return write_images(tmp_path_factory.mktemp("data") / "few.zip", images)


@pytest.fixture(scope="session")
def fit(blobs, tmp_path_factory):
    """Trains for four steps, without a look at its latents, and gives the run's folder, not to be
    written to: the same options are trained with once."""

    @cache
    def start(*arguments, data=blobs):
        outdir = tmp_path_factory.mktemp("fit")
        with mock.patch("training.learning.run.learn_latents"):
            good(run_script(train, f"--outdir={outdir}", f"--data={data}", *TINY, *arguments))
        return next(outdir.iterdir())

    return start


@pytest.fixture(scope="session")
def short(blobs, tmp_path_factory):
    place = tmp_path_factory.mktemp("short")
    return trained(place, train, f"--data={blobs}", *SHORT, *DRAWING)


SIZE, FEATURES = 4, 6
MAP = torch.from_numpy(np.random.default_rng(7).normal(size=(3 * SIZE * SIZE, FEATURES)))


class LinearDetector:
    """Six linear functions of the pixels; its file is any file."""

    dim = FEATURES

    def __init__(self, path, device):
        self.identity = hashlib.sha256(path.read_bytes()).hexdigest()

    def __call__(self, pixels):
        assert pixels.dtype == torch.uint8
        return (pixels.double().flatten(1) / 255 @ MAP).float()


def features_of(pixels):
    return torch.from_numpy(np.moveaxis(pixels, -1, 1).reshape(len(pixels), -1) / 255) @ MAP
