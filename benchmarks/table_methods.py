"""Densities of tables that ``tables.py`` compares: each is fitted, and then gives log densities,
samples, and rows that went to its latents and back.

All see the same rows, standardized by the rows that are trained on. Seconds are those of the CPU,
so that others on the machine cost a method nothing; of equally many, iterative methods keep the
weights that did best on the validation rows.
"""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from torch_utils.seeds import seeded_generator
from torch_utils.stats import RunningMeans
from torch_utils.streams import Stream
from training.data.tables.schema import Column, Schema
from training.data.tables.table import DataTable
from training.flow.coordinates.coordinates import Coordinates
from training.flow.pfode import ProbabilityFlow
from training.learning.building import ModelConfig
from training.learning.coordinates import fit_coordinates
from training.learning.held_out import Validation
from training.learning.trainer import Trainer
from training.names import AUTO, TABLE_NETWORK
from training.recipes import Recipe
from training.subjects import TableTraining
from training.subjects.table_spaces import Preparation, Space, choose_space

CPU = torch.device("cpu")
LOOKS, PATIENCE = 50, 15
"""How often validation rows are looked at, and looks without a better score that end a training."""
TRIED_STEPS = 50
"""Steps by which the seconds of one are known."""
BLOCK = 2000
"""Rows of one call of a network."""
COMPONENTS = (1, 2, 3, 5, 8, 12, 20, 35, 50, 75, 100)
"""Of a mixture, to choose from."""
LEAST_VARIANCE = 1e-6
"""Of a component in any direction, in squared standard deviations of a column."""
BATCH, FEW_ROWS, SMALL_BATCH = 256, 2000, 128
HIDDEN, LEARNING_RATE, LONGEST_GRADIENT = (128, 128), 5e-3, 5.0
"""Of zuko's flows, as are the numbers of their transforms: on the validation rows of phoneme and
magic they did better than widths of 64, rates of 2e-3, and fewer or more transforms."""


@dataclass(frozen=True)
class Rows:
    """Rows of a table, standardized: ``[N, D]``, float64, in three parts."""

    train: Tensor
    validation: Tensor
    test: Tensor

    @property
    def dim(self) -> int:
        """D."""
        return self.train.shape[1]

    def through(self, coordinates: Coordinates) -> "Rows":
        """The rows in coordinates."""
        parts = (self.train, self.validation, self.test)
        return Rows(*(coordinates.to_flow(part) for part in parts))


class Method(ABC):
    """A density of rows.

    Args:
        space: Coordinates that suit the table.
    """

    def __init__(self, space: Space):
        self.space = space

    @abstractmethod
    def fit(self, rows: Rows, seconds: float, seed: int) -> None:
        """Takes up to so many seconds of the CPU."""

    @abstractmethod
    def log_prob(self, rows: Tensor) -> Tensor:
        """Log densities ``[N]``, nats, of rows ``[N, D]``."""

    @abstractmethod
    def sample(self, count: int, seed: int) -> Tensor:
        """Rows ``[count, D]``, float64."""

    def returned(self, rows: Tensor) -> Tensor | None:
        """Rows ``[N, D]`` after the way to their latents and back; None if there are no latents."""
        return None


def prepare(rows: Rows, seed: int, duration: float | None = None) -> Preparation:
    """What ``train.py`` makes of a table, the validation rows being held out; in a training of so
    many million samples, or of as many as its recipe has."""
    points = torch.cat([rows.train, rows.validation])
    held_out = torch.arange(len(points)) >= len(rows.train)
    names = [f"x{index}" for index in range(1, rows.dim + 1)]
    columns = [*map(Column, names)]
    table = DataTable(columns, names, values=points.numpy(), held_out=held_out.numpy())
    choices = ModelConfig("ifs", {}, TABLE_NETWORK, {}, "IS", "log", seed=seed)
    training = TableTraining(
        model_config=choices,
        amounts={"duration": duration, "seed": seed},
        table=table,
        path=Path("rows.npz"),
        space=Space(AUTO, AUTO),
    )
    return Preparation(table, training.full_config, training.recipe, CPU)


def chosen_space(rows: Rows, seed: int) -> Space:
    """The coordinates that ``train.py`` chooses for a table."""
    return choose_space(prepare(rows, seed), Space(AUTO, AUTO))


class InflationaryFlow(Method):
    """Ours, as ``train.py`` trains it, but for the number of steps."""

    def fit(self, rows: Rows, seconds: float, seed: int) -> None:
        start = time.process_time()
        preparation = prepare(rows, seed)
        coordinates = preparation.coordinates(self.space)
        per_step, per_look = self._costs(preparation, coordinates)
        left = seconds - (time.process_time() - start) - LOOKS * per_look
        steps = LOOKS * max(1, round(left / per_step / LOOKS))
        duration = steps * preparation.recipe.batch / 1e6
        recipe = prepare(rows, seed, duration).recipe
        trainer, watch = self._start(preparation, coordinates, recipe)
        means = RunningMeans(CPU)
        for batch in preparation.source(coordinates).batches(0):
            trainer.train_step(batch, means)
            if trainer.step % (steps // LOOKS) == 0:
                watch.look(trainer.averaged, trainer.seen)
            if watch.exhausted or trainer.step == steps:
                break
        watch.put_best(trainer.averaged)
        self.flow: ProbabilityFlow = trainer.averaged.flow

    def _start(
        self, preparation: Preparation, coordinates: Coordinates, recipe: Recipe
    ) -> tuple[Trainer, Validation]:
        model, loss = preparation.build(coordinates)
        held_out = preparation.held_out(coordinates, loss)
        assert held_out is not None
        return Trainer(model, loss, recipe), Validation(held_out, True, PATIENCE)

    def _costs(self, preparation: Preparation, coordinates: Coordinates) -> tuple[float, float]:
        """Seconds of a step, and of a look."""
        trainer, watch = self._start(preparation, coordinates, preparation.recipe)
        batches, means = preparation.source(coordinates).batches(0), RunningMeans(CPU)
        times = []
        for _ in range(TRIED_STEPS):
            start = time.process_time()
            trainer.train_step(next(batches), means)
            times.append(time.process_time() - start)
        start = time.process_time()
        watch.look(trainer.averaged, 0)
        # The first ones make what later ones have, and some pay for the machine's other work.
        return sorted(times)[TRIED_STEPS // 2], time.process_time() - start

    def log_prob(self, rows: Tensor) -> Tensor:
        return torch.cat([self.flow.log_prob(part) for part in torch.split(rows, BLOCK)])

    @torch.no_grad()
    def sample(self, count: int, seed: int) -> Tensor:
        return self.flow.sample(count, torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def returned(self, rows: Tensor) -> Tensor:
        return self.flow.decode(self.flow.encode(rows))


def shuffled(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Numbers of the rows of batches, every row once an epoch, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.split(torch.randperm(count, generator=generator), batch)


class ZukoFlow(Method):
    """A flow of zuko, trained by Adam, the rate falling along a cosine of the seconds."""

    NAME, TRANSFORMS = "", 0

    def fit(self, rows: Rows, seconds: float, seed: int) -> None:
        import zuko

        start = time.process_time()
        torch.manual_seed(seed)
        sizes = {"transforms": self.TRANSFORMS, "hidden_features": HIDDEN}
        flow: Any = getattr(zuko.flows, self.NAME)(rows.dim, **sizes)
        train, validation = rows.train.float(), rows.validation.float()
        optimizer = torch.optim.Adam(flow.parameters(), lr=LEARNING_RATE)
        batch = BATCH if len(train) >= FEW_ROWS else SMALL_BATCH
        best, waited, looks, weights = -torch.inf, 0, 0, flow.state_dict()
        for chosen in shuffled(len(train), batch, seed):
            part = min(1.0, (time.process_time() - start) / seconds)
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 + cos(pi * part)) / 2
            loss = -flow().log_prob(train[chosen]).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(flow.parameters(), LONGEST_GRADIENT)
            optimizer.step()
            if part * LOOKS < looks + 1:
                continue
            looks = int(part * LOOKS)
            with torch.no_grad():
                nats = float(flow().log_prob(validation).mean())
            waited = 0 if nats > best else waited + 1
            if nats > best:
                best = nats
                weights = {name: value.clone() for name, value in flow.state_dict().items()}
            if waited == PATIENCE or looks == LOOKS:
                break
        flow.load_state_dict(weights)
        self.flow = flow.eval().requires_grad_(False)

    def log_prob(self, rows: Tensor) -> Tensor:
        parts = torch.split(rows.float(), BLOCK)
        return torch.cat([self.flow().log_prob(part) for part in parts]).double()

    def sample(self, count: int, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return self.flow().sample((count,)).double()

    def returned(self, rows: Tensor) -> Tensor:
        transform = self.flow().transform
        return transform.inv(transform(rows.float())).double()


class SplineFlow(ZukoFlow):
    """Neural spline flow (Durkan et al. 2019)."""

    NAME, TRANSFORMS = "NSF", 3


class AutoregressiveFlow(ZukoFlow):
    """Masked autoregressive flow (Papamakarios et al. 2017)."""

    NAME, TRANSFORMS = "MAF", 5


class Mixture(Method):
    """Gaussians with full covariances, their number chosen on the validation rows."""

    numbers: tuple[int, ...] = COMPONENTS

    def fit(self, rows: Rows, seconds: float, seed: int) -> None:
        start, best = time.process_time(), -np.inf
        train, validation = rows.train.numpy(), rows.validation.numpy()
        for count in self.numbers:
            if count * rows.dim > len(train) or time.process_time() - start > seconds:
                break
            found = GaussianMixture(count, reg_covar=LEAST_VARIANCE, random_state=seed).fit(train)
            nats = found.score(validation)
            if nats > best:
                best, self.mixture = nats, found

    def log_prob(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(self.mixture.score_samples(rows.numpy()))

    def sample(self, count: int, seed: int) -> Tensor:
        self.mixture.random_state = seed
        return torch.from_numpy(self.mixture.sample(count)[0])


class Gaussian(Mixture):
    """One Gaussian."""

    numbers = (1,)


class Mapped(Method):
    """Another method, in the coordinates that the inflationary flow has."""

    def __init__(self, space: Space, inner: type[Method]):
        super().__init__(space)
        self.inner = inner(space)

    def fit(self, rows: Rows, seconds: float, seed: int) -> None:
        plain = Schema.plain([f"x{index}" for index in range(1, rows.dim + 1)])
        self.coordinates = fit_coordinates(
            rows.train, plain, self.space.marginals, self.space.whiten
        )
        self.inner.fit(rows.through(self.coordinates), seconds, seed)

    def log_prob(self, rows: Tensor) -> Tensor:
        points, log_det = self.coordinates(rows)
        return self.inner.log_prob(points) + log_det

    def sample(self, count: int, seed: int) -> Tensor:
        return self.coordinates.to_data(self.inner.sample(count, seed))

    def returned(self, rows: Tensor) -> Tensor | None:
        points = self.inner.returned(self.coordinates.to_flow(rows))
        return None if points is None else self.coordinates.to_data(points)


def mapped(inner: type[Method]) -> Callable[[Space], Method]:
    return lambda space: Mapped(space, inner)


METHODS: dict[str, Callable[[Space], Method]] = {
    "flow": InflationaryFlow,
    "nsf-maps": mapped(SplineFlow),
    "maf-maps": mapped(AutoregressiveFlow),
    "mixture-maps": mapped(Mixture),
    "nsf": SplineFlow,
    "maf": AutoregressiveFlow,
    "mixture": Mixture,
    "gaussian": Gaussian,
}
"""By name; ``-maps`` are in the flow's coordinates."""


def split(table: DataTable, seed: int) -> tuple[Rows, Tensor]:
    """70 % of the rows to train on, 15 % to choose by, 15 % to judge by; and what standardizes.

    Discrete columns are spread over their steps here, once, for all methods.

    Returns:
        The rows, and the standard deviations ``[D]`` of the columns in their own units.
    """
    count = len(table)
    order = torch.randperm(count, generator=seeded_generator("cpu", seed, Stream.SPLIT))
    generator = seeded_generator("cpu", seed, Stream.DEQUANTIZATION)
    noise = torch.rand(table.points.shape, generator=generator, dtype=torch.float64) - 0.5
    points = (table.points + table.steps * noise)[order]
    held_out = round(0.15 * count)
    sizes = [count - 2 * held_out, held_out, held_out]
    train = points[: sizes[0]]
    mean, std = train.mean(dim=0), train.std(dim=0, correction=0)
    return Rows(*torch.split((points - mean) / std, sizes)), std
