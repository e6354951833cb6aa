"""Calibrated inference from Python: intervals and regions with guaranteed coverage.

Results are NumPy arrays.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dnnlib.errors import DataError
from dnnlib.numbers import fraction
from training.inference import guarantee
from training.inference.guarantee import Levels
from training.measure.conformal import Holding
from training.model.trained_network import TrainedNetwork
from training.models import calibration
from training.models.conversion import columns_of, data_set_of
from training.models.posterior import computing
from training.names import script
from training.settings.declared import from_values
from training.settings.posterior import CalibrateSettings
from training.subjects import Subject, open_prior


@dataclass(frozen=True, eq=False, repr=False)
class Guarantee:
    """Conformal calibration of a network's posteriors.

    Attributes:
        subject: The network.
        truths: Ranks and distances of the calibration set.
    """

    subject: Subject
    truths: guarantee.HeldOutTruths

    @classmethod
    def open(cls, location: str | Path) -> "Guarantee":
        """Open a calibrated network file.

        Raises:
            DataError: The file is missing or broken, or was not calibrated.
            UsageError: Another version calibrated it.
        """
        network = TrainedNetwork.open(str(location))
        if network.held_out is None:
            raise DataError(f"{location} was not calibrated: run {script('posterior')} calibrate")
        calibration.require_known(network.held_out)
        return cls(open_prior(network), guarantee.HeldOutTruths(network.held_out))

    def save(self, path: str | Path) -> None:
        """Write the calibrated network file atomically. ``open`` reads it."""
        network = self.subject.network
        assert network is not None
        network.save(path)

    @classmethod
    def calibrate(
        cls, network: "str | Path | TrainedNetwork", data_root: Any = None, **options: Any
    ) -> "Guarantee":
        """Calibrate a model or a network file, like ``posterior.py calibrate``.

        Args:
            network: A model, or the file of one, to which the calibration is added unless ``dest``
                is given.
            data_root: A calibration set that the network was not trained on: a table or a path.
            options: Options of the command, by name.

        Raises:
            UsageError: An option does not exist, or its value is invalid.
            DataError: The network was trained on rows of the calibration set, or a file is broken.
        """
        given = {"network": network, **options}
        given |= {} if data_root is None else {"data_root": data_set_of(data_root)}
        settings = from_values(CalibrateSettings, given)
        file = None if isinstance(network, TrainedNetwork) else Path(network)
        dest = settings.dest or file
        task, rows, functions = calibration.opened(settings, dest)
        with computing(settings.run.device_name, task) as task:
            result = calibration.calibrate(task, rows, functions)
        assert result is not None
        if dest is not None:
            result.model.save(dest)
        result.log()
        subject = open_prior(result.model)
        return cls(subject, result.guarantee)

    def __repr__(self) -> str:
        held_out = self.truths.held_out
        return f"Guarantee({held_out.truths} calibration cases of {', '.join(held_out.quantities)})"

    def holding(self, share: float = 0.9) -> Holding:
        """Return the actual coverage of calibrated regions with a nominal coverage.

        The coverage is given on average over calibrations, and for this calibration.
        """
        return Holding.by(self.truths.held_out.truths, fraction("share", share))

    def intervals(self, draws: Any, share: float = 0.9, condition: Any = None) -> np.ndarray:
        """Return the ends ``[D, 2]`` of intervals with a nominal coverage.

        Args:
            draws: Draws of one posterior, ``[S, D]``; columns of a data frame are found by their
                names.
            share: Nominal coverage.
            condition: The observation ``[C]``, or a mapping of its numbers by name, for calibration
                by the cases near it; None for calibration on average over observations.

        Raises:
            DataError: Columns differ from those of the network.
        """
        points, dims = self._parameters(draws), len(self.truths.held_out.names)
        contents = self._levels(share, condition).intervals[:, :dims]
        return guarantee.intervals(points, contents)[0].numpy()

    def threshold(self, log_density: ArrayLike, share: float = 0.9, condition: Any = None) -> float:
        """Return the log density threshold of the region with a nominal coverage.

        Args:
            log_density: Log densities ``[S]`` of draws of one posterior.
            share: Nominal coverage.
            condition: The observation; see ``intervals``.
        """
        content = self._levels(share, condition).regions
        return float(guarantee.thresholds(_rows(log_density), content)[0])

    def recalibrated(self, draws: Any) -> np.ndarray:
        """Recalibrate draws ``[S, D]`` of a posterior; see ``intervals``.

        Ranks in each coordinate then agree with those of the calibration set.
        """
        return self.truths.recalibrated(self._parameters(draws)).numpy()

    def p_values(self, conditions: Any) -> np.ndarray:
        """Return conformal p-values ``[M]`` of observations ``[M, C]``.

        For sets of trials, give all trials of one observation.

        The p-value is the probability that an observation like those of the calibration set has at
        least as large a score.

        Raises:
            DataError: The network was calibrated with a flow of conditions, or has no scores.
        """
        held_out = self.truths.held_out
        odd = calibration.OutlierScores.of_conditions(
            self.subject, None, self._conditions(conditions)
        )
        if odd.whitened is None or odd.names != held_out.oddities:
            raise DataError(
                "p-values of this network need observations, not only conditions: use "
                "Posterior.sample"
            )
        return self.truths.p_values(odd.whitened, odd.values)[0].numpy()

    def _levels(self, share: float, condition: Any) -> Levels:
        share = fraction("share", share)
        if condition is None:
            return self.truths.levels([share])
        row = self._conditions(condition)
        if len(row) != 1:
            raise DataError(f"the condition has {len(row)} rows: give one row")
        odd = calibration.OutlierScores.of_conditions(self.subject, None, row)
        if odd.whitened is None:
            raise DataError("the network has no conditions: leave the condition out")
        near, _ = self.truths.levels_near(odd.whitened, [share])
        return Levels(near.intervals[0], near.regions[0])

    def _parameters(self, draws: Any) -> Tensor:
        """Return draws ``[S, D]`` in the order of the network's columns."""
        return _rows(columns_of(draws, self.truths.held_out.names, "draws"))

    def _conditions(self, source: Any) -> Tensor:
        """Return conditions ``[M, C]`` in the network's order, ``[1, n C]`` for a set.

        They are empty if the network has none.
        """
        names = list(self.subject.condition_names)
        rows = _rows(columns_of(source, names, "the condition") if names else [[]])
        return rows.reshape(1, -1) if self.subject.of_sets else rows


def _rows(values: ArrayLike) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float64).copy())
