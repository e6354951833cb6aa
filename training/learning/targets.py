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

from torch import Tensor


def averaged_origin(clean: Tensor, noise: Tensor, variance: Tensor, others: Tensor) -> Tensor:
    """``E[e | x, {e, e_1, ..., e_R}] [B, D]`` of noisy points.

    Args:
        clean: What they were made of, ``e [B, D]``.
        noise: The unit noise that was added ``[B, D]``.
        variance: That of the noise, ``gamma [B, D]``.
        others: Further points of the law of the clean ones, ``[R, D]``.
    """
    # In single precision: what is far has no weight. And dimension by dimension, of which there are
    # few: sums over a short last axis take four times as long.
    noisy, near = (clean + variance.sqrt() * noise).float(), others.float()
    factor = -0.5 / variance.float()
    logits = noisy.new_zeros(len(clean), 1 + len(others))
    logits[:, 0] = -0.5 * noise.float().square().sum(dim=1)
    for x, e, f in zip(noisy.T, near.T, factor.T, strict=True):
        logits[:, 1:].addcmul_((x[:, None] - e).square_(), f[:, None])
    weights = logits.softmax(dim=1)
    return (weights[:, :1] * clean.float() + weights[:, 1:] @ near).to(clean.dtype)
