"""Populations of posteriors: ``{draws}_population.npz``, of C chains of S draws, M members and D
parameters:

    names                    [D]
    mean                     [C, S, D], population means, in coordinates in which it is normal
    spread                   [C, S, D], population standard deviations in these coordinates
    further                  [C, S, D], parameters of a new member
    members                  [C, S, M, D], parameters of the members, given all of them
    alone                    [3, M, D], quantiles of each alone at 5, 50 and 95 %

``..._population.json`` has members, their number; converged; noise, the error in nats of the log
likelihood of a population from few draws of its members; worth, the least effective sample size of
a member's draws; coordinates, by names, in which the population is normal: itself, log of the
distance from a bound, or probit between two; prior, by names the mean and std of a member there
before any is known; population, by names r_hat, and mean, std and quantiles of the population mean
(mean) and the population standard deviation (spread) there, and of a new member (further); and
posteriors, of each member by names mean, std and quantiles, and alone its mean and std.
``..._population.pkl`` is the network file of a distribution half as wide again as that of a new
member, a prior for another round.
"""

from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np

from dnnlib.errors import DataError
from torch_utils.results import open_arrays, save_arrays
from training.files.arrays import CheckedArrays, distinct_texts

FORMAT = "inflationary-flows population 1"
QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class SavedPopulation:
    """A population, as a file has it; attributes are the arrays above, of their shapes."""

    names: tuple[str, ...]
    mean: np.ndarray
    spread: np.ndarray
    further: np.ndarray
    members: np.ndarray
    alone: np.ndarray

    def save(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        arrays = {name: np.asarray(getattr(self, name)) for name in self.__dataclass_fields__}
        save_arrays(path, {**arrays, "format": np.array(FORMAT)})

    @classmethod
    def load(cls, path: Path) -> "SavedPopulation":
        """Reads a file. Raises DataError if it is broken."""
        with open_arrays(path) as saved:
            names = distinct_texts(path, "names", saved.read("names"))
            arrays = CheckedArrays(saved, path, D=len(names))
            shapes = {"mean": "CSD", "spread": "CSD", "further": "CSD", "members": "CSMD"}
            numbers = {
                name: arrays.read(name, letters, largest=inf)
                for name, letters in {**shapes, "alone": "QMD"}.items()
            }
            if len(numbers["alone"]) != len(QUANTILES):
                raise DataError(f"{path}: 'alone' has not the {len(QUANTILES)} quantiles")
            return cls(names, **numbers)
