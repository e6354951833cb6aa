"""Category columns given conditions, mapped to standard normal scores.

Such columns have few values, for example a choice, or hit and miss. A level k of L has the
probability ``p_k(c)``. A dequantized point lies in the bin of its level, and ``a`` is the fraction
of the bin below it. The image of the point is the normal score of its rank among all levels,

    y = Phi^-1(p_1 + ... + p_(k-1) + a p_k),   dy / dx = p_k / (step phi(y)),

so that y is standard normal whatever c is, and the density integrated over the bin of a level is
exactly its probability mass. Several columns are autoregressive: each is given those before it.

Logits come from a network with one multiplicative layer, ``h + D (U h * G h)``. It includes
generalized linear models whose coefficients are parameters and whose predictors are covariates. One
more, nonlinear layer fits other functions; its weights are 0 if products alone do better.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.flow.coordinates.conditions import Prediction

MEMBERS, WIDTH = 3, 32
"""Number of networks per column, whose logits are averaged, and units of their layers."""
LEAST_SHARE = 1e-300
"""Floor of the probabilities below and above a point, whose logarithms are taken."""


class LevelNetwork(nn.Module):
    """A network for the logits of a column's L categories, given conditions and earlier columns."""

    def __init__(self, inputs: int, levels: int):
        super().__init__()
        self.first = nn.Linear(inputs, WIDTH)
        self.one, self.other, self.product = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.bend, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, levels)

    def forward(self, c: Tensor) -> Tensor:
        """Return the logits ``[..., L]`` of the categories for network inputs ``[..., C]``."""
        h = self.first(c)
        h = h + self.product(self.one(h) * self.other(h))
        h = h + F.silu(self.bend(h))
        return cast(Tensor, self.last(h))


class LevelPrediction(Prediction):
    """An invertible map from category columns, given conditions, to standard normal scores.

    Args:
        dim: D, the number of columns.
        conditions: C, the number of conditions.
        counts: Number of levels of each column ``[D]``.

    Attributes:
        first: Value of the first level of each column ``[D]``.
        step: Distance between the values of neighboring levels of each column ``[D]``.

    Raises:
        ValueError: There are no conditions, or a column has fewer than two levels.
    """

    first: Tensor
    step: Tensor

    def __init__(self, dim: int, conditions: int, counts: Sequence[int]):
        if conditions < 1 or len(counts) != dim or min(counts) < 2:
            raise ValueError(
                f"category columns have {list(counts)} levels and {conditions} conditions: give "
                "at least two levels per column and one condition"
            )
        super().__init__(dim, conditions)
        self.counts = list(counts)
        self.networks = nn.ModuleList(
            nn.ModuleList(LevelNetwork(conditions + before, count) for _ in range(MEMBERS))
            for before, count in enumerate(counts)
        )
        for name in ("first", "step"):
            self.register_buffer(name, torch.ones(dim, dtype=torch.float64))
        self.requires_grad_(False)  # parameters require gradients only during the fit

    def hold(self, first: Tensor, step: Tensor) -> None:
        """Set the first level and the distance between levels, both ``[D]``, of the D columns."""
        self.first.copy_(first)
        self.step.copy_(step)

    def numbers(self, x: Tensor) -> Tensor:
        """Return the indices ``[..., D]``, from 0, of the levels of points ``[..., D]``."""
        most = self.first.new_tensor(self.counts) - 1
        return ((x - self.first) / self.step).round().clamp_min(0).minimum(most)

    def seen(self, number: int, c: Tensor, numbers: Tensor) -> Tensor:
        """Return the inputs ``[..., C + number]`` of the networks that predict one column.

        The inputs are the conditions ``[..., C]`` and the levels of the earlier columns, scaled to
        the range from -1 to 1.

        Args:
            number: Index of the column, which is also the number of earlier columns.
            c: Conditions ``[..., C]``.
            numbers: Indices of the levels of all columns ``[..., D]``.
        """
        wide = [count - 1 for count in self.counts[:number]]
        before = 2 * numbers[..., :number] / numbers.new_tensor(wide) - 1
        c = c.expand(*before.shape[:-1], -1)
        return torch.cat([c, before.to(c)], dim=-1)

    def log_probabilities(self, number: int, seen: Tensor) -> Tensor:
        """Return the log probabilities ``[..., L]`` of the levels of one column, float64.

        Args:
            number: Index of the column.
            seen: Inputs of the networks of the column.
        """
        networks = self.networks[number]
        assert isinstance(networks, nn.ModuleList)
        dtype = next(networks.parameters()).dtype
        logits = torch.stack([network(seen.to(dtype)) for network in networks]).mean(dim=0)
        return logits.double().log_softmax(dim=-1)

    def log_prob(self, x: Tensor, c: Tensor) -> Tensor:
        """Return the joint log probability ``[...]`` of the levels of each point.

        Args:
            x: Points ``[..., D]``.
            c: Conditions ``[..., C]`` of the points.
        """
        total = torch.zeros_like(x[..., 0])
        for _, logs, level in self._of_columns(self.numbers(x), c):
            total = total + logs.gather(-1, level)[..., 0]
        return total

    def _of_columns(self, numbers: Tensor, c: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield index, log probabilities ``[..., L]`` and levels ``[..., 1]`` of each column.

        The levels of all columns are ``numbers [..., D]``.
        """
        for place in range(len(self.counts)):
            logs = self.log_probabilities(place, self.seen(place, c, numbers))
            level = numbers[..., place, None].long()
            yield place, logs.expand(*numbers.shape[:-1], -1), level

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normal scores ``y [..., D]`` of points x, and ``log |det dy/dx| [...]``.

        A point outside the bin of its level is moved to the edge of the bin.
        """
        numbers, y = self.numbers(x), x.clone()
        total = torch.zeros_like(x[..., 0])
        within = (x - self.first) / self.step - numbers + 0.5
        for number, logs, level in self._of_columns(numbers, c):
            log_p = logs.gather(-1, level)[..., 0]
            part = within[..., number].clamp(0, 1)
            y[..., number] = _score(logs.exp(), level, part)
            normal = -0.5 * (y[..., number].square() + torch.log(2 * torch.pi * y.new_ones(())))
            total = total + log_p - self.step[number].log() - normal
        return y, total

    def inverse(self, y: Tensor, c: Tensor) -> Tensor:
        """Return the points ``[..., D]`` with normal scores y, each within the bin of its level."""
        x = y.clone()
        numbers = torch.zeros_like(y)
        for number in range(len(self.counts)):
            p = self.log_probabilities(number, self.seen(number, c, numbers)).exp()
            p = p.expand(*y.shape[:-1], -1)
            below, above = _normal_share(y[..., number]), _normal_share(-y[..., number])
            # Count from the nearer end, where probabilities keep all their digits.
            low = below[..., None] > p.cumsum(dim=-1)[..., :-1]
            high = above[..., None] < _from_above(p)[..., 1:]
            level = torch.where(below < 0.5, low.sum(dim=-1), high.sum(dim=-1))[..., None]
            own = p.gather(-1, level)[..., 0].clamp_min(LEAST_SHARE)
            from_low = (below - (p.cumsum(dim=-1) - p).gather(-1, level)[..., 0]) / own
            from_high = 1 - (above - (_from_above(p) - p).gather(-1, level)[..., 0]) / own
            part = torch.where(below < 0.5, from_low, from_high).clamp(0, 1)
            numbers[..., number] = level[..., 0].to(numbers)
            x[..., number] = self.first[number] + self.step[number] * (
                numbers[..., number] + part - 0.5
            )
        return x

    def check(self) -> None:
        """Raise ValueError if the distance between levels of a column is not positive."""
        if not (self.step > 0).all():
            raise ValueError(
                "the stored distance between levels of a category column is not positive: restore "
                "the file from a copy"
            )


def _normal_share(y: Tensor) -> Tensor:
    """Return ``Phi(y) [...]`` to full precision; ``torch.special.ndtr`` is 0 below -8.3."""
    return torch.special.erfc(-y / 2**0.5) / 2


def _from_above(p: Tensor) -> Tensor:
    """Return probabilities ``[..., L]`` of a level or any above it."""
    return p.flip(-1).cumsum(dim=-1).flip(-1)


def _score(p: Tensor, level: Tensor, part: Tensor) -> Tensor:
    """Return normal scores ``[...]`` of points in the bins of levels ``[..., 1]``.

    ``part [...]`` is the fraction of the bin below the point.
    """
    own = p.gather(-1, level)[..., 0]
    below = (p.cumsum(dim=-1) - p).gather(-1, level)[..., 0] + part * own
    above = (_from_above(p) - p).gather(-1, level)[..., 0] + (1 - part) * own
    nearer = torch.minimum(below, above).clamp_min(LEAST_SHARE)
    return torch.special.ndtri(nearer) * torch.where(below < above, 1.0, -1.0)
