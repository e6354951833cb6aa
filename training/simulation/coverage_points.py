"""The points of which coverage is told: those of latents, of fresh data, and their units."""

from collections.abc import Callable

import torch
from torch import Tensor

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.toys import Toy
from training.flow.latent import LatentLaw
from training.flow.pfode import ProbabilityFlow
from training.measure.coverage import Points, Spheres


def latent_points(spheres: Spheres, law: LatentLaw, count: int, seeds: range) -> Points:
    """Test points of each seed and vertices of the spheres, at the last time."""
    draws = [law.sample(count, seeded_generator("cpu", seed, Stream.TEST_POINTS)) for seed in seeds]
    return Points(torch.stack(draws), spheres.vertices.to(law.variance) * law.std)


def fresh_data(toy: Toy, flow: ProbabilityFlow, t: Tensor, count: int, seeds: range) -> Tensor:
    """Samples of the toy ``[S, count, D]`` with the noise of the first time t, in image space."""
    draws = []
    for seed in seeds:
        generator = seeded_generator("cpu", seed, Stream.FRESH_POINTS)
        clean = toy.sample(count, generator).to(flow.device)
        noise = flow.schedule.sample_noise(count, t, generator)
        draws.append(clean + flow.basis.rotate_back(noise))
    return torch.stack(draws)


def unit_maps(
    flow: ProbabilityFlow, t: Tensor, law: LatentLaw
) -> dict[str, Callable[[Tensor], Tensor]]:
    """For each stage, from its coordinates to its standard deviations in eigenspace."""
    data_std = flow.noisy_std(t)
    return {
        "latent": lambda x: x / law.std,
        "data": lambda data: flow.basis.to_eigen(data) / data_std,
        "end": lambda x: x / law.std,
    }
