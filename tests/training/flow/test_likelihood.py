"""Densities, and gradients through simulations: right, and of little memory."""

import weakref
from math import log

import pytest
import torch
import torch.nn.functional as F

from tests.support import flows
from tests.support.draws import double, normal, seeded
from training.flow import likelihood
from training.flow.denoisers import (
    BlockwiseDenoiser,
    Calibration,
    NetworkDenoiser,
    RecomputedDenoiser,
)
from training.flow.latent import GaussianLatents
from training.flow.likelihood import Density, DensityPlan, DivergenceIntegral, Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.preconditioning import OutputGain
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS
from training.names import LARGEST_EXACT
from training.networks.mlp import ToyMLP

HEUN, DEFAULT = SOLVERS["heun"], SOLVERS["exp_rk5"]
EXACT = Trace("exact")
every_schedule = pytest.mark.parametrize("schedule", flows.SCHEDULES.values(), ids=flows.SCHEDULES)


def melted_with_determinant(flow, points, times, solver):
    """``x_tilde [N, D]`` of melted points, and the log determinants ``[N]`` of the map there."""
    start = points.clone().requires_grad_()
    end = flow.melt(start, times, solver, differentiable=True).end / flow.schedule.scale(times[-1])
    rows = [torch.autograd.grad(x.sum(), start, retain_graph=True)[0] for x in end.unbind(1)]
    return end.detach(), torch.stack(rows, dim=1).slogdet()[1]


@pytest.mark.parametrize(
    ("name", "kept", "options"),
    [("circles", 1, {}), ("bumps3", 2, flows.GAP), ("circles", 2, {"augment_to": 4})],
)
def test_the_density_is_that_of_the_mixture(name, kept, options):
    toy, flow = flows.exact_flow(name, kept, **options)
    points = toy.sample(60, seeded())
    times = flow.schedule.times(20, flow.schedule.default_t_max())
    got = flow.log_prob(points, times, DEFAULT, flow.denoiser.log_density)
    error = (got - flow.denoiser.log_density(flow.basis.to_eigen(points), times[0])).abs()
    assert error.mean() < 1e-3
    assert error.max() < 2e-2


@every_schedule
def test_a_density_changes_by_the_determinant_of_the_map(schedule):
    flow, points = flows.curved_flow(3, schedule=schedule), normal(4, 3)
    times = schedule.times(20, min(3.0, schedule.default_t_max()))

    def logistic(x, t):
        assert t == times[-1]
        return (F.logsigmoid(x) + F.logsigmoid(-x)).sum(dim=1)

    # The one of the scaled variable, and the one of the standardized variable.
    solvers = (HEUN, DEFAULT) if schedule.name == "PRRto1D" else (DEFAULT,)
    for solver, error in zip(solvers[::-1], (1e-4, 2e-2), strict=False):
        x, log_volume = melted_with_determinant(flow, points, times, solver)
        got = flow.log_prob(points, times, solver, logistic)
        torch.testing.assert_close(got, logistic(x, times[-1]) + log_volume, rtol=0, atol=error)


def test_of_many_columns_a_density_is_the_determinant_of_the_map_both_ways():
    schedule = InflationSchedule.to_dimension(24, 24, top_variance=2.0)
    flow, points = flows.curved_flow(24, schedule=schedule), normal(3, 24)
    times, rows = flow.times(), slice(0, 3)
    x, log_volume = melted_with_determinant(flow, points, times, DEFAULT)
    right = GaussianLatents(flow.noisy_variance(times[-1])).log_prob(x) + log_volume
    torch.testing.assert_close(flow.log_prob(points), right, rtol=0, atol=1e-3)
    assert ((flow.log_prob(points, trace=Trace("hutchinson", 2)) - right).abs() > 0.05).any()
    integral = DivergenceIntegral(DEFAULT, Trace(), rows, 24)
    back = flow.generate(flow.encode(points), times, integral.solver)
    got, error = flow.log_prob_along(back, integral)
    torch.testing.assert_close(got, right, rtol=0, atol=1e-3)
    assert not error.any()
    # At both ends of the steps, and nowhere else.
    assert integral.products == 24 * len(times)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_integrates_it(name):
    flow, points = flows.curved_flow(2), normal(8, 2)
    right = flow.log_prob(points, flow.schedule.times(40, 4.0), DEFAULT)
    times = flow.schedule.times(100 if name == "euler" else 40, 4.0)
    got = flow.log_prob(points, times, SOLVERS[name])
    assert (got / right - 1).abs().max() < (0.1 if name == "euler" else 1e-2)


def test_states_are_what_they_are_without_densities():
    flow, points = flows.curved_flow(2), normal(15, 2)
    times = flow.schedule.times(8, 4.0)
    for name in ("heun", "exp_ab2", "exp_rk5"):
        integral = DivergenceIntegral(SOLVERS[name], EXACT, slice(0, 15), 2)
        along = flow.melt(points, times, integral.solver, save_every=3)
        alone = flow.melt(points, times, SOLVERS[name], save_every=3)
        assert torch.equal(along.states, alone.states)
        assert along.calls == alone.calls
        assert integral.products == 2 * {"heun": 16, "exp_ab2": 9, "exp_rk5": 32}[name]


@pytest.mark.parametrize("name", ["velocity", "standardized_velocity"])
def test_the_divergence_is_the_trace_of_the_jacobian(name):
    v, w = getattr(flows.curved_flow(3), name), normal(7, 3)
    for t in (torch.tensor(1.5).double(), torch.linspace(0.5, 3, 7, dtype=torch.float64)):
        with torch.no_grad():
            parts = likelihood.value_and_products(v, w, t, EXACT.directions(slice(0, 7), 3))
        value, divergence = parts[0], parts[1].sum(dim=1)
        assert torch.equal(value, v(w, t))
        assert not value.requires_grad
        assert not divergence.requires_grad
        for axis in range(3):
            shift = 1e-5 * torch.eye(3, dtype=torch.float64)[axis]
            divergence = divergence - (v(w + shift, t) - v(w - shift, t))[:, axis] / 2e-5
        assert divergence.abs().max() < 1e-7


@pytest.mark.parametrize("solver", ["exp_rk5", "heun"])
def test_densities_have_gradients(solver):
    flow = flows.curved_flow(3)
    times = flow.times(3 if solver == "heun" else 2)

    def density(x):
        return flow.log_prob(x, times, solver, differentiable=True)

    assert torch.autograd.gradcheck(density, (normal(2, 3).requires_grad_(),), atol=1e-6)


@pytest.mark.parametrize(
    ("members", "waves", "space"), [(1, 4, "IS"), (3, 4, "IS"), (1, 0, "IS"), (1, 4, "ES")]
)
def test_networks_take_traces_as_backward_passes_do(members, waves, space):
    torch.manual_seed(0)
    schedule, basis = InflationSchedule.to_dimension(2, 5), flows.random_basis(5)
    network = ToyMLP(5, (-4.0, 4.0), 32, 3, input_features=waves, label_dim=2, members=members)
    torch.nn.init.normal_(network.output.weight)
    gain = OutputGain(double([0, 4]), 1 + torch.rand(2, 5))
    denoiser = NetworkDenoiser(network, basis, schedule, space, output_gain=gain).eval()
    denoiser.calibration = Calibration(double([0, 4]), *normal(2, 2, 5))
    flow, t = ProbabilityFlow(denoiser, schedule, basis).given(labels=normal(1, 2)), double(1.5)
    w, units = normal(700, 5, seed=1), EXACT.directions(slice(0, 700), 5)
    for part in (flow, flow.in_blocks(300)):
        for standardized in (True, False):
            v = part.slope(standardized)
            value, each = likelihood.value_and_products(v, w, t, units)
            got, right = v.with_divergence(w, t), (value, each.sum(dim=1))
            torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-5)
    network.train()  # has no such traces
    assert flow.slope().with_divergence(w, t) is None


def test_estimated_densities_scatter_about_the_exact_ones_as_their_errors_say():
    flow, count = flows.curved_flow(4, 2), 400
    points = normal(1, 4).expand(count, -1)
    exact = flow.log_prob(points[:1], trace=EXACT)
    spreads = []
    for probes in (2, 8):
        got, error = flow.log_prob_with_error(points, trace=Trace("hutchinson", probes, seed=3))
        spreads.append(float(got.std()))
        # The mean is off by four standard errors once in 16,000 times.
        assert (got.mean() - exact).abs() < 4 * got.std() / count**0.5
        rms = error.square().mean().sqrt()
        assert float((got - exact).square().mean().sqrt() / rms) == pytest.approx(1, abs=0.12)
    assert spreads[0] > 1e-2
    assert spreads[1] == pytest.approx(spreads[0] / 2, rel=0.2)


def test_directions_are_signs_by_seed_and_number_or_the_unit_vectors():
    trace = Trace("hutchinson", probes=2, seed=7)
    directions = trace.directions(slice(0, 1000), 5)
    assert (directions.shape, directions.dtype) == ((2, 1000, 5), torch.float64)
    assert torch.equal(directions.abs(), torch.ones_like(directions))
    assert (directions.mean(dim=1).abs() * (2 * 1000) ** 0.5 < 4).all()
    for rows in (slice(0, 1), slice(3, 17), slice(999, 1000), slice(4, 4)):
        assert torch.equal(trace.directions(rows, 5), directions[:, rows])
    assert not torch.equal(Trace("hutchinson", 2, 8).directions(slice(0, 1000), 5), directions)
    for dim in (1, LARGEST_EXACT, LARGEST_EXACT + 1):
        exact = EXACT.directions(slice(2, 5), dim)
        assert torch.equal(exact, torch.eye(dim).double()[:, None].expand(dim, 3, dim))
        auto = Trace(probes=2).directions(slice(2, 5), dim)
        estimated = Trace("hutchinson", 2).directions(slice(2, 5), dim)
        assert torch.equal(auto, exact if dim <= LARGEST_EXACT else estimated)


def test_the_density_of_a_point_does_not_depend_on_the_others():
    flow = flows.curved_flow(3)
    points, times, solver = normal(9, 3), flows.SCHEDULES["PRR"].times(6, 3.0), DEFAULT
    trace = Trace("hutchinson", seed=1)
    whole = flow.log_prob(points, times, solver, trace=trace)
    parts = [
        flow.log_prob(points[rows], times, solver, trace=trace, first_row=rows.start)
        for rows in (slice(0, 2), slice(2, 9))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)


def test_blocks_and_conditions_give_each_point_its_own_density(generator):
    basis, schedule = flows.random_basis(3), flows.SCHEDULES["PRP"]
    mixing = normal(3, 3, generator=generator)

    def denoise(x, t, labels):
        return (x @ mixing * labels).tanh() / (1 + t[..., None])

    points, labels = normal(7, 3, generator=generator), normal(7, 1, generator=generator)
    times = schedule.times(8, 3.0)
    flow = ProbabilityFlow(denoise, schedule, basis)
    blocks = ProbabilityFlow(RecomputedDenoiser(denoise), schedule, basis).in_blocks(3)
    for solver in (DEFAULT, HEUN):
        got = blocks.given(labels=labels).log_prob(points, times, solver)
        for index in range(7):
            row = slice(index, index + 1)
            one = flow.given(labels=labels[row]).log_prob(points[row], times, solver)
            torch.testing.assert_close(got[row], one, rtol=0, atol=1e-10)


def test_a_recomputed_denoiser_keeps_nothing_of_its_calls(generator):
    inside = []

    def denoise(x, t, labels):
        middle = (t * x).sin()
        inside.append(weakref.ref(middle))
        return middle.exp() * labels

    x, labels = normal(6, 2, generator=generator), normal(6, 1, generator=generator)
    t = torch.tensor(1.3).double()
    expected = denoise(x, t, labels)
    slope = t * (t * x).cos() * expected
    for rows in (2, 4):
        inside.clear()
        denoiser = BlockwiseDenoiser(RecomputedDenoiser(denoise), rows)
        leaf = x.clone().requires_grad_()
        out = denoiser(leaf, t, labels=labels)
        assert len(inside) == -(-6 // rows)
        assert all(reference() is None for reference in inside)
        (grad,) = torch.autograd.grad(out.sum(), leaf)
        torch.testing.assert_close(out.detach(), expected)
        torch.testing.assert_close(grad, slope)
    inside.clear()
    with torch.no_grad():
        assert torch.equal(RecomputedDenoiser(denoise)(x, t, labels=labels), expected)
    assert len(inside) == 1


def test_the_gaussian_is_that_of_the_noisy_data_and_levels_cost_eight_bits():
    flow = flows.curved_flow(3)
    x, t = normal(5, 3), torch.tensor(2.0).double()
    scale = flow.schedule.scale(t)
    expected = flow.latent_law(t).log_prob(scale * x) + 3 * scale.log()
    torch.testing.assert_close(GaussianLatents(flow.noisy_variance(t)).log_prob(x), expected)
    # Uniform over 256 levels, which are 256 / 127.5 data units.
    density = double([-12 * log(256 / 127.5)])
    torch.testing.assert_close(likelihood.bits_per_dim(density, 12, 127.5), double([8.0]))
    exact, estimated = Density(density, 0 * density), Density(density, density.abs())
    got = DensityPlan(Trace(), 127.5).arrays(exact, 12)
    assert set(got) == {"log_prob", "bits_per_dim"}
    assert set(DensityPlan(Trace()).arrays(estimated, 12)) == {"log_prob", "log_prob_error"}


CHOSEN = {name: SOLVERS[name] for name in ("exp_rk5", "heun", "exp_ab2")}


def given_times(flow, steps=5):
    return flow.schedule.times(steps, 4.0)


@pytest.mark.parametrize("solver", CHOSEN.values(), ids=CHOSEN)
def test_gradients_are_those_of_plain_autograd(solver):
    flow = flows.curved_flow()
    times = given_times(flow).flip(0)
    leaf = normal(4, 2).requires_grad_()
    end = flow.simulate(leaf, times, solver, differentiable=True).end
    (got,) = torch.autograd.grad(end.square().sum(), leaf)
    if solver.standardized:
        start = leaf / flow.latent_std(times[0])
        *_, last = solver.method(flow.standardized_velocity, start, times)
        plain = flow.latent_std(times[-1]) * last
    else:
        *_, plain = solver.method(flow.velocity, leaf, times)
    assert torch.equal(plain, end)
    (expected,) = torch.autograd.grad(plain.square().sum(), leaf)
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-13)


def test_gradients_reach_through_every_saved_state():
    flow, solver = flows.curved_flow(), SOLVERS["exp_rk5"]
    leaf = normal(4, 2).requires_grad_()
    times = given_times(flow)
    got = flow.simulate(leaf, times, solver, save_every=2, differentiable=True)
    for index, state in enumerate(got.states):
        (gradient,) = torch.autograd.grad(state.sum(), leaf, retain_graph=True)
        if index == 0:
            assert (gradient == 1).all()
            continue
        alone = flow.simulate(leaf, times[: 2 * index + 1], solver, differentiable=True).end
        (expected,) = torch.autograd.grad(alone.sum(), leaf)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def saved_bytes(flow, steps):
    """Bytes that a differentiable generation keeps for its way back."""
    storages = {}
    kept = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        # So that no other storage gets its address.
        kept.append(tensor)
        return tensor

    x = torch.ones(16, 2, dtype=torch.float64, requires_grad=True)
    times = given_times(flow, steps)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        end = flow.generate(x, times, SOLVERS["exp_rk5"], differentiable=True).end
    assert end.requires_grad
    return sum(storages.values())


def test_memory_of_a_step_does_not_grow_with_the_network():
    step = {}
    for width in (8, 1024):
        _, flow = flows.network_flow(width)
        step[width] = (saved_bytes(flow, 12) - saved_bytes(flow, 4)) / 8
    assert step[1024] == step[8]
    # The states of the six calls in float64, and their times.
    assert 0 < step[8] <= 6 * (16 * 2 + 8) * 8 * 2


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_gradients_take_no_more_calls_and_no_graph_is_kept_without_them(solver):
    _, flow = flows.network_flow(8)
    x, times = torch.ones(4, 2, dtype=torch.float64, requires_grad=True), given_times(flow)
    for simulate in (flow.melt, flow.simulate, flow.generate):
        plain = simulate(x, times, solver, save_every=1)
        for tensor in (plain.times, plain.states, plain.updates):
            assert not tensor.requires_grad
    plain = flow.generate(x, times, solver)
    got = flow.generate(x, times, solver, differentiable=True)
    assert got.calls == plain.calls
    assert torch.equal(got.end, plain.end)
    got.end.sum().backward()
    assert got.calls == plain.calls
