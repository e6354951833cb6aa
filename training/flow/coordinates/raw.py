"""Raw data as conditions of a flow: standardization, and summary statistics beside a network.

A condition is a row ``y [..., C]``: a series, an image or a set of P elements with K channels, NaN
where an element is absent. Values are standardized by channel over all simulations and elements.
The network's input are these values, the mask of present elements if it varies, and S summary
statistics, which need not be learned:

- mean and log standard deviation of each channel; for sets the means of the values, of their
  squares and of their cubes, and if elements can be absent ``log n``;
- principal components of the standardized series or images;
- log power by channel in half-octave bands of the spatial or temporal frequency,
  ``log mean_{k in band} |Y_k|^2`` with the discrete Fourier transform Y. A Gaussian random field
  with periodic boundaries has its whole information on the spectrum in them.

Linear predictions and the surprise use the standardized summary statistics alone.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from dnnlib.errors import DataError
from training.flow.coordinates.conditions import ConditionScale, require_width
from training.names import ARRAYS, MOST_RAW_VALUES, SETS

COMPONENTS = 16
"""Largest number of principal components."""
FITTED = 2000
"""Largest number of rows that principal components are fitted to."""
LEAST_POWER = 1e-6
"""Power added before the logarithm, relative to the variance of a channel."""


class RawScale(nn.Module):
    """Standardization and summary statistics of raw data.

    Args:
        kind: Kind of the data, a name in ``DATA_AS``. A network of the user's gets ``arrays`` as
            they are, without summary statistics.
        shape: Shape of one row, channels last.
        varies: Whether elements can be absent.

    Attributes:
        mean: Mean of each channel ``[K]``, float64.
        gain: Reciprocal standard deviation of each channel ``[K]``; 0 for constant channels.
        center: Mean ``[C]`` of standardized rows.
        axes: Principal axes ``[C, k]`` of standardized rows.
        statistics: Standardization of the S summary statistics.

    Raises:
        ValueError: A row has no or too many values.
    """

    mean: Tensor
    gain: Tensor
    center: Tensor
    axes: Tensor
    bands: Tensor

    def __init__(self, kind: str, shape: Sequence[int], varies: bool = False):
        super().__init__()
        self.kind, self.shape, self.varies = kind, tuple(shape), varies
        *size, channels = shape
        count = prod(shape)
        if not 0 < count <= MOST_RAW_VALUES:
            raise ValueError(f"raw data have {count} values: give 1 to {MOST_RAW_VALUES}")
        waves = kind not in (SETS, ARRAYS)
        components = min(COMPONENTS, count) if waves else 0
        bands = half_octaves(size) if waves else torch.zeros(0, 0)
        zeros = {"mean": (channels,), "center": (count,), "axes": (count, components)}
        for name, sizes in zeros.items():
            self.register_buffer(name, torch.zeros(sizes, dtype=torch.float64))
        self.register_buffer("gain", torch.ones(channels, dtype=torch.float64))
        self.register_buffer("bands", bands, persistent=False)
        width = channels * ((2 if waves else 3) + bands.shape[1]) + components + varies
        self.statistics = ConditionScale(0 if kind == ARRAYS else width)

    @property
    def width(self) -> int:
        """Number of summary statistics S."""
        return self.statistics.width

    @property
    def inputs(self) -> int:
        """Number of the network's inputs: values, mask and summary statistics."""
        return prod(self.shape) + self.varies * prod(self.shape[:-1]) + self.width

    def fit(self, conditions: Tensor) -> None:
        """Fit all statistics to rows ``[N, C]``."""
        if self.kind == ARRAYS:
            return
        values = conditions.double().reshape(-1, self.shape[-1])
        values = values[~values.isnan().any(dim=1)]
        std = values.std(dim=0, correction=0)
        self.mean.copy_(values.mean(dim=0))
        self.gain.copy_(torch.where(std > 1e-12 * self.mean.abs(), 1 / std, 0.0))
        if self.axes.numel():
            rows = self._values(conditions[:: -(-len(conditions) // FITTED)])[0].flatten(1)
            self.center.copy_(rows.mean(dim=0))
            _, _, axes = torch.linalg.svd(rows - self.center, full_matrices=False)
            some = min(len(axes), self.axes.shape[1])
            self.axes[:, :some] = axes[:some].T
        self.statistics.fit(self.straight(conditions))

    def forward(self, conditions: Tensor) -> Tensor:
        """Return the network's inputs ``[..., L]`` for rows ``[..., C]``, float64.

        Raises:
            DataError: Rows have another length.
        """
        values, there = self._values(conditions)
        parts = [values.flatten(-2), there[..., : self.varies * there.shape[-1]]]
        return torch.cat([*parts, self.predictors(conditions)], dim=-1)

    def straight(self, conditions: Tensor) -> Tensor:
        """Return the summary statistics ``[..., S]`` of rows ``[..., C]``."""
        values, there = self._values(conditions)
        if self.kind == ARRAYS:
            return values[..., 0, :0]
        number = there.sum(dim=-1, keepdim=True)
        powers = [values, values.square(), values.pow(3)]
        first, second, third = (each.sum(dim=-2) / number for each in powers)
        parts = [first, second, third] if self.kind == SETS else [first]
        if self.kind != SETS:
            spread = (second - first.square()).clamp_min(0)
            parts += [(spread + LEAST_POWER).log() / 2, self._powers(values, number)]
            parts.append((values.flatten(-2) - self.center) @ self.axes)
        return torch.cat([*parts, number.log()] if self.varies else parts, dim=-1)

    def predictors(self, conditions: Tensor) -> Tensor:
        """Return the standardized summary statistics ``[..., S]`` of rows ``[..., C]``."""
        return self.statistics(self.straight(conditions))

    def check(self) -> None:
        """Raise ValueError if a gain is negative."""
        self.statistics.check()
        if (self.gain < 0).any():
            raise ValueError(
                "the stored gain of a channel is negative: restore the file from a copy"
            )

    def _values(self, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Return standardized values ``[..., P, K]``, 0 where absent, and the mask ``[..., P]``."""
        require_width(conditions, prod(self.shape))
        rows = conditions.to(self.mean)
        rows = rows.reshape(*rows.shape[:-1], -1, self.shape[-1])
        gone = rows.isnan().any(dim=-1, keepdim=True)
        if (gone.any() and not self.varies) or gone.all(dim=-2).any():
            raise DataError("a condition is NaN: give data without missing values")
        values = (torch.where(gone, self.mean, rows) - self.mean) * self.gain
        return values, (~gone[..., 0]).to(values)

    def _powers(self, values: Tensor, number: Tensor) -> Tensor:
        """Return log powers ``[..., K bands]`` of values ``[..., P, K]``."""
        axes = len(self.shape) - 1
        fields = values.mT.reshape(*values.shape[:-2], -1, *self.shape[:-1])
        waves = torch.fft.rfftn(fields, dim=tuple(range(-axes, 0)))
        power = waves.abs().square().flatten(-axes) @ self.bands / number[..., None]
        return (power + LEAST_POWER).log().flatten(-2)


def half_octaves(size: Sequence[int]) -> Tensor:
    """Return the weights ``[F, bands]`` that average real Fourier modes over half octaves.

    The F modes are those of ``torch.fft.rfftn``. Each is weighted by its number of conjugates.

    Args:
        size: Lengths of the axes.
    """
    longest = max(size)
    *others, last = (np.fft.fftfreq(n, 1 / longest) for n in size)
    last = np.abs(last[: size[-1] // 2 + 1])
    squares = sum(np.square(each) for each in np.meshgrid(*others, last, indexing="ij"))
    radius = np.sqrt(squares).ravel()
    twice = np.full(len(last), 2.0)
    twice[0] = 1.0
    twice[-1] = 1.0 if size[-1] % 2 == 0 else 2.0
    weights = np.broadcast_to(twice, np.shape(squares)).ravel()
    band = np.full(len(radius), -1.0)
    band[radius > 0] = np.floor(2 * np.log2(radius[radius > 0]) + 1e-9)
    known = np.unique(band[radius > 0])
    sums = (band[:, None] == known) * weights[:, None]
    return torch.from_numpy(sums / sums.sum(axis=0))
