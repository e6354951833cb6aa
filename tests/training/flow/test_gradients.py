"""Gradients through simulations: right by finite differences, and of little memory."""

import pytest
import torch
from torch import Tensor, nn

from tests.support.draws import normal
from tests.support.flows import FunctionNetwork, curved_flow
from training.flow.denoisers import NetworkDenoiser
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS, Solver, get_solver

CHOSEN = {name: SOLVERS[name] for name in ("exp_rk5", "rk4", "exp_ab2", "gauss4")}
CHOSEN["dopri5"] = get_solver("dopri5", 1e-9, 1e-9)
every_solver = pytest.mark.parametrize("solver", CHOSEN.values(), ids=CHOSEN)


def given_times(flow: ProbabilityFlow, steps: int = 5) -> Tensor:
    return flow.schedule.times(steps, 4.0)


@every_solver
def test_gradients_are_those_of_plain_autograd(solver: Solver) -> None:
    flow = curved_flow()
    times = given_times(flow).flip(0)
    leaf = normal(4, 2).requires_grad_()
    end = flow.simulate(leaf, times, solver, differentiable=True).end
    (found,) = torch.autograd.grad(end.square().sum(), leaf)
    visited = times[[0, -1]] if solver.adaptive else times
    if solver.standardized:
        start = leaf / flow.latent_std(times[0])
        *_, last = solver.method(flow.standardized_velocity, start, visited)
        plain = flow.latent_std(times[-1]) * last
    else:
        *_, plain = solver.method(flow.velocity, leaf, visited)
    assert torch.equal(plain, end)
    (expected,) = torch.autograd.grad(plain.square().sum(), leaf)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_gradients_reach_through_every_saved_state() -> None:
    flow, solver = curved_flow(), SOLVERS["exp_rk5"]
    leaf = normal(4, 2).requires_grad_()
    times = given_times(flow)
    found = flow.simulate(leaf, times, solver, save_every=2, differentiable=True)
    for index, state in enumerate(found.states):
        (gradient,) = torch.autograd.grad(state.sum(), leaf, retain_graph=True)
        if index == 0:
            assert (gradient == 1).all()
            continue
        alone = flow.simulate(leaf, times[: 2 * index + 1], solver, differentiable=True).end
        (expected,) = torch.autograd.grad(alone.sum(), leaf)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_a_sample_do_not_depend_on_the_batch() -> None:
    flow = curved_flow()
    x = normal(5, 2)
    for name in ("exp_rk5", "gauss4"):
        gradients = []
        for rows in (slice(0, 5), slice(2, 3)):
            leaf = x[rows].clone().requires_grad_()
            end = flow.generate(leaf, given_times(flow), SOLVERS[name], differentiable=True).end
            gradients.append(torch.autograd.grad(end.square().sum(), leaf)[0])
        torch.testing.assert_close(gradients[0][2:3], gradients[1], rtol=1e-10, atol=1e-12)


def network_flow(width: int) -> ProbabilityFlow:
    """A flow by a network of random weights and some width."""
    layers = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))
    network, known = FunctionNetwork(lambda z, c: layers(z)), curved_flow()
    layers.requires_grad_(False)
    denoiser = NetworkDenoiser(network, known.basis, known.schedule)
    return ProbabilityFlow(denoiser, known.schedule, known.basis)


def saved_bytes(flow: ProbabilityFlow, steps: int) -> int:
    """Bytes that a differentiable generation keeps for its way back."""
    storages: dict[int, int] = {}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
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


def test_memory_of_a_step_does_not_grow_with_the_network() -> None:
    step = {}
    for width in (8, 1024):
        flow = network_flow(width)
        step[width] = (saved_bytes(flow, 12) - saved_bytes(flow, 4)) / 8
    assert step[1024] == step[8]
    # The states of the six calls in float64, and their times.
    assert 0 < step[8] <= 6 * (16 * 2 + 8) * 8 * 2


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_gradients_take_no_more_calls_and_no_graph_is_kept_without_them(solver: Solver) -> None:
    flow = network_flow(8)
    x, times = torch.ones(4, 2, dtype=torch.float64, requires_grad=True), given_times(flow)
    for simulate in (flow.melt, flow.simulate, flow.generate):
        plain = simulate(x, times, solver, save_every=1)
        for tensor in (plain.times, plain.states, plain.updates):
            assert not tensor.requires_grad
    plain = flow.generate(x, times, solver)
    found = flow.generate(x, times, solver, differentiable=True)
    assert found.calls == plain.calls
    assert torch.equal(found.end, plain.end)
    found.end.sum().backward()
    assert found.calls == plain.calls
