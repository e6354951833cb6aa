"""What the scripts that simulate toys share: which toy, which flow, and up to which time.

The options are those of a command, as click gives them. What the network or the toy knows is filled
in where it was left out, so that the saved options are the ones that were used.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from dnnlib.errors import DataError, UsageError, agree
from training.data.toys import LARGEST_MISMATCH, TOY_NAMES, Toy
from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import INFLATION_DEFAULTS, NoiseSchedule
from training.model.model import Model
from training.model.recipe import make_schedule
from training.settings.options import inflation_arguments, require_options
from training.simulation.integration import steps_and_end

SCHEDULE_OPTIONS = ("dims_to_keep", "rho", "gamma0", "g_type", "inflation_gap")


def network_toy(path: Path, model: Model, options: dict[str, Any]) -> Toy:
    """The toy that a network was trained on; its options are filled in.

    Args:
        path: The network file, for errors.
        model: What is in it.
        options: ``data_name``, ``augment_to``, ``data_dim`` and ``SCHEDULE_OPTIONS``.

    Raises:
        UsageError: An option contradicts the network.
        DataError: The network was not trained on a toy.
    """
    source = f"the network {path.name}"
    known = {**model.recipe.schedule_arguments, **model.about}
    for name in ("data_name", "augment_to", "data_dim", *SCHEDULE_OPTIONS):
        options[name] = agree(name, options.get(name), known.get(name), source)
    name, augment_to = options["data_name"], options["augment_to"]
    if name not in TOY_NAMES or not isinstance(augment_to, int):
        raise DataError(f"{path} was not trained on a toy, but on '{name}'")
    toy = Toy(name, augment_to)
    if toy.dim != model.denoiser.basis.dim:
        raise DataError(
            f"{path} has {model.denoiser.basis.dim} dimensions, but {name} has {toy.dim}"
        )
    basis = model.denoiser.basis
    if toy.mismatch(basis.mean, basis.covariance()) > LARGEST_MISMATCH:
        raise DataError(
            f"{path} was trained on data with the variances {_told(basis.eigenvalues)}, but the "
            f"toy {name} has {_told(EigenBasis.from_moments(*toy.moments()).eigenvalues)}"
        )
    return toy


def _told(variances: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in variances[:3].tolist())


def trained_steps_and_end(
    path: Path, model: Model, options: dict[str, Any]
) -> tuple[int | str, float]:
    """As ``steps_and_end``; UsageError if a network was not trained up to the last time."""
    t_max = model.about["tmax"]
    steps, end = steps_and_end(options["steps"], options["h"], t_max)
    if end > t_max:
        raise UsageError(
            f"steps times h is {end:g}, but the network {path.name} was trained up to "
            f"T = {t_max:g}: give fewer steps or a smaller h"
        )
    return steps, end


def known_toy(
    options: dict[str, Any], end_std: float = 1.0
) -> tuple[Toy, EigenBasis, NoiseSchedule]:
    """The toy of the options, its exact basis and a schedule: no network is needed.

    Args:
        options: As in ``network_toy``; filled in.
        end_std: ``A0`` of the schedule.
    """
    require_options(options, "data_name")
    augment_to = options.get("augment_to") or 0
    toy = Toy(options["data_name"], augment_to)
    agree("data_dim", options["data_dim"], toy.dim, f"the toy '{toy.name}'")
    basis = EigenBasis.from_moments(*toy.moments())
    given = inflation_arguments(options, toy.dim)
    arguments = {"dims_to_keep": toy.dim, **INFLATION_DEFAULTS, **given}
    options |= {"data_dim": toy.dim, "augment_to": augment_to}
    options |= {name: arguments[name] for name in SCHEDULE_OPTIONS}
    return toy, basis, make_schedule("ifs", arguments, basis, end_std)
