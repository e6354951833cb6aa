"""What these tests share: bases, exact flows, networks made of functions, tiny trainers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dnnlib.logs import logger, setup_logging
from tests.support.bumps import Bumps
from training.data.batches import ToyBatches
from training.data.toys import Toy
from training.flow.denoisers import MixtureDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule, NoiseSchedule
from training.learning.building import Choices
from training.learning.loss import DenoisingLoss
from training.learning.run_folder import RunFolder
from training.learning.trainer import Trainer, TrainingConfig
from training.model.model import Model
from training.model.recipe import make_schedule

CPU = torch.device("cpu")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def random_basis() -> Callable[[int], EigenBasis]:
    """A basis of ``dim`` dimensions with a mean, unequal variances and a random rotation."""

    def make(dim: int) -> EigenBasis:
        generator = torch.Generator().manual_seed(dim)
        mean = torch.randn(dim, generator=generator, dtype=torch.float64)
        square = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
        rotation, _ = torch.linalg.qr(square)
        return EigenBasis(mean, torch.linspace(2.0, 0.1, dim), rotation)

    return make


@pytest.fixture
def curved_flow(
    random_basis: Callable[[int], EigenBasis],
) -> Callable[..., ProbabilityFlow]:
    """``curved_flow(dim, kept, schedule=None)``: a smooth flow of a few operations a call.

    Its denoiser has a full Jacobian that is not symmetric, and depends on the time.
    """

    def make(dim: int = 2, kept: int = 1, schedule: NoiseSchedule | None = None) -> ProbabilityFlow:
        generator = torch.Generator().manual_seed(5)
        mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / dim**0.5

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return ((x @ mixing) / (1 + t[..., None])).tanh() + 0.3 * x

        known = schedule or InflationSchedule.to_dimension(kept, dim, top_variance=2.0)
        return ProbabilityFlow(denoise, known, random_basis(dim))

    return make


@pytest.fixture
def exact_flow() -> Callable[..., tuple[Toy, ProbabilityFlow]]:
    """A toy, or ``bumps2`` or ``bumps3``, and its exact flow; options go to the schedule."""

    def make(
        name: str, dims_to_keep: int | None = None, augment_to: int = 0, **options: float
    ) -> tuple[Toy, ProbabilityFlow]:
        bumps = name.startswith("bumps")
        toy = Bumps(int(name[-1])) if bumps else Toy(name, augment_to)
        basis = EigenBasis.from_moments(*toy.moments())
        arguments = {"dims_to_keep": dims_to_keep or toy.dim, **options}
        schedule = make_schedule("ifs", arguments, basis)
        denoiser = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)
        return toy, ProbabilityFlow(denoiser, schedule, basis)

    return make


class FunctionNetwork(nn.Module):
    """A network without parameters: a function of its input and noise condition."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, z: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.function(z, c_noise)


@pytest.fixture
def function_network() -> type[FunctionNetwork]:
    return FunctionNetwork


@pytest.fixture
def rotated() -> Callable[[nn.Module, EigenBasis], nn.Module]:
    """A network of eigenspace made into the same network of image space."""

    def rotate(network: nn.Module, basis: EigenBasis) -> nn.Module:
        return FunctionNetwork(lambda z, c: basis.rotate_back(network(basis.rotate(z), c)))

    return rotate


@pytest.fixture
def law_distance() -> Callable[[Tensor, Tensor], float]:
    """How differently two samples are distributed: about 1 if they are not, 2.4 is significant.

    The largest two-sample Kolmogorov-Smirnov statistic ``sqrt(n m / (n + m)) max |F - G|`` of the
    coordinates, of projections on 10 random directions, and of distances from 20 of the points.
    Above z has probability at most ``2 exp(-2 z^2)`` for one of them, hence 0.1 % for all at 2.4.
    """

    def distance(first: Tensor, second: Tensor) -> float:
        dim = first.shape[1]
        generator = torch.Generator().manual_seed(1)
        random = torch.randn(dim, 10, generator=generator, dtype=torch.float64)
        directions = torch.cat([torch.eye(dim, dtype=torch.float64), random], dim=1)
        anchors = torch.cat([first[:10], second[:10]])
        features = [
            torch.cat([points @ directions, torch.cdist(points, anchors)], dim=1)
            for points in (first[10:], second[10:])
        ]
        largest = 0.0
        for one, other in zip(*(feature.T.contiguous() for feature in features), strict=True):
            pooled = torch.cat([one, other])
            ranks = [
                torch.searchsorted(s.sort().values, pooled, right=True) / len(s)
                for s in (one, other)
            ]
            largest = max(largest, float((ranks[0] - ranks[1]).abs().max()))
        return largest * (len(first) * len(second) / (len(first) + len(second))) ** 0.5

    return distance


@pytest.fixture
def tiny_model() -> Callable[..., tuple[Model, DenoisingLoss]]:
    """An untrained small network for circles, equal at each call, and its loss."""

    def make(
        network: str = "mlp", space: str = "ES", dims_to_keep: int = 2, **sizes: int
    ) -> tuple[Model, DenoisingLoss]:
        choices = Choices(
            precond="ifs",
            inflation={"dims_to_keep": dims_to_keep},
            network=network,
            network_arguments=sizes,
            space=space,
            noise_cond="log",
        )
        return choices.build(EigenBasis.from_moments(*Toy("circles").moments()))

    return make


@pytest.fixture
def circles_trainer(
    tiny_model: Callable[..., tuple[Model, DenoisingLoss]],
) -> Callable[..., tuple[Trainer, ToyBatches]]:
    """A trainer of a small network on circles, with its data; options go to the configuration."""

    def make(width: int = 16, depth: int = 2, **options: Any) -> tuple[Trainer, ToyBatches]:
        model, loss = tiny_model(width=width, depth=depth)
        settings = {"total": 4000, "batch": 500, "lr": 2e-3, "lr_ramp": 1000, "tick": 1000}
        config = TrainingConfig(**{**settings, **options})
        return Trainer(model, loss, config), ToyBatches(Toy("circles"), config.batch, 0, CPU)

    return make


@pytest.fixture
def run_folder(tmp_path: Path) -> Iterator[Callable[[str], RunFolder]]:
    """Makes run folders by name; the log goes to their files and to nobody else afterwards."""
    setup_logging()

    def make(name: str) -> RunFolder:
        path = tmp_path / name
        path.mkdir()
        return RunFolder(path)

    yield make
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
