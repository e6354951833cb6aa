"""A trained denoiser, with everything needed to rebuild it."""

from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch

from torch_utils.snapshots import write_network
from training.flow.pfode import ProbabilityFlow
from training.model.network_file import Contents, model_digest, parts_of, read_model


@dataclass(repr=False)
class Model(Contents):
    """A trained denoiser, its recipe, and metadata.

    Attributes:
        denoiser: Network with the preconditioning of its schedule.
        recipe: Plain values from which the denoiser was built.
        about: Metadata as plain values: data set, times, amount of training.
        coordinates: Map between data space and the flow's space, for tables; None if both spaces
            are the same.
        learned: Learned distribution of the compressed latents at the last time; None for the
            closed form.
        integrations: Default integration schedules (solver and time grid), by use.
        held_out: Ranks of held-out true values under the model's posteriors; None if the model was
            not calibrated.
        widths: Errors of posteriors relative to their widths, estimated from simulations; None if
            unknown.

    Example:
        >>> import tempfile, torch
        >>> from training import EigenBasis
        >>> from training.model.recipe import Recipe
        >>> basis = EigenBasis(torch.zeros(2), torch.tensor([1.0, 0.5]), torch.eye(2))
        >>> network_arguments = {"dim": 2, "noise_range": [-1.0, 0.3], "width": 16}
        >>> recipe = Recipe("ifs", {"dims_to_keep": 2}, "mlp", network_arguments)
        >>> about = {"data_dim": 2, "dims_to_keep": 2, "tmin": 0.0, "tmax": 7.01}
        >>> model = Model(recipe.build(basis), recipe, about)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/network.pkl")
        ...     loaded = Model.load(f"{folder}/network.pkl")
        >>> loaded
        Model(mlp, parameters=1826, flow=ProbabilityFlow(PRP, dim=2, end_time=7.01))
        >>> loaded.flow.sample(5).shape
        torch.Size([5, 2])
    """

    def __repr__(self) -> str:
        return (
            f"Model({self.recipe.network}, parameters={self.parameter_count}, flow={self.flow!r})"
        )

    @property
    def flow(self) -> ProbabilityFlow:
        """Flow of the denoiser, up to the end time of its training."""
        schedule, basis = self.denoiser.schedule, self.denoiser.basis
        end = self.about.get("tmax")
        return ProbabilityFlow(
            self.denoiser, schedule, basis, end, self.coordinates, self.learned, self.integrations
        )

    @property
    def parameter_count(self) -> int:
        """Number of trained parameters of the network."""
        return sum(parameter.numel() for parameter in self.denoiser.network.parameters())

    def digest(self) -> str:
        """Return the SHA-256 of everything that determines the flow.

        The digest does not depend on metadata, nor on the scale ``A0``, which is chosen when a file
        is opened.
        """
        return model_digest(self)

    def uncalibrated(self) -> Self:
        """Return a copy whose denoiser is not calibrated.

        Integration schedules are left out, since they were fitted to the calibrated flow.
        """
        denoiser = copy(self.denoiser)
        denoiser._modules = dict(self.denoiser._modules)
        denoiser.calibration = None
        return replace(self, denoiser=denoiser, integrations={})

    def save(self, path: str | Path) -> None:
        """Write the network file atomically."""
        write_network(Path(path), parts_of(self), self.about)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        *,
        end_std: float = 1.0,
        calibrated: bool = True,
    ) -> Self:
        """Open a network file safely, ready for evaluation.

        Args:
            path: The network file.
            device: Device of the model; None for the CPU.
            end_std: ``A0`` of the schedule. The network does not depend on the scale of the flow.
            calibrated: Whether to use the calibration stored in the file, if any.

        Raises:
            DataError: The file is missing, broken, foreign, or inconsistent.
            UsageError: ``end_std`` is given for a schedule without a scale.
        """
        model = read_model(Path(path), cls, end_std)
        model = model if calibrated else model.uncalibrated()
        return model.frozen(device or "cpu")

    def frozen(self, device: str | torch.device | None = None) -> Self:
        """Prepare the model for evaluation, on a device, and return it.

        Args:
            device: Device; None for the present device of the model.
        """
        self.denoiser.precision = "fp32"
        for part in (self.denoiser, self.coordinates, self.learned):
            if part is not None:
                part.eval().requires_grad_(False).to(device)
        return self
