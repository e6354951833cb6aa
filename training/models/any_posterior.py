"""Check and calibration of any posterior, given simulated pairs of parameters and observations.

    >>> from training import calibrate, check
    >>> report = check(model.posterior(), parameters, observed)            # doctest: +SKIP
    >>> report.passed                                                      # doctest: +SKIP
    >>> calibrated = calibrate(model.posterior(), parameters, observed)    # doctest: +SKIP
    >>> calibrated.intervals(observation, share=0.9)                       # doctest: +SKIP

The pairs must come from the prior and the simulator of the posterior, and must not have trained it.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from dnnlib.numbers import fraction, natural
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.tables.foreign import numbered
from training.flow.held_out import HeldOut
from training.inference import guarantee
from training.measure.conformal import Holding
from training.measure.posterior.calibration import RunValues, run_values
from training.measure.posterior.calibration import calibrate as test_calibration
from training.models.conversion import COLUMN, numbers_of
from training.models.draws import PosteriorDraws
from training.models.posterior_reports import CheckReport
from training.names import FEWEST_RUNS

DRAWS = 200
"""Default number of draws per observation."""


class AnyPosterior(Protocol):
    """A posterior that can be sampled, such as ``Model.posterior()``."""

    def sample(self, observed: Any, *, draws: int, seed: int) -> Any:
        """Return draws ``[M, S, D]`` for M observations: an array, or an object with ``points``."""


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
    held_out = HeldOut(len(values.ranks), values.names, 0, 0, [], draws, "", "{}")
    held_out.ranks.copy_(values.ranks)
    return CalibratedPosterior(posterior, guarantee.HeldOutTruths(held_out))


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
