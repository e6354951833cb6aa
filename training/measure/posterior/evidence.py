"""Which of several models data speak for: probabilities of models by their evidence.

The evidence of a model is the mean of its likelihood over its prior, Z_k. With probabilities
``pi_k`` of the models before,

    p_k = pi_k Z_k / sum_j pi_j Z_j,        dp_k = p_k sum_j (delta_kj - p_j) dlog Z_j,

so that errors of log Z that are independent make one of p (first order). ``Z_j / Z_k`` is the
Bayes factor (Kass and Raftery 1995).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class ModelProbabilities(NamedTuple):
    """Of K models for M observations.

    Attributes:
        value: ``[M, K]``, which sum to 1.
        error: ``[M, K]``, of chance alone.
    """

    value: Tensor
    error: Tensor


def model_probabilities(evidence: Tensor, error: Tensor, prior: Tensor) -> ModelProbabilities:
    """Probabilities of models.

    Args:
        evidence: ``log Z [M, K]``, nats.
        error: Of these, ``[M, K]``.
        prior: ``pi [K]``, positive.

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
