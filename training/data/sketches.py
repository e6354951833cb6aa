"""Whether rows were seen before, by numbers that they are known by.

A network file has the K smallest numbers of the rows, or images, that its training saw: of any
others, those whose numbers are up to the largest of these were among them or not. Rows of few
different values are alike by chance. A row that was not seen is one of those that were with a
probability of about

    1 - (numbers of the K that are there once) / K

(Good 1953, "The population frequencies of species"), where hashing chooses the K.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import DataError

MOST_SKETCHED = 4096
"""K, of larger data sets."""
BY_CHANCE = 1e-4
"""Rows that are alike with a smaller probability were seen."""


def row_numbers(values: np.ndarray) -> np.ndarray:
    """A number of 64 bits for each row ``[N, D]``; those of different rows hardly ever clash."""
    totals = np.zeros(len(values), dtype=np.uint64)
    for column in values.T:
        totals ^= (np.ascontiguousarray(column) + 0.0).view(np.uint64)  # -0 as 0
        totals *= np.uint64(0x9E3779B97F4A7C15)
        totals ^= totals >> np.uint64(32)
    return totals


@dataclass(frozen=True, eq=False)
class Sketch:
    """Numbers of rows that a training saw.

    Attributes:
        numbers: Rising ``[K]``, of 64 bits; those of rows that are alike, more than once.
    """

    numbers: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray | Sequence[int]) -> "Sketch":
        """That of the numbers of all rows."""
        return cls(np.sort(np.array(numbers, dtype=np.uint64))[:MOST_SKETCHED])

    @classmethod
    def read(cls, path: Path, about: Mapping[str, Any]) -> "Sketch":
        """What a network file says of it; empty if that is nothing. Raises DataError if it is
        broken."""
        numbers = about.get("rows", [])
        if not (
            isinstance(numbers, list)
            and all(isinstance(number, int) and 0 <= number < 2**64 for number in numbers)
        ):
            raise DataError(f"{path} has broken numbers of rows")
        return cls.of(numbers)

    @property
    def listed(self) -> list[int]:
        """What a network file has of it."""
        return [int(number) for number in self.numbers]

    def repeated(self, numbers: np.ndarray) -> int:
        """How many rows of these numbers ``[n]`` were seen: all of up to ``MOST_SKETCHED`` rows,
        and of more their share of these."""
        return int(np.isin(numbers, self.numbers).sum())

    def repeated_beyond_chance(self, numbers: np.ndarray, alike: bool) -> int:
        """How many rows of these numbers ``[n]`` were seen; 0 where chance repeats so many."""
        return 0 if self.repeated_by_chance(numbers, alike) else self.repeated(numbers)

    def repeated_by_chance(self, numbers: np.ndarray, alike: bool) -> bool:
        """Whether chance repeats so many rows, by their numbers ``[n]``; ``alike`` is whether
        different rows may well be alike, though none that were seen are."""
        from scipy.stats import binom  # here, since trainings import this and need it not

        again, size = self.repeated(numbers), len(self.numbers)
        if not again:
            return True
        comparable = numbers if size < MOST_SKETCHED else numbers[numbers <= self.numbers[-1]]
        once = int((np.unique(self.numbers, return_counts=True)[1] == 1).sum())
        chance = (size - once + alike) / (size + alike)
        return bool(binom.sf(again - 1, len(comparable), chance) >= BY_CHANCE)
