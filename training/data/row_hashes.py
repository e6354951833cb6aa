"""Detection of rows that were in the training data, by hashes.

A network file contains the K smallest hashes of its training rows or images. For other rows, a hash
up to the largest of these shows whether the row was in the training data. Rows with few different
values coincide by chance. A new row is equal to some training row with a probability of about

    1 - (hashes among the K that occur once) / K

(Good 1953, "The population frequencies of species"), where hashing selects the K.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import DataError

MOST_SKETCHED = 4096
"""K for larger data sets: the maximum number of stored hashes."""
BY_CHANCE = 1e-4
"""Significance level: less probable numbers of coincidences mean that rows were in the training."""


def row_numbers(values: np.ndarray) -> np.ndarray:
    """Return a 64-bit hash of each row ``[N, D]``; collisions are negligible."""
    totals = np.zeros(len(values), dtype=np.uint64)
    for column in values.T:
        totals ^= (np.ascontiguousarray(column) + 0.0).view(np.uint64)  # -0 as 0
        totals *= np.uint64(0x9E3779B97F4A7C15)
        totals ^= totals >> np.uint64(32)
    return totals


@dataclass(frozen=True, eq=False)
class RowHashes:
    """Sample of the hashes of training rows, to detect training rows in new data.

    Attributes:
        numbers: The K smallest hashes of 64 bits ``[K]``, increasing; repeated rows have repeated
            hashes.
    """

    numbers: np.ndarray

    @classmethod
    def from_hashes(cls, numbers: np.ndarray | Sequence[int]) -> "RowHashes":
        """Return the sample of the smallest hashes, given the hashes of all training rows."""
        return cls(np.sort(np.array(numbers, dtype=np.uint64))[:MOST_SKETCHED])

    @classmethod
    def read(cls, path: Path, about: Mapping[str, Any]) -> "RowHashes":
        """Return the hashes of training rows in a network file; there may be none.

        Args:
            path: The network file, for messages.
            about: Entries of the network file by name.

        Raises:
            DataError: The entry in the file is broken.
        """
        numbers = about.get("rows", [])
        if not (
            isinstance(numbers, list)
            and all(isinstance(number, int) and 0 <= number < 2**64 for number in numbers)
        ):
            raise DataError(
                f"{path} is inconsistent: the hashes of training rows are invalid. Restore the "
                "file from a copy"
            )
        return cls.from_hashes(numbers)

    @property
    def listed(self) -> list[int]:
        """Hashes as a list of integers, as stored in network files."""
        return [int(number) for number in self.numbers]

    def repeated(self, numbers: np.ndarray) -> int:
        """Return the number of new rows whose hash equals that of a training row.

        For more than ``MOST_SKETCHED`` training rows, only part of the rows can be compared.

        Args:
            numbers: Hashes of the new rows ``[n]``.
        """
        return int(np.isin(numbers, self.numbers).sum())

    def repeated_beyond_chance(self, numbers: np.ndarray, alike: bool) -> int:
        """Return the number of new rows that repeat training rows; 0 if chance explains the number.

        Args:
            numbers: Hashes of the new rows ``[n]``.
            alike: Whether different cases can have equal rows, even if all training rows differ.
        """
        from scipy.stats import binom  # imported here, since trainings do not need it

        again, size = self.repeated(numbers), len(self.numbers)
        if not again:
            return 0
        comparable = numbers if size < MOST_SKETCHED else numbers[numbers <= self.numbers[-1]]
        once = int((np.unique(self.numbers, return_counts=True)[1] == 1).sum())
        chance = (size - once + alike) / (size + alike)
        return 0 if binom.sf(again - 1, len(comparable), chance) >= BY_CHANCE else again
