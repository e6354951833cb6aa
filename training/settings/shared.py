"""Options that several scripts share: where they run, the flow, the network, its integration."""

from typing import Any

from dnnlib.errors import UsageError, agree
from training import names
from training.settings.declared import Declared, option
from training.settings.types import (
    COUNT,
    FILE,
    NETWORK,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    Real,
    Whole,
    choice,
)


def save_dir(help: str = "Output directory.") -> Any:
    """Return the option ``--save_dir``."""
    return option(idle=True, type=FILE, required=True, help=help)


def overwrite() -> Any:
    """Return the option ``--overwrite``."""
    return option(idle=True, is_flag=True, help="Replace existing results.")


def strict(condition: str) -> Any:
    """Return the option ``--strict``, which makes a script exit with code 3 under a condition."""
    return option(idle=True, is_flag=True, help=f"Exit with code 3 if {condition}.")


def level(test: str, **how: Any) -> Any:
    """Return the option ``--level``, the significance level of a test."""
    return option(
        **how,
        type=Real(0, 1, min_open=True, max_open=True),
        default=0.01,
        help=f"Significance level of {test}, after correction for multiple comparisons.",
    )


def seed(default: int = 0) -> Any:
    """Return the option ``--seed``."""
    return option(type=SEED, default=default, help="Random seed.")


class DeviceOptions(Declared):
    """Options for the device and for replacing existing results."""

    device_name: str | None = option(
        idle=True, unset="cuda if available, else cpu", help="Device: cpu, cuda or cuda:N"
    )
    overwrite: bool = overwrite()


class InflationOptions(Declared, section="Flow"):
    """Options for the dimensions of the data and for the inflationary schedule."""

    data_dim: int | None = option(
        unset="as in the data set", help="Expected dimension of the data; the data set must agree."
    )
    dims_to_keep: int | str | None = option(
        type=COUNT,
        unset="all",
        help="Number of dimensions that are not compressed: all (the flow preserves the "
        "participation ratio, PRP) or fewer (the flow reduces it, PRR).",
    )
    rho: float | None = option(unset="1", help="Rate rho of the inflation, in 1/time.")
    gamma0: float | None = option(
        unset="5e-4", help="Noise variance at time 0, in squared data units."
    )
    g_type: str | None = option(
        type=choice(names.G_TYPES),
        unset="orig",
        help="Rule for the growth exponent g of each dimension. orig: all g sum to 0; "
        "constant_inflation_gap: the g of compressed dimensions is below that of the others by "
        "--inflation_gap.",
    )
    inflation_gap: float | None = option(
        unset="1.02",
        help="With --g_type=constant_inflation_gap: growth exponent g of dimensions that are "
        "not compressed, minus the g of compressed dimensions.",
    )
    g_rescaling: float | None = option(
        unset="1",
        help="Factor on the growth exponents g of all dimensions; a factor below 1 compresses "
        "less.",
    )

    def expected(self) -> dict[str, Any]:
        """Return all options of the group by name, to compare them with a network file."""
        return self.named("data_dim", *names.INFLATION)

    def arguments(self, precond: str = "ifs", data_dim: int = 0) -> dict[str, Any]:
        """Return the arguments of the inflationary schedule that the user gave.

        Args:
            precond: Kind of model. Isotropic models have no arguments of this schedule.
            data_dim: Dimension of the data; an isotropic model keeps all dimensions.

        Raises:
            UsageError: An argument was given for an isotropic model, or a gap for the type
                ``orig``, whose gap follows from the dimensions.
        """
        given = {k: value for k, value in self.named(*names.INFLATION).items() if value is not None}
        if precond != "ifs":
            for name, value in given.items():
                known = data_dim if name == "dims_to_keep" else None
                agree(name, value, known, f"precond={precond}")
            return {}
        if "inflation_gap" in given and given.get("g_type") != "constant_inflation_gap":
            raise UsageError("--inflation_gap is only for --g_type=constant_inflation_gap")
        return given


def toy_name(required: bool = False, unset: str | None = None) -> Any:
    """Return the option ``--data_name``, which selects a toy."""
    return option(
        type=choice(names.TOY_NAMES), required=required, unset=unset, help="Name of the toy"
    )


def augment_to(unset: str = "0") -> Any:
    """Return the option ``--augment_to``."""
    return option(
        type=Whole(min=0, max=2**31 - 1),
        unset=unset,
        help="Embed the toy in a space of this many dimensions; 0: no embedding",
    )


KNOWN = "as in the network file"
"""Text for the default of options whose values a network file contains."""


def network(required: bool = True) -> Any:
    """Return the option ``--network``."""
    return option(type=NETWORK, required=required, help="Network file: a path or an https URL.")


def calibration() -> Any:
    """Return the option ``--calibration``."""
    return option(default=True, help="Use the calibration in the network file, if it has one.")


def end_vars() -> Any:
    """Return the option ``--end_vars``."""
    return option(
        type=POSITIVE,
        default=1.0,
        help="Standard deviation A0 (despite the name, not a variance) of the latents at the "
        "end of the flow, in dimensions that are not compressed.",
    )


def batch_gpu() -> Any:
    """Return the option ``--batch-gpu``."""
    return option(
        "--batch-gpu",
        unset="16 on a CPU, 128 on CUDA",
        help="Number of images per network evaluation",
    )


class CallOptions(Declared, section="Network"):
    """Options for the evaluation of a network of images."""

    precision: str = option(
        type=choice(names.PRECISIONS),
        default="fp32",
        help="Floating-point type of network evaluations; the states of the ODE are float64.",
    )
    batch_gpu: int | None = batch_gpu()


class ImageNetworkOptions(CallOptions):
    """Options for a network of images or tables."""

    network: str = network()
    dims_to_keep: int | None = option(
        unset=KNOWN,
        help="Expected number of dimensions that are not compressed; the network file must agree",
    )
    calibration: bool = calibration()
    end_vars: float = end_vars()


def data_name() -> Any:
    """Return the option ``--data_name`` of images and tables."""
    return option(
        unset="the name in the network file",
        help="Name of the data, used in the names of output files",
    )


MAX_STEPS = 10**6


class SolverOptions(Declared, section="Integration"):
    """Options for the integration between given times."""

    solver: str = option(
        type=choice(names.SOLVER_NAMES),
        default=names.DEFAULT_SOLVER,
        help="ODE solver.",
    )


class ToyTimeOptions(Declared, section="Integration"):
    """Options for the times of a toy's simulation."""

    steps: int | None = option(
        unset=f"{names.DEFAULT_STEPS}; with --h: end time / h", help="Number of solver steps"
    )
    h: float | None = option(
        unset="end time / steps", help="Size of a time step; the end time is then steps times h"
    )


class ImageTimeOptions(Declared, section="Integration"):
    """Options for the times of a simulation of images."""

    disc: str = option(
        type=choice(("ifs", "vp_ode")),
        default="ifs",
        help="Time grid. ifs: evenly spaced from 0 to T; vp_ode: evenly spaced from "
        "--vpode_disc_eps to T.",
    )
    vpode_disc_eps: float = option(
        type=NOT_NEGATIVE, default=1e-2, help="With --disc=vp_ode: smallest time."
    )
    end_time: float | None = option(
        unset="as in the network file", help="Largest time T of the flow"
    )
    n_iters: int | None = option(
        default=names.DEFAULT_STEPS, help="Number of solver steps in each direction."
    )

    def __post_init__(self) -> None:
        if "vpode_disc_eps" in self.given and self.first is None:
            raise UsageError("--vpode_disc_eps is only for --disc=vp_ode")

    @property
    def first(self) -> float | None:
        """First time of the grid ``vp_ode``; None for other grids."""
        return self.vpode_disc_eps if self.disc == "vp_ode" else None


class SampleTimeOptions(ImageTimeOptions):
    """Options for the times of samples that are not compared with data."""

    n_iters: int | None = option(
        unset=f"the number stored in the network file, else {names.DEFAULT_STEPS}",
        help="Number of solver steps",
    )


def eps(of: str = "Latent distribution", melt: bool = False) -> Any:
    """Return the option ``--eps``, which selects the distribution of the latents.

    Args:
        of: Name of the distribution in the help.
        melt: Whether the variances at the end of an inflation (melt) can be used.
    """
    empirical = "empirical: variances of the inflated data; " * melt
    return option(
        unset="learned if the network file has one, else auto",
        help=f"{of}. learned: from the network file; auto: Gaussian in closed form; "
        f"{empirical}NUMBER: auto, but with this variance in compressed dimensions; "
        "paper:NUMBER: the same, with variance 1 (the square of --end_vars) in all other "
        "dimensions",
    )


class DensityOptions(Declared, section="Log densities"):
    """Options for log densities, which need traces of the Jacobian.

    Traces are exact in few dimensions, and estimated from random directions in many and of images.
    """

    log_prob: bool = option(
        default=False,
        help="Also write the log density (nats) of each point at the first time. A network "
        "evaluation then needs one or more backward passes.",
    )
    probes: int = option(
        type=Whole(min=2),
        default=names.PROBES,
        help="Number of random directions per point where traces are estimated: for images, and "
        f"in more than {names.LARGEST_EXACT} dimensions. Their spread gives the standard error.",
    )

    def __post_init__(self) -> None:
        if "probes" in self.given and not self.log_prob:
            raise UsageError("--probes needs --log_prob")
