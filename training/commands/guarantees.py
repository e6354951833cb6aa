"""Answers that hold, from Python: a calibrated network's, as NumPy arrays."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dnnlib.errors import DataError
from dnnlib.numbers import fraction
from training.commands import calibrating
from training.commands.called import columns_of
from training.inference import guarantee
from training.inference.guarantee import Levels
from training.measure.conformal import Holding
from training.names import script
from training.options.declared import typed_by_name
from training.options.posterior import CalibrateSettings
from training.subjects import NetworkFile, Subject, open_prior


@dataclass(frozen=True, eq=False, repr=False)
class Guarantee:
    """What held-out truths make of a network's posteriors.

    Attributes:
        subject: The network.
        truths: What they say.
    """

    subject: Subject
    truths: guarantee.HeldOutTruths

    @classmethod
    def open(cls, location: str | Path) -> "Guarantee":
        """That of a calibrated network file.

        Raises:
            DataError: The file is missing or broken, or was not calibrated.
            UsageError: Another version calibrated it.
        """
        file = NetworkFile.open(str(location))
        if file.model.held_out is None:
            raise DataError(f"{location} was not calibrated: run {script('posterior')} calibrate")
        calibrating.require_known(file.model.held_out)
        return cls(open_prior(file), guarantee.HeldOutTruths(file.model.held_out))

    def save(self, path: str | Path) -> None:
        """Write the calibrated network file, whole or not at all. ``open`` reads it."""
        file = self.subject.file
        assert file is not None
        file.model.save(path)

    @classmethod
    def calibrate(
        cls, network: str | Path, data_root: str | Path | None = None, **options: Any
    ) -> "Guarantee":
        """Calibrates a network file, as ``posterior.py calibrate`` does.

        Args:
            network: The file, which gets a part more, unless ``dest`` is given.
            data_root: A data set of fresh truths.
            options: Those of the command, by name.

        Raises:
            UsageError: There is no such option, or it does not take this value.
            DataError: The network has seen the truths, or a file is broken.
        """
        given = {"network": network, **options}
        given |= {} if data_root is None else {"data_root": data_root}
        calibrating.calibrate(typed_by_name(CalibrateSettings, given))
        return cls.open(options.get("dest", network))

    def __repr__(self) -> str:
        held_out = self.truths.held_out
        return f"Guarantee({held_out.truths} truths of {', '.join(held_out.quantities)})"

    def holding(self, share: float = 0.9) -> Holding:
        """What regions of a stated share hold, on average over calibrations and of this one."""
        return Holding.by(self.truths.held_out.truths, fraction("share", share))

    def intervals(self, draws: Any, share: float = 0.9, condition: Any = None) -> np.ndarray:
        """Ends ``[D, 2]`` of intervals that hold a share.

        Args:
            draws: Of one posterior, ``[S, D]``; those of a data frame are found by their names.
            share: That they hold.
            condition: The observation ``[C]``, or a mapping of its numbers by name, for levels by
                the truths near it; None for levels that hold on average over observations.

        Raises:
            DataError: These have other columns.
        """
        points, dims = self._parameters(draws), len(self.truths.held_out.names)
        contents = self._levels(share, condition).intervals[:, :dims]
        return guarantee.intervals(points, contents)[0].numpy()

    def threshold(self, log_density: ArrayLike, share: float = 0.9, condition: Any = None) -> float:
        """The log density above which the region lies that holds a share, by the log densities of
        draws of one posterior ``[S]``; otherwise as ``intervals``."""
        content = self._levels(share, condition).regions
        return float(guarantee.thresholds(_rows(log_density), content)[0])

    def recalibrated(self, draws: Any) -> np.ndarray:
        """Draws ``[S, D]`` of a posterior, their ranks in each coordinate moved to where truths
        are; see ``intervals``."""
        return self.truths.recalibrated(self._parameters(draws)).numpy()

    def p_values(self, conditions: Any) -> np.ndarray:
        """How probable it is that observations ``[M, C]`` like the held-out ones are as odd as each
        of these ``[M]``; of sets, all trials of one observation.

        Raises:
            DataError: The network was calibrated with a flow of conditions, or has none of these.
        """
        held_out = self.truths.held_out
        odd = calibrating.Oddities.of_conditions(self.subject, None, self._conditions(conditions))
        if odd.whitened is None or odd.names != held_out.oddities:
            raise DataError("p-values of this network need more than its conditions: use sample")
        return self.truths.p_values(odd.whitened, odd.values)[0].numpy()

    def _levels(self, share: float, condition: Any) -> Levels:
        share = fraction("share", share)
        if condition is None:
            return self.truths.levels([share])
        row = self._conditions(condition)
        if len(row) != 1:
            raise DataError(f"the condition has {len(row)} rows: give one")
        odd = calibrating.Oddities.of_conditions(self.subject, None, row)
        if odd.whitened is None:
            raise DataError("this network has no conditions: nothing is near")
        near, _ = self.truths.levels_near(odd.whitened, [share])
        return Levels(near.intervals[0], near.regions[0])

    def _parameters(self, draws: Any) -> Tensor:
        """Draws ``[S, D]`` in the order of the network's columns."""
        return _rows(columns_of(draws, self.truths.held_out.names, "draws"))

    def _conditions(self, source: Any) -> Tensor:
        """Conditions ``[M, C]`` in the order of the network's, ``[1, n C]`` of a set; none if it
        has none."""
        names = list(self.subject.condition_names)
        rows = _rows(columns_of(source, names, "the condition") if names else [[]])
        return rows.reshape(1, -1) if self.subject.of_sets else rows


def _rows(values: ArrayLike) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float64).copy())
