"""Log densities of posteriors in the latents of a flow, for samplers of other libraries.

Whitened latents w are standard normal under the prior, and the flow carries them to points x(w), so
that the posterior of w given an observation y is, up to a constant,

    log p(w | y) = log p(y | x(w)) - |w|^2 / 2.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from training.inference.target import Target


class _LogDensity(torch.autograd.Function):
    """A log density with the gradient that a target computes from its likelihood."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, target: Target) -> Tensor:
        which = torch.zeros(len(w), dtype=torch.long, device=w.device)
        evaluated, gradient = target.slope(w, which)
        ctx.save_for_backward(gradient - w)
        return evaluated.log_likelihood - w.square().sum(dim=1) / 2

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return grad[0][:, None] * ctx.saved_tensors[0], None


class LatentDensity:
    """The log posterior density of whitened latents, given one observation.

    Attributes:
        dim: Number of latents.
    """

    def __init__(self, target: Target):
        self._target, self.dim = target, target.dim

    def __call__(self, w: Tensor) -> Tensor:
        """Return the log densities ``[...]`` of latents ``[..., dim]``, with gradients.

        Raises:
            UsageError: The likelihood has no gradients.
        """
        rows = w.reshape(-1, self.dim).double().to(self._target.device)
        apply: Callable[..., Tensor] = _LogDensity.apply
        density = apply(rows, self._target)
        return density.view(w.shape[:-1])

    def points(self, w: ArrayLike) -> np.ndarray:
        """Return the points ``[..., D]`` of latents ``[..., dim]``."""
        latents = torch.from_numpy(np.array(w, dtype=np.float64))
        rows = latents.reshape(-1, self.dim).to(self._target.device)
        which = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        points = self._target.evaluate(rows, which).points.cpu().numpy()
        return points.reshape(*latents.shape[:-1], -1)

    def to_jax(self) -> Callable[[Any], Any]:
        """Return the log density as a function of JAX arrays, for BlackJAX and NumPyro.

        The function can be differentiated, compiled and batched; it calls PyTorch.
        """
        jax = import_module("jax")

        def both(w: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
            values = np.asarray(w)
            leaf = torch.tensor(values, dtype=torch.float64, requires_grad=True)
            density = self(leaf)
            (gradient,) = torch.autograd.grad(density.sum(), leaf)
            parts = (density.detach().cpu().numpy(), gradient.cpu().numpy())
            return parts[0].astype(values.dtype), parts[1].astype(values.dtype)

        def called(w: Any) -> tuple[Any, Any]:
            shapes = (
                jax.ShapeDtypeStruct(w.shape[:-1], w.dtype),
                jax.ShapeDtypeStruct(w.shape, w.dtype),
            )
            density, gradient = jax.pure_callback(both, shapes, w, vmap_method="expand_dims")
            return density, gradient

        @jax.custom_vjp
        def log_density(w: Any) -> Any:
            return called(w)[0]

        log_density.defvjp(called, lambda gradient, grad: (grad[..., None] * gradient,))
        return log_density
