"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, arXiv 2409.11321).

For a matrix of weights with gradient G, ``L`` and ``R`` are running means of ``G G^T`` and ``G^T
G``, and ``Q_L``, ``Q_R`` their eigenvectors. Adam is applied to ``Q_L^T G Q_R`` instead of G, and
its step is rotated back. Vectors are left to Adam itself.

A step costs a few additional products of these matrices, which is little compared with a batch of
many rows. SOAP pays off where gradients have little noise, and small networks are to be fitted
closely.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

TINY = 1e-12
"""Added to root mean squares of gradients."""


class Soap(torch.optim.Optimizer):
    """The SOAP optimizer: Adam in the eigenbasis of Shampoo's preconditioner.

    Like in PyTorch's fused optimizers, a step is skipped if the attribute ``found_inf`` is not 0.

    Args:
        parameters: Parameters to train.
        lr: Learning rate.
        betas: Decay rates of the running means of gradients, and of their squares and products.
        weight_decay: Weight decay, per step and unit of the learning rate.
        every: Number of steps between updates of the eigenvectors, each by one power iteration and
            a QR factorization.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        weight_decay: float = 0.0,
        every: int = 10,
    ):
        settings = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "every": every}
        super().__init__(parameters, settings)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take an optimizer step; the first step only initializes the statistics of gradients."""
        if self.found_inf is not None and self.found_inf:
            return
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    move = self._move(weight, weight.grad, group["betas"], group["every"])
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(move, alpha=group["lr"])

    def _move(self, weight: Tensor, g: Tensor, betas: tuple[float, float], every: int) -> Tensor:
        """Return the change of a weight at a learning rate of 1, given its gradient."""
        slow, slower = betas
        sides = [g @ g.mT, g.mT @ g] if g.ndim == 2 else []
        known = self.state[weight]
        if not known:
            bases = [torch.linalg.eigh(side).eigenvectors for side in sides]
            turned = torch.zeros_like(g)
            known |= {"step": torch.tensor(0.0), "mean": turned, "square": turned.clone()}
            known |= {"sides": sides, "bases": bases}
            return torch.zeros_like(g)
        known["step"] += 1
        bases, step = known["bases"], known["step"]
        turned = _turned(g, bases)
        known["mean"].lerp_(turned, 1 - slow)
        known["square"].lerp_(turned.square(), 1 - slower)
        root = (known["square"] / (1 - slower**step)).sqrt() + TINY
        move = _turned(known["mean"] / (1 - slow**step) / root, [basis.mT for basis in bases])
        for running, side in zip(known["sides"], sides, strict=True):
            running.lerp_(side, 1 - slower)
        if bases and step % every == 0:
            pairs = zip(known["sides"], bases, strict=True)
            known["bases"] = [torch.linalg.qr(side @ basis).Q for side, basis in pairs]
            # Transform the mean of the gradients to the new bases.
            turns = [old.mT @ new for old, new in zip(bases, known["bases"], strict=True)]
            known["mean"] = _turned(known["mean"], turns)
        return move


def moments_of(shape: torch.Size) -> dict[str, Any]:
    """Return the shapes of the optimizer's state for a weight of a given shape."""
    sides = [torch.Size((size, size)) for size in shape] if len(shape) == 2 else []
    return {"step": torch.Size(), "mean": shape, "square": shape, "sides": sides, "bases": sides}


def _turned(rows: Tensor, bases: list[Tensor]) -> Tensor:
    """Return ``Q_L^T rows Q_R``; the rows themselves where there are no bases."""
    return bases[0].mT @ rows @ bases[1] if bases else rows
