"""A denoiser with all that is needed to rebuild it, and its network file."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dnnlib.errors import DataError, UsageError
from torch_utils.inert_pickle import shown
from torch_utils.snapshots import Part, build, first_line, read_network, write_network
from training.flow.calibration import Calibration
from training.flow.denoisers import NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.isotropic import EDMSchedule, VESchedule, VPSchedule
from training.flow.output_gain import OutputGain
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule, NoiseSchedule
from training.networks import NETWORKS

SCHEDULES: dict[str, Callable[..., NoiseSchedule]] = {
    "ifs": InflationSchedule.to_dimension,
    "edm": EDMSchedule,
    "vp": VPSchedule,
    "ve": VESchedule,
}


# What is raised when the parts of a network file do not fit together.
_INCONSISTENT = (
    ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """Plain values from which, with a basis, a denoiser is built.

    Attributes:
        schedule: A name in ``SCHEDULES``.
        schedule_arguments: Its arguments, but for those that the basis gives.
        network: A name in ``NETWORKS``.
        network_arguments: Its constructor's arguments.
        denoiser_arguments: ``space``, ``noise_cond`` and ``preconditioning``.
    """

    schedule: str
    schedule_arguments: dict[str, Any]
    network: str
    network_arguments: dict[str, Any]
    denoiser_arguments: dict[str, Any] = field(default_factory=dict)

    def build(
        self,
        basis: EigenBasis,
        data_variance: Tensor | None = None,
        output_gain: OutputGain | None = None,
    ) -> "Model":
        """A model with a freshly initialized network.

        Args:
            basis: Of the data.
            data_variance: ``[D]``, the variance of what the network is trained on, where it exceeds
                that of the basis: augmented data vary along axes in which the data are constant.
            output_gain: See ``NetworkDenoiser``.
        """
        schedule = make_schedule(self.schedule, self.schedule_arguments, basis)
        network = NETWORKS[self.network](**self.network_arguments)
        if data_variance is not None:
            floor = basis.floored_variance()
            data_variance = torch.maximum(floor, data_variance.to(floor))
        arguments = {
            **self.denoiser_arguments,
            "data_variance": data_variance,
            "output_gain": output_gain,
        }
        return Model(NetworkDenoiser(network, basis, schedule, **arguments), self)


@dataclass
class Model:
    """A network denoiser, its recipe, and what is known about it.

    Attributes:
        about: Plain values: data set, times, amount of training.
    """

    denoiser: NetworkDenoiser
    recipe: Recipe
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def flow(self) -> ProbabilityFlow:
        schedule, basis = self.denoiser.schedule, self.denoiser.basis
        return ProbabilityFlow(self.denoiser, schedule, basis, self.about.get("tmax"))

    def digest(self) -> str:
        """SHA-256 of all that decides what the flow does: two models differ if their digests do.

        What the network file says about itself does not count, and neither does the scale, which
        is chosen when a file is opened.
        """
        parts = self._parts()
        content = hashlib.sha256()
        for name, part in sorted(parts.items()):
            content.update(repr((name, part.class_name, sorted(part.arguments.items()))).encode())
            for key, tensor in sorted(part.state.items()):
                content.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                content.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        return content.hexdigest()

    def save(self, path: Path) -> None:
        """Writes the network file, whole or not at all."""
        write_network(path, self._parts(), self.about)

    def _parts(self) -> dict[str, Part]:
        denoiser, recipe = self.denoiser, self.recipe
        basis = {name: tensor.cpu() for name, tensor in denoiser.basis.state_dict().items()}
        weights = {name: tensor.cpu() for name, tensor in denoiser.network.state_dict().items()}
        state = {"data_variance": denoiser.data_variance.cpu()}
        if denoiser.output_gain is not None:
            state["output_gain_times"] = denoiser.output_gain.spline.times.cpu()
            state["output_gains"] = denoiser.output_gain.gains.cpu()
        if denoiser.calibration is not None:
            state["calibration_times"] = denoiser.calibration.times.cpu()
            state["calibration_gains"] = denoiser.calibration.gains.cpu()
            state["calibration_slopes"] = denoiser.calibration.slopes.cpu()
        return {
            "schedule": Part(recipe.schedule, recipe.schedule_arguments),
            "basis": Part("EigenBasis", {}, basis),
            "network": Part(recipe.network, recipe.network_arguments, weights),
            "denoiser": Part("NetworkDenoiser", recipe.denoiser_arguments, state),
        }

    @classmethod
    def load(cls, path: str | Path, end_std: float = 1.0, calibrated: bool = True) -> "Model":
        """Opens a network file, safely, on the CPU and ready for evaluation.

        Args:
            path: The network file.
            end_std: ``A0`` of the schedule: how the flow is scaled is not the network's business.
            calibrated: Whether to use the calibration of a file that has one.

        Raises:
            DataError: The file is missing, broken, foreign, or inconsistent.
        """
        path = Path(path)
        parts, about = read_network(path)
        _check_parts(path, parts)
        names = ("schedule", "network", "denoiser")
        schedule_part, network_part, denoiser_part = (parts[name] for name in names)
        recipe = Recipe(
            schedule_part.class_name,
            schedule_part.arguments,
            network_part.class_name,
            network_part.arguments,
            denoiser_part.arguments,
        )
        basis = _read_basis(path, parts["basis"])
        if recipe.schedule != "ifs" and end_std != 1:
            raise UsageError(
                f"end_vars is {end_std:g}, but a model of {recipe.schedule} has no such scale"
            )
        network = build(path, "network", network_part, NETWORKS)
        try:
            schedule = make_schedule(recipe.schedule, recipe.schedule_arguments, basis, end_std)
            state = dict(denoiser_part.state)
            calibration = _take_calibration(state, recipe, basis.dim)
            gain = _take_output_gain(state, basis.dim)
            arguments = {**recipe.denoiser_arguments, **state}
            variance = arguments.get("data_variance", basis.eigenvalues)
            if variance.shape != basis.eigenvalues.shape or not (variance >= 0).all():
                raise ValueError("its data_variance does not belong to its basis")
            denoiser = NetworkDenoiser(network, basis, schedule, output_gain=gain, **arguments)
            if schedule.dim != basis.dim:
                raise ValueError(f"schedule of {schedule.dim} and basis of {basis.dim} dimensions")
            schedule.t_min = _check_about(about, basis.dim)
            denoiser.calibration = calibration
            check_network(denoiser, float(about["tmax"]))
            denoiser.calibration = calibration if calibrated else None
        except UsageError as error:
            raise DataError(f"{path}: {error}") from error
        except _INCONSISTENT as error:
            raise DataError(f"{path} is inconsistent: {first_line(error)}") from error
        return cls(denoiser.eval().requires_grad_(False), recipe, about)


def make_schedule(
    name: str, arguments: Mapping[str, Any], basis: EigenBasis, end_std: float = 1.0
) -> NoiseSchedule:
    """The schedule of a name in ``SCHEDULES`` for data with this basis."""
    if name not in SCHEDULES:
        raise UsageError(f"unknown schedule '{name}': choose one of {', '.join(SCHEDULES)}")
    if name != "ifs":
        if end_std != 1:
            raise UsageError(f"end_vars is {end_std:g}, but a model of {name} has no such scale")
        return SCHEDULES[name](dim=basis.dim, **arguments)
    fitted = {"data_dim": basis.dim, "top_variance": basis.top_variance, "end_std": end_std}
    return SCHEDULES[name](**arguments, **fitted)


def _check_parts(path: Path, parts: Mapping[str, Part]) -> None:
    known = {
        "schedule": list(SCHEDULES),
        "basis": ["EigenBasis"],
        "network": list(NETWORKS),
        "denoiser": ["NetworkDenoiser"],
    }
    for name, classes in known.items():
        if name not in parts:
            raise DataError(f"{path} lacks its {name}")
        if parts[name].class_name not in classes:
            raise DataError(
                f"{path}: its {name} is a '{parts[name].class_name}', which this version does not "
                f"know; it knows {', '.join(classes)}"
            )


def _read_basis(path: Path, part: Part) -> EigenBasis:
    state = part.state
    if set(state) != {"mean", "eigenvalues", "eigenvectors"}:
        raise DataError(
            f"{path}: its basis has {shown(sorted(state))}, not mean, eigenvalues, eigenvectors"
        )
    dim = state["mean"].numel()
    shapes = [tuple(state[key].shape) for key in ("mean", "eigenvalues", "eigenvectors")]
    if shapes != [(dim,), (dim,), (dim, dim)] or dim == 0:
        raise DataError(f"{path}: the shapes of its basis, {shapes}, do not belong together")
    if any(tensor.dtype != torch.float64 for tensor in state.values()):
        raise DataError(f"{path}: its basis must be in float64")
    probe = torch.linspace(-1, 1, dim, dtype=torch.float64)
    turned = state["eigenvectors"] @ (state["eigenvectors"].T @ probe)
    if not torch.allclose(turned, probe, atol=1e-6):
        raise DataError(f"{path}: its eigenvectors are not orthonormal")
    if (state["eigenvalues"] < 0).any() or (state["eigenvalues"].diff() > 0).any():
        raise DataError(f"{path}: its eigenvalues must be sorted downward and not negative")
    return EigenBasis(state["mean"], state["eigenvalues"], state["eigenvectors"])


def _take_calibration(state: dict[str, Tensor], recipe: Recipe, dim: int) -> Calibration | None:
    """Removes a calibration from a denoiser's state; None if it has none.

    Raises:
        ValueError: It is incomplete, malformed, or of another model.
    """
    times, slopes = _take_pair(state, "calibration_times", "calibration_slopes")
    gains = state.pop("calibration_gains", None)
    if times is None or slopes is None:
        if gains is not None:
            raise ValueError("its calibration has gains, but no times and slopes")
        return None
    # Files of earlier versions have slopes alone.
    calibration = Calibration(times, torch.ones_like(slopes) if gains is None else gains, slopes)
    if slopes.shape[1] != dim:
        raise ValueError(f"calibration of {slopes.shape[1]} and basis of {dim} dimensions")
    if recipe.denoiser_arguments.get("preconditioning", "ifs") != "ifs":
        raise ValueError("it has a calibration, which only models of ifs have")
    return calibration


def _take_output_gain(state: dict[str, Tensor], dim: int) -> OutputGain | None:
    """Removes an output gain from a denoiser's state; None if it has none.

    Raises:
        ValueError: It is incomplete, malformed, or of another model.
    """
    times, gains = _take_pair(state, "output_gain_times", "output_gains")
    if times is None or gains is None:
        return None
    output_gain = OutputGain(times, gains)
    if gains.shape[1] != dim:
        raise ValueError(f"output gain of {gains.shape[1]} and basis of {dim} dimensions")
    return output_gain


def _take_pair(
    state: dict[str, Tensor], one: str, other: str
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Removes two entries that go together, if they are there."""
    if one not in state and other not in state:
        return None, None
    if one not in state or other not in state:
        raise ValueError(f"it has one of {one} and {other}, but not both")
    return state.pop(one), state.pop(other)


def _check_about(about: Mapping[str, Any], dim: int) -> float:
    """The first time; raises ValueError unless what scripts rely on makes sense."""
    if about.get("data_dim") != dim:
        raise ValueError(f"it says data_dim {about.get('data_dim')}, but its basis has {dim}")
    if about.get("dims_to_keep") not in range(1, dim + 1):
        raise ValueError(f"it keeps {about.get('dims_to_keep')} of {dim} dimensions")
    first, last = about.get("tmin"), about.get("tmax")
    if not (isinstance(first, float | int) and isinstance(last, float | int)):
        raise ValueError("it does not say its first and last time")
    if not 0 <= first < last < math.inf:
        raise ValueError(f"its times run from {first} to {last}")
    return float(first)


def check_network(denoiser: NetworkDenoiser, t_max: float) -> None:
    """Calls on one point at both ends, which find a network that does not fit its basis, and
    weights, rates or times so large that nothing finite comes of them: they raise ValueError."""
    point = torch.zeros(1, denoiser.basis.dim, dtype=torch.float64)
    denoiser.eval()
    for time in (denoiser.schedule.t_min, t_max):
        t = torch.tensor(time, dtype=torch.float64)
        with torch.no_grad():
            out = denoiser.residual(point, t)
            if out.shape != point.shape:
                raise ValueError(f"the network gives {tuple(out.shape)} for {tuple(point.shape)}")
            out = denoiser(point, t)
        if not (out.isfinite().all() and denoiser.schedule.scale(t).isfinite()):
            raise ValueError(f"its denoiser or its scale is not finite at t = {time:g}")


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def describe_basis(basis: EigenBasis, shown: int = 8) -> str:
    """The head of the spectrum and the participation ratio, for people to read."""
    head = ", ".join(f"{value:.4g}" for value in basis.eigenvalues[:shown].tolist())
    more = ", ..." if basis.dim > shown else ""
    ratio = basis.participation_ratio
    return f"Variances {head}{more}; participation ratio {ratio:.4g} of {basis.dim}"
