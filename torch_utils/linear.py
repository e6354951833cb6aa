"""Linear layers by the fastest matrix product of this processor.

PyTorch's own products in single precision use MKL, which uses vectors of 256 bits on AMD
processors. oneDNN, which PyTorch includes as well, uses vectors of 512 bits where available, and is
faster there. Without such vectors both take the same time.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@cache
def onednn() -> Any:
    """Return oneDNN's linear layer; None if the layer is missing, or not faster on this CPU.

    The layer is a private function of PyTorch, made for its compiler. If PyTorch renames the
    function, change the name here, and check that the layer is still faster.
    """
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    there = wide and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    layer = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if there else None
    layer, ones = getattr(layer, "default", None), torch.ones(2, 2)
    try:
        return layer if layer and (layer(ones, ones, None, "none", [], "") == 2).all() else None
    except RuntimeError:
        return None


LEAST = 2**21
"""Minimum number of multiplications for which the call is faster."""


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``rows [..., I]`` times ``weight [O, I]`` plus ``bias [O]``, like ``F.linear``.

    Results differ from ``F.linear`` by rounding only.

    Args:
        rows: Inputs ``[..., I]``.
        weight: Weights ``[O, I]``, in the dtype of the rows.
        bias: Bias ``[O]``; None for none.
    """
    single = rows.dtype == weight.dtype == torch.float32
    short = rows.numel() * weight.shape[0] < LEAST
    if short or not single or rows.device.type != "cpu" or onednn() is None:
        return F.linear(rows, weight, bias)
    flat = rows.reshape(-1, rows.shape[-1])
    by = _Product.apply if torch.is_grad_enabled() else _product
    product: Tensor = by(flat, weight, bias)
    return product.view(*rows.shape[:-1], weight.shape[0])


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # The bias is read as if it were contiguous; rows and weights can have any strides.
    bias = None if bias is None else bias.contiguous()
    out: Tensor = onednn()(rows, weight, bias, "none", [], "")
    return out


class _Product(torch.autograd.Function):
    """The same product for ``[B, I]``, with gradients by oneDNN too."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return _product(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        of_rows, of_weight, of_bias = ctx.needs_input_grad
        return (
            linear(grad, weight.mT) if of_rows else None,
            linear(grad.mT, rows.mT) if of_weight else None,
            grad.sum(dim=0) if of_bias else None,
        )


class Linear(nn.Linear):
    """Linear layer that computes by the function ``linear``, and otherwise equals ``nn.Linear``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input [..., I]`` times the weight, plus the bias: ``[..., O]``."""
        return linear(input, self.weight, self.bias)
