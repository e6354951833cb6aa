"""Raw data as conditions: series, images, sets and other arrays, as flat rows of a table.

A row is the array of one simulation, flattened with channels last. Points of a series and elements
of a set can be absent: all of their channels are then NaN. Arrays are padded to the largest
simulation, ``[N, C]``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.errors import DataError, UsageError

SERIES, PICTURES, SETS, ARRAYS = "series", "images", "sets", "arrays"
"""Kinds of raw data; any arrays for a network of the user's."""
DATA_AS = (SERIES, PICTURES, SETS)
"""Kinds of raw data with a default network."""
AXES = {SERIES: 2, PICTURES: 3, SETS: 2}
"""Number of axes of one simulation, channels included."""
NOUNS = {SERIES: "points of", PICTURES: "pixels of", SETS: "elements of"}


@dataclass(frozen=True)
class RawShape:
    """Kind and shape of raw data.

    Attributes:
        kind: A name in ``DATA_AS``, or ``ARRAYS``.
        shape: Shape of one simulation. Series have ``(T, channels)``, images ``(H, W, channels)``,
            sets ``(most elements, numbers of an element)``, arrays any shape.
        varies: Whether points of a series or elements of a set can be absent.
    """

    kind: str
    shape: tuple[int, ...]
    varies: bool = False

    def __str__(self) -> str:
        return f"{self.kind} of {self._named(self.shape)}"

    @property
    def size(self) -> int:
        """Number of values of one simulation, C."""
        return prod(self.shape)

    @property
    def plain(self) -> dict[str, Any]:
        """Plain values, as in files."""
        return {"kind": self.kind, "shape": list(self.shape), "varies": self.varies}

    @classmethod
    def of(cls, data: Any, data_as: str | None) -> tuple["RawShape", Tensor]:
        """Return the shape of simulated data, and the data as rows ``[N, C]``, float64.

        Args:
            data: Array ``[N, ...]``, or list of N arrays; channels can be left out if there is one.
            data_as: A name in ``DATA_AS``; None for arrays of any shape.

        Raises:
            UsageError: The kind is unknown.
            DataError: The data do not have the axes of their kind, or an array has no elements.
        """
        if data_as is not None and data_as not in DATA_AS:
            raise UsageError(f"data_as is '{data_as}': give one of {', '.join(DATA_AS)}")
        kind = data_as or ARRAYS
        parts = _arrays(data, "the data")
        axes = AXES.get(kind, parts[0].ndim)
        if any(part.ndim not in (axes - 1, axes) for part in parts) or not parts[0].ndim:
            shape = [len(parts), *parts[0].shape]
            wanted = {SERIES: "[N, T] or [N, T, channels]", SETS: "[N, M] or [N, M, numbers]"}
            form = wanted.get(kind, "[N, H, W] or [N, H, W, channels]")
            raise DataError(f"the data have shape {shape}: give {kind} as {form}")
        if kind != ARRAYS:
            parts = [part if part.ndim == axes else part[..., None] for part in parts]
        lengths, rest = zip(*((part.shape[0], part.shape[1:]) for part in parts), strict=True)
        padded = kind in (SERIES, SETS)
        if len(set(rest)) > 1 or (len(set(lengths)) > 1 and not padded):
            raise DataError(f"the data are {kind} of different shapes: give arrays of one shape")
        most = max(lengths) if padded else lengths[0]
        shape = cls(kind, (most, *rest[0]), padded)
        rows = torch.stack([shape._row(part) for part in parts])
        absent = padded and bool(rows.isnan().any())
        return cls(kind, shape.shape, absent or kind == SETS), rows

    def rows(self, data: Any, what: str) -> Tensor:
        """Return observations as rows ``[M, C]``, float64; gradients flow back to a tensor.

        Args:
            data: One observation, or M of them: an array, a tensor, or a list of arrays.
            what: Name of the observations in error messages.

        Raises:
            DataError: The data have another shape, or values that are missing or not finite.
        """
        listed = isinstance(data, list | tuple) and all(np.ndim(part) for part in data)
        parts = _arrays(data, what) if listed else [_tensor(data, what)]
        if not listed and not self._is_one(parts[0].shape):
            parts = list(parts[0])
        strange = next((part.shape for part in parts if not self._fits(part.shape)), None)
        if strange is not None or not parts:
            raise DataError(
                f"{what} has {self._named(strange or ())}; the network expects {self._wanted}"
            )
        return self.require(torch.stack([self._row(part) for part in parts]), what)

    def require(self, rows: Tensor, what: str) -> Tensor:
        """Return rows ``[N, C]`` after a check of their values.

        Raises:
            DataError: A value is infinite, or missing though its neighbors are not, or all are.
        """
        values = rows.unflatten(-1, self.shape)
        bad = values.isinf().flatten(1).any(dim=1)
        if not self.varies:
            bad |= rows.isnan().any(dim=1)
        else:
            gone = values.isnan()
            bad |= (gone.any(dim=-1) != gone.all(dim=-1)).any(dim=1) | gone.flatten(1).all(dim=1)
        if bad.any():
            where = f"{what}, row {int(bad.byte().argmax()) + 1}"
            rest = "; absent elements are NaN in all channels" if self.varies else ""
            raise DataError(f"{where}: values are missing or not finite{rest}: correct the data")
        return rows

    def widened(self, rows: Tensor, shape: "RawShape | None", what: str) -> Tensor:
        """Return rows ``[N, C']`` of another shape, padded to this shape.

        Raises:
            DataError: The shapes differ by more than absent elements.
        """
        if shape is None or shape.kind != self.kind or not self._fits(shape.shape):
            own = "vectors of numbers" if shape is None else str(shape)
            raise DataError(f"{what} has {own}; the network expects {self.kind} of {self._wanted}")
        return F.pad(rows, (0, self.size - shape.size), value=torch.nan)

    @property
    def _wanted(self) -> str:
        return ("up to " if self.varies else "") + self._named(self.shape)

    def _named(self, shape: Sequence[int]) -> str:
        full = self._full(shape)
        if self.kind == ARRAYS or len(full) != len(self.shape):
            return f"shape {list(shape)}"
        *size, count = full
        unit = "number" if self.kind == SETS else "channel"
        return f"{' x '.join(map(str, size))} {NOUNS[self.kind]} {count} {unit}{'s' * (count > 1)}"

    def _full(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return a shape with the channels, which can be left out if there is one."""
        return (
            (*shape, 1) if len(shape) == len(self.shape) - 1 and self.shape[-1] == 1 else (*shape,)
        )

    def _fits(self, shape: Sequence[int]) -> bool:
        """Return whether one observation of a shape can be a row, perhaps after padding."""
        full = shape if self.kind == ARRAYS else self._full(shape)
        if self.varies and len(full) == len(self.shape):
            return 0 < full[0] <= self.shape[0] and tuple(full[1:]) == self.shape[1:]
        return tuple(full) == self.shape

    def _is_one(self, shape: Sequence[int]) -> bool:
        """Return whether an array is one observation, and not several."""
        axes = len(self.shape)
        leaves_out = self.kind != ARRAYS and self.shape[-1] == 1
        return len(shape) < axes or (len(shape) == axes and (not leaves_out or shape[-1] == 1))

    def _row(self, part: Tensor) -> Tensor:
        """Return one simulation as a row ``[C]``, padded with NaN."""
        flat = part.flatten()
        return F.pad(flat, (0, self.size - len(flat)), value=torch.nan)


def _tensor(values: Any, what: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.double()
    try:
        return torch.from_numpy(np.array(values, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} has values that are not numbers: give an array") from error


def _arrays(data: Any, what: str) -> list[Tensor]:
    """Return the arrays of N simulations.

    Raises:
        DataError: There are none, or values are not numbers.
    """
    listed = isinstance(data, list | tuple)
    parts = [_tensor(part, what) for part in data] if listed else [*_tensor(data, what)]
    if not parts:
        raise DataError(f"{what} has no arrays: give one per row")
    return parts
