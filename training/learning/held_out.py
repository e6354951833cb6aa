"""The loss on points that are not trained on: always the same points, times and noise.

So what it moves by from one report to the next is the network's doing alone. Where it rises while
the training's own loss falls, the network memorizes.

For tables it is also told in nats. With F = 0 the flow is that of a Gaussian, whose likelihood is
known; what the network adds to the mean log density of noisy points is

    1/2 int sum_i r_i f_i (y_i^2 - (F_i - y_i)^2) dt,    r_i = d log gamma_i / dt,

y being the target of F and ``f_i = xi_i / (xi_i + gamma_i)`` (Song et al. 2021, *Maximum likelihood
training of score-based diffusion models*, theorem 3, less the same for the best linear denoiser).
"""

from dataclasses import dataclass
from math import log, pi
from typing import Any, Protocol

import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.snapshots import first_line, tensors_of
from torch_utils.streams import Stream
from training.data.batches import Batch
from training.data.images.batches import ImageDataset, normalize_pixels
from training.learning.loss import DenoisingLoss, DenoisingRegression
from training.model.model import Model

MOST_IMAGES = 1000
"""Images whose loss is taken: its standard error is then some 2 %."""
TABLE_DRAWS = 4096
"""Rows whose loss is taken, or draws of noise on fewer rows."""
IMAGE_BLOCK = 250
"""Images of one network call."""


@dataclass(frozen=True)
class Score:
    """How well a model does on what it was not trained on.

    Attributes:
        loss: The mean loss.
        nats: The mean log density of rows in their own units, an estimate; None for images.
    """

    loss: float
    nats: float | None = None

    def better_than(self, other: "Score", margin: float = 0.0) -> bool:
        if self.nats is None or other.nats is None:
            return self.loss < other.loss
        return self.nats > other.nats + margin


class Scored(Protocol):
    """What is not trained on."""

    def score(self, model: Model) -> Score:
        """That of a model. All ranks must call it together."""


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
        """Rows of a table, each as often as it takes to make many draws of noise.

        Args:
            points: In the space of the basis, ``[N, D]``.
            log_det: Log determinants ``[N]`` of the coordinates there.
            loss: The loss of the training.
            seed: Seed of the times and the noise.
            labels: The network's labels of them ``[N, L]``; None for none.
        """
        rows = torch.arange(TABLE_DRAWS) % len(points)
        mine = rows[distributed.shard(TABLE_DRAWS)]
        batch = Batch(points[mine], None if labels is None else labels[mine])
        return cls(batch, TABLE_DRAWS, loss, seed, TABLE_DRAWS, log_det[mine])

    @torch.no_grad()
    def score(self, model: Model) -> Score:
        """That of a model. All ranks must call it together."""
        denoiser = model.denoiser
        device = denoiser.basis.mean.device
        generator = seeded_generator(device, self.seed, Stream.HELD_OUT)
        draws = self.loss.draw(self.total, generator)
        # Times are stratified in their order; rows that repeat are not to have near ones.
        order = torch.randperm(self.total, generator=generator, device=device)
        mine = distributed.shard(self.total)
        t, noise = draws.t[order][mine], draws.noise[mine]
        clean = denoiser.basis.to_eigen(self.batch.points.to(device))
        conditions = self.batch.conditions(device)
        regression = DenoisingRegression(denoiser)
        sums = torch.zeros(2, device=device, dtype=torch.float64)
        for start in range(0, len(clean), self.block):
            part = slice(start, start + self.block)
            given = {name: values[part] for name, values in conditions.items()}
            residual, target = regression(clean[part], t[part], noise[part], **given)
            error = (residual - target).square()
            sums[0] += error.mean(dim=1).sum()
            if self.log_det is not None:
                sums[1] += self._gain(model, t[part], target.square() - error).sum()
        if self.log_det is not None:
            sums[1] += (self._gaussian(model, clean) + self.log_det.to(device)).sum()
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


class Watch:
    """Looks at a model at every report.

    Args:
        held_out: What it is looked at on.
        keeps_best: Whether the training ends with the weights that did best, not with the last.
        patience: Reports without a better score after which the training ends; None for no limit.
        looks_first: Whether a model that is not trained yet may do best.
        margin: Nats by which others have to be better than that one.

    Attributes:
        seen: Samples trained on when the best weights were found; None before the first look.
    """

    def __init__(
        self,
        held_out: Scored,
        keeps_best: bool = False,
        patience: int | None = None,
        looks_first: bool = False,
        margin: float = 0.0,
    ):
        self.held_out, self.keeps_best, self.patience = held_out, keeps_best, patience
        self.looks_first, self._margin = looks_first, margin
        self.seen: int | None = None
        self._score: Score | None = None
        self._weights: dict[str, Tensor] = {}
        self._waited = 0

    @property
    def exhausted(self) -> bool:
        """Whether to end the training."""
        return self.patience is not None and self._waited >= self.patience

    def look(self, model: Model, seen: int) -> Score:
        """The score of a model after so many samples, remembered if it is the best.

        All ranks must call it together, and find the same.
        """
        score = self.held_out.score(model)
        margin = 0.0 if self.seen else self._margin
        if self._score is None or score.better_than(self._score, margin):
            self._score, self.seen, self._waited = score, seen, 0
            if self.keeps_best:
                self._weights = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
        else:
            self._waited += 1
        return score

    def put_best(self, model: Model) -> Score | None:
        """Gives a model the best weights, and tells their score; None if there are none."""
        if not (self.keeps_best and self._weights):
            return None
        model.denoiser.load_state_dict(self._weights)
        return self._score

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as tensors and plain values."""
        if self._score is None:
            return {}
        score = {"loss": self._score.loss, "nats": self._score.nats}
        known = {"score": score, "seen": self.seen, "waited": self._waited}
        return {KEY: {**known, "weights": self._weights}}

    def restore(self, state: dict[str, Any], model: Model, source: str) -> None:
        """Takes up what ``state`` gave.

        Raises:
            DataError: It is of another model, or broken; the message names its source.
        """
        match state.get(KEY):
            case None:
                return
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
            weights = tensors_of(state[KEY], "weights")
        except ValueError as error:
            raise DataError(f"{source} has a broken '{KEY}': {first_line(error)}") from error
        own = model.denoiser.state_dict()
        shapes = {name: value.shape for name, value in own.items()}
        if weights and {name: value.shape for name, value in weights.items()} != shapes:
            raise DataError(f"{source} has best weights of another model")
        self._score, self.seen, self._waited = Score(loss, nats), seen, waited
        self._weights = {k: torch.as_tensor(v).to(own[k]) for k, v in weights.items()}
