"""Validation loss on held-out points, always with the same points, times and noise.

Changes of this loss from one report to the next are therefore due to the network alone. Where it
rises while the training loss falls, the network memorizes.

For tables it is also reported in nats. With F = 0 the flow is that of a Gaussian, whose likelihood
is known; the network changes the mean log density of noisy points by

    1/2 int sum_i r_i f_i (y_i^2 - (F_i - y_i)^2) dt,    r_i = d log gamma_i / dt,

where y is the target of F and ``f_i = xi_i / (xi_i + gamma_i)`` (Song et al. 2021, *Maximum
likelihood training of score-based diffusion models*, theorem 3, minus the same for the best linear
denoiser).
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
from training.data.images.dataset import ImageDataset
from training.learning.loss import DenoisingLoss, NoiseDraws
from training.trained.network import TrainedNetwork

MOST_IMAGES = 1000
"""Largest number of images in the validation loss: its standard error is then about 2 %."""
TABLE_DRAWS = 4096
"""Number of rows in the validation loss, or of noise draws on fewer rows."""
FAR = 10.0
"""Loss above which the held-out data is far from the training data."""
IMAGE_BLOCK = 250
"""Number of images per network evaluation."""


@dataclass(frozen=True)
class Score:
    """Score of a model on held-out data.

    Attributes:
        loss: Mean loss.
        nats: Estimated mean log density of rows in their own units; None for images.
        parts: Loss of each part of the network, by the name of its submodule. Parts share no
            weights, and every trained weight belongs to a part. Empty if the network is not split.
    """

    loss: float
    nats: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)

    def of_parts(self) -> dict[str, "Score"]:
        """Return the score of each part by name; the name is empty for a single part."""
        if not self.parts:
            return {"": self}
        return {name: Score(loss) for name, loss in self.parts.items()}

    def better_than(self, other: "Score", margin: float) -> bool:
        """Return whether this score is better than another score.

        If both scores have nats, this score must exceed the other by more than ``margin`` nats.
        Otherwise losses are compared.
        """
        if self.nats is None or other.nats is None:
            return self.loss < other.loss
        return self.nats > other.nats + margin


@dataclass(frozen=True)
class HeldOut:
    """Validation set of a training, with fixed times and noise.

    Attributes:
        batch: This rank's part of the points, in the space of the basis.
        total: Number of points over all ranks.
        loss: Loss of the training.
        seed: Random seed of the times and the noise.
        block: Number of points per network evaluation.
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
        """Create a validation set from the images at the start of a data set, with their labels."""
        total = min(len(dataset), MOST_IMAGES)
        pixels, labels = dataset.read(range(total)[distributed.shard(total)])
        points = dataset.normalized(pixels)
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
        embedded: bool = False,
    ) -> "HeldOut":
        """Create a validation set from rows of a table, each repeated for many draws of noise.

        Times are uniform, as the estimate of nats requires.

        Args:
            points: Rows ``[N, D]`` in the space of the basis.
            log_det: Log determinants of the coordinates at these rows ``[N]``.
            loss: Loss of the training.
            seed: Random seed of the times and the noise.
            labels: Conditions of the network for these rows ``[N, L]``.
            embedded: Whether an embedding of the labels is expensive: equal labels then follow each
                other, which it needs only once (``RawEmbedding``).
        """
        loss = replace(loss, t_sampling="uniform")
        rows = torch.arange(TABLE_DRAWS) % len(points)
        rows = rows.sort().values if embedded else rows
        mine = rows[distributed.shard(TABLE_DRAWS)]
        batch = Batch(points, labels).at(mine)
        return cls(batch, TABLE_DRAWS, loss, seed, TABLE_DRAWS, log_det[mine])

    @torch.no_grad()
    def score(self, model: TrainedNetwork) -> Score:
        """Return the score of a model on the validation set.

        All ranks must call this method together.
        """
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
        """Return the order of rows for assigning times.

        Times are stratified in their own order, and repeated rows should not have similar ones.
        """
        return torch.randperm(self.total, generator=generator, device=generator.device)

    def _sums(self, model: TrainedNetwork, t: Tensor, made: Any) -> Tensor:
        """Return the sums ``[2]`` of loss and nats over some rows at times ``[n]``.

        They are computed from the regression's output.
        """
        residual, target = made
        error = (residual - target).square()
        loss = error.mean(dim=1).sum().double()
        if self.log_det is None:
            return torch.stack([loss, torch.zeros_like(loss)])
        return torch.stack([loss, self._gain(model, t, target.square() - error).sum()])

    def _score(self, model: TrainedNetwork, clean: Tensor, sums: Tensor) -> Score:
        """Return the score from the sums ``[2]`` over this rank's rows ``[n, D]``."""
        if self.log_det is not None:
            sums[1] += (self._gaussian(model, clean) + self.log_det.to(clean.device)).sum()
        loss, nats = (distributed.sum_over_ranks(sums) / self.total).tolist()
        return Score(loss, None if self.log_det is None else nats)

    def _gain(self, model: TrainedNetwork, t: Tensor, less: Tensor) -> Tensor:
        """Return the nats ``[n]`` that F adds, where it reduces squared errors by ``[n, D]``.

        The errors are those at times t.
        """
        denoiser, schedule = model.denoiser, model.denoiser.schedule
        xi = denoiser.basis.eigenvalues
        linear = xi / (xi + schedule.noise_variance(t))
        length = self.loss.t_max - self.loss.t_min
        return length / 2 * (schedule.log_noise_rate(t) * linear * less).sum(dim=1)

    def _gaussian(self, model: TrainedNetwork, clean: Tensor) -> Tensor:
        """Return the mean log density ``[n]`` of noisy points under a Gaussian.

        The Gaussian has their variances.
        """
        first = torch.tensor(self.loss.t_min, dtype=torch.float64, device=clean.device)
        gamma = model.denoiser.schedule.noise_variance(first)
        variance = model.denoiser.basis.eigenvalues + gamma
        squares = (clean.square() + gamma) / variance
        return -(variance.log() + log(2 * pi) + squares).sum(dim=1) / 2


KEY = "best"
"""Key of the best scores in a training state."""


@dataclass
class Best:
    """Best state of a part of a network during training.

    Attributes:
        score: Best score of the part.
        seen: Number of training samples at the best score.
        waited: Number of reports since the best score.
        weights: State of the part at the best score, by name in the denoiser; empty if not kept.
    """

    score: Score
    seen: int
    waited: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Validation:
    """Validation of a model at every report.

    Attributes:
        held_out: Held-out data.
        keeps_best: Whether training ends with the best weights of each part of the network instead
            of the last weights.
        patience: Number of reports without a better score of any part after which training ends;
            None for no limit.
        looks_first: Whether the untrained model is a candidate too.
        margin: Gain in nats over the untrained model that later states need to replace it.
        best: Best state of each part by its name, see ``Score.of_parts``; empty before the first
            score.
    """

    held_out: HeldOut
    keeps_best: bool = False
    patience: int | None = None
    looks_first: bool = False
    margin: float = 0.0
    best: dict[str, Best] = field(default_factory=dict, init=False)

    @property
    def exhausted(self) -> bool:
        """Whether the patience is exhausted, so that training should end."""
        waited = min((best.waited for best in self.best.values()), default=0)
        return self.patience is not None and waited >= self.patience

    @property
    def is_far(self) -> bool:
        """Whether the held-out data is far from the training data.

        The best validation loss is then far above 1, which is about the loss of the network output
        F = 0 on training data.
        """
        scaled = type(self.held_out) is HeldOut and "" in self.best
        return scaled and self.best[""].score.loss > FAR

    @property
    def seen(self) -> int:
        """Number of training samples when the score of a part last improved.

        The number is 0 before the first score.
        """
        return max((best.seen for best in self.best.values()), default=0)

    def look(self, model: TrainedNetwork, seen: int) -> Score:
        """Return the score of a model, and store the state of parts whose score is the best.

        All ranks must call this method together, and compute the same score.

        Args:
            model: The model.
            seen: Number of training samples so far.
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

    def put_best(self, model: TrainedNetwork) -> Score | None:
        """Load the best weights into a model, and return their score; None if none are stored."""
        if not (self.keeps_best and self.best):
            return None
        for best in self.best.values():
            model.denoiser.load_state_dict(best.weights, strict=False)
        if "" in self.best:
            return self.best[""].score
        losses = {name: best.score.loss for name, best in self.best.items()}
        return Score(sum(losses.values()), parts=losses)

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as tensors and plain values."""
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

    def restore(self, state: dict[str, Any], model: TrainedNetwork, source: str) -> None:
        """Restore the state returned by ``state``.

        Args:
            state: Training state.
            model: TrainedNetwork whose weights are trained.
            source: Name of the state in error messages.

        Raises:
            DataError: The state is broken, or belongs to another model.
        """
        parts = state.get(KEY, {})
        if not isinstance(parts, dict):
            raise DataError(
                f"{source}: '{KEY}' is damaged: the entry is not a dictionary. Resume from "
                "another state"
            )
        self.best = {name: _restored(part, name, model, source) for name, part in parts.items()}


def _of_part(model: TrainedNetwork, name: str) -> dict[str, Tensor]:
    """Return the state of a part of a network; of the whole denoiser, if its name is ''."""
    state: dict[str, Tensor] = model.denoiser.state_dict()
    start = f"network.{name}." if name else ""
    return {key: value for key, value in state.items() if key.startswith(start)}


def _restored(state: Any, name: str, model: TrainedNetwork, source: str) -> Best:
    match state:
        case {
            "score": {"loss": float(loss), "nats": float() | None as nats},
            "seen": int(seen),
            "waited": int(waited),
            "weights": dict(),
        }:
            pass
        case _:
            raise DataError(
                f"{source}: '{KEY}' is damaged: a value is missing or of the wrong type. Resume "
                "from another state"
            )
    try:
        weights = tensors_of(state, "weights")
    except ValueError as error:
        raise DataError(
            f"{source}: '{KEY}' is damaged: {first_line(error)}. Resume from another state"
        ) from error
    own = _of_part(model, name)
    shapes = {key: value.shape for key, value in own.items()}
    if not own or (weights and {key: value.shape for key, value in weights.items()} != shapes):
        raise DataError(
            f"{source} has best weights of another model: resume with a state of this model"
        )
    moved = {key: torch.as_tensor(value).to(own[key]) for key, value in weights.items()}
    return Best(Score(loss, nats), seen, waited, moved)
