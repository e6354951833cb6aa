"""Populations of posteriors: ``{draws}_population.npz`` and its JSON.

``..._population.json`` has members, their number; converged; noise, the largest error of a
population's parameter due to the finite number of draws per member, in standard deviations of its
posterior; effective_size, the minimum effective sample size of a member's draws; coordinates, by
names, the transform after which the population is normal: identity, log of the distance from a
bound, or probit between two bounds; prior, by names the mean and std of a member in these
coordinates before any observation; population, by names r_hat (about 1 where weights of draws were
reliable, so that no chains were run), and mean, std and quantiles of the population mean (mean),
the population standard deviation (spread) and a new member (further) in these coordinates; and
posteriors, for each member by names mean, std and quantiles, and alone, the mean and std of its own
posterior.
``..._population.pkl`` is the network file of a distribution 1.5 times as wide as that of a new
member, a prior for another round.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.files.declared import Format, Key, ResultFile, names

QUANTILES = (0.05, 0.5, 0.95)
POPULATION = ResultFile(
    kind="population",
    name="{draws}_population.npz",
    sizes="C chains of S draws, M members and D parameters",
    keys={
        "names": names("D", "names of the parameters"),
        "mean": Key("C S D", "population means, in coordinates in which members are normal"),
        "spread": Key("C S D", "population standard deviations in these coordinates"),
        "further": Key("C S D", "parameters of a new member"),
        "members": Key("C S M D", "parameters of the members, given the data of all members"),
        "alone": Key("3 M D", "quantiles of each member's own posterior at 5, 50 and 95 %"),
    },
)
FORMATS = {
    POPULATION.kind: Format("a population of posteriors", "posteriors.content_of_population")
}


@dataclass(frozen=True)
class SavedPopulation:
    """Saved posterior draws of a hierarchical model, with the arrays of ``POPULATION``.

    Quantiles in ``alone`` have the levels ``QUANTILES``.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    spread: np.ndarray
    further: np.ndarray
    members: np.ndarray
    alone: np.ndarray

    def save(self, path: Path) -> None:
        """Write the file atomically."""
        POPULATION.save(path, vars(self))

    @classmethod
    def load(cls, path: Path) -> "SavedPopulation":
        """Read a population file.

        Raises:
            DataError: The file is broken.
        """
        arrays = POPULATION.load(path)
        return cls(tuple(arrays.pop("names").tolist()), **arrays)
