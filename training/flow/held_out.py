"""What truths that no training has seen say of a flow's posteriors: the part of a network file that
``posterior.py calibrate`` adds.

It holds numbers alone; what follows from them is in ``inference.guarantee``.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torch_utils.arguments import arguments_of


class HeldOut(nn.Module):
    """Where n truths lie in their posteriors.

    Args:
        truths: n.
        quantities: Names of Q quantities, coordinates first, and then the user's functions.
        functions: How many of these are the user's.
        conditions: C, coordinates of observations; 0 where distances between them are not taken.
        oddities: Names of K numbers that are large of observations unlike the others.
        draws: Of each posterior.
        network: SHA-256 of the network whose posteriors they are.
        way: What draws depend on beside it: plain values by name, as JSON.

    Attributes:
        ranks: ``[n, Q]``, fractional ranks of truths among draws.
        contents: ``[n]``, of the smallest highest-density regions that hold the truths.
        whitened: Observations, or conditions, ``[n, C]``, half whitened (``measure.clouds``).
        odd: ``[n, K]``.
    """

    ranks: Tensor
    contents: Tensor
    whitened: Tensor
    odd: Tensor

    def __init__(
        self,
        truths: int,
        quantities: Sequence[str],
        functions: int,
        conditions: int,
        oddities: Sequence[str],
        draws: int,
        network: str,
        way: str,
    ):
        super().__init__()
        if truths < 1 or not 0 <= functions < len(quantities):
            raise ValueError(f"{truths} truths of {len(quantities)} quantities are none")
        self.truths, self.quantities, self.functions = truths, list(quantities), functions
        self.conditions, self.oddities, self.draws = conditions, list(oddities), draws
        self.network, self.way = network, way
        self.arguments = arguments_of(self)
        widths = {"ranks": len(self.quantities), "whitened": conditions, "odd": len(self.oddities)}
        for name, width in widths.items():
            self.register_buffer(name, torch.zeros(truths, width, dtype=torch.float64))
        self.register_buffer("contents", torch.zeros(truths, dtype=torch.float64))

    @property
    def names(self) -> list[str]:
        """Of the coordinates."""
        return self.quantities[: len(self.quantities) - self.functions]

    @property
    def made_with(self) -> dict[str, Any]:
        """What draws depend on beside the network, by name. Raises ValueError if it is no JSON."""
        try:
            way = json.loads(self.way)
        except RecursionError as error:
            raise ValueError(
                "what its held-out truths were made with is nested too deep"
            ) from error
        if not isinstance(way, dict):
            raise ValueError("it does not say what its held-out truths were made with")
        return way

    def check(self) -> None:
        """Raises ValueError if ranks or contents are none, or it does not say what they are of."""
        _ = self.made_with
        for values in (self.ranks, self.contents):
            if values.dtype != torch.float64 or not ((values >= 0) & (values <= 1)).all():
                raise ValueError("ranks or contents of its held-out truths are not from 0 to 1")
