"""Check and calibration of posteriors: any posterior with simulated pairs, or that of a network.

Check and calibration of any posterior, given simulated pairs of parameters and observations.

    >>> from training import calibrate, check
    >>> report = check(model.posterior(), parameters, observed)            # doctest: +SKIP
    >>> report.passed                                                      # doctest: +SKIP
    >>> calibrated = calibrate(model.posterior(), parameters, observed)    # doctest: +SKIP
    >>> calibrated.intervals(observation, share=0.9)                       # doctest: +SKIP

The pairs must come from the prior and the simulator of the posterior, and must not have trained it.

Calibrated inference from Python: intervals and regions with guaranteed coverage.

Results are NumPy arrays.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dnnlib.errors import DataError
from dnnlib.numbers import fraction, natural
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.tables.formats import numbered
from training.flow.held_out import HeldOut
from training.inference import guarantee
from training.inference.guarantee import Levels
from training.measure.conformal import Holding
from training.measure.posterior.calibration import RunValues, run_values
from training.measure.posterior.calibration import calibrate as test_calibration
from training.models import calibration
from training.models.conversion import COLUMN, columns_of, data_set_of, numbers_of
from training.models.draws import PosteriorDraws
from training.models.library import library_call, library_class
from training.models.posterior import computing
from training.models.posterior_reports import CheckReport
from training.names import FEWEST_RUNS, script
from training.settings.declared import from_values
from training.settings.posterior import CalibrateSettings
from training.subjects import Subject, open_prior
from training.trained.network import TrainedNetwork

DRAWS = 200
"""Default number of draws per observation."""


class AnyPosterior(Protocol):
    """A posterior that can be sampled, such as ``Model.posterior()`` or ``Answers.posterior()``."""

    def sample(self, observed: Any, *, draws: int, seed: int) -> Any:
        """Return draws ``[M, S, D]`` for M observations: an array, or an object with ``points``."""


@library_call
def check(
    posterior: AnyPosterior,
    parameters: Any,
    observed: Any,
    draws: int = DRAWS,
    level: float = 0.01,
    seed: int = 0,
) -> CheckReport:
    """Test whether a posterior is calibrated, by simulation-based calibration (SBC).

    Args:
        posterior: Posterior.
        parameters: True parameters ``[R, D]``: an array, a tensor or a data frame.
        observed: Observation that was simulated for each of them, one per row.
        draws: Number of draws per observation and chain.
        level: Tests with adjusted p-values below this level fail.
        seed: Random seed of the draws.

    Returns:
        The report, with ``passed``, and the verdict and all tests in ``facts``.

    Raises:
        DataError: There are fewer than 20 pairs, or shapes do not match.
    """
    values = _ranks(posterior, parameters, observed, draws, seed)
    tests = test_calibration(values, fraction("level", level))
    return CheckReport(values, tests, {"question": "model", "draws": draws}, "")


@library_call
def calibrate(
    posterior: AnyPosterior, parameters: Any, observed: Any, draws: int = DRAWS, seed: int = 0
) -> "CalibratedPosterior":
    """Calibrate the intervals of a posterior by split conformal prediction.

    Args:
        posterior: Posterior.
        parameters: True parameters ``[R, D]`` of the calibration set.
        observed: Observation that was simulated for each of them, one per row.
        draws: Number of draws per observation and chain.
        seed: Random seed of the draws.

    Raises:
        DataError: There are fewer than 20 pairs, or shapes do not match.
    """
    values = _ranks(posterior, parameters, observed, draws, seed)
    assert values.beyond is not None
    held_out = HeldOut(len(values.ranks), values.names, 0, 0, [], draws, "", "{}", True)
    held_out.ranks.copy_(values.ranks)
    held_out.beyond = values.beyond
    return CalibratedPosterior(posterior, guarantee.HeldOutTruths(held_out))


@library_class
@dataclass(frozen=True, eq=False, repr=False)
class CalibratedPosterior:
    """Posterior whose intervals have guaranteed coverage, on average over observations.

    Attributes:
        posterior: Posterior.
        truths: Ranks of the true parameters of the calibration set.
    """

    posterior: AnyPosterior
    truths: guarantee.HeldOutTruths

    def __repr__(self) -> str:
        held_out = self.truths.held_out
        names = ", ".join(held_out.quantities)
        return f"CalibratedPosterior({held_out.truths} calibration cases of {names})"

    def holding(self, share: float = 0.9) -> Holding:
        """Return the actual coverage of intervals with a nominal coverage.

        The coverage is given on average over calibrations, and for this calibration.
        """
        return Holding.by(self.truths.held_out.truths, fraction("share", share))

    def sample(self, observed: Any, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
        """Return recalibrated draws ``[M, S, D]``.

        Each coordinate is moved so that true parameters of the calibration set have uniform ranks.
        """
        every = _points(self.posterior, observed, draws, seed)
        return np.stack([self.truths.recalibrated(points).numpy() for points in every])

    def intervals(
        self, observed: Any, share: float = 0.9, draws: int = DRAWS, seed: int = 0
    ) -> np.ndarray:
        """Return the ends ``[M, D, 2]`` of intervals with a nominal coverage.

        Args:
            observed: Observations, one per row.
            share: Nominal coverage.
            draws: Number of draws per observation and chain.
            seed: Random seed of the draws.
        """
        contents = self.truths.levels([fraction("share", share)]).intervals
        every = _points(self.posterior, observed, draws, seed)
        return np.stack([guarantee.intervals(points, contents)[0].numpy() for points in every])


def _points(posterior: AnyPosterior, observed: Any, draws: int, seed: int) -> Tensor:
    """Return draws ``[M, S, D]`` of the posteriors of M observations."""
    drawn = posterior.sample(observed, draws=natural("draws", draws), seed=natural("seed", seed))
    return _as_points(drawn)


def _as_points(drawn: Any) -> Tensor:
    points = torch.as_tensor(getattr(drawn, "points", drawn)).double().cpu()
    if points.ndim != 3:
        raise DataError(
            f"the posterior returned draws of shape {list(points.shape)}, expected "
            "[observations, draws, parameters]"
        )
    return points


def _effective_sizes(drawn: Any) -> Tensor | None:
    """Return the effective sample size ``[M]`` of draws of this library; None for other draws.

    Draws of chains depend on each other: ranks are uniform only among as many draws.
    """
    if not isinstance(drawn, PosteriorDraws) or "posteriors" not in drawn.facts:
        return None
    listed = drawn.facts["posteriors"]
    smallest = [min(each["ess_bulk"].values()) for each in listed]
    return torch.tensor(smallest, dtype=torch.float64)


def _ranks(
    posterior: AnyPosterior, parameters: Any, observed: Any, draws: int, seed: int
) -> RunValues:
    """Return ranks and scores of true parameters among draws given their observations."""
    names, rows = numbers_of(parameters, "parameters", COLUMN)
    truth = torch.from_numpy(np.array(rows))
    if len(truth) < FEWEST_RUNS:
        raise DataError(f"there are {len(truth)} pairs: need at least {FEWEST_RUNS}")
    drawn = posterior.sample(observed, draws=natural("draws", draws), seed=natural("seed", seed))
    points = _as_points(drawn)
    if points.shape[::2] != truth.shape:
        raise DataError(
            f"there are draws of {points.shape[2]} parameters for {len(points)} observations, but "
            f"parameters have shape {list(truth.shape)}: give one observation per row of parameters"
        )
    return run_values(
        points,
        truth,
        seeded_generator("cpu", seed, Stream.RESAMPLING),
        names=names or numbered(truth.shape[1], "theta"),
        effective=_effective_sizes(drawn),
    )


@library_class
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
        task, rows = calibration.opened(settings, dest)
        with computing(settings.run.device_name, task) as task:
            result = calibration.calibrate(task, rows)
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
            DataError: The network has no scores.
        """
        held_out = self.truths.held_out
        odd = calibration.OutlierScores.of_conditions(self.subject, self._conditions(conditions))
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
        odd = calibration.OutlierScores.of_conditions(self.subject, row)
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
        if self.subject.raw is not None:
            return self.subject.raw.rows(source, "the condition").detach()
        names = list(self.subject.condition_names)
        rows = _rows(columns_of(source, names, "the condition") if names else [[]])
        return rows.reshape(1, -1) if self.subject.of_sets else rows


def _rows(values: ArrayLike) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float64).copy())
