"""Schedules, bases, denoisers and the ODE. Knows tensors and callables, no data set, no network."""

from typing import TYPE_CHECKING

from dnnlib.lazy import lazily

if TYPE_CHECKING:
    from training.flow.likelihood import Likelihood as Likelihood
    from training.flow.likelihood import Trace as Trace
    from training.flow.solvers import Solver as Solver
    from training.flow.solvers import get_solver as get_solver
else:
    __getattr__ = lazily(
        __name__,
        {
            "get_solver": "solvers",
            "Likelihood": "likelihood",
            "Solver": "solvers",
            "Trace": "likelihood",
        },
    )
