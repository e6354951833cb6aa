"""Options that several scripts share: where they run, the flow, the network, its integration."""

from typing import Any

import click

from dnnlib.errors import UsageError, agree
from training import names
from training.options.declared import Declared, option
from training.options.types import COUNT, FILE, NETWORK, NOT_NEGATIVE, POSITIVE, SEED, choice


def save_dir(help: str = "Folder of the results.") -> Any:
    """The option ``--save_dir``."""
    return option(idle=True, type=FILE, required=True, help=help)


def overwrite() -> Any:
    """The option ``--overwrite``, of scripts that need no device."""
    return option(idle=True, is_flag=True, help="Replace existing results.")


def strict(where: str) -> Any:
    """The option ``--strict`` of a command that may come to nothing sound."""
    return option(idle=True, is_flag=True, help=f"Exit with code 3 if {where}.")


def level(fails: str, **how: Any) -> Any:
    """The option ``--level`` of the tests by which something fails."""
    return option(
        **how,
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.01,
        help=f"p-value, the number of comparisons accounted for, below which {fails} fails.",
    )


def seed(of: str, default: int = 0) -> Any:
    """The option ``--seed`` of what is drawn at random."""
    return option(type=SEED, default=default, help=f"Seed of {of}.")


class DeviceOptions(Declared):
    """Where a script runs, and whether it may replace what is there."""

    device_name: str | None = option(
        idle=True, unset="cuda where there is one", help="cpu, cuda or cuda:N"
    )
    overwrite: bool = overwrite()


class InflationOptions(Declared, section="Flow"):
    """The data's dimensions and the inflationary schedule."""

    data_dim: int | None = option(unset="the data's", help="Dimensions of the data, as a check.")
    dims_to_keep: int | str | None = option(
        type=COUNT,
        unset="all",
        help="Dimensions that keep inflating: as many as the data has is PR-preserving, fewer is "
        "PR-reducing.",
    )
    rho: float | None = option(unset="1", help="Inflation rate, 1/time.")
    gamma0: float | None = option(
        unset="5e-4", help="Noise variance at time 0, in squared data units."
    )
    g_type: str | None = option(
        type=choice(names.G_TYPES),
        unset="orig",
        help="Exponents of the compressed dimensions: all exponents sum to zero (orig), or each is "
        "less by --inflation_gap than those of the kept ones.",
    )
    inflation_gap: float | None = option(
        unset="1.02", help="Gap of constant_inflation_gap, in units of rho."
    )
    g_rescaling: float | None = option(
        unset="1", help="Factor on every exponent g: less than 1 compresses less."
    )

    def expected(self) -> dict[str, Any]:
        """All of them by name, for a network to agree with."""
        return self.named("data_dim", *names.INFLATION)

    def arguments(self, precond: str = "ifs", data_dim: int = 0) -> dict[str, Any]:
        """The arguments of the inflationary schedule that were given, for a kind of model and
        dimensions of the data, which an isotropic model keeps. Raises UsageError if one was given
        for an isotropic model, which has none, or a gap for the ``orig`` type, whose gap follows
        from the dimensions."""
        given = {k: value for k, value in self.named(*names.INFLATION).items() if value is not None}
        if precond != "ifs":
            for name, value in given.items():
                known = data_dim if name == "dims_to_keep" else None
                agree(name, value, known, f"precond={precond}")
            return {}
        if "inflation_gap" in given and given.get("g_type") != "constant_inflation_gap":
            raise UsageError("--inflation_gap goes with --g_type=constant_inflation_gap only")
        return given


def toy_name(required: bool = False, unset: str | None = None) -> Any:
    """The option ``--data_name`` of a toy."""
    return option(type=choice(names.TOY_NAMES), required=required, unset=unset, help="The toy")


def augment_to(unset: str = "0, not at all") -> Any:
    """The option ``--augment_to``."""
    return option(
        type=click.IntRange(min=0, max=2**31 - 1),
        unset=unset,
        help="Dimensions the toy is embedded in",
    )


KNOWN = "the network's"
"""What is the default of all that a network file knows."""


def network(required: bool = True) -> Any:
    """The option ``--network``."""
    return option(type=NETWORK, required=required, help="Network file: a path or an https URL.")


def calibration() -> Any:
    """The option ``--calibration``."""
    return option(default=True, help="Use the calibration in the network file, if it has one.")


def end_vars() -> Any:
    """The option ``--end_vars``."""
    return option(type=POSITIVE, default=1.0, help="A0, the std of kept latents.")


def store_grid() -> Any:
    """The option ``--store_grid``."""
    return option(is_flag=True, help="Keep the times of --disc=adapted in the network file.")


def check_storage(store: bool, disc: str, network: str | None) -> None:
    """Raises UsageError unless times can be kept in a network file, if they are to be."""
    if store and (disc != "adapted" or network is None):
        raise UsageError("--store_grid goes with a network and --disc=adapted")
    if store and network is not None and "://" in network:
        raise UsageError("--store_grid writes into the network file: give a path, not a URL")


class CallOptions(Declared, section="Network"):
    """How a network of images is called."""

    precision: str = option(
        type=choice(names.PRECISIONS),
        default="fp32",
        help="Precision of the network; states are float64.",
    )
    batch_gpu: int | None = option(
        "--batch-gpu", unset="16 on a CPU, 128 on CUDA", help="Images of one network call"
    )


class ImageNetworkOptions(CallOptions):
    """A network of images, and what it is said to be."""

    network: str = network()
    data_name: str | None = option(
        unset="the network's data set", help="Name of the data in the names of results"
    )
    data_dim: int | None = option(unset=KNOWN, help="Numbers of an image")
    dims_to_keep: int | None = option(unset=KNOWN, help="Dimensions kept")
    img_size: int | None = option(of=names.IMAGES, unset=KNOWN, help="Side in pixels")
    img_ch: int | None = option(of=names.IMAGES, unset=KNOWN, help="Channels")
    calibration: bool = calibration()
    end_vars: float = end_vars()

    def expected(self) -> dict[str, Any]:
        """What the network is said to be, by name."""
        return self.named("data_dim", "dims_to_keep", "img_size", "img_ch")


MAX_STEPS = 10**6
DISCRETIZATIONS = {
    "ifs": "evenly over [0, T]",
    "vp_ode": "evenly over [eps, T]",
    "adapted": "so that steps make equal errors",
}


def _spacing(*kinds: str) -> Any:
    meanings = ", ".join(f"{DISCRETIZATIONS[kind]} ({kind})" for kind in kinds)
    return option(type=choice(kinds), default="ifs", help=f"Times: {meanings}.")


def _tolerance() -> Any:
    return option(
        type=POSITIVE,
        default=1e-4,
        help="Error allowed with 'auto' steps: root mean square at the end, scaled variable.",
    )


class SolverOptions(Declared, section="Integration"):
    """How to integrate between given times."""

    solver: str = option(
        type=choice(names.SOLVER_NAMES),
        default=names.DEFAULT_SOLVER,
        help="Method of integration.",
    )
    rtol: float = option(default=1e-6, help="Relative tolerance of a step of dopri5.")
    atol: float = option(
        default=1e-6, help="Absolute tolerance of a step of dopri5, in standard deviations."
    )

    def __post_init__(self) -> None:
        tolerances = sorted(self.given & {"rtol", "atol"})
        if tolerances and self.solver not in names.ADAPTIVE_SOLVERS:
            raise UsageError(
                f"--{tolerances[0]} goes with adaptive solvers such as dopri5, but {self.solver} "
                "takes given steps"
            )


class ToyTimeOptions(Declared, section="Integration"):
    """The times of a toy's simulation."""

    steps: int | str | None = option(
        unset=f"{names.DEFAULT_STEPS}, or as many as fit in T",
        help="Steps of the solver, or auto, by --tol",
    )
    h: float | None = option(unset="T/steps", help="Step size; T is steps times h")
    disc: str = _spacing("ifs", "adapted")
    tol: float = _tolerance()

    def __post_init__(self) -> None:
        _check_tolerance(self.given, self.steps)


def _check_tolerance(given: frozenset[str], steps: int | str | None) -> None:
    if "tol" in given and steps != "auto":
        raise UsageError("--tol goes with a number of steps of 'auto'")


class EvenTimeOptions(Declared, section="Integration"):
    """From when to when images are looked at."""

    disc: str = _spacing("ifs", "vp_ode")
    vpode_disc_eps: float = option(type=NOT_NEGATIVE, default=1e-2, help="First time of vp_ode.")
    end_time: float | None = option(unset="the network's tmax", help="T")

    def __post_init__(self) -> None:
        if "vpode_disc_eps" in self.given and self.first is None:
            raise UsageError("--vpode_disc_eps goes with --disc=vp_ode")

    @property
    def first(self) -> float | None:
        return self.vpode_disc_eps if self.disc == "vp_ode" else None


class ImageTimeOptions(EvenTimeOptions):
    """The times of a simulation of images."""

    disc: str = _spacing(*DISCRETIZATIONS)
    n_iters: int | str | None = option(
        default=names.DEFAULT_STEPS, help="Steps of the solver each way, or auto, by --tol."
    )
    tol: float = _tolerance()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_tolerance(self.given, self.n_iters)


class SampleTimeOptions(ImageTimeOptions):
    """The times of samples that are not compared with data."""

    n_iters: int | str | None = option(
        unset=f"as few calls as the network file found enough, or {names.DEFAULT_STEPS} steps",
        help="Steps of the solver, or auto, by --tol",
    )


def eps(of: str = "Law of the latents", melt: bool = False) -> Any:
    """The option; ``of`` is what it decides, and ``melt`` whether there is a melt to take them
    from."""
    empirical = "empirical (those of the melt), " * melt
    return option(
        unset="learned, if the network has such a law; otherwise auto",
        help=f"{of}: learned (that of the network file), or a Gaussian of these variances: auto "
        f"(the closed form), {empirical}one number for all compressed dimensions, or as in the "
        "paper, where those of kept ones are 1 (paper:NUMBER, or paper without compression)",
    )


class DensityOptions(Declared, section="Log densities"):
    """Whether to write log densities, and how the traces in them are computed."""

    log_prob: bool = option(
        default=False,
        help="Write the log density of the points at the first time, which takes one or more "
        "backward passes for each network call.",
    )
    trace: str = option(
        type=choice(names.TRACES),
        default="auto",
        help="How to compute traces of Jacobians: exactly (exact), by random directions "
        f"(hutchinson), or exactly in up to {names.LARGEST_EXACT} dimensions that are not pixels "
        "(auto).",
    )
    probes: int = option(
        type=click.IntRange(min=2),
        default=names.PROBES,
        help="Random directions of hutchinson, whose spread tells the error.",
    )

    def __post_init__(self) -> None:
        for name in ("trace", "probes"):
            if name in self.given and not self.log_prob:
                raise UsageError(f"--{name} goes with --log_prob")
        if "probes" in self.given and self.trace == "exact":
            raise UsageError("--probes goes with --trace=hutchinson: an exact trace has none")
