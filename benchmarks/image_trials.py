"""Changes to the training of an image flow, each alone, judged on images that were held out.

    python dataset_tool.py --source=digits --dest=digits.zip --max-images=1500
    python dataset_tool.py --source=digits --dest=digits-held-out.zip --first-image=1500
    python benchmarks/image_trials.py --data=digits.zip --held-out=digits-held-out.zip
        [--dims_to_keep=10] [--trials=today,dropout 0.3] [--images=30000] [--seed=0]

All trainings see as many images in the same order, with the same noise, by the recipe of train.py
but for the change; with noise in pairs each image twice, and so half as many. The loss is that of
training without the change, averaged over t uniform on [t_min, T], over that of F = 0, the best
linear denoiser, on the same draws:

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
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.calibration import kept_growth
from benchmarks.image_denoiser_error import errors
from dnnlib.errors import UsageError
from torch_utils.stats import RunningMeans
from training.commands.train import training_on_images
from training.data.batches import Batch
from training.data.images.batches import ImageBatches, ImageDataset, basis_batches
from training.flow.eigenbasis import EigenBasis
from training.flow.solvers import SOLVERS
from training.learning.loss import DenoisingLoss, NoiseDraws
from training.learning.trainer import Trainer
from training.model.model import Model
from training.options.train import TrainSettings

REPEATS, BLOCK, LOOKS = 4, 250, 4
MELT_STEPS, MELTS = 24, 2
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


@dataclass(frozen=True)
class Trial:
    """A change.

    Attributes:
        options: Of ``train.py``.
        config: What no option says, of ``TrainingConfig``.
        loss: In place of the usual one.
        prepare: Changes the network.
    """

    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
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
    "average of a fifth of what was seen": Trial({"ema": 1.0}, {"ema_ramp": 0.2}),
    "average of a hundredth of it": Trial({"ema": 1.0}, {"ema_ramp": 0.01}),
    "learning rate 4e-3": Trial({"lr": 4e-3}),
    "learning rate 1e-3": Trial({"lr": 1e-3}),
    "batch 32": Trial({"batch": 32}),
    "batch 128": Trial({"batch": 128}),
    "no dropout": Trial({"dropout": 0.0}),
    "dropout 0.3": Trial({"dropout": 0.3}),
    "magnitudes kept": Trial(prepare=keep_magnitudes),
    "noise in pairs": Trial(config={"antithetic": True}),
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
    best: float
    seconds: float


def train(images: Images, trial: Trial, options: dict[str, Any]) -> Found:
    """A training by the recipe of ``train.py`` with these options, and a change."""
    settings: TrainSettings = TrainSettings.of(TrainSettings().recorded() | options | trial.options)
    training = training_on_images(settings, images.dataset.path)
    recipe = training.recipe(CPU)
    model, plain = training.choices(recipe).build(images.basis)
    if trial.prepare:
        trial.prepare(model.denoiser.network)
    loss = trial.loss(plain.schedule, plain.t_min, plain.t_max, plain.t_sampling)
    config = training.wanted.config(recipe)
    config = replace(config, **trial.config)
    trainer = Trainer(model, loss, config)
    means, looks, seconds = RunningMeans(CPU), [], 0.0
    uses = 2 if config.antithetic else 1
    batch, rest = divmod(config.batch, uses)
    if rest:
        raise UsageError(f"a batch of {config.batch} has no pairs: it must be even")
    batches = ImageBatches(images.dataset, batch, settings.run.seed, CPU, 0).batches(0)
    for step in range(config.total_steps):
        began = time.process_time()
        points = next(batches).points.repeat_interleave(uses, dim=0)
        trainer.train_step(Batch(points), means)
        seconds += time.process_time() - began
        if (step + 1) % (config.total_steps // LOOKS) == 0:
            looks.append(relative(trainer.averaged, images.held_out)[0])
    return Found(trainer.averaged, min(looks), seconds)


def relative(model: Model, images: Tensor) -> list[float]:
    """The loss over that of F = 0: of all times, and by sixths of them."""
    t, *losses = errors(model, images, REPEATS)
    first, last = model.about["tmin"], model.about["tmax"]
    sixth = ((t - first) / (last - first) * SIXTHS).long().clamp(0, SIXTHS - 1)
    own, linear = (
        torch.zeros(SIXTHS).double().index_add_(0, sixth, each.double()) for each in losses
    )
    return [float(own.sum() / linear.sum()), *(own / linear).tolist()]


def kept_variances(model: Model, images: Tensor) -> tuple[float, float]:
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
    options = {"data": data, "dims_to_keep": kept, "duration": count / 1e6, "seed": seed}
    for name in names:
        found = train(images, TRIALS[name], options)
        whole, *parts = relative(found.model, images.held_out)
        trained, *_ = relative(found.model, seen)
        variances = kept_variances(found.model, images.held_out)
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
