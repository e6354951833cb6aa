"""From simulations to posteriors: the methods that the benchmark compares."""

from collections.abc import Callable
from functools import partial

from benchmarks.estimators.estimate import Estimate, Simulations
from benchmarks.estimators.flow import of_flow
from benchmarks.estimators.rounds import of_rounds
from benchmarks.estimators.sbi import of_sbi
from benchmarks.estimators.trials import of_trials

METHODS: dict[str, Callable[[Simulations], Estimate]] = {
    "flow": of_flow,
    "rounds": of_rounds,
    "trials": of_trials,
    "npe": partial(of_sbi, "npe"),
    "fmpe": partial(of_sbi, "fmpe"),
    "npse": partial(of_sbi, "npse"),
}
"""By name: ``train.py --cond``, the same in rounds, ``train.py --likelihood``, and three of the
package ``sbi``."""

__all__ = ["METHODS", "Estimate", "Simulations"]
