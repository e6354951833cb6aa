"""C2ST as the benchmark takes it: how well a classifier tells draws from the reference.

A perceptron with two hidden layers of 10 D units; rows standardized by the reference; mean accuracy
over five folds. 0.5 means that there is nothing to tell.

The classifier is scikit-learn's ``MLPClassifier`` with ``adam`` and ``max_iter=1000``, which trains
for hundreds of epochs until its loss falls no more. Here the same is done for all folds of all
observations at once, in float32: the law of initial weights, batches, steps, decay and end are its,
only the random numbers are not.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.seeds import seeded_generator

FOLDS, WIDTH = 5, 10
EPOCHS, BATCH, RATE, DECAY = 1000, 200, 1e-3, 1e-4
TOLERANCE, PATIENCE = 1e-4, 10
"""A perceptron is done after more than so many epochs in a row whose loss is not below its least by
the tolerance."""


def c2st(references: np.ndarray, draws: np.ndarray, seed: int = 1) -> list[float]:
    """Accuracies of telling draws ``[M, N, D]`` from references ``[M, N, D]``, one for each of M.

    Raises:
        ValueError: Rows do not make folds of one size.
    """
    places, scales = references.mean(axis=1, keepdims=True), references.std(axis=1, keepdims=True)
    rows = torch.from_numpy((np.concatenate([references, draws], axis=1) - places) / scales).float()
    drawn = torch.zeros(rows.shape[:2])
    drawn[:, references.shape[1] :] = 1
    if rows.shape[1] % FOLDS:
        raise ValueError(f"{rows.shape[1]} rows do not make {FOLDS} folds of one size")
    generator = seeded_generator("cpu", seed)
    folds = torch.randperm(rows.shape[1], generator=generator).view(FOLDS, -1)
    others = [torch.cat([*folds[:fold], *folds[fold + 1 :]]) for fold in range(FOLDS)]
    train = torch.stack(others)
    trained = Perceptrons.trained(
        rows[:, train].flatten(0, 1), drawn[:, train].flatten(0, 1), generator
    )
    said = trained(rows[:, folds].flatten(0, 1)) > 0
    right = said == drawn[:, folds].flatten(0, 1).bool()
    return right.double().view(len(rows), -1).mean(dim=1).tolist()


@dataclass
class Perceptrons:
    """K perceptrons side by side.

    Attributes:
        values: Weights and biases, of each perceptron in one row ``[K, P]``.
        dim: Columns of their rows.
    """

    values: Tensor
    dim: int

    @property
    def layers(self) -> list[Tensor]:
        """Parts of the values ``[K, in + 1, out]``, with the biases last."""
        units = WIDTH * self.dim
        shapes = [(self.dim + 1, units), (units + 1, units), (units + 1, 1)]
        parts = torch.split(self.values, [rows * columns for rows, columns in shapes], dim=1)
        return [part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]

    def __call__(self, x: Tensor) -> Tensor:
        """Log odds ``[K, N]`` of rows ``[K, N, D]``."""
        return self._forward(x)[-1][..., 0]

    def _forward(self, x: Tensor) -> list[Tensor]:
        """Inputs ``[K, N, .]`` of all layers, and the last one's output."""
        found = [x]
        for layer in self.layers:
            if len(found) > 1:
                found[-1].relu_()
            found.append(torch.baddbmm(layer[:, -1:], found[-1], layer[:, :-1]))
        return found

    def gradient(self, x: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Mean losses ``[K]`` over a batch of rows, and their slopes ``[K, P]``."""
        inputs, count = self._forward(x), x.shape[1]
        odds = inputs.pop()[..., 0]
        loss = F.binary_cross_entropy_with_logits(odds, drawn, reduction="none").mean(dim=1)
        slope = (odds.sigmoid() - drawn)[..., None] / count
        gradient = self.values * (DECAY / count)
        parts = Perceptrons(gradient, self.dim).layers
        for layer, part, given in zip(self.layers[::-1], parts[::-1], inputs[::-1], strict=True):
            part[:, -1] = slope.sum(dim=1)
            loss = loss + part[:, :-1].mul(layer[:, :-1]).sum(dim=(1, 2)) / 2
            part[:, :-1] += given.mT @ slope
            if given is not x:
                slope = (slope @ layer[:, :-1].mT).mul_(given.sign())
        return loss, gradient

    @classmethod
    def trained(cls, x: Tensor, drawn: Tensor, generator: torch.Generator) -> "Perceptrons":
        """Perceptrons for rows ``[K, N, D]`` with 0 or 1 for each ``[K, N]``."""
        count, dim = x.shape[1:]
        units = WIDTH * dim
        sizes = (dim + 1) * units + (units + 1) * units + units + 1
        start = cls(torch.rand(len(x), sizes, generator=generator).mul_(2).sub_(1), dim)
        for layer in start.layers:
            # Of the logistic layer, a third.
            fans = layer.shape[1] - 1 + layer.shape[2]
            layer *= ((6 if layer.shape[2] > 1 else 2) / fans) ** 0.5
        result, going = start.values.clone(), torch.arange(len(x))
        state = _Adam(start)
        best, waited = torch.full((len(x),), torch.inf), torch.zeros(len(x))
        for _ in range(EPOCHS):
            order = torch.rand(len(going), count, generator=generator).argsort(dim=1)
            rows, labels = x[going[:, None], order], drawn[going[:, None], order]
            parts = zip(torch.split(rows, BATCH, 1), torch.split(labels, BATCH, 1), strict=True)
            loss = torch.stack([state.step(*part) * part[1].shape[1] for part in parts]).sum(dim=0)
            loss = loss / count
            waited = torch.where(loss > best - TOLERANCE, waited + 1, 0)
            best = torch.minimum(best, loss)
            result[going] = state.perceptrons.values
            left = waited <= PATIENCE
            if not left.all():
                going, best, waited, state = going[left], best[left], waited[left], state.at(left)
            if not len(going):
                break
        return cls(result, dim)


class _Adam:
    """Perceptrons in training."""

    def __init__(self, perceptrons: Perceptrons):
        self.perceptrons = perceptrons
        self._adam = torch.optim.Adam([perceptrons.values], RATE, fused=True)

    def step(self, x: Tensor, drawn: Tensor) -> Tensor:
        """A step on a batch; the losses ``[K]`` before it."""
        loss, self.perceptrons.values.grad = self.perceptrons.gradient(x, drawn)
        self._adam.step()
        return loss

    def at(self, which: Tensor) -> "_Adam":
        """Of these alone."""
        kept = _Adam(Perceptrons(self.perceptrons.values[which], self.perceptrons.dim))
        state = self._adam.state[self.perceptrons.values]
        kept._adam.state[kept.perceptrons.values] = {
            name: value[which] if value.dim() else value for name, value in state.items()
        }
        return kept
