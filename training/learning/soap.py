"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321).

For a matrix of weights with gradient G, ``L`` and ``R`` are running means of ``G G^T`` and ``G^T
G``, and ``Q_L``, ``Q_R`` their eigenvectors. Adam is done with ``Q_L^T G Q_R`` in the place of G,
and its step is turned back. Vectors are left to Adam itself.

A step costs a few products of the matrices more, which is little beside a batch of many rows. It
pays where there is no noise, and small networks are to be fitted closely.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

TINY = 1e-12
"""Beside root mean squares of gradients."""


class Soap(torch.optim.Optimizer):
    """The optimizer.

    Args:
        parameters: What to train.
        lr: Learning rate.
        betas: Of the running means of gradients, and of all squares.
        every: Steps between new eigenvectors, by one step of power iteration and a QR
            factorization each.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        every: int = 10,
    ):
        super().__init__(parameters, {"lr": lr})
        self._betas, self._every = betas, every

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """A step; the first one only looks at the gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.sub_(self._move(weight, weight.grad), alpha=group["lr"])

    def _move(self, weight: Tensor, g: Tensor) -> Tensor:
        """How far a weight goes down at a learning rate of 1, by its gradient."""
        slow, slower = self._betas
        sides = [g @ g.mT, g.mT @ g] if g.ndim == 2 else []
        known = self.state[weight]
        if not known:
            known |= {"step": 0, "mean": torch.zeros_like(g), "square": torch.zeros_like(g)}
            known["sides"] = sides
            known["bases"] = [torch.linalg.eigh(side).eigenvectors for side in sides]
            return torch.zeros_like(g)
        known["step"] += 1
        bases, step = known["bases"], known["step"]
        known["mean"].lerp_(g, 1 - slow)
        known["square"].lerp_(_turned(g, bases).square(), 1 - slower)
        mean = _turned(known["mean"], bases) / (1 - slow**step)
        root = (known["square"] / (1 - slower**step)).sqrt()
        move = _turned(mean / (root + TINY), [basis.mT for basis in bases])
        for running, side in zip(known["sides"], sides, strict=True):
            running.lerp_(side, 1 - slower)
        if step % self._every == 0:
            pairs = zip(known["sides"], bases, strict=True)
            known["bases"] = [torch.linalg.qr(side @ basis).Q for side, basis in pairs]
        return move


def _turned(rows: Tensor, bases: list[Tensor]) -> Tensor:
    """``Q_L^T rows Q_R``; rows themselves where there are no bases."""
    return bases[0].mT @ rows @ bases[1] if bases else rows
