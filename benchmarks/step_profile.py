"""Where the time of a training step goes, as shares: of circles' MLP, and of a DDPM++ at 32 x 32.

    OMP_NUM_THREADS=1 python benchmarks/step_profile.py [--rounds=5]

The MLP is that of ``toy_train.py``, by its defaults and with ``--others=0 --no-antithetic``; the
DDPM++ has the 32 channels that ``train.py`` chooses on a CPU, with augmentation and batches of 8.
Each part's time is its own, without that of parts within it. It is the mean of so many steps as
share further points, in the best of all rounds, since what else a machine does only adds to it.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from torch_utils.stats import RunningMeans
from training.data.augment import AugmentedBatches, GeometricAugmentation
from training.data.batches import OTHERS_PER_SAMPLE, Batch, BatchSource, ToyBatches
from training.data.toys import Toy
from training.flow.eigenbasis import EigenBasis
from training.learning import loss as losses
from training.learning.building import Choices
from training.learning.loss import DenoisingLoss
from training.learning.trainer import Trainer, TrainingConfig
from training.names import OTHERS
from training.recipes import AVERAGED_PLANE, TOY, TrainingRecipe

CPU = torch.device("cpu")
SHAPE, DIM, IMAGES = (3, 32, 32), 3072, 8
SMALL = {"model_channels": 32, "channel_mult": [1, 2, 2], "image_shape": SHAPE, "augment_dim": 9}
WARM_UP = 2
ROUND = OTHERS // (OTHERS_PER_SAMPLE * AVERAGED_PLANE.batch)
"""Steps."""


class Clock:
    """Seconds of named parts of what runs, each without the parts within it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = time.perf_counter()

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._turn()
        self._running.append(name)
        try:
            yield
        finally:
            self._turn()
            self._running.pop()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call


class SameImages:
    """The same random images at every step."""

    def batches(self, first_step: int) -> Iterator[Batch]:
        points = torch.randn(IMAGES, DIM, generator=torch.Generator().manual_seed(0))
        while True:
            yield Batch(points)


def mlp_on_circles(recipe: TrainingRecipe, others: int) -> tuple[Trainer, BatchSource]:
    toy, antithetic = Toy("circles"), others > 0
    choices = Choices("ifs", {"dims_to_keep": 2}, "mlp", {}, "ES", "log")
    model, loss = choices.build(EigenBasis.from_moments(*toy.moments()))
    config = TrainingConfig(
        6_000_000, recipe.batch, lr=recipe.lr, lr_decay=True, antithetic=antithetic
    )
    return Trainer(model, loss, config), ToyBatches(toy, recipe.batch, 0, CPU, others, antithetic)


def ddpmpp_of_images() -> tuple[Trainer, BatchSource]:
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))[0]
    basis = EigenBasis(torch.zeros(DIM), torch.linspace(2, 0.01, DIM), rotation)
    choices = Choices("ifs", {"dims_to_keep": DIM}, "ddpmpp", SMALL, "IS", "log", output_gain=True)
    model, loss = choices.build(basis)
    trainer = Trainer(model, loss, TrainingConfig(total=1_000_000, batch=IMAGES))
    augmentation = GeometricAugmentation(0.12)
    return trainer, AugmentedBatches(SameImages(), augmentation, SHAPE, IMAGES, seed=0)


def watch(stack: ExitStack, clock: Clock, trainer: Trainer) -> None:
    """Has a clock measure the parts of a trainer's steps."""
    denoiser = trainer.denoiser
    network: nn.Module = denoiser.network
    parts: tuple[tuple[Any, str, str], ...] = (
        (network, "forward", "network, forward"),
        (torch.autograd, "backward", "backward"),
        (trainer.optimizer, "step", "Adam"),
        (trainer, "update_average", "average of the weights"),
        (trainer, "gradient_norm", "norm of the gradient, is it finite"),
        (DenoisingLoss, "draw_rows", "times and noise"),
        (EigenBasis, "to_eigen", "rotations"),
        (EigenBasis, "rotate", "rotations"),
        (EigenBasis, "rotate_back", "rotations"),
        (DenoisingLoss, "per_sample", "preconditioning and loss"),
        (RunningMeans, "add", "statistics"),
        (trainer, "dealt", "places of further points"),
        (losses, "averaging_shift", "averages of targets"),
    )
    for owner, name, part in parts:
        function = clock.timed(part, getattr(owner, name))
        if isinstance(owner, type):  # a function that is to be bound
            function = _method(function)
        stack.enter_context(mock.patch.object(owner, name, function))


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *args, **kwargs: function(self, *args, **kwargs)


def profile(trainer: Trainer, source: BatchSource, rounds: int) -> dict[str, float]:
    """Seconds of each part of a step, in the best of some rounds of steps."""
    clock, found = Clock(), []
    batches, means = source.batches(0), RunningMeans(CPU)
    with ExitStack() as stack:
        watch(stack, clock, trainer)
        for steps in (WARM_UP, *[ROUND] * rounds):
            clock.seconds.clear()
            for _ in range(steps):
                with clock.part("data, augmentation"):
                    batch = next(batches)
                with clock.part("all else"):
                    trainer.train_step(batch, means)
            found.append(dict(clock.seconds))
    names = dict.fromkeys(name for part in found for name in part)
    return {name: min(part.get(name, 0.0) for part in found[1:]) / ROUND for name in names}


TRAININGS: dict[str, Callable[[], tuple[Trainer, BatchSource]]] = {
    "MLP on circles": partial(mlp_on_circles, AVERAGED_PLANE, OTHERS),
    "without others and pairs": partial(mlp_on_circles, TOY, 0),
    "DDPM++ 32 × 32": ddpmpp_of_images,
}


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
def main(rounds: int) -> None:
    found = [profile(*made(), rounds) for made in TRAININGS.values()]
    totals = [sum(parts.values()) for parts in found]
    names = dict.fromkeys(name for parts in found for name in parts)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| part of a step | " + " | ".join(TRAININGS) + " |")
    print("| --- |" + " ---: |" * len(TRAININGS))
    for name in sorted(names, key=lambda name: -found[0].get(name, 0)):
        shares = [parts.get(name, 0) / total for parts, total in zip(found, totals, strict=True)]
        print(f"| {name} | " + " | ".join(f"{100 * share:.1f} %" for share in shares) + " |")
    print("| milliseconds | " + " | ".join(f"{1000 * total:.1f}" for total in totals) + " |")


if __name__ == "__main__":
    main()
