"""A trained denoiser with all that is needed to rebuild it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from torch_utils.snapshots import write_network
from training.flow.pfode import ProbabilityFlow
from training.model.network_file import Contents, model_digest, parts_of, read_model


@dataclass(repr=False)
class Model(Contents):
    """A network denoiser, its recipe, and what is known about it.

    Attributes:
        denoiser: Between the preconditioning coefficients of its schedule.
        recipe: The values that it was built from.
        about: Plain values: data set, times, amount of training.
        coordinates: Between data space and the flow's, for tables; None where these are the same.
        learned: The law of compressed latents at the last time; None for the closed form.
        courses: How to integrate, by use, where nothing else is asked for.
        held_out: What truths that no training has seen say of its posteriors; None if it was not
            calibrated.
        widths: How far off posteriors are beside their widths, by simulations; None if unknown.

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
        """The flow of the denoiser, up to the time that it was trained for."""
        schedule, basis = self.denoiser.schedule, self.denoiser.basis
        end = self.about.get("tmax")
        return ProbabilityFlow(
            self.denoiser, schedule, basis, end, self.coordinates, self.learned, self.courses
        )

    @property
    def parameter_count(self) -> int:
        """The number of trained numbers in the network."""
        return sum(parameter.numel() for parameter in self.denoiser.network.parameters())

    def digest(self) -> str:
        """SHA-256 of all that decides what the flow does: two models differ if their digests do.

        What the network file says about itself does not count, and neither does the scale, which
        is chosen when a file is opened.
        """
        return model_digest(self)

    def save(self, path: str | Path) -> None:
        """Writes the network file, whole or not at all."""
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
        """Opens a network file, safely, ready for evaluation.

        Args:
            path: The network file.
            device: Where the model goes; None for the CPU.
            end_std: ``A0`` of the schedule: how the flow is scaled is not the network's business.
            calibrated: Whether to use the calibration of a file that has one.

        Raises:
            DataError: The file is missing, broken, foreign, or inconsistent.
            UsageError: ``end_std`` is given for a schedule without a scale.
        """
        model = read_model(Path(path), cls, end_std)
        if not calibrated:
            # Courses were fitted to the calibrated flow alone.
            model.denoiser.calibration, model.courses = None, {}
        for part in (model.denoiser, model.coordinates, model.learned):
            if part is not None:
                part.eval().requires_grad_(False).to(device or "cpu")
        return model
