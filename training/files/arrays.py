"""Arrays of a results file that belong together: axes of one letter are of one size."""

from math import inf
from pathlib import Path

import numpy as np

from dnnlib.errors import DataError
from torch_utils.results import SavedArrays

LARGEST = 1e6
"""Far beyond all that is drawn: points are in units of standard deviations, or pixels."""


def evenly(count: int, most: int) -> np.ndarray:
    """Indices of at most so many of a number of things, evenly spaced, with both ends."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


class CheckedArrays:
    """Reads arrays whose shapes are told in letters, such as ``SR``.

    Args:
        saved: The open file.
        path: Of the file, for errors.
        sizes: Of letters that are known already; the others have the size they are first met with.
    """

    def __init__(self, saved: SavedArrays, path: Path, **sizes: int):
        self._saved, self._path, self.sizes = saved, path, sizes

    def read(self, name: str, letters: str, least: int = 1, largest: float = LARGEST) -> np.ndarray:
        """An array of finite numbers in float64.

        Args:
            name: Of the array.
            letters: One an axis.
            least: Size that no axis is smaller than.
            largest: Magnitude that no value may pass.

        Raises:
            DataError: It is missing, broken, not finite, far too large, or of another shape.
        """
        values = self._saved.numbers(name)
        shape = values.shape
        fits = len(shape) == len(letters) and min(shape, default=least) >= least
        if fits:
            pairs = zip(letters, shape, strict=True)
            fits = all(self.sizes.setdefault(letter, size) == size for letter, size in pairs)
        if not fits:
            wanted = ", ".join(str(self.sizes.get(letter, letter)) for letter in letters)
            right = f"[{wanted}], each {least} or more" if letters else "one number"
            raise DataError(f"{self._path}: '{name}' is {list(shape)}, but should be {right}")
        values = values.astype(np.float64, copy=False)
        if largest < inf and (np.abs(values) > largest).any():
            raise DataError(f"{self._path}: '{name}' has values beyond {largest:g}: make it again")
        return values
