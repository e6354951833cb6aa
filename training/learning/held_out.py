"""The loss on points that are not trained on: always the same points, times and noise.

So what it moves by from one report to the next is the network's doing alone. Where it rises while
the training's own loss falls, the network memorizes.

For tables it is also told in nats. With F = 0 the flow is that of a Gaussian, whose likelihood is
known; what the network adds to the mean log density of noisy points is

    1/2 int sum_i r_i f_i (y_i^2 - (F_i - y_i)^2) dt,    r_i = d log gamma_i / dt,

y being the target of F and ``f_i = xi_i / (xi_i + gamma_i)`` (Song et al. 2021, *Maximum likelihood
training of score-based diffusion models*, theorem 3, less the same for the best linear denoiser).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import log, pi
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.snapshots import first_line, tensors_of
from torch_utils.streams import Stream
from training.data.batches import Batch
from training.data.images.batches import ImageDataset, normalize_pixels
from training.learning.loss import DenoisingLoss, NoiseDraws
from training.model.model import Model

MOST_IMAGES = 1000
"""Images whose loss is taken: its standard error is then some 2 %."""
TABLE_DRAWS = 4096
"""Rows whose loss is taken, or draws of noise on fewer rows."""
FAR = 10.0
"""Loss above which what is held out is far from the training data."""
IMAGE_BLOCK = 250
"""Images of one network call."""


@dataclass(frozen=True)
class Score:
    """How well a model does on what it was not trained on.

    Attributes:
        loss: The mean loss.
        nats: The mean log density of rows in their own units, an estimate; None for images.
        parts: What parts of the network, which share no weights, add to the loss: by their names in
            it, all that trains. Empty if the network is one.
    """

    loss: float
    nats: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)

    def of_parts(self) -> dict[str, "Score"]:
        """That of each part; of the whole network, by the name '', if it is one."""
        if not self.parts:
            return {"": self}
        return {name: Score(loss) for name, loss in self.parts.items()}

    def better_than(self, other: "Score", margin: float = 0.0) -> bool:
        if self.nats is None or other.nats is None:
            return self.loss < other.loss
        return self.nats > other.nats + margin


@dataclass(frozen=True)
class HeldOut:
    """Points that are not trained on.

    Attributes:
        batch: This rank's share of them, in the space of the basis.
        total: Their number over all ranks.
        loss: The loss of the training.
        seed: Seed of the times and the noise.
        block: Points of one network call.
        log_det: Log determinants ``[n]`` of the coordinates at this rank's points; None for images.
    """

    batch: Batch
    total: int
    loss: DenoisingLoss
    seed: int
    block: int
    log_det: Tensor | None = None

    @classmethod
    def of_images(cls, dataset: ImageDataset, loss: DenoisingLoss, seed: int) -> "HeldOut":
        """The first images of a data set, as they are, with their labels."""
        total = min(len(dataset), MOST_IMAGES)
        pixels, labels = dataset.read(range(total)[distributed.shard(total)])
        points = normalize_pixels(pixels).flatten(1)
        batch = Batch(points, labels if dataset.has_labels else None)
        return cls(batch, total, loss, seed, IMAGE_BLOCK)

    @classmethod
    def of_rows(
        cls,
        points: Tensor,
        log_det: Tensor,
        loss: DenoisingLoss,
        seed: int,
        labels: Tensor | None = None,
    ) -> "HeldOut":
        """Rows ``[N, D]`` of a table in the space of the basis, each as often as it takes to make
        many draws of noise, with log determinants ``[N]`` of the coordinates there, and the
        network's labels of them ``[N, L]``. Times are uniform, as the estimate of nats needs."""
        loss = replace(loss, t_sampling="uniform")
        rows = torch.arange(TABLE_DRAWS) % len(points)
        mine = rows[distributed.shard(TABLE_DRAWS)]
        batch = Batch(points, labels).at(mine)
        return cls(batch, TABLE_DRAWS, loss, seed, TABLE_DRAWS, log_det[mine])

    @torch.no_grad()
    def score(self, model: Model) -> Score:
        """That of a model. All ranks must call it together."""
        basis = model.denoiser.basis
        device = basis.mean.device
        generator = seeded_generator(device, self.seed, Stream.HELD_OUT)
        draws, mine = self.loss.draw(self.total, generator), distributed.shard(self.total)
        draws = NoiseDraws(draws.t[self._order(generator)][mine], draws.noise[mine])
        clean = basis.to_eigen(self.batch.points.to(device))
        conditions = self.batch.conditions(device)
        regression = self.loss.regression(model.denoiser)
        sums = torch.zeros(2, device=device, dtype=torch.float64)
        for start in range(0, len(clean), self.block):
            part = slice(start, start + self.block)
            given = {name: values[part] for name, values in conditions.items()}
            t, noise = draws.of_rows(part)
            sums += self._sums(model, t, regression(clean[part], t, noise, **given))
        return self._score(model, clean, sums)

    def _order(self, generator: torch.Generator) -> Tensor:
        """In which rows get times, which are stratified in their own; rows that repeat are not to
        have near ones."""
        return torch.randperm(self.total, generator=generator, device=generator.device)

    def _sums(self, model: Model, t: Tensor, made: Any) -> Tensor:
        """What some rows at times ``[n]`` add ``[2]``, of what the regression made of them."""
        residual, target = made
        error = (residual - target).square()
        loss = error.mean(dim=1).sum().double()
        if self.log_det is None:
            return torch.stack([loss, torch.zeros_like(loss)])
        return torch.stack([loss, self._gain(model, t, target.square() - error).sum()])

    def _score(self, model: Model, clean: Tensor, sums: Tensor) -> Score:
        """By the sums ``[2]`` over this rank's rows ``[n, D]``."""
        if self.log_det is not None:
            sums[1] += (self._gaussian(model, clean) + self.log_det.to(clean.device)).sum()
        loss, nats = (distributed.sum_over_ranks(sums) / self.total).tolist()
        return Score(loss, None if self.log_det is None else nats)

    def _gain(self, model: Model, t: Tensor, less: Tensor) -> Tensor:
        """What F adds in nats ``[n]``, where at times t it makes errors less by ``[n, D]``."""
        denoiser, schedule = model.denoiser, model.denoiser.schedule
        xi = denoiser.basis.eigenvalues
        linear = xi / (xi + schedule.noise_variance(t))
        length = self.loss.t_max - self.loss.t_min
        return length / 2 * (schedule.log_noise_rate(t) * linear * less).sum(dim=1)

    def _gaussian(self, model: Model, clean: Tensor) -> Tensor:
        """Mean log density ``[n]`` of noisy points under the Gaussian of their variances."""
        first = torch.tensor(self.loss.t_min, dtype=torch.float64, device=clean.device)
        gamma = model.denoiser.schedule.noise_variance(first)
        variance = model.denoiser.basis.eigenvalues + gamma
        squares = (clean.square() + gamma) / variance
        return -(variance.log() + log(2 * pi) + squares).sum(dim=1) / 2


KEY = "best"
"""Where a training state has it."""


@dataclass
class Best:
    """When a part of a network did best.

    Attributes:
        score: Its score.
        seen: Samples trained on by then.
        waited: Reports since then.
        weights: Its state by then, by its names in the denoiser; empty if it is not kept.
    """

    score: Score
    seen: int
    waited: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Watch:
    """Looks at a model at every report.

    Attributes:
        held_out: What it is looked at on.
        keeps_best: Whether the training ends with the weights that did best, not with the last: of
            each part of the network its own.
        patience: Reports without a better score of any part after which the training ends; None for
            no limit.
        looks_first: Whether a model that is not trained yet may do best.
        margin: Nats by which others have to be better than that one.
        best: Of each part by its name, see ``Score.of_parts``; empty before the first look.
    """

    held_out: HeldOut
    keeps_best: bool = False
    patience: int | None = None
    looks_first: bool = False
    margin: float = 0.0
    best: dict[str, Best] = field(default_factory=dict, init=False)

    @property
    def exhausted(self) -> bool:
        """Whether to end the training."""
        waited = min((best.waited for best in self.best.values()), default=0)
        return self.patience is not None and waited >= self.patience

    @property
    def is_far(self) -> bool:
        """Whether what is held out is not where the training data are: its best loss is far above
        that of F = 0 on these, about 1."""
        scaled = type(self.held_out) is HeldOut and "" in self.best
        return scaled and self.best[""].score.loss > FAR

    @property
    def seen(self) -> int:
        """Samples trained on when a part did best last; 0 before the first look."""
        return max((best.seen for best in self.best.values()), default=0)

    def look(self, model: Model, seen: int) -> Score:
        """The score of a model after so many samples, remembered where it is the best.

        All ranks must call it together, and find the same.
        """
        score = self.held_out.score(model)
        for name, own in score.of_parts().items():
            best = self.best.get(name)
            margin = 0.0 if best and best.seen else self.margin
            if best is None or own.better_than(best.score, margin):
                weights = _of_part(model, name) if self.keeps_best else {}
                self.best[name] = Best(own, seen, 0, {k: v.clone() for k, v in weights.items()})
            else:
                best.waited += 1
        return score

    def put_best(self, model: Model) -> Score | None:
        """Gives a model the best weights, and tells their score; None if there are none."""
        if not (self.keeps_best and self.best):
            return None
        for best in self.best.values():
            model.denoiser.load_state_dict(best.weights, strict=False)
        if "" in self.best:
            return self.best[""].score
        losses = {name: best.score.loss for name, best in self.best.items()}
        return Score(sum(losses.values()), parts=losses)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as tensors and plain values."""
        if not self.best:
            return {}
        return {
            KEY: {
                name: {
                    "score": {"loss": best.score.loss, "nats": best.score.nats},
                    "seen": best.seen,
                    "waited": best.waited,
                    "weights": best.weights,
                }
                for name, best in self.best.items()
            }
        }

    def restore(self, state: dict[str, Any], model: Model, source: str) -> None:
        """Takes up what ``state`` gave. Raises DataError if it is of another model, or broken; the
        message names its source."""
        parts = state.get(KEY, {})
        if not isinstance(parts, dict):
            raise DataError(f"{source} has a broken '{KEY}'")
        self.best = {name: _restored(part, name, model, source) for name, part in parts.items()}


def _of_part(model: Model, name: str) -> dict[str, Tensor]:
    """The state of a part of a network; of the whole denoiser, if its name is ''."""
    state: dict[str, Tensor] = model.denoiser.state_dict()
    start = f"network.{name}." if name else ""
    return {key: value for key, value in state.items() if key.startswith(start)}


def _restored(state: Any, name: str, model: Model, source: str) -> Best:
    match state:
        case {
            "score": {"loss": float(loss), "nats": float() | None as nats},
            "seen": int(seen),
            "waited": int(waited),
            "weights": dict(),
        }:
            pass
        case _:
            raise DataError(f"{source} has a broken '{KEY}'")
    try:
        weights = tensors_of(state, "weights")
    except ValueError as error:
        raise DataError(f"{source} has a broken '{KEY}': {first_line(error)}") from error
    own = _of_part(model, name)
    shapes = {key: value.shape for key, value in own.items()}
    if not own or (weights and {key: value.shape for key, value in weights.items()} != shapes):
        raise DataError(f"{source} has best weights of another model")
    moved = {key: torch.as_tensor(value).to(own[key]) for key, value in weights.items()}
    return Best(Score(loss, nats), seen, waited, moved)
