"""Ranks and distances of held-out cases under a flow's posteriors.

This is the part of a network file that ``posterior.py calibrate`` adds. It contains numbers only;
``inference.guarantee`` evaluates them.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torch_utils.arguments import arguments_of


class HeldOut(nn.Module):
    """Ranks of the true values of n held-out cases in their posteriors.

    Args:
        truths: n, the number of held-out cases.
        quantities: Names of Q quantities: the coordinates, then functions of them.
        functions: Number of functions among the quantities; files of earlier versions can have
            some.
        conditions: C, the number of observation coordinates; 0 if distances between observations
            are not computed.
        oddities: Names of K scores that are large for out-of-distribution observations.
        draws: Number of draws per posterior.
        network: SHA-256 of the network that defines the posteriors.
        way: Further settings of the draws: a JSON object of plain values by name.
        reach: Whether distances beyond the draws are known; files of earlier versions have none.

    Attributes:
        ranks: Fractional ranks ``[n, Q]`` of the true values among the posterior draws.
        contents: Probability content ``[n]`` of the smallest highest-density region that contains
            each true value.
        whitened: Observations, or conditions, ``[n, C]`` after partial whitening
            (``measure.clouds``).
        odd: Out-of-distribution scores ``[n, K]`` of the observations, in the order of
            ``oddities``.
        beyond: Distances ``[n, Q]`` of the true values from the outermost draws, in standard
            deviations of the draws, 0 between these; None without ``reach``.
    """

    ranks: Tensor
    contents: Tensor
    whitened: Tensor
    odd: Tensor
    beyond: Tensor | None

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
        reach: bool = False,
    ):
        super().__init__()
        if truths < 1 or not 0 <= functions < len(quantities):
            raise ValueError(
                f"a calibration has {truths} cases of {len(quantities)} quantities, including "
                f"{functions} functions: give at least one case and one coordinate"
            )
        self.truths, self.quantities, self.functions = truths, list(quantities), functions
        self.conditions, self.oddities, self.draws = conditions, list(oddities), draws
        self.network, self.way, self.reach = network, way, reach
        self.arguments = arguments_of(self)
        widths = {"ranks": len(self.quantities), "whitened": conditions, "odd": len(self.oddities)}
        for name, width in widths.items():
            self.register_buffer(name, torch.zeros(truths, width, dtype=torch.float64))
        self.register_buffer("contents", torch.zeros(truths, dtype=torch.float64))
        self.register_buffer("beyond", torch.zeros_like(self.ranks) if reach else None)

    @property
    def names(self) -> list[str]:
        """Names of the coordinates, without the user's functions."""
        return self.quantities[: len(self.quantities) - self.functions]

    @property
    def made_with(self) -> dict[str, Any]:
        """Settings of the posterior draws by name, without the network.

        Raises:
            ValueError: The stored settings are not a JSON object.
        """
        try:
            way = json.loads(self.way)
        except RecursionError as error:
            raise ValueError(
                "the options of the calibration are nested too deeply: calibrate again"
            ) from error
        if not isinstance(way, dict):
            raise ValueError(
                "the options of the calibration are not a JSON object: calibrate again"
            )
        return way

    def check(self) -> None:
        """Raise ValueError if ranks or probabilities are not in [0, 1], or settings are invalid."""
        _ = self.made_with
        if self.beyond is not None and not (self.beyond >= 0).all():
            raise ValueError("distances of true values are negative: calibrate again")
        for values in (self.ranks, self.contents):
            if values.dtype != torch.float64 or not ((values >= 0) & (values <= 1)).all():
                raise ValueError(
                    "ranks or probability contents of the calibration are not between 0 and 1: "
                    "calibrate again"
                )
