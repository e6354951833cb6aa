"""Denoisers: exact ones, networks in both spaces, how they are called, preconditioned, and gain."""

from functools import partial
from math import ceil, pi

import pytest
import torch
from scipy.interpolate import CubicSpline
from torch import nn

from tests.support.draws import double, normal, seeded
from tests.support.flows import FunctionNetwork, exact_flow, noisy_points, random_basis, rotated
from training.data.toys import Toy
from training.flow import denoisers
from training.flow.denoisers import (
    BlockwiseDenoiser,
    ConditionedDenoiser,
    DiscreteDenoiser,
    NetworkDenoiser,
    noise_condition,
)
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.preconditioning import PRECONDITIONINGS, NaturalSpline, OutputGain, per_dimension
from training.flow.schedules import EDMSchedule, InflationSchedule
from training.flow.solvers import SOLVERS
from training.learning.loss import DenoisingRegression
from training.names import DEFAULT_STEPS
from training.networks.mlp import ToyMLP

T = double(2.0)
DOUBLE, EPS = torch.float64, torch.finfo(torch.float32).eps
TIMES = double([0.0, 1.0, 4.0])
POINTS = normal(11, 3)


@pytest.mark.parametrize(
    ("name", "kept", "embed"),
    [("circles", 2, 0), ("moons", 1, 4), ("bumps3", 2, 0), ("alt_s_curve", 1, 6)],
)
def test_the_score_is_the_gradient_of_the_log_density(name, kept, embed, generator):
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
def test_a_dimension_with_hardly_any_noise_is_hardly_denoised(name, embed):
    generator = seeded()
    toy, flow = exact_flow(name, 2 + embed // 4, embed)
    for t in (4.0, 7.0, 11.0):
        gamma = flow.schedule.noise_variance(double(t))
        x = noisy_points(toy, flow, 50, double(t), generator)
        change = flow.denoiser(x, double(t)) - x
        # E[noise | x] of a Gaussian noise of standard deviation sqrt(gamma).
        assert (change[:, -1].abs() < 5 * gamma[-1].sqrt()).all()


def test_the_density_integrates_to_one():
    _, flow = exact_flow("moons", 1)
    axis = torch.arange(-6, 6, 0.1, dtype=torch.float64)
    for t in (0.0, 3.0):
        density = flow.denoiser.log_density(torch.cartesian_prod(axis, axis), double(t)).exp()
        assert float(density.sum()) * 0.1**2 == pytest.approx(1, abs=1e-7)


def test_an_embedded_density_is_the_toys_own_times_noise_off_its_subspace():
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


def test_the_discrete_denoiser_is_a_softmax_over_its_points(generator):
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


def test_chunks_do_not_change_the_exact_denoiser():
    toy, flow = exact_flow("bumps2", 1)
    each = torch.linspace(0, 5, 33, dtype=torch.float64)
    x = noisy_points(toy, flow, 33, each, seeded())
    known = {"basis": flow.basis, "schedule": flow.schedule}
    for elements in (1, 30):
        chunked = denoisers.MixtureDenoiser(*toy.mixture, **known, chunk_elements=elements)
        for kind in ("forward", "log_density"):
            got, whole = (getattr(one, kind)(x, each) for one in (chunked, flow.denoiser))
            torch.testing.assert_close(got, whole, rtol=0, atol=1e-12)


def test_denoised_points_have_the_precision_of_the_noisy_ones():
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
def test_a_network_stands_between_the_coefficients(name):
    basis, schedule = random_basis(3), EDMSchedule(3)
    network = FunctionNetwork(lambda z, c: z.sin() + c[:, None])
    t = torch.linspace(0.1, 9, 8, dtype=torch.float64)
    x = normal(8, 3)
    c = PRECONDITIONINGS[name](basis.eigenvalues, schedule.noise_variance(t))
    expected = c.c_skip * x + c.c_out * ((c.c_in * x).sin() + t.log()[:, None] / 4)
    denoiser = NetworkDenoiser(network, basis, schedule, preconditioning=name)
    # The network works in single precision.
    torch.testing.assert_close(denoiser(x, t), expected, rtol=1e-5, atol=1e-5)


def test_a_dimension_without_variance_is_denoised_to_its_mean():
    basis, schedule = random_basis(2), InflationSchedule.to_dimension(2, 2)
    network = FunctionNetwork(lambda z, c: z)
    given = torch.tensor([0.5, 0.0])
    denoiser = NetworkDenoiser(network, basis, schedule, data_variance=given)
    assert denoiser.data_variance.tolist() == [0.5, 0.0]
    denoised = denoiser(torch.ones(1, 2), double(1.0))[0]
    assert denoised[0] > 0
    assert denoised[1] == 0


def test_half_precision_is_the_networks_alone():
    linear, x = nn.Linear(3, 3), normal(50, 3)
    dtypes, results = [], []

    def network(z, c_noise):
        out = linear(z)
        dtypes.append(out.dtype)
        return out

    denoiser = NetworkDenoiser(FunctionNetwork(network), random_basis(3), EDMSchedule(3))
    for denoiser.precision in ("fp32", "bf16"):
        results.append(denoiser(x, double(1.0)))
    assert dtypes == [torch.float32, torch.bfloat16]
    assert results[1].dtype == torch.float64
    # bfloat16 has eight bits.
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0.03)
    assert not torch.equal(*results)


def test_image_space_networks_equal_eigenspace_ones_up_to_rotation():
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


def test_the_noise_condition_is_a_quarter_of_the_log_of_the_largest_std():
    t = torch.linspace(0.1, 7, 5, dtype=torch.float64)
    for schedule in (InflationSchedule.to_dimension(1, 3, rho=2.0), EDMSchedule(3)):
        largest = schedule.noise_variance(t).sqrt().max(dim=-1).values
        torch.testing.assert_close(noise_condition(schedule, t, "log"), largest.log() / 4)
        torch.testing.assert_close(noise_condition(schedule, t, "ddpm"), 999 * t)
        single = noise_condition(schedule, t, "ddpm_float32")
        assert torch.equal(single, 999 * t.float())
        assert single.dtype == torch.float32


class Spy:
    """The sum of a point, its time and the first number of each condition; notes every call."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, t, **conditions):
        self.calls.append((x.clone(), t, conditions))
        return x + t + sum(rows[:, :1] for rows in conditions.values())


@pytest.mark.parametrize("rows", [1, 4, 11, 100])
def test_blocks_have_one_shape_and_give_what_one_call_gives(rows):
    labels = torch.arange(22.0).view(11, 2)
    # One time for all, or one for each point.
    for t in (T, torch.linspace(1, 2, 11, dtype=torch.float64)):
        spy = Spy()

        def denoiser(x, t, spy=spy, **conditions):
            return spy(x, t[..., None], **conditions)

        out = BlockwiseDenoiser(denoiser, rows)(POINTS, t, labels=labels, more=10 * labels)
        assert torch.equal(out, POINTS + t[..., None] + 11 * labels[:, :1])
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
            assert torch.equal(last, torch.cat([POINTS[8:], torch.zeros(1, 3)]))
            assert torch.equal(conditions["labels"], torch.cat([labels[8:], torch.zeros(1, 2)]))


@pytest.mark.parametrize("rows", [None, 4, 100])
@pytest.mark.parametrize("given", [1, 11])
def test_conditions_are_embedded_once_for_all_calls(rows, given):
    network = ToyMLP(3, (-4.0, 4.0), label_dim=12, condition_shape=(2, 6)).eval()
    nn.init.normal_(network.output.weight)
    embedded = []
    network.embedding.register_forward_hook(lambda *_: embedded.append(1))
    denoiser = NetworkDenoiser(network, random_basis(3), InflationSchedule.to_dimension(3, 3))
    labels = normal(given, 12, seed=3)
    expected = [denoiser(POINTS, t, labels=labels.expand(11, -1)) for t in (T, 2 * T)]
    embedded.clear()
    in_blocks = BlockwiseDenoiser(denoiser, rows) if rows else denoiser
    calls = ConditionedDenoiser(in_blocks, {"labels": labels})
    for t, right in zip((T, 2 * T), expected, strict=True):
        rounding = 16 * EPS * float(right.detach().abs().max())
        torch.testing.assert_close(calls(POINTS, t), right, rtol=0, atol=rounding)
    assert len(embedded) == (ceil(given / rows) if rows else 1)


def test_no_points_make_no_call():
    spy, none = Spy(), torch.zeros(0, 3, dtype=torch.float64)
    out = BlockwiseDenoiser(spy, 4)(none, T, labels=torch.zeros(0, 2))
    assert (out.shape, out.dtype) == ((0, 3), torch.float64)
    assert spy.calls == []


@torch.no_grad()
def test_a_row_is_the_same_up_to_rounding_whatever_comes_with_it():
    network = nn.Sequential(nn.Linear(192, 300), nn.SiLU(), nn.Linear(300, 192))
    points = torch.randn(40, 192, generator=seeded())
    blocks = BlockwiseDenoiser(lambda x, t: network(x), 8)
    whole = blocks(points, T)
    # Sums of 300 terms in single precision: a few units of rounding of the largest value.
    near = partial(torch.testing.assert_close, rtol=0, atol=8 * EPS * float(whole.abs().max()))
    for size in (1, 5, 8, 13):
        near(torch.cat([blocks(part, T) for part in points.split(size)]), whole)
    near(network(points), whole)


FLOW = ProbabilityFlow(
    lambda x, t: x.tanh(),
    InflationSchedule.to_dimension(1, 2),
    EigenBasis(torch.tensor([0.5, -1.0]), torch.tensor([1.0, 0.5]), torch.eye(2)),
)
"""A nonlinear flow of data with a mean."""


def test_encoding_and_decoding_are_a_melt_and_a_generation():
    times = FLOW.schedule.times(DEFAULT_STEPS, FLOW.schedule.default_t_max())
    points = FLOW.sample(8, seeded())
    latents = FLOW.latent_law(times[-1]).sample(8, seeded())
    generated = FLOW.generate(latents, times, SOLVERS["exp_rk5"])
    assert torch.equal(points, FLOW.to_data(generated.end, times[0]))
    assert torch.equal(points, FLOW.decode(latents))
    assert torch.equal(FLOW.encode(points), FLOW.melt(points, times, SOLVERS["exp_rk5"]).end)
    torch.testing.assert_close(FLOW.encode(points), latents, rtol=0, atol=1e-3)
    assert torch.equal(FLOW.log_prob(points), FLOW.log_prob(points, times, SOLVERS["exp_rk5"]))


def test_a_flow_knows_its_end_time_whatever_becomes_of_it():
    assert FLOW.end_time == FLOW.schedule.default_t_max()
    early = ProbabilityFlow(FLOW.denoiser, FLOW.schedule, FLOW.basis, end_time=3.0)
    labels = torch.zeros(2, 4)
    for derived in (early, early.in_blocks(5), early.given(labels=labels), early.to("cpu")):
        assert (derived.end_time, float(derived.times(7)[-1])) == (3.0, 3.0)
        assert len(derived.times(7)) == 8
    assert torch.equal(early.latent.variance, FLOW.latent_law(double(3.0)).variance)
    assert float(early.melt(torch.zeros(2, 2)).times[-1]) == 3.0


def test_what_is_printed_tells_schedule_dimensions_and_end_time():
    assert repr(FLOW) == "ProbabilityFlow(PRRto1D, dim=2, end_time=4.899)"
    assert repr(FLOW.schedule) == "InflationSchedule(PRRto1D, dim=2, rho=1, gamma0=0.0005)"
    assert repr(EDMSchedule(3)) == "EDMSchedule(EDM, dim=3, t_min=0.002)"
    assert repr(FLOW.basis) == "EigenBasis(dim=2, participation_ratio=1.8)"
    melt = FLOW.melt(torch.zeros(5, 2), FLOW.times(2), "euler")
    assert repr(melt) == "Trajectory(2 states of 5 points, dim=2, t=0 to 4.899, calls=2)"
    drowned = InflationSchedule.to_dimension(2, 2, gamma0=1000.0)
    endless = ProbabilityFlow(FLOW.denoiser, drowned, FLOW.basis)
    assert repr(endless) == "ProbabilityFlow(PRP, dim=2, end_time=unknown)"


def expanded_output_variance(xi, gamma):
    """``E(e - c_skip x)^2`` term by term."""
    c_skip = xi / (xi + gamma)
    return c_skip**2 * xi + c_skip**2 * gamma + xi - 2 * c_skip * xi


def test_c_out_is_the_deviation_of_what_c_skip_leaves_and_positive_in_single_precision():
    xi = torch.logspace(-4, 2, 7, dtype=torch.float64)
    gamma = xi * torch.logspace(-4, 8, 49, dtype=torch.float64)[:, None]
    c_skip, c_out, c_in, *_ = per_dimension(xi, gamma)
    # Inputs have unit variance, and are uncorrelated with what is left.
    torch.testing.assert_close(c_in**2 * (xi + gamma), torch.ones_like(gamma))
    torch.testing.assert_close(c_skip * (xi + gamma), xi.expand_as(gamma))
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


@pytest.mark.parametrize("name", PRECONDITIONINGS)
def test_the_target_is_what_a_network_must_give_to_denoise_perfectly(name):
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


def test_edm_is_that_of_the_mean_variance_and_vp_and_ve_predict_the_noise():
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


def test_splines_are_natural_cubic_ones_and_constant_outside_of_their_nodes(generator):
    for nodes in (2, 3, 4, 17):
        times = torch.rand(nodes, generator=generator, dtype=DOUBLE).cumsum(0)
        values = normal(nodes, 3, generator=generator)
        t = torch.linspace(float(times[0]), float(times[-1]), 101, dtype=DOUBLE)
        expected = CubicSpline(times, values, bc_type="natural")(t)
        got = NaturalSpline(times).weights(t) @ values
        torch.testing.assert_close(got, torch.from_numpy(expected))
    spline = NaturalSpline(double([1.0, 2.0, 4.0]))
    t = double([[0.0, 1.0, 1.7], [3.2, 4.0, 9.0]])
    weights = spline.weights(t)
    torch.testing.assert_close(weights, spline.weights(t.clamp(1, 4)))
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(t))
    for row, column in ((0, 0), (0, 2), (1, 1)):
        torch.testing.assert_close(spline.weights(t[row, column]), weights[row, column])
    torch.testing.assert_close(spline.weights(t.float()), weights, rtol=1e-6, atol=1e-6)


def test_it_multiplies_the_output_in_eigenspace_and_begins_as_one():
    basis = random_basis(3)
    schedule = InflationSchedule.to_dimension(3, 3, top_variance=basis.top_variance)
    gain = OutputGain(TIMES, torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, -1.0], [5.0, 2.0, 2.0]]))
    network, gains = FunctionNetwork(lambda z, c: z), gain.gains.double()
    z = normal(3, 3)
    for space in ("IS", "ES"):
        denoiser = NetworkDenoiser(network, basis, schedule, space=space, output_gain=gain)
        got = denoiser.residual(z, TIMES), denoiser.residual(z, TIMES[1])
        torch.testing.assert_close(got, (gains * z, gains[1] * z), rtol=1e-5, atol=1e-5)
        assert denoiser.residual(z.float(), TIMES).dtype == torch.float32
    ones = OutputGain.ones(0.5, 7, 2)
    torch.testing.assert_close(ones(torch.linspace(0, 9, 30, dtype=DOUBLE)), torch.ones(30, 2))
    assert ones.spline.times[[0, -1]].tolist() == [0.5, 7]
    (slopes,) = torch.autograd.grad(gain(TIMES).sum(), gain.parameters())
    assert (slopes != 0).all()
