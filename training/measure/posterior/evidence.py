"""Bayesian model comparison: posterior probabilities of models from their evidence.

The evidence of a model is the mean of its likelihood over its prior, Z_k. With prior probabilities
``pi_k`` of the models,

    p_k = pi_k Z_k / sum_j pi_j Z_j,        dp_k = p_k sum_j (delta_kj - p_j) dlog Z_j,

so that independent errors of log Z propagate to p (to first order). ``Z_j / Z_k`` is the Bayes
factor (Kass and Raftery 1995).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class ModelProbabilities(NamedTuple):
    """Posterior probabilities of K models for M observations.

    Attributes:
        value: Probabilities ``[M, K]``, which sum to 1.
        error: Standard errors ``[M, K]``, from sampling alone.
    """

    value: Tensor
    error: Tensor


def model_probabilities(evidence: Tensor, error: Tensor, prior: Tensor) -> ModelProbabilities:
    """Compute the posterior probabilities of models from their evidence.

    Args:
        evidence: Log evidence ``log Z [M, K]``, nats.
        error: Standard errors of the log evidence ``[M, K]``.
        prior: Prior probabilities ``pi [K]``, positive, up to a constant.

    Example:
        >>> import torch
        >>> evidence, error = torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2)
        >>> chances = model_probabilities(evidence, error, torch.ones(2))
        >>> round(float(chances.value[0, 1]), 3)
        0.731
    """
    value = (evidence + prior.log()).softmax(dim=1)
    identity = torch.eye(evidence.shape[1], dtype=value.dtype, device=value.device)
    slopes = value[:, :, None] * (identity - value[:, None, :])
    return ModelProbabilities(value, (slopes * error[:, None, :]).norm(dim=2))
