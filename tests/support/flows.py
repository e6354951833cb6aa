"""What tests of flows share: bases, exact and curved flows, networks made of functions."""

import torch
from torch import nn

from tests.support.draws import normal, seeded
from training.data.toys import GaussianMixture, Toy
from training.flow.denoisers import MixtureDenoiser, NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import EDMSchedule, InflationSchedule, VESchedule, VPSchedule
from training.trained.architecture import make_schedule

GAP = {"g_type": "constant_inflation_gap"}
SCHEDULES = {
    "PRP": InflationSchedule.to_dimension(3, 3, top_variance=2.0),
    "PRR": InflationSchedule.to_dimension(1, 3, top_variance=2.0),
    "constant gap": InflationSchedule.to_dimension(2, 3, top_variance=2.0, end_std=0.5, **GAP),
    "EDM": EDMSchedule(3, t_min=0.1),
    "VP": VPSchedule(3, t_min=0.1),
    "VE": VESchedule(3, t_min=0.01),
}
"""Of three dimensions."""


class Bumps(Toy):
    """Three Gaussians in ``dim`` dimensions: as far from one Gaussian as a toy is, and cheaper."""

    def __init__(self, dim):
        self.name, self.dim = "bumps", dim
        weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
        width, whole = torch.linspace(0.1, 0.3, dim).double(), torch.eye(dim).double()
        means = normal(3, dim, seed=dim)
        self.mixture = GaussianMixture(weights, means, torch.diag(width**2), whole)

    def sample(self, count, generator):
        chosen = self.mixture.weights.multinomial(count, replacement=True, generator=generator)
        noise = normal(count, self.dim, generator=generator)
        return self.mixture.means[chosen] + noise @ self.mixture.covariance.sqrt()


def random_basis(dim):
    """A basis of ``dim`` dimensions with a mean, unequal variances and a random rotation."""
    generator = seeded(dim)
    mean = normal(dim, generator=generator)
    rotation, _ = torch.linalg.qr(normal(dim, dim, generator=generator))
    return EigenBasis(mean, torch.linspace(2.0, 0.1, dim), rotation)


def curved_flow(dim=2, kept=1, schedule=None):
    """A smooth flow, whose full Jacobian depends on time and is not symmetric."""
    mixing = normal(dim, dim, seed=5) / dim**0.5

    def denoise(x, t):
        return ((x @ mixing) / (1 + t[..., None])).tanh() + 0.3 * x

    known = schedule or InflationSchedule.to_dimension(kept, dim, top_variance=2.0)
    return ProbabilityFlow(denoise, known, random_basis(dim))


def gaussian_flow(basis, schedule, error=0):
    """The flow of Gaussian data, whose exact denoiser is linear; an error scales it."""

    def denoise(x, t):
        linear = basis.eigenvalues / (basis.eigenvalues + schedule.noise_variance(t))
        return (1 + error) * linear * x

    return ProbabilityFlow(denoise, schedule, basis)


def exact_flow(name, dims_to_keep=None, augment_to=0, schedule=None, **options):
    """A toy, or ``bumps2`` or ``bumps3``, and its exact flow, of a schedule or one by options."""
    toy = Bumps(int(name[-1])) if name.startswith("bumps") else Toy(name, augment_to)
    basis = EigenBasis.from_moments(*toy.moments())
    if schedule is None:
        schedule = make_schedule("ifs", {"dims_to_keep": dims_to_keep or toy.dim, **options}, basis)
    denoiser = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)
    return toy, ProbabilityFlow(denoiser, schedule, basis)


def noisy_points(toy, flow, count, t, generator):
    clean = flow.basis.to_eigen(toy.sample(count, generator))
    noise = normal(*clean.shape, generator=generator)
    return clean + flow.schedule.noise_variance(t).sqrt() * noise


def network_flow(width=32):
    whole = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2)).requires_grad_(False)
    network = FunctionNetwork(lambda z, c: whole(torch.cat([z, c.expand(len(z))[:, None]], dim=1)))
    toy, known = exact_flow("bumps2", 1)
    denoiser = NetworkDenoiser(network, known.basis, known.schedule)
    return toy, ProbabilityFlow(denoiser, known.schedule, known.basis)


class Counted:
    def __init__(self, function):
        self.function = function
        self.times = []

    def __call__(self, x, t):
        self.times.append(float(t.max()))
        return self.function(x, t)


class FunctionNetwork(nn.Module):
    """A network without parameters: a function of its input, noise condition, and labels if any."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, z, c_noise, **labels):
        return self.function(z, c_noise, **labels)


def rotated(network, basis):
    return FunctionNetwork(lambda z, c: basis.rotate_back(network(basis.rotate(z), c)))


def law_distance(first, second):
    """How differently two samples are distributed: about 1 if they are not, 2.4 is significant.

    The largest two-sample Kolmogorov-Smirnov statistic ``sqrt(n m / (n + m)) max |F - G|`` of the
    coordinates, of projections on 10 random directions, and of distances from 20 of the points.
    Above z has probability at most ``2 exp(-2 z^2)`` for one of them, hence 0.1 % for all at 2.4.
    """
    dim = first.shape[1]
    directions = torch.cat([torch.eye(dim).double(), normal(dim, 10, seed=1)], dim=1)
    anchors = torch.cat([first[:10], second[:10]])
    features = [
        torch.cat([points @ directions, torch.cdist(points, anchors)], dim=1)
        for points in (first[10:], second[10:])
    ]
    largest = 0.0
    for one, other in zip(*(feature.T.contiguous() for feature in features), strict=True):
        pooled = torch.cat([one, other])
        ranks = [
            torch.searchsorted(s.sort().values, pooled, right=True) / len(s) for s in (one, other)
        ]
        largest = max(largest, float((ranks[0] - ranks[1]).abs().max()))
    return largest * (len(first) * len(second) / (len(first) + len(second))) ** 0.5
