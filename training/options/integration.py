"""Options of the scripts that integrate a flow: the solver and the times."""

from dataclasses import dataclass
from typing import Any

from dnnlib.errors import UsageError
from training.names import ADAPTIVE_SOLVERS, DEFAULT_SOLVER, DEFAULT_STEPS, SOLVER_NAMES
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
        if tolerances and self.solver not in ADAPTIVE_SOLVERS:
            raise UsageError(
                f"--{tolerances[0]} goes with adaptive solvers such as dopri5, but {self.solver} "
                "takes given steps"
            )


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

    @property
    def first(self) -> float | None:
        return self.vpode_disc_eps if self.disc == "vp_ode" else None


@dataclass(frozen=True, kw_only=True)
class ImageTimeOptions(EvenTimeOptions):
    """The times of a simulation of images."""

    disc: str = _spacing(*DISCRETIZATIONS)
    n_iters: int | str | None = option(
        type=STEPS,
        default=DEFAULT_STEPS,
        help="Steps of the solver each way, or auto, by --tol.",
    )
    tol: float = _tolerance()

    def __post_init__(self) -> None:
        _check_tolerance(self.given, self.n_iters)


@dataclass(frozen=True, kw_only=True)
class SampleTimeOptions(ImageTimeOptions):
    """The times of samples that are not compared with data."""

    n_iters: int | str | None = option(
        type=STEPS,
        unset=f"as few calls as the network file found enough, or {DEFAULT_STEPS} steps",
        help="Steps of the solver, or auto, by --tol",
    )
