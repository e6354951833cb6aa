"""Targets of less noise: where a noisy point came from, averaged over where it may have come from.

A noisy point ``x = e + n`` is regressed on the clean point e it was made of, of which the denoiser
learns the mean. Let ``e_1, ..., e_R`` be further points of the same law, drawn independently of x.
If it were not known which of the 1 + R points x was made of, each would have been it with the
probability

    w_j ~ exp(-|x - e_j|^2 / (2 gamma)),        |.|^2 / gamma summed over dimensions,

so that ``E[e | x, {e, e_1, ..., e_R}] = sum_j w_j e_j``. It has the same mean given x as e itself,
``E[e | x]``, whatever R is, and less variance (Rao and Blackwell). Regression on it has the same
answer, and gets there sooner. Targets like these, with all of a batch, were proposed by Xu, Tong
and Jaakkola (2023) as stable target fields.
"""

import torch
from torch import Tensor


def averaged_origin(clean: Tensor, noise: Tensor, variance: Tensor, others: Tensor) -> Tensor:
    """``E[e | x, {e, e_1, ..., e_R}] [B, D]`` of noisy points.

    Args:
        clean: What they were made of, ``e [B, D]``.
        noise: The unit noise that was added ``[B, D]``.
        variance: That of the noise, ``gamma [B, D]``.
        others: Further points of the law of the clean ones, ``[R, D]``.
    """
    # In single precision: what is far has no weight.
    noisy = (clean + variance.sqrt() * noise).float()
    precision = 1 / variance.float()
    near = others.float()
    apart = (noisy[:, None] - near).square_().mul_(precision[:, None]).sum(dim=2)
    own = noise.float().square().sum(dim=1, keepdim=True)
    weights = torch.cat([own, apart], dim=1).mul_(-0.5).softmax(dim=1).to(clean.dtype)
    return weights[:, :1] * clean + weights[:, 1:] @ others
