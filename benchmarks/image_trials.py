"""Changes to the training of an image flow, each alone, judged on images that were held out.

    python dataset_tool.py --source=digits --dest=digits.zip --max-images=1500
    python dataset_tool.py --source=digits --dest=digits-held-out.zip --first-image=1500
    python benchmarks/image_trials.py --data=digits.zip --held-out=digits-held-out.zip
        [--dims_to_keep=10] [--trials=today,dropout 0.3] [--images=30000 | --seconds=80] [--seed=0]

All trainings see as many images in the same order, with the same noise, by the recipe of train.py
but for the change; with noise in pairs each image twice, and so half as many. With --seconds each
sees as many as fit into these by its fastest step. --trials may also name sizes of the network:
"16 channels", "8 channels", "8 channels attending at 8", any size such as "16x2@8" (16 channels, 2
blocks a level, attention at 8 pixels), and patches: squares of 2 x 2 pixels are
channels inside the network (Hoogeboom et al. 2023, *simple diffusion*), "patches", "patches, 64
channels", and "patches of 16 channels and pixels", which ends in two layers on pixels that see
what the first layer sees.

The loss is that of training without the change, averaged over t uniform on [t_min, T], over that of
F = 0, the best linear denoiser, on the same draws:

held out      on held-out images; *best* is the least of the looks at each fourth of the training
train         on images that were trained on
by sixths     held out, by sixths of the time
variances     of kept latents of held-out images, melted with the noise of the first time, over
              their closed form: mean, and farthest from 1
s             seconds of the CPU

With --seconds there are, in place of variances:

images        thousands that were seen
ms            of the CPU for a call of 256 images, the fastest of five
"""

import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.calibration import kept_growth
from benchmarks.image_denoiser_error import errors
from dnnlib.errors import UsageError
from torch_utils.stats import RunningMeans
from training.data.batches import Batch
from training.data.images.dataset import ImageBatches, ImageDataset, basis_batches
from training.flow.eigenbasis import EigenBasis
from training.flow.solvers import SOLVERS
from training.learning.loss import DenoisingLoss, NoiseDraws
from training.learning.trainer import Trainer
from training.models.training import training_on_images
from training.settings.train import TrainSettings
from training.trained.network import TrainedNetwork

REPEATS, BLOCK, LOOKS = 4, 250, 4
MELT_STEPS, MELTS = 24, 2
FIRST_STEPS, CALLS, ROWS = 8, 5, 256
PATCH, FEATURES, WIDTH = 2, 8, 16
"""Side of a patch; features of a pixel that the last layers see, and channels between them."""
SIXTHS = 6
BINS, FORGETTING = 24, 0.05
"""Of times; the part of a running mean that a step replaces."""
CPU = torch.device("cpu")


class Weighted(DenoisingLoss):
    """A loss with weights of dimensions and times, which are 1 in the mean."""

    def per_sample(
        self, denoiser: nn.Module, clean: Tensor, draws: NoiseDraws, *rest: Any
    ) -> Tensor:
        residual, target = denoiser(clean, draws.t, draws.noise)
        errors = (residual - target).square()
        losses = (errors * self.weights(denoiser, draws.t)).mean(dim=-1)
        self.see(draws.t, errors.detach().mean(dim=-1))
        return losses

    def see(self, t: Tensor, losses: Tensor) -> None:
        """Takes note of losses ``[B]`` without weights at times ``[B]``."""

    def weights(self, denoiser: nn.Module, t: Tensor) -> Tensor:
        """Of errors ``[B, D]``, something to multiply them with."""
        return torch.ones(())

    def place(self, t: Tensor) -> Tensor:
        """Times as parts of the whole range."""
        return (t - self.t_min) / (self.t_max - self.t_min)


class WideAxes(Weighted):
    """Weights of dimensions are as the fourth root of their variances."""

    def weights(self, denoiser: nn.Module, t: Tensor) -> Tensor:
        inner: Any = denoiser
        weights = inner.denoiser.basis.eigenvalues.sqrt().sqrt()
        return (weights / weights.mean()).float()


class MiddleTimes(Weighted):
    """Three times the weight in the middle third of the time."""

    def weights(self, denoiser: nn.Module, t: Tensor) -> Tensor:
        middle = (self.place(t) - 0.5).abs() < 1 / 6
        return ((1 + 2.0 * middle) * (3 / 5)).float()[:, None]


class Watching(Weighted):
    """Running means of squared losses, by time."""

    @cached_property
    def squares(self) -> Tensor:
        """``[BINS]``, the same tensor always."""
        return torch.ones(BINS)

    def see(self, t: Tensor, losses: Tensor) -> None:
        bins = self.bins(t)
        count = torch.zeros(BINS).index_add_(0, bins, torch.ones(len(bins)))
        total = torch.zeros(BINS).index_add_(0, bins, losses.square())
        new = torch.where(count > 0, total / count.clamp_min(1), self.squares)
        self.squares.lerp_(new, FORGETTING)

    def bins(self, t: Tensor) -> Tensor:
        return (self.place(t) * BINS).long().clamp(0, BINS - 1)


class EqualTimes(Watching):
    """The loss at each time over its own running mean, as the learned uncertainty of Karras et al.
    2024 comes to (*Analyzing and improving the training dynamics of diffusion models*)."""

    def weights(self, denoiser: nn.Module, t: Tensor) -> Tensor:
        sizes = self.squares.sqrt()
        return (sizes.mean() / sizes[self.bins(t)])[:, None]


class ImportantTimes(Watching):
    """Times drawn more often where losses are larger, by the root of their mean square, and
    weighted down by as much; half of the draws are uniform."""

    def draw_rows(self, *arguments: Any, **named: Any) -> NoiseDraws:
        draws, edges = super().draw_rows(*arguments, **named), self.edges
        place = self.place(draws.t)
        bins = (torch.searchsorted(edges, place, right=True) - 1).clamp(0, BINS - 1)
        part = (place - edges[bins]) / (edges[bins + 1] - edges[bins])
        return NoiseDraws(
            self.t_min + (self.t_max - self.t_min) * (bins + part) / BINS, draws.noise
        )

    def weights(self, denoiser: nn.Module, t: Tensor) -> Tensor:
        # Nothing was seen since these times were drawn.
        return (1 / (self.density * BINS))[self.bins(t)][:, None]

    @property
    def edges(self) -> Tensor:
        """Where bins of equal times lie among quantiles ``[BINS + 1]``, float64."""
        return torch.cat([torch.zeros(1), self.density.cumsum(0)]).double()

    @property
    def density(self) -> Tensor:
        """The share of draws in each bin, ``[BINS]``."""
        sizes = self.squares.sqrt()
        return 0.5 * sizes / sizes.sum() + 0.5 / BINS


class UnitRows(nn.Module):
    """Weights of unit length for each output, so that a layer keeps the variance of its input."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))


def keep_magnitudes(network: nn.Module) -> None:
    """Normalizes the weights of all convolutions but the one that makes the output (Karras et al.
    2024), whose gain starts at zero. Group normalization stays."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    for layer in layers[:-1]:
        parametrize.register_parametrization(layer, "weight", UnitRows())


class InPatches(nn.Module):
    """A first layer that sees patches."""

    def __init__(self, layer: nn.Conv2d):
        super().__init__()
        inner = nn.Conv2d(PATCH**2 * layer.in_channels, layer.out_channels, 3, padding=1)
        nn.init.xavier_uniform_(inner.weight)
        self.layer, self.seen = inner, torch.empty(0)

    def forward(self, seen: Tensor) -> Tensor:
        self.seen = seen
        patches = F.pixel_unshuffle(seen, PATCH)
        return self.layer(patches.contiguous(memory_format=torch.channels_last))


class FromPatches(nn.Module):
    """A last layer that makes pixels of patches; with the first layer given, by features of pixels
    beside what that one sees."""

    def __init__(self, layer: nn.Conv2d, first: InPatches | None = None):
        super().__init__()
        made = layer.out_channels * (FEATURES if first else 1)
        self.layer = nn.Conv2d(layer.in_channels, PATCH**2 * made, 3, padding=1)
        self.first, last = first, self.layer
        nn.init.xavier_uniform_(self.layer.weight)
        if first is not None:
            seen = made + first.layer.in_channels // PATCH**2
            self.mixed = nn.Conv2d(seen, WIDTH, 3, padding=1)
            self.last = last = nn.Conv2d(WIDTH, layer.out_channels, 1)
            nn.init.xavier_uniform_(self.mixed.weight)
        nn.init.xavier_uniform_(last.weight, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        pixels = F.pixel_shuffle(self.layer(x), PATCH)
        if self.first is None:
            return pixels
        features = torch.cat([pixels, self.first.seen], dim=1)
        features = features.contiguous(memory_format=torch.channels_last)
        return self.last(F.silu(self.mixed(features)))


def see_patches(network: Any, pixels_last: bool = False) -> None:
    """Lets a U-Net work on patches, as many levels and channels as it has; attention stays where
    it was, on a side that is half as large."""
    first = network.encoder.stem = InPatches(network.encoder.stem)
    end = network.decoder.levels[-1].to_image
    end.conv = FromPatches(end.conv, first if pixels_last else None)
    network.to(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Trial:
    """A change.

    Attributes:
        options: Of ``train.py``.
        network: Arguments of the network that no option says.
        recipe: What no option says, of ``Recipe``.
        loss: In place of the usual one.
        prepare: Changes the network.
    """

    options: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    loss: type[DenoisingLoss] = DenoisingLoss
    prepare: Callable[[nn.Module], None] | None = None


TRIALS = {
    "today": Trial(),
    "no waves of pixels": Trial({"pixel_waves": 0}),
    "4 blocks a level": Trial({"blocks": 4}),
    "wide axes weighted": Trial(loss=WideAxes),
    "middle times weighted": Trial(loss=MiddleTimes),
    "loss over its mean at t": Trial(loss=EqualTimes),
    "times by importance": Trial(loss=ImportantTimes),
    "average of a fifth of what was seen": Trial({"ema": 1.0}, recipe={"ema_ramp": 0.2}),
    "average of a hundredth of it": Trial({"ema": 1.0}, recipe={"ema_ramp": 0.01}),
    "learning rate 4e-3": Trial({"lr": 4e-3}),
    "learning rate 1e-3": Trial({"lr": 1e-3}),
    "batch 32": Trial({"batch": 32}),
    "batch 128": Trial({"batch": 128}),
    "no dropout": Trial({"dropout": 0.0}),
    "dropout 0.3": Trial({"dropout": 0.3}),
    "magnitudes kept": Trial(prepare=keep_magnitudes),
    "noise in pairs": Trial(recipe={"antithetic": True}),
}
SIZES = {
    "16 channels": Trial({"cbase": 16}),
    "8 channels": Trial({"cbase": 8}),
    "8 channels attending at 8": Trial({"cbase": 8}, {"attention_resolutions": [8]}),
    "patches": Trial(prepare=see_patches),
    "patches of 64 channels": Trial({"cbase": 64, "lr": 2e-3}, prepare=see_patches),
    "patches of 16 channels and pixels": Trial(
        {"cbase": 16}, prepare=partial(see_patches, pixels_last=True)
    ),
}
"""Of the network, which are compared on larger images and in equal time."""


def size_of(name: str) -> Trial | None:
    """Return the trial of a size like ``16x2@8``: 16 channels, 2 blocks a level, attention at 8
    pixels; None for other names."""
    if not (match := re.fullmatch(r"(\d+)x(\d+)(?:@(\d+))?", name)):
        return None
    channels, blocks, side = match.groups()
    attends = {"attention_resolutions": [int(side)] if side else []}
    return Trial({"cbase": int(channels), "blocks": int(blocks)}, attends)


@dataclass(frozen=True)
class Images:
    """Points ``[N, D]`` of a data set, in its order, and what is needed to train on it."""

    dataset: ImageDataset
    points: Tensor
    held_out: Tensor
    basis: EigenBasis

    @classmethod
    def of(cls, data: Path, held_out: Path) -> "Images":
        dataset, other = ImageDataset(data), ImageDataset(held_out)
        dataset.keep_in_memory()
        points, others = (torch.cat(list(basis_batches(each))) for each in (dataset, other))
        return cls(dataset, points, others, EigenBasis.fit(basis_batches(dataset)))


@dataclass(frozen=True)
class Found:
    """What a training has come to."""

    model: TrainedNetwork
    best: float
    seconds: float


@dataclass(frozen=True)
class Begun:
    """A training by the recipe of ``train.py`` with these options, and a change."""

    trainer: Trainer
    points: Iterator[Tensor]
    means: RunningMeans

    @classmethod
    def of(cls, images: Images, trial: Trial, options: dict[str, Any]) -> "Begun":
        settings = TrainSettings.of(TrainSettings().recorded() | options | trial.options)
        training = training_on_images(settings, images.dataset.path)
        recipe = training.recipe(CPU)
        choices = training.full_config(recipe)
        arguments = {**choices.network_arguments, **trial.network}
        model, plain = replace(choices, network_arguments=arguments).build(images.basis)
        if trial.prepare:
            trial.prepare(model.denoiser.network)
        loss = trial.loss(plain.schedule, plain.t_min, plain.t_max, plain.t_sampling)
        recipe = replace(recipe, **trial.recipe)
        uses = 2 if recipe.antithetic else 1
        batch, rest = divmod(recipe.batch, uses)
        if rest:
            raise UsageError(f"a batch of {recipe.batch} has no pairs: it must be even")
        batches = ImageBatches(images.dataset, batch, settings.run.seed, CPU, 0).batches(0)
        points = (each.points.repeat_interleave(uses, dim=0) for each in batches)
        return cls(Trainer(model, loss, recipe), points, RunningMeans(CPU))

    def step(self) -> float:
        """Takes a step. Returns its seconds of the CPU."""
        began = time.process_time()
        self.trainer.train_step(Batch(next(self.points)), self.means)
        return time.process_time() - began


def train(images: Images, trial: Trial, options: dict[str, Any]) -> Found:
    training = Begun.of(images, trial, options)
    trainer, looks, seconds = training.trainer, [], 0.0
    for step in range(trainer.recipe.steps):
        seconds += training.step()
        if (step + 1) % (trainer.recipe.steps // LOOKS) == 0:
            looks.append(relative(trainer.averaged, images.held_out)[0])
    return Found(trainer.averaged, min(looks), seconds)


def images_within(seconds: float, training: Begun) -> int:
    """How many images it sees in these seconds, by its fastest step."""
    fastest = min(training.step() for _ in range(FIRST_STEPS))
    return max(int(seconds / fastest), LOOKS) * training.trainer.recipe.batch


@torch.no_grad()
def call_seconds(model: TrainedNetwork, images: Tensor) -> float:
    """Of the CPU, for a call of so many images, the fastest of some."""
    points = model.denoiser.basis.to_eigen(images[:1].expand(ROWS, -1))
    t = torch.full((ROWS,), model.about["tmax"] / 4, dtype=torch.float64)
    times = []
    for _ in range(CALLS):
        began = time.process_time()
        model.denoiser(points, t)
        times.append(time.process_time() - began)
    return min(times)


def relative(model: TrainedNetwork, images: Tensor) -> list[float]:
    """The loss over that of F = 0: of all times, and by sixths of them."""
    t, *losses = errors(model, images, REPEATS)
    first, last = model.about["tmin"], model.about["tmax"]
    sixth = ((t - first) / (last - first) * SIXTHS).long().clamp(0, SIXTHS - 1)
    own, linear = (
        torch.zeros(SIXTHS).double().index_add_(0, sixth, each.double()) for each in losses
    )
    return [float(own.sum() / linear.sum()), *(own / linear).tolist()]


def kept_variances(model: TrainedNetwork, images: Tensor) -> tuple[float, float]:
    """Of latents of images with the noise of the first time, over their closed form: mean,
    farthest."""
    flow, schedule = model.flow.in_blocks(BLOCK), model.denoiser.schedule
    times = schedule.times(MELT_STEPS, model.about["tmax"])
    noise = schedule.sample_noise(MELTS * len(images), times[0], torch.Generator().manual_seed(2))
    start = flow.basis.to_eigen(images.double().repeat(MELTS, 1)) + noise
    kept, solver = model.about["dims_to_keep"], SOLVERS["exp_ab2"]
    with torch.no_grad():
        return kept_growth(flow, schedule.scale(times[0]) * start, times, kept, solver)


@click.command(help=__doc__)
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--held-out", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--dims_to_keep", "kept", type=int, help="All, if it is left out.")
@click.option("--trials", default=",".join(TRIALS), help="With commas.")
@click.option("--images", "count", default=30_000, help="Of each training.")
@click.option("--seconds", type=float, help="Of the CPU for each training, in place of images.")
@click.option("--seed", default=0)
def main(
    data: Path,
    held_out: Path,
    kept: int | None,
    trials: str,
    count: int,
    seconds: float | None,
    seed: int,
) -> None:
    names = trials.split(",")
    known = TRIALS | SIZES | {name: trial for name in names if (trial := size_of(name))}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no trial '{name}', only {', '.join(known)}")
    torch.set_num_threads(1)
    images = Images.of(data, held_out)
    seen = images.points[: len(images.held_out)]
    length = f"{seconds:g} s" if seconds else f"{count:,} images"
    print(f"{kept or images.basis.dim} dimensions kept, {length}, seed {seed}\n")
    further = "images, ms" if seconds else "variances"
    print(f"| change | held out | best | train | held out, by sixths of t | {further} | s |")
    print("| --- | ---: | ---: | ---: | --- | --- | ---: |", flush=True)
    options = {"data": data, "dims_to_keep": kept, "duration": count / 1e6, "seed": seed}
    for name in names:
        if seconds:
            count = images_within(seconds, Begun.of(images, known[name], options))
            options["duration"] = count / 1e6
        found = train(images, known[name], options)
        whole, *parts = relative(found.model, images.held_out)
        trained, *_ = relative(found.model, seen)
        if seconds:
            ms = 1000 * call_seconds(found.model, images.held_out)
            more = f"{count / 1000:.0f}, {ms:.0f}"
        else:
            mean, farthest = kept_variances(found.model, images.held_out)
            more = f"{mean:.2f}, {farthest:.2f}"
        cells = [
            name,
            f"{whole:.3f}",
            f"{found.best:.3f}",
            f"{trained:.3f}",
            " ".join(f"{part:.3f}" for part in parts),
            more,
            f"{found.seconds:.0f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
