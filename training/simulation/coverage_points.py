"""The points of which coverage is told: those of latents, of fresh data, and their units."""

from collections.abc import Callable

import torch
from torch import Tensor

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.toys import Toy
from training.flow.pfode import ProbabilityFlow, sample_latent
from training.measure.coverage import Points, Spheres


def latent_points(spheres: Spheres, variance: Tensor, count: int, seeds: range) -> Points:
    """Test points of each seed and vertices of the spheres, at the last time."""
    test = torch.stack(
        [
            sample_latent(count, variance, seeded_generator("cpu", s, Stream.TEST_POINTS))
            for s in seeds
        ]
    )
    return Points(test, spheres.vertices.to(variance) * variance.sqrt())


def fresh_data(toy: Toy, flow: ProbabilityFlow, t: Tensor, count: int, seeds: range) -> Tensor:
    """Samples of the toy ``[S, count, D]`` with the noise of the first time t, in image space."""
    draws = []
    for seed in seeds:
        generator = seeded_generator("cpu", seed, Stream.FRESH_POINTS)
        clean = toy.sample(count, generator).to(flow.device)
        variance = flow.schedule.noise_variance(t)
        draws.append(clean + flow.basis.rotate_back(sample_latent(count, variance, generator)))
    return torch.stack(draws)


def unit_maps(
    flow: ProbabilityFlow, t: Tensor, latent_variance: Tensor
) -> dict[str, Callable[[Tensor], Tensor]]:
    """For each stage, from its coordinates to its standard deviations in eigenspace."""
    latent_std = latent_variance.sqrt()
    data_std = (flow.basis.eigenvalues + flow.schedule.noise_variance(t)).sqrt()
    return {
        "latent": lambda x: x / latent_std,
        "data": lambda data: flow.basis.to_eigen(data) / data_std,
        "end": lambda x: x / latent_std,
    }
