"""A network of trials: F of the data that are there, given parameters and covariates.

It is one of questions (``networks.questions``) whose numbers are residuals of data, asked where
they are there and absent where they are missing, and whose conditions are parameters and
covariates. Without states all data are asked: labels are then those of any conditional network.
"""

import torch
from torch import Tensor

from training.networks.mixture import ASKED, Start
from training.networks.questions import QuestionNetwork


class TrialNetwork(QuestionNetwork):
    """F of asked data; see ``QuestionNetwork`` for its arguments.

    Args:
        label_dim: Parameters and covariates C.
    """

    asks = False

    def __init__(
        self,
        dim: int,
        noise_range: tuple[float, float],
        label_dim: int,
        width: int = 256,
        depth: int = 3,
        dropout: float = 0.0,
        components: int = 1,
    ):
        super().__init__(
            dim,
            noise_range,
            width=width,
            depth=depth,
            dropout=dropout,
            components=components,
            conditions=label_dim,
        )
        self.label_dim = label_dim

    def states(self, labels: Tensor) -> Tensor:
        """Of data ``[B, K]``, by labels ``[B, C]`` or ``[B, C + K]``."""
        states = labels[:, self.label_dim :]
        return states if states.shape[1] else labels.new_full((len(labels), self.dim), ASKED)

    def _seen(
        self, z: Tensor, c_noise: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Start, Tensor]:
        if labels is None:
            labels = z.new_zeros(len(z), self.label_dim)
        states = self.states(labels)
        parts = [torch.zeros_like(states), states, labels[:, : self.label_dim]]
        return super()._seen(z, c_noise, torch.cat(parts, dim=1))
