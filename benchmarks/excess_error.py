"""How far a network denoiser is from the exact one, in units of what it could at best not know."""

import torch
from torch import Tensor

from training.flow.denoisers import Denoiser, NetworkDenoiser
from training.flow.schedules import NoiseSchedule


def noisy_points(
    clean: Tensor, schedule: NoiseSchedule, t_max: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Noisy points ``[N, D]`` of clean ones, in eigenspace, at times ``[N]`` uniform on [0, t_max].

    The times are stratified, which leaves their law and lowers the variance of what is measured.
    """
    count = len(clean)
    jitter = torch.rand(count, generator=generator, dtype=torch.float64)
    t = (torch.arange(count) + jitter) / count * t_max
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    t, noise = t.to(clean.device), noise.to(clean.device)
    return clean + schedule.noise_variance(t).sqrt() * noise, t


@torch.no_grad()
def excess_error(denoiser: NetworkDenoiser, exact: Denoiser, x: Tensor, t: Tensor) -> Tensor:
    """``((D - D*) / c_out)^2 [N, D]`` at noisy points ``[N, D]`` in eigenspace and their times
    ``[N]``: the mean squared error of F beyond that of the exact F."""
    chunks = zip(torch.split(x, 8192), torch.split(t, 8192), strict=True)
    return torch.cat(
        [
            ((denoiser(part, at) - exact(part, at)) / denoiser.coefficients(at).c_out).square()
            for part, at in chunks
        ]
    )
