"""Errors of images after inflation and generation (a round trip).

Errors are in gray levels of 8-bit pixels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LEVELS_PER_UNIT = 127.5
"""Gray levels per unit of data, which runs from -1 to 1."""


def in_range(points: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Return points from -1 to 1 in the units of images, from one end of the range to the other."""
    low, high = value_range
    return (points + 1) * ((high - low) / 2) + low


@dataclass(frozen=True)
class RoundtripErrors:
    """Errors of N images after a round trip, each as a vector ``[N]``.

    Attributes:
        mse: Mean squared error after rounding to 8 bits, in squared gray levels.
        mse_float: Mean squared error before rounding and clamping.
        largest: Largest absolute error before rounding, in gray levels.
        exact: Fraction of pixels that are recovered exactly.
    """

    mse: Tensor
    mse_float: Tensor
    largest: Tensor
    exact: Tensor

    @classmethod
    def from_images(
        cls,
        original: Tensor,
        returned: Tensor,
        value_range: tuple[float, float] = (0.0, 255.0),
    ) -> "RoundtripErrors":
        """Compute the errors of images after a round trip, in float64.

        Args:
            original: Original images ``[N, D]`` in gray levels from 0 to 255, with fractions if
                noise was added.
            returned: Images ``[N, D]`` after the round trip, in data units from -1 to 1.
            value_range: Values that -1 and 1 stand for. Rounding is to whole numbers, or to a 255th
                of a range that is below 255.
        """
        original, (low, high) = original.double(), value_range
        levels = in_range(returned.double(), value_range)
        error = levels - original
        step = min(1.0, (high - low) / 255)
        rounded = (levels / step).round().clamp(low / step, high / step)
        rounded = step * (rounded - (original / step).round().clamp(low / step, high / step))
        return cls(
            mse=rounded.square().mean(dim=1),
            mse_float=error.square().mean(dim=1),
            largest=error.abs().amax(dim=1),
            exact=(rounded == 0).double().mean(dim=1),
        )

    def columns(self) -> Tensor:
        """Return all four errors as an array ``[N, 4]``, in the order of the attributes."""
        return torch.stack([self.mse, self.mse_float, self.largest, self.exact], dim=1)

    def summary(self) -> dict[str, Any]:
        """Return the mean errors over the images, and the largest error of all images."""
        return {
            "mse": float(self.mse.mean()),
            "mse_float": float(self.mse_float.mean()),
            "max_abs_error": float(self.largest.max()),
            "exact_pixels": float(self.exact.mean()),
        }
