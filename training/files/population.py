"""Populations of posteriors: ``{draws}_population.npz``.

For C chains of S draws, M members and D parameters, it has

    names                    [D]
    mean                     [C, S, D], population means, in coordinates in which it is normal
    spread                   [C, S, D], population standard deviations in these coordinates
    further                  [C, S, D], parameters of a new member
    members                  [C, S, M, D], parameters of the members, given the data of all members
    alone                    [3, M, D], quantiles of each member's own posterior at 5, 50 and 95 %

``..._population.json`` has members, their number; converged; noise, the error in nats of a
population's log likelihood due to the finite number of draws per member; worth, the minimum
effective sample size of a member's draws; coordinates, by names, the transform after which the
population is normal: itself, log of the distance from a bound, or probit between two bounds; prior,
by names the mean and std of a member in these coordinates before any observation; population, by
names r_hat, and mean, std and quantiles of the population mean (mean), the population standard
deviation (spread) and a new member (further) in these coordinates; and posteriors, for each member
by names mean, std and quantiles, and alone, the mean and std of its own posterior.
``..._population.pkl`` is the network file of a distribution 1.5 times as wide as that of a new
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
    """Saved posterior draws of a hierarchical model with M members and D parameters.

    There are C chains of S draws. Population parameters are in coordinates in which the members'
    parameters are normally distributed.

    Attributes:
        names: Names of the parameters.
        mean: Population means ``[C, S, D]``.
        spread: Population standard deviations ``[C, S, D]``.
        further: Parameters of a new member ``[C, S, D]``.
        members: Parameters of the members, given the data of all members, ``[C, S, M, D]``.
        alone: Quantiles of each member's own posterior at the levels ``QUANTILES``, ``[3, M, D]``.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    spread: np.ndarray
    further: np.ndarray
    members: np.ndarray
    alone: np.ndarray

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        arrays = {name: np.asarray(getattr(self, name)) for name in self.__dataclass_fields__}
        save_arrays(path, {**arrays, "format": np.array(FORMAT)})

    @classmethod
    def load(cls, path: Path) -> "SavedPopulation":
        """Read a population file.

        Raises:
            DataError: The file is broken.
        """
        with open_arrays(path) as saved:
            names = distinct_texts(path, "names", saved.read("names"))
            arrays = CheckedArrays(saved, path, D=len(names))
            shapes = {"mean": "CSD", "spread": "CSD", "further": "CSD", "members": "CSMD"}
            numbers = {
                name: arrays.read(name, letters, largest=inf)
                for name, letters in {**shapes, "alone": "QMD"}.items()
            }
            if len(numbers["alone"]) != len(QUANTILES):
                raise DataError(
                    f"{path}: 'alone' must have {len(QUANTILES)} quantiles along its first axis: "
                    "make the file again"
                )
            return cls(names, **numbers)
