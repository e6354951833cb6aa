"""Changes to the training of an image flow, each alone, judged on images that were held out.

    python dataset_tool.py --source=digits --dest=digits.zip --max-images=1500
    python dataset_tool.py --source=digits --dest=digits-held-out.zip --first-image=1500
    python benchmarks/image_trials.py --data=digits.zip --held-out=digits-held-out.zip
        [--dims_to_keep=10] [--trials=today,dropout 0.3] [--images=30000] [--seed=0]

All trainings see as many images in the same order, with the same noise, by the recipe of train.py
but for the change. The loss is that of training without the change, averaged over t uniform on
[t_min, T], over that of F = 0, the best linear denoiser, on the same draws:

held out      on held-out images; *best* is the least of the looks at each fourth of the training
train         on images that were trained on
by sixths     held out, by sixths of the time
variances     of kept latents of held-out images, melted with the noise of the first time, over
              their closed form: mean, and farthest from 1
s             seconds of the CPU
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

sys.path.insert(0, str(Path(__file__).parent.parent))

from dnnlib.errors import UsageError
from torch_utils.stats import RunningMeans
from training.data.images.batches import ImageBatches, ImageDataset, basis_batches
from training.flow.eigenbasis import EigenBasis
from training.flow.solvers import SOLVERS
from training.learning.building import Choices
from training.learning.loss import DenoisingLoss, DenoisingRegression, Draws
from training.learning.recipes import COMPRESSED_TIME, ImageRecipe, fitted
from training.learning.trainer import Trainer, TrainingConfig
from training.model.model import Model

REPEATS, BLOCK, LOOKS = 4, 250, 4
MELT_STEPS, MELTS = 24, 2
SIXTHS, BINS = 6, 24
CPU = torch.device("cpu")


class Weighted(DenoisingLoss):
    """A loss with weights of dimensions and times, which are 1 in the mean."""

    def per_sample(self, denoiser: nn.Module, clean: Tensor, draws: Draws, *rest: Any) -> Tensor:
        residual, target = denoiser(clean, draws.t, draws.noise)
        errors = (residual - target).square()
        return (errors * self.weights(denoiser, draws.t)).mean(dim=-1)

    def weights(self, denoiser: nn.Module, t: Tensor) -> Tensor:
        """Of errors ``[B, D]``, something to multiply them with."""
        raise NotImplementedError

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


class EqualTimes(Weighted):
    """The loss at each time over its own running mean, as the learned uncertainty of Karras et al.
    2024 comes to (*Analyzing and improving the training dynamics of diffusion models*)."""

    def per_sample(self, denoiser: nn.Module, clean: Tensor, draws: Draws, *rest: Any) -> Tensor:
        losses = super().per_sample(denoiser, clean, draws)
        means = means_of(self)
        bins = (self.place(draws.t) * BINS).long().clamp(0, BINS - 1)
        count = torch.zeros(BINS).index_add_(0, bins, torch.ones(len(bins)))
        total = torch.zeros(BINS).index_add_(0, bins, losses.detach())
        new = torch.where(count > 0, total / count.clamp_min(1), means)
        means.lerp_(new, 0.05)
        return losses / means[bins] * means.mean()

    def weights(self, denoiser: nn.Module, t: Tensor) -> Tensor:
        return torch.ones(())


class ImportantTimes(Weighted):
    """Times drawn more often where losses scatter more, and weighted down by as much."""

    def draw_rows(self, *arguments: Any) -> Draws:
        draws = super().draw_rows(*arguments)
        edges = self.edges()
        place = self.place(draws.t)
        bins = (torch.searchsorted(edges, place, right=True) - 1).clamp(0, BINS - 1)
        part = (place - edges[bins]) / (edges[bins + 1] - edges[bins])
        t = self.t_min + (self.t_max - self.t_min) * (bins + part) / BINS
        return Draws(t, draws.noise)

    def per_sample(self, denoiser: nn.Module, clean: Tensor, draws: Draws, *rest: Any) -> Tensor:
        losses = super().per_sample(denoiser, clean, draws)
        bins = (self.place(draws.t) * BINS).long().clamp(0, BINS - 1)
        scatter = means_of(self)
        for index, loss in zip(bins.tolist(), losses.detach().tolist(), strict=True):
            scatter[index] += 0.02 * (loss * loss - scatter[index])
        return losses

    def weights(self, denoiser: nn.Module, t: Tensor) -> Tensor:
        bins = (self.place(t) * BINS).long().clamp(0, BINS - 1)
        return (1 / (self.edges().diff()[bins] * BINS)).float()[:, None]

    def edges(self) -> Tensor:
        """Where bins of equal times lie among quantiles ``[BINS + 1]``."""
        density = means_of(self).sqrt()
        density = density / density.sum()
        density = 0.5 * density + 0.5 / BINS
        return torch.cat([torch.zeros(1), density.cumsum(0)]).double() / density.sum().double()


MEANS: dict[int, Tensor] = {}
"""What losses have seen, by their identity: they are frozen otherwise."""


def means_of(loss: DenoisingLoss) -> Tensor:
    return MEANS.setdefault(id(loss), torch.ones(BINS))


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


@dataclass(frozen=True)
class Trial:
    """A change.

    Attributes:
        recipe: To the recipe.
        loss: To the loss.
        prepare: To the network.
    """

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
    "average of a third of the length": Trial({"ema": 0.03}),
    "average of a fiftieth": Trial({"ema": 0.002}),
    "learning rate 4e-3": Trial({"lr": 4e-3}),
    "learning rate 1e-3": Trial({"lr": 1e-3}),
    "batch 32": Trial({"batch": 32}),
    "batch 128": Trial({"batch": 128}),
    "no dropout": Trial({"dropout": 0.0}),
    "dropout 0.3": Trial({"dropout": 0.3}),
    "magnitudes kept": Trial(prepare=keep_magnitudes),
}


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

    model: Model
    loss: DenoisingLoss
    best: float
    seconds: float


def train(images: Images, trial: Trial, kept: int | None, count: int, seed: int) -> Found:
    """A training with a change, on so many images."""
    values = {"duration": count / 1e6, **trial.recipe}
    recipe = fitted("ddpmpp", len(images.dataset), images.dataset.image_shape, CPU, values)
    model, plain = build(images, recipe, kept, seed)
    if trial.prepare:
        trial.prepare(model.denoiser.network)
    loss = trial.loss(plain.schedule, plain.t_min, plain.t_max, plain.t_sampling)
    config = TrainingConfig(
        total=count,
        batch=recipe.batch,
        lr=recipe.lr,
        lr_ramp=int(1e6 * recipe.lr_ramp),
        lr_decay=recipe.lr_decay,
        ema_halflife=int(1e6 * recipe.ema),
        seed=seed,
    )
    trainer, means = Trainer(model, loss, config), RunningMeans(CPU)
    batches = ImageBatches(images.dataset, recipe.batch, seed, CPU, 0).batches(0)
    every, looks, seconds = config.total_steps // LOOKS, [], 0.0
    for step in range(config.total_steps):
        began = time.process_time()
        trainer.train_step(next(batches), means)
        seconds += time.process_time() - began
        if (step + 1) % every == 0:
            looks.append(float(relative(trainer.averaged, plain, images.held_out)[0]))
    return Found(trainer.averaged, plain, min(looks), seconds)


def build(
    images: Images, recipe: ImageRecipe, kept: int | None, seed: int
) -> tuple[Model, DenoisingLoss]:
    """What train.py would begin with."""
    arguments: dict[str, Any] = {
        "image_shape": list(images.dataset.image_shape),
        "model_channels": recipe.cbase,
        "channel_mult": list(recipe.cres),
        "dropout": recipe.dropout,
        "num_blocks": recipe.blocks or 4,
        "pixel_waves": recipe.pixel_waves,
    }
    choices = Choices(
        "ifs",
        {"dims_to_keep": kept},
        "ddpmpp",
        arguments,
        "IS",
        "log",
        compressed_time=COMPRESSED_TIME,
        output_gain=True,
        seed=seed,
    )
    return choices.build(images.basis)


@torch.no_grad()
def relative(model: Model, loss: DenoisingLoss, points: Tensor) -> Tensor:
    """The loss over that of F = 0: of all times, and by sixths of them ``[1 + SIXTHS]``."""
    clean = model.denoiser.basis.to_eigen(points.repeat(REPEATS, 1))
    draws = loss.draw(len(clean), torch.Generator().manual_seed(0))
    order = torch.randperm(len(clean), generator=torch.Generator().manual_seed(1))
    regression = DenoisingRegression(model.denoiser)
    sums = torch.zeros(2, SIXTHS, dtype=torch.float64)
    place = (draws.t - loss.t_min) / (loss.t_max - loss.t_min)
    sixth = (place * SIXTHS).long().clamp(0, SIXTHS - 1)
    for part in torch.split(torch.arange(len(clean)), BLOCK):
        residual, target = regression(clean[order[part]], draws.t[part], draws.noise[part])
        for row, errors in enumerate(((residual - target), target)):
            sums[row].index_add_(0, sixth[part], errors.square().mean(dim=1).double())
    whole = sums.sum(dim=1)
    return torch.cat([whole[:1] / whole[1:], sums[0] / sums[1]])


@torch.no_grad()
def kept_variances(model: Model, loss: DenoisingLoss, points: Tensor) -> tuple[float, float]:
    """Growth of kept latents' second moments in melts over its closed form: mean, farthest."""
    flow, schedule = model.flow, model.denoiser.schedule
    times = schedule.times(MELT_STEPS, loss.t_max)
    clean = flow.basis.to_eigen(points.double().repeat(MELTS, 1))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2)).double()
    first, last = times[0], times[-1]
    start = schedule.scale(first) * (clean + schedule.noise_variance(first).sqrt() * noise)
    parts = torch.split(start, BLOCK)
    end = torch.cat([flow.simulate(part, times, SOLVERS["exp_ab2"]).end for part in parts])
    growth = end.square().mean(0) / start.square().mean(0)
    expected = flow.latent_law(last).variance / flow.latent_law(first).variance
    ratio = (growth / expected)[: model.about["dims_to_keep"]]
    return float(ratio.mean()), float(ratio[(ratio - 1).abs().argmax()])


@click.command(help=__doc__)
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--held-out", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--dims_to_keep", "kept", type=int, help="All, if it is left out.")
@click.option("--trials", default=",".join(TRIALS), help="With commas.")
@click.option("--images", "count", default=30_000, help="Of each training.")
@click.option("--seed", default=0)
def main(data: Path, held_out: Path, kept: int | None, trials: str, count: int, seed: int) -> None:
    names = trials.split(",")
    for name in names:
        if name not in TRIALS:
            raise UsageError(f"there is no trial '{name}', only {', '.join(TRIALS)}")
    torch.set_num_threads(1)
    images = Images.of(data, held_out)
    seen = images.points[: len(images.held_out)]
    print(f"{kept or images.basis.dim} dimensions kept, {count:,} images, seed {seed}\n")
    print("| change | held out | best | train | held out, by sixths of t | variances | s |")
    print("| --- | ---: | ---: | ---: | --- | --- | ---: |", flush=True)
    for name in names:
        found = train(images, TRIALS[name], kept, count, seed)
        whole, *parts = relative(found.model, found.loss, images.held_out).tolist()
        trained = float(relative(found.model, found.loss, seen)[0])
        variances = kept_variances(found.model, found.loss, images.held_out)
        cells = [
            name,
            f"{whole:.3f}",
            f"{found.best:.3f}",
            f"{trained:.3f}",
            " ".join(f"{part:.3f}" for part in parts),
            f"{variances[0]:.2f}, {variances[1]:.2f}",
            f"{found.seconds:.0f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
