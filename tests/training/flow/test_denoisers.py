"""Denoisers: exact ones against brute force and their own densities, networks in both spaces."""

from math import pi

import pytest
import torch
from torch import Tensor, nn

from tests.support.draws import double, normal, seeded
from tests.support.flows import FunctionNetwork, exact_flow, noisy_points, random_basis, rotated
from training.data.toys import Toy
from training.flow.denoisers import (
    DiscreteDenoiser,
    MixtureDenoiser,
    NetworkDenoiser,
    noise_condition,
)
from training.flow.isotropic import EDMSchedule
from training.flow.preconditioning import PRECONDITIONINGS
from training.flow.schedules import InflationSchedule


@pytest.mark.parametrize(("name", "t", "kept"), [("circles", 3.0, 2), ("moons", 2.0, 1)])
def test_the_exact_denoiser_is_the_posterior_mean_of_samples(
    name: str, t: float, kept: int, generator: torch.Generator
) -> None:
    toy, flow = exact_flow(name, kept)
    x = noisy_points(toy, flow, 8, double(t), generator)
    clean = flow.basis.to_eigen(toy.sample(200_000, generator))
    square = (x[:, None] - clean).square() / flow.schedule.noise_variance(double(t))
    weights = (-0.5 * square.sum(-1)).softmax(dim=1)
    mean = weights @ clean
    # Standard error of a self-normalized importance estimate, by the delta method.
    deviation = (clean - mean[:, None]).square()
    error = (weights.square()[:, :, None] * deviation).sum(dim=1).sqrt()
    assert float(error.max()) < 0.05  # of values of order one
    deviations = (flow.denoiser(x, double(t)) - mean) / error
    assert float(deviations.abs().max()) < 5
    assert float(deviations.square().mean()) < 2


@pytest.mark.parametrize(
    ("name", "kept", "embed"),
    [("circles", 2, 0), ("moons", 1, 4), ("bumps3", 2, 0), ("alt_s_curve", 1, 6)],
)
def test_the_score_is_the_gradient_of_the_log_density_at_one_time_or_one_for_each(
    name: str, kept: int, embed: int, generator: torch.Generator
) -> None:
    toy, flow = exact_flow(name, kept, embed)
    each = torch.linspace(0.1, flow.schedule.default_t_max(), 16, dtype=torch.float64)
    for t in (double(0.0), double(3.0), each):
        x = noisy_points(toy, flow, 16, t, generator).requires_grad_()
        density = flow.denoiser.log_density(x, t)
        (gradient,) = torch.autograd.grad(density.sum(), x)
        # Compared as denoisers: a score divides the rounding of D by gamma.
        by_density = x + flow.schedule.noise_variance(t) * gradient
        denoised = flow.denoiser(x, t)
        torch.testing.assert_close(denoised, by_density, rtol=0, atol=1e-8)
        torch.testing.assert_close(flow.denoiser.log_density(x, t.expand(16)), density)
        torch.testing.assert_close(flow.denoiser(x, t.expand(16)), denoised)


@pytest.mark.parametrize(("name", "embed"), [("s_curve", 0), ("alt_s_curve", 4)])
def test_a_dimension_with_hardly_any_noise_is_hardly_denoised(name: str, embed: int) -> None:
    generator = seeded()
    toy, flow = exact_flow(name, 2 + embed // 4, embed)
    for t in (4.0, 7.0, 11.0):
        gamma = flow.schedule.noise_variance(double(t))
        x = noisy_points(toy, flow, 50, double(t), generator)
        change = flow.denoiser(x, double(t)) - x
        # E[noise | x] of a Gaussian noise of standard deviation sqrt(gamma).
        assert (change[:, -1].abs() < 5 * gamma[-1].sqrt()).all()


def test_the_density_integrates_to_one() -> None:
    _, flow = exact_flow("moons", 1)
    axis = torch.arange(-6, 6, 0.1, dtype=torch.float64)
    for t in (0.0, 3.0):
        density = flow.denoiser.log_density(torch.cartesian_prod(axis, axis), double(t)).exp()
        assert float(density.sum()) * 0.1**2 == pytest.approx(1, abs=1e-7)


def test_an_embedded_density_is_the_toys_own_times_noise_off_its_subspace() -> None:
    generator = seeded()
    (toy, flow), (_, embedded) = exact_flow("moons"), exact_flow("moons", augment_to=4)
    t = double(2.0)
    gamma = float(flow.schedule.noise_variance(t)[0])
    intrinsic = toy.sample(20, generator)
    off = normal(20, 4, generator=generator)
    embedding = Toy("moons", 4).mixture.embedding
    off = off - off @ embedding @ embedding.T
    x = embedded.basis.to_eigen(intrinsic @ embedding.T + off)
    noise = -off.square().sum(1) / (2 * gamma) - torch.tensor(2 * pi * gamma).log()
    expected = flow.denoiser.log_density(flow.basis.to_eigen(intrinsic), t) + noise
    torch.testing.assert_close(embedded.denoiser.log_density(x, t), expected)


def test_little_noise_leaves_a_clean_point_and_much_noise_the_mean() -> None:
    toy, flow = exact_flow("s_curve", gamma0=1e-8)
    x = flow.basis.to_eigen(toy.sample(50, seeded()))
    assert (flow.denoiser(x, double(0.0)) - x).abs().max() < 1e-5
    assert flow.denoiser(x, double(40.0)).abs().max() < 1e-6


def test_the_discrete_denoiser_is_a_softmax_over_its_points(generator: torch.Generator) -> None:
    basis, schedule = random_basis(3), InflationSchedule.to_dimension(1, 3)
    points = normal(300, 3, generator=generator)
    eigen = basis.to_eigen(points)
    x = eigen[:40] + 0.1 * normal(40, 3, generator=generator)
    denoiser = DiscreteDenoiser(points, basis, schedule)
    for t in (double(0.0), double(3.0), torch.linspace(0, 7, 40, dtype=torch.float64)):
        gamma = schedule.noise_variance(t).expand(40, 3)
        square = ((x[:, None] - eigen) ** 2 / gamma[:, None]).sum(-1)
        expected = (-0.5 * square).softmax(dim=1) @ eigen
        torch.testing.assert_close(denoiser(x, t), expected, rtol=1e-9, atol=1e-9)


def test_chunks_do_not_change_the_exact_denoiser() -> None:
    toy, flow = exact_flow("bumps2", 1)
    each = torch.linspace(0, 5, 33, dtype=torch.float64)
    x = noisy_points(toy, flow, 33, each, seeded())
    known = {"basis": flow.basis, "schedule": flow.schedule}
    for elements in (1, 30):
        chunked = MixtureDenoiser(*toy.mixture, **known, chunk_elements=elements)
        for kind in ("forward", "log_density"):
            found, whole = (getattr(one, kind)(x, each) for one in (chunked, flow.denoiser))
            torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)


def test_denoised_points_have_the_precision_of_the_noisy_ones() -> None:
    _, flow = exact_flow("bumps2")
    network = FunctionNetwork(lambda z, c: z)
    for denoiser in (
        flow.denoiser,
        DiscreteDenoiser(torch.eye(2), flow.basis, flow.schedule),
        NetworkDenoiser(network, flow.basis, flow.schedule),
    ):
        for dtype in (torch.float32, torch.float64):
            for t in (double(1.0), torch.ones(3, dtype=torch.float64)):
                assert denoiser(torch.ones(3, 2, dtype=dtype), t).dtype is dtype


@pytest.mark.parametrize("name", PRECONDITIONINGS)
def test_a_network_stands_between_the_coefficients(name: str) -> None:
    basis, schedule = random_basis(3), EDMSchedule(3)
    network = FunctionNetwork(lambda z, c: z.sin() + c[:, None])
    t = torch.linspace(0.1, 9, 8, dtype=torch.float64)
    x = normal(8, 3)
    c = PRECONDITIONINGS[name](basis.eigenvalues, schedule.noise_variance(t))
    expected = c.c_skip * x + c.c_out * ((c.c_in * x).sin() + t.log()[:, None] / 4)
    denoiser = NetworkDenoiser(network, basis, schedule, preconditioning=name)
    # The network works in single precision.
    torch.testing.assert_close(denoiser(x, t), expected, rtol=1e-5, atol=1e-5)


def test_a_dimension_without_variance_is_denoised_to_its_mean() -> None:
    basis, schedule = random_basis(2), InflationSchedule.to_dimension(2, 2)
    network = FunctionNetwork(lambda z, c: z)
    given = torch.tensor([0.5, 0.0])
    denoiser = NetworkDenoiser(network, basis, schedule, data_variance=given)
    assert denoiser.data_variance.tolist() == [0.5, 0.0]
    denoised = denoiser(torch.ones(1, 2), double(1.0))[0]
    assert denoised[0] > 0
    assert denoised[1] == 0


def test_half_precision_is_the_networks_alone() -> None:
    network = nn.ModuleDict({"linear": nn.Linear(3, 3)})
    denoiser = NetworkDenoiser(network, random_basis(3), EDMSchedule(3))
    seen: list[torch.dtype] = []

    def forward(z: Tensor, c_noise: Tensor) -> Tensor:
        out = denoiser.network["linear"](z)
        seen.append(out.dtype)
        return out

    denoiser.network.forward = forward
    x = normal(50, 3)
    results = []
    for denoiser.precision in ("fp32", "bf16"):
        results.append(denoiser(x, double(1.0)))
    assert seen == [torch.float32, torch.bfloat16]
    assert results[1].dtype == torch.float64
    # bfloat16 has eight bits.
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0.03)
    assert not torch.equal(*results)


def test_image_space_networks_equal_eigenspace_ones_up_to_rotation() -> None:
    basis, schedule = random_basis(4), InflationSchedule.to_dimension(2, 4)
    scales = torch.arange(1.0, 5.0)
    network = FunctionNetwork(lambda z, c: (scales * z).sin() + c)
    x = normal(20, 4)
    eigen = NetworkDenoiser(network, basis, schedule, space="ES")
    image = NetworkDenoiser(rotated(network, basis), basis, schedule, space="IS")
    # Two rotations in single precision.
    torch.testing.assert_close(image(x, double(3.0)), eigen(x, double(3.0)), rtol=0, atol=1e-5)
    unrotated = NetworkDenoiser(network, basis, schedule, space="IS")
    assert (unrotated(x, double(3.0)) - eigen(x, double(3.0))).abs().max() > 0.01


def test_the_noise_condition_is_a_quarter_of_the_log_of_the_largest_std() -> None:
    t = torch.linspace(0.1, 7, 5, dtype=torch.float64)
    for schedule in (InflationSchedule.to_dimension(1, 3, rho=2.0), EDMSchedule(3)):
        largest = schedule.noise_variance(t).sqrt().max(dim=-1).values
        torch.testing.assert_close(noise_condition(schedule, t, "log"), largest.log() / 4)
        torch.testing.assert_close(noise_condition(schedule, t, "ddpm"), 999 * t)
        single = noise_condition(schedule, t, "ddpm_float32")
        assert torch.equal(single, 999 * t.float())
        assert single.dtype == torch.float32
