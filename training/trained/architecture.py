"""Plain values from which, with the basis of a data set, a denoiser is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.flow import schedules
from training.flow.denoisers import NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.preconditioning import OutputGain
from training.networks import NETWORKS

SCHEDULES: dict[str, Callable[..., schedules.NoiseSchedule]] = {
    "ifs": schedules.InflationSchedule.to_dimension,
    "edm": schedules.EDMSchedule,
    "vp": schedules.VPSchedule,
    "ve": schedules.VESchedule,
}


@dataclass(frozen=True)
class Architecture:
    """Names and arguments that, with the basis of a data set, determine a denoiser.

    Attributes:
        schedule: A name in ``SCHEDULES``.
        schedule_arguments: Arguments of the schedule, except those determined by the basis.
        network: A name in ``NETWORKS``.
        network_arguments: Arguments of the network's constructor.
        denoiser_arguments: ``space``, ``noise_cond`` and ``preconditioning``.

    Example:
        >>> import torch
        >>> from training import EigenBasis
        >>> basis = EigenBasis(torch.zeros(2), torch.tensor([1.0, 0.5]), torch.eye(2))
        >>> network_arguments = {"dim": 2, "noise_range": [-1.0, 0.3], "width": 16}
        >>> architecture = Architecture("ifs", {"dims_to_keep": 1}, "mlp", network_arguments)
        >>> architecture.build(basis).schedule
        InflationSchedule(PRRto1D, dim=2, rho=1, gamma0=0.0005)
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
    ) -> NetworkDenoiser:
        """Build a denoiser with a freshly initialized network.

        Args:
            basis: Eigenbasis of the data.
            data_variance: Variance ``[D]`` of the training data, used where it exceeds that of the
                basis: augmented data vary along axes in which the data are constant.
            output_gain: Gain of the network's output per dimension, if any.
        """
        schedule = make_schedule(self.schedule, self.schedule_arguments, basis)
        network = NETWORKS[self.network](**self.network_arguments)
        if data_variance is not None:
            floor = basis.floored_variance()
            data_variance = torch.maximum(floor, data_variance.to(floor))
        return NetworkDenoiser(
            network,
            basis,
            schedule,
            **self.denoiser_arguments,
            data_variance=data_variance,
            output_gain=output_gain,
        )


def make_schedule(
    name: str, arguments: Mapping[str, Any], basis: EigenBasis, end_std: float = 1.0
) -> schedules.NoiseSchedule:
    """Build the schedule with a name in ``SCHEDULES`` for data with this basis.

    Raises:
        UsageError: The name is unknown, or an argument is out of range.
    """
    if name not in SCHEDULES:
        raise UsageError(f"unknown schedule '{name}': choose one of {', '.join(SCHEDULES)}")
    if name != "ifs" and end_std != 1:
        raise UsageError(
            f"end_vars is {end_std:g}, but the schedule {name} has no such parameter: leave it out"
        )
    return SCHEDULES[name](**arguments, **basis_arguments(name, basis, end_std))


def basis_arguments(name: str, basis: EigenBasis, end_std: float = 1.0) -> dict[str, Any]:
    """Return the arguments of a schedule that the basis determines.

    Architectures omit these arguments.
    """
    if name != "ifs":
        return {"dim": basis.dim}
    return {"data_dim": basis.dim, "top_variance": basis.top_variance, "end_std": end_std}
