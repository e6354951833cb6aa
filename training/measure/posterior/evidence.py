"""Bayesian model comparison: posterior probabilities of models from their evidence.

The evidence of a model is the mean of its likelihood over its prior, Z_k. With prior probabilities
``pi_k`` of the models,

    p_k = pi_k Z_k / sum_j pi_j Z_j,        dp_k = p_k sum_j (delta_kj - p_j) dlog Z_j,

so that independent errors of log Z propagate to p (to first order). ``Z_j / Z_k`` is the Bayes
factor (Kass and Raftery 1995).
"""

import torch
from torch import Tensor


def model_probabilities(evidence: Tensor, error: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Return posterior probabilities of models from their evidence, with errors, both ``[M, K]``.

    The probabilities of an observation sum to 1. Standard errors are those of sampling alone.

    Args:
        evidence: Log evidence ``log Z [M, K]``, nats.
        error: Standard errors of the log evidence ``[M, K]``.
        prior: Prior probabilities ``pi [K]``, positive, up to a constant.

    Example:
        >>> import torch
        >>> evidence, error = torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2)
        >>> probability, _ = model_probabilities(evidence, error, torch.ones(2))
        >>> round(float(probability[0, 1]), 3)
        0.731
    """
    value = (evidence + prior.log()).softmax(dim=1)
    identity = torch.eye(evidence.shape[1], dtype=value.dtype, device=value.device)
    slopes = value[:, :, None] * (identity - value[:, None, :])
    return value, (slopes * error[:, None, :]).norm(dim=2)
