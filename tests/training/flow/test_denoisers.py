"""Denoisers: exact ones, networks in both spaces, how they are called and preconditioned."""

from collections.abc import Callable
from math import ceil, pi

import pytest
import torch
from torch import Tensor, nn

from tests.support.draws import double, normal, seeded
from tests.support.flows import FunctionNetwork, exact_flow, noisy_points, random_basis, rotated
from training.data.toys import Toy
from training.flow.calls import BlockwiseDenoiser, ConditionedDenoiser
from training.flow.denoisers import (
    DiscreteDenoiser,
    MixtureDenoiser,
    NetworkDenoiser,
    noise_condition,
)
from training.flow.eigenbasis import EigenBasis
from training.flow.isotropic import EDMSchedule
from training.flow.pfode import ProbabilityFlow
from training.flow.preconditioning import PRECONDITIONINGS, per_dimension
from training.flow.schedules import InflationSchedule, NoiseSchedule
from training.flow.solvers import SOLVERS
from training.learning.loss import DenoisingRegression
from training.names import DEFAULT_STEPS
from training.networks.mlp import ToyMLP


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
            got, whole = (getattr(one, kind)(x, each) for one in (chunked, flow.denoiser))
            torch.testing.assert_close(got, whole, rtol=0, atol=1e-12)


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


T = double(2.0)
Call = tuple[Tensor, Tensor, dict[str, Tensor]]


class Spy:
    """The sum of a point, its time and the first number of each condition; notes every call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        self.calls.append((x.clone(), t, conditions))
        return x + t + sum(rows[:, :1] for rows in conditions.values())


@pytest.fixture
def points() -> Tensor:
    return normal(11, 3)


@pytest.mark.parametrize("rows", [1, 4, 11, 100])
def test_blocks_have_one_shape_and_give_what_one_call_gives(points: Tensor, rows: int) -> None:
    labels = torch.arange(22.0).view(11, 2)
    # One time for all, or one for each point.
    for t in (T, torch.linspace(1, 2, 11, dtype=torch.float64)):
        spy = Spy()

        def denoiser(x: Tensor, t: Tensor, spy: Spy = spy, **conditions: Tensor) -> Tensor:
            return spy(x, t[..., None], **conditions)

        out = BlockwiseDenoiser(denoiser, rows)(points, t, labels=labels, more=10 * labels)
        assert torch.equal(out, points + t[..., None] + 11 * labels[:, :1])
        assert len(spy.calls) == ceil(11 / rows)
        for x, times, conditions in spy.calls:
            assert x.shape == (rows, 3)
            shapes = {name: condition.shape for name, condition in conditions.items()}
            assert shapes == {"labels": (rows, 2), "more": (rows, 2)}
            assert times.shape == (*(rows,) * t.ndim, 1)
            # What fills the last block up has a time of the block: a schedule need not have 0.
            assert (times >= 1).all()
        if rows == 4:
            last, _, conditions = spy.calls[-1]
            assert torch.equal(last, torch.cat([points[8:], torch.zeros(1, 3)]))
            assert torch.equal(conditions["labels"], torch.cat([labels[8:], torch.zeros(1, 2)]))


@pytest.mark.parametrize("rows", [None, 4, 100])
@pytest.mark.parametrize("given", [1, 11])
def test_conditions_are_embedded_once_for_all_calls(points: Tensor, rows: int, given: int) -> None:
    network = ToyMLP(3, (-4.0, 4.0), label_dim=12, condition_shape=(2, 6)).eval()
    nn.init.normal_(network.output.weight)
    embedded: list[int] = []
    network.embedding.register_forward_hook(lambda *_: embedded.append(1))
    denoiser = NetworkDenoiser(network, random_basis(3), InflationSchedule.to_dimension(3, 3))
    labels = normal(given, 12, seed=3)
    expected = [denoiser(points, t, labels=labels.expand(11, -1)) for t in (T, 2 * T)]
    embedded.clear()
    in_blocks = BlockwiseDenoiser(denoiser, rows) if rows else denoiser
    calls = ConditionedDenoiser(in_blocks, {"labels": labels})
    for t, right in zip((T, 2 * T), expected, strict=True):
        torch.testing.assert_close(calls(points, t), right, rtol=0, atol=1e-6)
    assert len(embedded) == (ceil(given / rows) if rows else 1)


def test_no_points_make_no_call() -> None:
    spy, none = Spy(), torch.zeros(0, 3, dtype=torch.float64)
    out = BlockwiseDenoiser(spy, 4)(none, T, labels=torch.zeros(0, 2))
    assert (out.shape, out.dtype) == ((0, 3), torch.float64)
    assert spy.calls == []


@torch.no_grad()
def test_a_row_has_the_same_bits_whatever_comes_with_it() -> None:
    network = nn.Sequential(nn.Linear(192, 300), nn.SiLU(), nn.Linear(300, 192))
    points = torch.randn(40, 192, generator=seeded())
    blocks = BlockwiseDenoiser(lambda x, t: network(x), 8)
    whole = blocks(points, T)
    for size in (1, 5, 8, 13):
        assert torch.equal(torch.cat([blocks(part, T) for part in points.split(size)]), whole)
    torch.testing.assert_close(network(points), whole)


def test_conditions_are_the_same_at_every_call_also_in_blocks(points: Tensor) -> None:
    spy, labels = Spy(), torch.arange(22.0).view(11, 2)
    for inner in (spy, BlockwiseDenoiser(spy, 4)):
        denoiser = ConditionedDenoiser(inner, {"labels": labels})
        for t in (T, 2 * T):
            assert torch.equal(denoiser(points, t), points + t + labels[:, :1])
    assert [len(conditions["labels"]) for _, _, conditions in spy.calls] == [11] * 2 + [4] * 6
    assert torch.equal(spy.calls[3][2]["labels"], labels[4:8])


@pytest.fixture
def flow() -> ProbabilityFlow:
    """A nonlinear flow of data with a mean."""
    basis = EigenBasis(torch.tensor([0.5, -1.0]), torch.tensor([1.0, 0.5]), torch.eye(2))
    schedule = InflationSchedule.to_dimension(1, 2)
    return ProbabilityFlow(lambda x, t: x.tanh(), schedule, basis)


def test_encoding_and_decoding_are_a_melt_and_a_generation(flow: ProbabilityFlow) -> None:
    times = flow.schedule.times(DEFAULT_STEPS, flow.schedule.default_t_max())
    points = flow.sample(8, seeded())
    latents = flow.latent_law(times[-1]).sample(8, seeded())
    generated = flow.generate(latents, times, SOLVERS["exp_rk5"])
    assert torch.equal(points, flow.to_data(generated.end, times[0]))
    assert torch.equal(points, flow.decode(latents))
    assert torch.equal(flow.encode(points), flow.melt(points, times, SOLVERS["exp_rk5"]).end)
    torch.testing.assert_close(flow.encode(points), latents, rtol=0, atol=1e-3)
    assert torch.equal(flow.log_prob(points), flow.log_prob(points, times, SOLVERS["exp_rk5"]))


def test_a_flow_knows_its_end_time_whatever_becomes_of_it(flow: ProbabilityFlow) -> None:
    assert flow.end_time == flow.schedule.default_t_max()
    early = ProbabilityFlow(flow.denoiser, flow.schedule, flow.basis, end_time=3.0)
    labels = torch.zeros(2, 4)
    for derived in (early, early.in_blocks(5), early.given(labels=labels), early.to("cpu")):
        assert (derived.end_time, float(derived.times(7)[-1])) == (3.0, 3.0)
        assert len(derived.times(7)) == 8
    expected = flow.latent_law(double(3.0)).variance
    assert torch.equal(early.latent.variance, expected)
    assert float(early.melt(torch.zeros(2, 2)).times[-1]) == 3.0


def test_a_solver_can_be_named(flow: ProbabilityFlow) -> None:
    times, x = flow.times(3), torch.ones(2, 2, dtype=torch.float64)
    ways: tuple[Callable[..., Tensor], ...] = (
        lambda x, *how: flow.simulate(x, *how).end,
        lambda x, *how: flow.melt(x, *how).end,
        lambda x, *how: flow.generate(x, *how).end,
        flow.encode,
        flow.decode,
        flow.log_prob,
    )
    for way in ways:
        assert torch.equal(way(x, times, "heun"), way(x, times, SOLVERS["heun"]))


def test_what_is_printed_tells_schedule_dimensions_and_end_time(flow: ProbabilityFlow) -> None:
    assert repr(flow) == "ProbabilityFlow(PRRto1D, dim=2, end_time=4.899)"
    assert repr(flow.schedule) == "InflationSchedule(PRRto1D, dim=2, rho=1, gamma0=0.0005)"
    assert repr(EDMSchedule(3)) == "EDMSchedule(EDM, dim=3, t_min=0.002)"
    assert repr(flow.basis) == "EigenBasis(dim=2, participation_ratio=1.8)"
    melt = flow.melt(torch.zeros(5, 2), flow.times(2), "euler")
    assert repr(melt) == "Trajectory(2 states of 5 points, dim=2, t=0 to 4.899, calls=2)"
    drowned = InflationSchedule.to_dimension(2, 2, gamma0=1000.0)
    endless = ProbabilityFlow(flow.denoiser, drowned, flow.basis)
    assert repr(endless) == "ProbabilityFlow(PRP, dim=2, end_time=unknown)"


COUNT = 40_000


def expanded_output_variance(xi: Tensor, gamma: Tensor) -> Tensor:
    """``E(e - c_skip x)^2`` term by term."""
    c_skip = xi / (xi + gamma)
    return c_skip**2 * xi + c_skip**2 * gamma + xi - 2 * c_skip * xi


def test_c_out_is_the_deviation_of_what_c_skip_leaves_and_positive_in_single_precision() -> None:
    xi = torch.logspace(-4, 2, 7, dtype=torch.float64)
    gamma = xi * torch.logspace(-4, 8, 49, dtype=torch.float64)[:, None]
    c_out = per_dimension(xi, gamma).c_out
    # The expanded form loses four digits where gamma is 1e-4 of xi.
    torch.testing.assert_close(c_out**2, expanded_output_variance(xi, gamma), rtol=1e-11, atol=0)
    xi = torch.logspace(-6, 2, 33)
    gamma = torch.logspace(-12, 12, 97)[:, None]
    c_out = per_dimension(xi, gamma).c_out
    assert (expanded_output_variance(xi, gamma) <= 0).any()
    assert c_out.isfinite().all()
    assert (c_out > 0).all()
    exact = per_dimension(xi.double(), gamma.double()).c_out
    torch.testing.assert_close(c_out.double(), exact, rtol=1e-6, atol=0)


def gaussian_regression(
    basis: EigenBasis, schedule: NoiseSchedule, network: nn.Module, t: float
) -> tuple[Tensor, Tensor]:
    """Network outputs and targets on Gaussian data at one time."""
    generator = seeded(3)
    drawn = normal(2, COUNT, basis.dim, generator=generator)
    clean, noise = basis.eigenvalues.sqrt() * drawn[0], drawn[1]
    times = torch.full((COUNT,), t, dtype=torch.float64)
    regression = DenoisingRegression(NetworkDenoiser(network, basis, schedule))
    output, target = regression(clean, times, noise)
    return output.double(), target.double()


@pytest.mark.parametrize("kind", ["PRR", "EDM"])
def test_inputs_and_targets_have_unit_variance_and_are_uncorrelated(kind: str) -> None:
    schedule = {"PRR": InflationSchedule.to_dimension(1, 3), "EDM": EDMSchedule(3)}[kind]
    identity = FunctionNetwork(lambda z, c: z)
    error = COUNT**-0.5
    for t in (0.01, 3.0, 15.0):
        z, target = gaussian_regression(random_basis(3), schedule, identity, t)
        assert ((z.square().mean(0) - 1).abs() < 4 * 2**0.5 * error).all()
        assert ((target.square().mean(0) - 1).abs() < 4 * 2**0.5 * error).all()
        assert ((z * target).mean(0).abs() < 4 * error).all()


@pytest.mark.parametrize("name", PRECONDITIONINGS)
def test_the_target_is_what_a_network_must_give_to_denoise_perfectly(name: str) -> None:
    basis, schedule = random_basis(3), InflationSchedule.to_dimension(2, 3)
    identity = FunctionNetwork(lambda z, c: z)
    denoiser = NetworkDenoiser(identity, basis, schedule, preconditioning=name)
    (clean, noise), t = normal(2, 50, 3), torch.linspace(0, 7, 50, dtype=torch.float64)
    z, target = DenoisingRegression(denoiser)(clean, t, noise)
    c = PRECONDITIONINGS[name](basis.eigenvalues, schedule.noise_variance(t))
    noisy = clean + schedule.noise_variance(t).sqrt() * noise
    # The network is given, and gives, single precision.
    torch.testing.assert_close(z.double(), c.c_in * noisy, rtol=1e-6, atol=1e-6)
    exact = c.clean_weight * clean + c.noise_weight * noise
    torch.testing.assert_close(target.double(), exact, rtol=1e-6, atol=1e-6)
    # The left side loses digits where there is hardly any noise.
    torch.testing.assert_close(exact, (clean - c.c_skip * noisy) / c.c_out, rtol=1e-9, atol=1e-10)


def test_edm_is_that_of_the_mean_variance_and_vp_and_ve_predict_the_noise() -> None:
    xi = double([3.0, 1.0])
    gamma = torch.logspace(-2, 2, 5, dtype=torch.float64)[:, None].expand(5, 2)
    mean = torch.full((2,), 2.0, dtype=torch.float64)
    got, expected = PRECONDITIONINGS["edm"](xi, gamma), per_dimension(mean, gamma)
    torch.testing.assert_close(tuple(got), tuple(expected))
    for name, sign in (("vp", 1), ("ve", -1)):
        c = PRECONDITIONINGS[name](xi, gamma)
        assert (c.clean_weight == 0).all()
        assert (c.noise_weight == sign).all()
        assert (c.c_skip == 1).all()
