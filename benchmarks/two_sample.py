"""Distances between two sets of samples, without assumptions on their distributions."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.seeds import seeded_generator

CHUNK = 2048
FOLDS, WIDTH = 5, 10
EPOCHS, BATCH, RATE, DECAY = 1000, 200, 1e-3, 1e-4
TOLERANCE, PATIENCE = 1e-4, 10


def energy_distance(first: Tensor, second: Tensor) -> float:
    """The energy distance of two samples ``[n, D]`` and ``[m, D]`` (Szekely and Rizzo 2013).

    ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` over all pairs, a point with itself included. So it is
    never negative, 0 for equal sets, and about ``E|X - X'| (1/n + 1/m)`` for samples of one
    distribution.
    """
    cross = mean_distance(first, second)
    return 2 * cross - mean_distance(first, first) - mean_distance(second, second)


def mean_distance(first: Tensor, second: Tensor) -> float:
    """Mean Euclidean distance over all pairs; memory grows with one set, not with both."""
    rows = torch.split(first.double(), CHUNK)
    second = second.double()
    # Differences rather than a matrix product: close points would lose their digits.
    exactly = "donot_use_mm_for_euclid_dist"
    total = sum(torch.cdist(part, second, compute_mode=exactly).sum() for part in rows)
    return float(total) / (len(first) * len(second))


def c2st(references: np.ndarray, draws: np.ndarray, seed: int = 1) -> list[float]:
    """Return the accuracies ``[M]`` of classifiers between references and draws ``[M, N, D]``.

    The test of sbibm: a perceptron with two hidden layers of 10 D units, rows standardized by the
    reference, mean accuracy over five folds; 0.5 is perfect. The classifier is the
    ``MLPClassifier`` of scikit-learn with ``max_iter=1000``. Here all folds of all observations are
    trained at once, in float32: initial weights, batches, steps, decay and end are distributed
    alike, only the random numbers differ.

    Raises:
        ValueError: Rows do not make folds of one size.
    """
    centers, scales = (getattr(references, of)(axis=1, keepdims=True) for of in ("mean", "std"))
    rows = torch.from_numpy((np.concatenate([references, draws], axis=1) - centers) / scales)
    rows, drawn = rows.float(), torch.zeros(rows.shape[:2])
    drawn[:, references.shape[1] :] = 1
    if rows.shape[1] % FOLDS:
        raise ValueError(f"{rows.shape[1]} rows do not make {FOLDS} folds of one size")
    generator = seeded_generator("cpu", seed)
    folds = torch.randperm(rows.shape[1], generator=generator).view(FOLDS, -1)
    train = torch.stack([torch.cat([*folds[:at], *folds[at + 1 :]]) for at in range(FOLDS)])
    values = fitted(rows[:, train].flatten(0, 1), drawn[:, train].flatten(0, 1), generator)
    odds = forward(layers(values, rows.shape[2]), rows[:, folds].flatten(0, 1))[-1][..., 0]
    right = (odds > 0) == drawn[:, folds].flatten(0, 1).bool()
    means: list[float] = right.double().view(len(rows), -1).mean(dim=1).tolist()
    return means


def layers(values: Tensor, dim: int) -> list[Tensor]:
    """Return the layers ``[K, in + 1, out]`` of K perceptrons of D numbers, biases last.

    They are views of the values ``[K, P]``.
    """
    units = WIDTH * dim
    shapes = [(dim + 1, units), (units + 1, units), (units + 1, 1)]
    parts = torch.split(values, [rows * columns for rows, columns in shapes], dim=1)
    return [part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]


def forward(weights: list[Tensor], x: Tensor) -> list[Tensor]:
    """Return the inputs of all layers, and log odds ``[K, N, 1]``, of rows ``[K, N, D]``."""
    found = [x]
    for layer in weights:
        if len(found) > 1:
            found[-1].relu_()
        found.append(torch.baddbmm(layer[:, -1:], found[-1], layer[:, :-1]))
    return found


def loss_and_gradient(values: Tensor, x: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean losses ``[K]`` over a batch of rows, and their gradients ``[K, P]``."""
    weights, count = layers(values, x.shape[2]), x.shape[1]
    *inputs, odds = forward(weights, x)
    loss = F.binary_cross_entropy_with_logits(odds[..., 0], drawn, reduction="none").mean(dim=1)
    slope = (odds.sigmoid() - drawn[..., None]) / count
    gradient = values * (DECAY / count)
    parts = layers(gradient, x.shape[2])
    for layer, part, given in zip(weights[::-1], parts[::-1], inputs[::-1], strict=True):
        part[:, -1] = slope.sum(dim=1)
        loss = loss + part[:, :-1].mul(layer[:, :-1]).sum(dim=(1, 2)) / 2
        part[:, :-1] += given.mT @ slope
        if given is not x:
            slope = (slope @ layer[:, :-1].mT).mul_(given.sign())
    return loss, gradient


def fitted(x: Tensor, drawn: Tensor, generator: torch.Generator) -> Tensor:
    """Return the values ``[K, P]`` of K perceptrons, for rows ``[K, N, D]`` with 0 or 1 each.

    A perceptron is done after more than ``PATIENCE`` epochs in a row whose loss is not below its
    smallest by ``TOLERANCE``.
    """
    count, dim = x.shape[1:]
    units = WIDTH * dim
    size = (dim + 1) * units + (units + 1) * units + units + 1
    values = torch.rand(len(x), size, generator=generator).mul_(2).sub_(1)
    for layer in layers(values, dim):
        fans = layer.shape[1] - 1 + layer.shape[2]
        layer *= ((6 if layer.shape[2] > 1 else 2) / fans) ** 0.5
    result, going = values.clone(), torch.arange(len(x))
    adam = torch.optim.Adam([values], RATE, fused=True)
    best, waited = torch.full((len(x),), torch.inf), torch.zeros(len(x))
    for _ in range(EPOCHS):
        order = torch.rand(len(going), count, generator=generator).argsort(dim=1)
        rows, labels = x[going[:, None], order], drawn[going[:, None], order]
        total = torch.zeros(len(going))
        for some, ones in zip(
            torch.split(rows, BATCH, 1), torch.split(labels, BATCH, 1), strict=True
        ):
            loss, values.grad = loss_and_gradient(values, some, ones)
            adam.step()
            total += loss * (ones.shape[1] / count)
        waited = torch.where(total > best - TOLERANCE, waited + 1, 0)
        best = torch.minimum(best, total)
        result[going] = values
        left = waited <= PATIENCE
        if not left.any():
            break
        if not left.all():
            going, best, waited = going[left], best[left], waited[left]
            state, values = adam.state[values], values[left]
            adam = torch.optim.Adam([values], RATE, fused=True)
            adam.state[values] = {
                name: each[left] if each.dim() else each for name, each in state.items()
            }
    return result
