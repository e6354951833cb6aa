"""Raw data as conditions: series, images, sets and other arrays, as flat rows of a table.

A row is the array of one simulation, flattened with channels last. Points of a series and elements
of a set can be absent: all of their channels are then NaN. Arrays are padded to the largest
simulation, ``[N, C]``.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from training.names import ARRAYS, DATA_AS, MOST_RAW_VALUES, PICTURES, SERIES, SETS

AXES = {SERIES: 2, PICTURES: 3, SETS: 2, ARRAYS: 0}
"""Number of axes of one simulation, channels included; 0 for any number."""
FORMS = {
    **{SERIES: "[N, T, channels]", PICTURES: "[N, H, W, channels]"},
    **{SETS: "[N, M, numbers]", ARRAYS: "[N, ...]"},
}
"""Form of N simulations; one channel can be left out."""


@dataclass(frozen=True)
class RawShape:
    """Kind and shape of raw data.

    Attributes:
        kind: A name in ``DATA_AS``.
        shape: Shape of one simulation: ``(T, channels)`` of series, ``(H, W, channels)`` of images,
            ``(most elements, numbers of an element)`` of sets, any shape of arrays.
        varies: Whether points of a series or elements of a set can be absent.
    """

    kind: str
    shape: tuple[int, ...]
    varies: bool = False

    def __str__(self) -> str:
        size, *rest = self.shape
        numbers = ", ".join(map(str, ["n" if self.varies else size, *rest]))
        return f"{self.kind} [{numbers}]" + (f" with n up to {size}" if self.varies else "")

    @property
    def size(self) -> int:
        """Number of values of one simulation, C."""
        return prod(self.shape)

    @property
    def plain(self) -> dict[str, Any]:
        """Plain values, as in files."""
        return {"kind": self.kind, "shape": list(self.shape), "varies": self.varies}

    @classmethod
    def of(cls, data: Any, kind: str) -> tuple["RawShape", Tensor]:
        """Return the shape of simulated data, and the data as rows ``[N, C]``, float64.

        Args:
            data: Array ``[N, ...]``, or list of N arrays; channels can be left out if there is one.
            kind: A name in ``DATA_AS``.

        Raises:
            UsageError: The kind is unknown.
            DataError: The data do not have the axes of their kind, or have no or too many values.
        """
        if kind not in DATA_AS:
            raise UsageError(f"data_as is '{kind}': give one of {', '.join(DATA_AS)}")
        parts = _arrays(data, "the data")
        axes = AXES[kind] or parts[0].ndim
        if any(part.ndim not in (axes - bool(AXES[kind]), axes) for part in parts) or not axes:
            shape = [len(parts), *parts[0].shape]
            raise DataError(f"the data have shape {shape}: give {kind} as {FORMS[kind]}")
        parts = [part if part.ndim == axes else part[..., None] for part in parts]
        longest = max(parts, key=len)
        raw = cls(kind, tuple(longest.shape), kind in (SERIES, SETS))
        if not 0 < raw.size <= MOST_RAW_VALUES:
            raise DataError(
                f"the data have {raw.size} values per simulation: give 1 to {MOST_RAW_VALUES}"
            )
        return raw, torch.stack([raw._row(part, "the data") for part in parts])

    def require(self, rows: Tensor, what: str) -> Tensor:
        """Return rows ``[N, C]`` after a check of their values.

        Raises:
            DataError: A value is infinite, or missing though its neighbors are not, or all are.
        """
        values = rows.reshape(-1, self.size // self.shape[-1], self.shape[-1])
        absent = values.isnan()
        bad = values.isinf().flatten(1).any(dim=1)
        bad |= (absent.any(dim=2) != absent.all(dim=2)).any(dim=1) | absent.flatten(1).all(dim=1)
        if not self.varies:
            bad |= absent.flatten(1).any(dim=1)
        if bad.any():
            where = f"{what}, row {int(bad.byte().argmax()) + 1}"
            rest = "; absent elements are NaN in all channels" if self.varies else ""
            raise DataError(f"{where}: values are missing or not finite{rest}: correct the data")
        return rows

    def as_in(self, rows: Tensor, what: str) -> "RawShape":
        """Return this shape of padded rows ``[N, C]``, without absent elements if there are none.

        Raises:
            DataError: Values are missing or not finite.
        """
        absent = self.kind == SERIES and bool(rows.isnan().any())
        raw = RawShape(self.kind, self.shape, absent or self.kind == SETS)
        raw.require(rows, what)
        return raw

    def rows(self, data: Any, what: str) -> Tensor:
        """Return observations as rows ``[M, C]``, float64; gradients flow back to a tensor.

        Args:
            data: One observation, or M of them: an array, a tensor, or a list of arrays.
            what: Name of the observations in error messages.

        Raises:
            DataError: The data have another shape, or values that are missing or not finite.
        """
        axes, single = len(self.shape), self._can_leave_channel_out
        listed = isinstance(data, list | tuple)
        if listed and all(np.ndim(part) >= axes - single for part in data):
            parts = _arrays(data, what)
        else:
            whole = _tensor(data, what)
            one = whole.ndim < axes or (whole.ndim == axes and (not single or whole.shape[-1] == 1))
            parts = [whole] if one else [*whole]
        return self.require(torch.stack([self._row(part, what) for part in parts]), what)

    def widened(self, rows: Tensor, shape: "RawShape | None", what: str) -> Tensor:
        """Return rows ``[N, C']`` of another shape, padded to this shape.

        Raises:
            DataError: The shapes differ by more than absent elements.
        """
        if shape is None or shape.kind != self.kind:
            own = "numbers" if shape is None else shape
            raise DataError(f"{what} has {own} as conditions; the network expects {self}")
        return torch.stack([self._row(row, what) for row in rows.reshape(-1, *shape.shape)])

    @property
    def _can_leave_channel_out(self) -> bool:
        return self.kind != ARRAYS and self.shape[-1] == 1

    def _row(self, part: Tensor, what: str) -> Tensor:
        """Return one simulation as a row ``[C]``, padded with NaN."""
        axes = len(self.shape)
        full = part[..., None] if self._can_leave_channel_out and part.ndim == axes - 1 else part
        size, *rest = full.shape or (0,)
        shorter = self.varies and 0 < size <= self.shape[0]
        if tuple(rest) != self.shape[1:] or not (shorter or size == self.shape[0]):
            raise DataError(f"{what} has shape {list(part.shape)}: give {self}")
        return F.pad(full.flatten(), (0, self.size - full.numel()), value=torch.nan)


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
    if isinstance(data, list | tuple):
        parts = [_tensor(part, what) for part in data]
    else:
        whole = _tensor(data, what)
        parts = [*whole] if whole.ndim else []
    if not parts:
        raise DataError(f"{what} has no arrays: give one per row")
    return parts
