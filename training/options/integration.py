"""Options of the scripts that integrate a flow: the solver and the times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dnnlib.errors import UsageError
from training import flow, runs
from training.names import DEFAULT_SOLVER, DEFAULT_STEPS, SOLVER_NAMES
from training.options.declared import Declared, option
from training.options.types import NOT_NEGATIVE, POSITIVE, STEPS, choice

MAX_STEPS = 10**6
DISCRETIZATIONS = {
    "ifs": "evenly over [0, T]",
    "vp_ode": "evenly over [eps, T]",
    "adapted": "so that steps make equal errors",
}


def _spacing(*names: str) -> Any:
    meanings = ", ".join(f"{DISCRETIZATIONS[name]} ({name})" for name in names)
    return option(type=choice(names), default="ifs", help=f"Times: {meanings}.")


def _tolerance() -> Any:
    return option(
        type=POSITIVE,
        default=1e-4,
        help="Error allowed with 'auto' steps: root mean square at the end, scaled variable.",
    )


@dataclass(frozen=True, kw_only=True)
class SolverOptions(Declared):
    """How to integrate between given times."""

    section = "Integration"
    solver: str = option(
        type=choice(SOLVER_NAMES), default=DEFAULT_SOLVER, help="Method of integration."
    )
    rtol: float = option(
        type=POSITIVE, default=1e-6, help="Relative tolerance of a step of dopri5."
    )
    atol: float = option(
        type=POSITIVE,
        default=1e-6,
        help="Absolute tolerance of a step of dopri5, in standard deviations.",
    )

    def __post_init__(self) -> None:
        tolerances = sorted(self.given & {"rtol", "atol"})
        if tolerances and not self.chosen().adaptive:
            raise UsageError(
                f"--{tolerances[0]} goes with adaptive solvers such as dopri5, but {self.solver} "
                "takes given steps"
            )

    def chosen(self) -> flow.Solver:
        return flow.get_solver(self.solver, self.rtol, self.atol)


@dataclass(frozen=True, kw_only=True)
class ToyTimeOptions(Declared):
    """The times of a toy's simulation."""

    section = "Integration"
    steps: int | str | None = option(
        type=STEPS,
        unset=f"{DEFAULT_STEPS}, or as many as fit in T",
        help="Steps of the solver, or auto, by --tol",
    )
    h: float | None = option(type=POSITIVE, unset="T/steps", help="Step size; T is steps times h")
    disc: str = _spacing("ifs", "adapted")
    tol: float = _tolerance()

    def __post_init__(self) -> None:
        _check_tolerance(self.given, self.steps)

    def chosen(
        self, t_max: float, network: str | None = None, store: bool = False
    ) -> runs.TimeChoice:
        """The times, up to ``steps * h`` or ``t_max``.

        Args:
            t_max: T if the options do not say another.
            network: What messages call the network that was trained up to ``t_max``; None where
                nothing was trained, so that T may be later.
            store: Whether to keep adapted times in the network file.

        Raises:
            UsageError: There are too many, or a network was not trained up to the last.
        """
        steps, end = steps_and_end(self.steps, self.h, t_max)
        if network is not None and end > t_max:
            raise UsageError(
                f"steps times h is {end:g}, but {network} was trained up to T = {t_max:g}: give "
                "fewer steps or a smaller h"
            )
        return runs.TimeChoice(
            steps, end, adapted=self.disc == "adapted", tolerance=self.tol, store=store
        )


def steps_and_end(
    steps: int | str | None, h: float | None, t_max: float
) -> tuple[int | None, float]:
    """Number of steps, None for ``auto``, and the last time T: ``steps * h``, or ``t_max``.

    A step size alone has to divide ``t_max``, so that T is not another time than it seems.
    """
    if isinstance(steps, int) and steps > MAX_STEPS:
        raise UsageError(f"--steps is {steps}: it must be at most {MAX_STEPS}")
    if h is None:
        return (None if steps == "auto" else int(steps or DEFAULT_STEPS)), t_max
    if isinstance(steps, str):
        raise UsageError(f"--steps={steps} finds the step size itself: leave --h out")
    if steps is None:
        if t_max / h > MAX_STEPS:
            raise UsageError(f"h is {h:g}, which makes more than {MAX_STEPS} steps up to {t_max:g}")
        steps = max(1, math.floor(t_max / h * (1 + 1e-9)))
        if not math.isclose(steps * h, t_max, rel_tol=1e-9):
            raise UsageError(
                f"--h={h:g} does not divide T = {t_max:g}: add --steps={steps}, to end at T = "
                f"{steps * h:g}, or leave --h out"
            )
    end = steps * h
    # 7.01 and 701 * 0.01 mean the same time.
    return steps, t_max if math.isclose(end, t_max, rel_tol=1e-9) else end


def _check_tolerance(given: frozenset[str], steps: int | str | None) -> None:
    if "tol" in given and steps != "auto":
        raise UsageError("--tol goes with a number of steps of 'auto'")


@dataclass(frozen=True, kw_only=True)
class EvenTimeOptions(Declared):
    """From when to when images are looked at."""

    section = "Integration"
    disc: str = _spacing("ifs", "vp_ode")
    vpode_disc_eps: float = option(type=NOT_NEGATIVE, default=1e-2, help="First time of vp_ode.")
    end_time: float | None = option(type=POSITIVE, unset="the network's tmax", help="T")

    def end(self, t_max: float, network: str) -> float:
        """T, of a network that was trained up to ``t_max``.

        Raises:
            UsageError: It was not trained so far.
        """
        if self.end_time is not None and self.end_time > t_max * (1 + 1e-9):
            raise UsageError(
                f"--end_time is {self.end_time:g}, but {network} was trained up to T = {t_max:g}: "
                "give less"
            )
        return min(self.end_time or t_max, t_max)

    @property
    def first(self) -> float | None:
        return self.vpode_disc_eps if self.disc == "vp_ode" else None


@dataclass(frozen=True, kw_only=True)
class ImageTimeOptions(EvenTimeOptions):
    """The times of a simulation of images."""

    disc: str = _spacing(*DISCRETIZATIONS)
    n_iters: int | str = option(
        type=STEPS,
        default=DEFAULT_STEPS,
        help="Steps of the solver each way, or auto, by --tol.",
    )
    tol: float = _tolerance()

    def __post_init__(self) -> None:
        _check_tolerance(self.given, self.n_iters)

    def chosen(self, t_max: float, network: str, store: bool = False) -> runs.TimeChoice:
        """The times; arguments are those of ``ToyTimeOptions.chosen``."""
        return runs.TimeChoice(
            None if self.n_iters == "auto" else int(self.n_iters),
            self.end(t_max, network),
            self.first,
            self.disc == "adapted",
            self.tol,
            store,
        )
