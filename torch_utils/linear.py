"""Linear layers by the library that multiplies fastest on this processor.

PyTorch's own products in single precision are those of MKL, which takes vectors of 256 bits on
processors of AMD. oneDNN, which comes with PyTorch as well, takes vectors of 512 bits wherever
there are some, and is 2.3 times as fast there (``benchmarks/linear_layers.py``). Without such
vectors both take the same time.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@cache
def onednn() -> Any:
    """oneDNN's linear layer, which PyTorch has for its compiler; None where it has none, or another
    one, or where it is no faster. It is private to PyTorch: if it moves, its name here does too,
    and the benchmark says whether it still pays."""
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    there = wide and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    layer = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if there else None
    layer, ones = getattr(layer, "default", None), torch.ones(2, 2)
    try:
        return layer if layer and (layer(ones, ones, None, "none", [], "") == 2).all() else None
    except RuntimeError:
        return None


LEAST = 2**21
"""Products of numbers that pay for the call."""


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``rows [..., I]`` times ``weight [O, I]``, and ``bias [O]``: ``F.linear``, but for rounding.

    Args:
        rows: Rows.
        weight: Weights, of the rows' dtype.
        bias: None for none.
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
    # A bias is read as if its numbers stood side by side; rows and weights as they are.
    bias = None if bias is None else bias.contiguous()
    out: Tensor = onednn()(rows, weight, bias, "none", [], "")
    return out


class _Product(torch.autograd.Function):
    """The same of ``[B, I]``; gradients are such products too."""

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
    """``nn.Linear`` by ``linear``."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
