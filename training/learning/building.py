"""Construction of an untrained model, and of its training loss, from a user's choices."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.flow.denoisers import noise_condition
from training.flow.eigenbasis import EigenBasis
from training.flow.preconditioning import OutputGain
from training.flow.schedules import INFLATION_DEFAULTS, NoiseSchedule
from training.learning.loss import DenoisingLoss
from training.learning.mixture_start import Mixture
from training.networks import QUESTION_NETWORKS, TOY_NETWORKS
from training.networks.questions import QuestionNetwork
from training.recipes import Recipe
from training.trained.architecture import Architecture, make_schedule
from training.trained.network import TrainedNetwork

MOST_NOISE = 1e30
"""Largest variance of the noise at the last time; single precision ends at 3e38."""
EDM_ES = {"schedule": "edm", "preconditioning": "ifs"}
"""The preconditioning ``edm_es``: the schedule of ``edm``, with separate preconditioning of each
eigen-dimension.
"""
T_SAMPLING = {"ifs": "uniform", "edm": "normal", "vp": "uniform", "ve": "log_uniform"}
"""Distribution of training times by schedule; isotropic models use that of Karras et al. 2022
(table 1).
"""


@dataclass(frozen=True)
class ModelConfig:
    """User options for an untrained model; None is a default that depends on the other options.

    Attributes:
        precond: Noise schedule and preconditioning: a name in ``SCHEDULES`` and
            ``PRECONDITIONINGS``, or ``edm_es``.
        inflation: Arguments of the inflationary schedule; other schedules take none.
        network: Name of the network in ``NETWORKS``.
        network_arguments: Constructor arguments of the network, except those that follow from the
            flow.
        space: Coordinates of the network's input and output, a name in ``SPACES``.
        noise_cond: Encoding of time as a network input.
        t_min: First time.
        t_max: Last time.
        compressed_time: Factor on the schedule's default last time if dimensions are compressed.
        t_sampling: Distribution of times in training.
        output_gain: Whether a gain of the network's output is trained too.
        seed: Random seed of the initial weights.
    """

    precond: str
    inflation: Mapping[str, Any]
    network: str
    network_arguments: Mapping[str, Any]
    space: str
    noise_cond: str
    t_min: float | None = None
    t_max: float | None = None
    compressed_time: float = 1.0
    t_sampling: str | None = None
    output_gain: bool = False
    seed: int = 0

    def build(
        self, basis: EigenBasis, data_variance: Tensor | None = None
    ) -> tuple[TrainedNetwork, DenoisingLoss]:
        """Build an untrained model and its training loss.

        Args:
            basis: Eigenbasis of the data.
            data_variance: Variance ``[D]`` of the network's training data; None for the variance of
                the basis.
        """
        if self.precond == "ifs":
            given = {name: value for name, value in self.inflation.items() if value is not None}
            arguments: dict[str, Any] = {"dims_to_keep": basis.dim, **INFLATION_DEFAULTS, **given}
        else:
            arguments = {"t_min": self.t_min}
        kinds = {"schedule": self.precond, "preconditioning": self.precond}
        kinds = EDM_ES if self.precond == "edm_es" else kinds
        schedule = make_schedule(kinds["schedule"], arguments, basis)
        t_min = schedule.t_min if self.t_min is None else self.t_min
        if self.precond != "ifs":
            arguments["t_min"] = t_min  # stored, so that a resumed run has the same number
        t_max = self.t_max
        if t_max is None:
            compresses = arguments.get("dims_to_keep", basis.dim) < basis.dim
            # Class labels of images were not tried: they are less informative than conditions.
            labels = self.network_arguments.get("label_dim", 0)
            conditional = self.network in TOY_NETWORKS and labels > 0
            t_max = schedule.default_t_max(conditional)
            t_max *= self.compressed_time if compresses else 1
        _require_finite_noise(schedule, t_max)
        t_sampling = self.t_sampling or T_SAMPLING[kinds["schedule"]]
        loss = DenoisingLoss(schedule, t_min, t_max, t_sampling)
        network_arguments = dict(self.network_arguments)
        if self.network in (*TOY_NETWORKS, *QUESTION_NETWORKS):
            ends = torch.tensor([t_min, t_max], dtype=torch.float64)
            noise_range = noise_condition(schedule, ends, self.noise_cond).tolist()
            network_arguments |= {"dim": basis.dim, "noise_range": noise_range}
        denoiser_arguments = {
            "space": self.space,
            "noise_cond": self.noise_cond,
            "preconditioning": kinds["preconditioning"],
        }
        architecture = Architecture(
            kinds["schedule"], arguments, self.network, network_arguments, denoiser_arguments
        )
        output_gain = OutputGain.ones(t_min, t_max, basis.dim) if self.output_gain else None
        torch.manual_seed(self.seed)
        about = {
            "data_dim": basis.dim,
            "dims_to_keep": arguments.get("dims_to_keep", basis.dim),
            "tmin": t_min,
            "tmax": t_max,
        }
        denoiser = architecture.build(basis, data_variance, output_gain)
        return TrainedNetwork(denoiser, architecture, about), loss

    def build_from(
        self, mixture: Mixture, most_noise: float
    ) -> tuple[TrainedNetwork, DenoisingLoss]:
        """Build a network for conditional queries whose training starts from a Gaussian mixture.

        The flow is in the coordinates of the mixture.

        Args:
            mixture: Gaussian mixture that the flow starts from.
            most_noise: Variance of the noise at the last time.
        """
        t_max = log(most_noise / self.inflation["gamma0"]) / (self.inflation.get("rho") or 1.0)
        choices = replace(
            self,
            network_arguments={**self.network_arguments, "components": len(mixture.weights)},
            space="ES",  # the basis is standard, with nothing to rotate
            t_max=self.t_max or t_max,
        )
        model, loss = choices.build(EigenBasis.standard(mixture.means.shape[1]))
        network = model.denoiser.network
        assert isinstance(network, QuestionNetwork)
        network.mixture.hold(*mixture)
        return model, loss


def _require_finite_noise(schedule: NoiseSchedule, t_max: float) -> None:
    most = torch.tensor(log(MOST_NOISE), dtype=torch.float64)
    latest = float(schedule.time_of_log_noise(most))
    if t_max > latest:
        raise UsageError(
            f"tmax is {t_max:g}, but the noise variance exceeds {MOST_NOISE:g} at "
            f"{latest:.4g}: give a smaller tmax"
        )


def resolved_options(model: TrainedNetwork) -> dict[str, Any]:
    """Return the values that a model uses for options with variable defaults, by option name."""
    architecture = model.architecture
    inflation = dict(architecture.schedule_arguments) if architecture.schedule == "ifs" else {}
    if inflation.get("g_type") == "orig":
        del inflation["inflation_gap"]  # the dimensions determine it
    about = {name: model.about[name] for name in ("data_dim", "tmin", "tmax")}
    return {**inflation, **about}


def describe_training(model: TrainedNetwork, loss: DenoisingLoss, recipe: Recipe) -> str:
    """Return a line of text about the schedule, the network and the length of the training."""
    return (
        f"Schedule {loss.schedule.name}, t from {loss.t_min:g} to {loss.t_max:.4g}; "
        f"{model.architecture.network} with {model.parameter_count:,} parameters in "
        f"{model.denoiser.space}; {recipe.duration:g} M samples in batches of {recipe.batch}"
    )
