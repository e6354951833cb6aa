"""Flows on a card: maps and densities of the CPU, and explicit solvers wait for nothing."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.support.card_training import model_of, points_and_labels
from tests.support.draws import double, normal, seeded
from tests.support.fake_cuda import FakeCuda
from tests.support.flows import SCHEDULES, bumps_under
from tests.support.posteriors import conditional_prior
from tests.support.running import slowly
from training.flow.grids import choose_steps, fit_equal_error_grid
from training.flow.latent.conditional import ConditionalMixture
from training.flow.likelihood import Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS, get_solver

CARD = torch.device("cuda", 1)
AT_THE_END = 1
"""Host reads of an integration, after its last step: whether its states are finite."""


def network_flow(name: str = "MLP") -> ProbabilityFlow:
    """The flow of a network, on the CPU; it has a learned law of its compressed latent."""
    model, _ = model_of(name)
    model.denoiser.eval().requires_grad_(False)
    model.learned = ConditionalMixture(1, 1, components=2, width=4, depth=1)
    return model.flow


def same_on_card(flow: ProbabilityFlow, compute: Callable[[ProbabilityFlow], Tensor]) -> None:
    """Asserts that a result is on the card of its flow, and is that of the CPU."""
    expected = compute(flow)
    found = compute(flow.to(CARD))
    assert found.device == CARD
    torch.testing.assert_close(found.detach().cpu(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solver", slowly(SOLVERS, "dopri5", "gauss4", "rev_rk5"))
def test_points_melt_and_return_and_explicit_steps_never_wait(cuda: FakeCuda, solver: str) -> None:
    flow, points = network_flow(), normal(3, 2)
    method = get_solver(solver, rtol=0.1, atol=0.1)
    steps = 1 + method.multistep

    def there_and_back(flow: ProbabilityFlow) -> Tensor:
        latents = flow.encode(points, flow.times(steps), method)
        return torch.cat([latents, flow.decode(latents, flow.times(steps), method)])

    same_on_card(flow, there_and_back)
    start, times = flow.to_eigen(points.to(CARD)), flow.times(steps).to(CARD)
    cuda.reads.clear()
    cuda.uploads.clear()
    calls = flow.simulate(start, times, method, save_every=1).calls
    if SOLVERS[solver].calls_per_step is None:  # which chooses, and looks at what it has reached
        assert sum(cuda.reads.values()) <= 2 * calls, cuda.reads
    else:
        assert sum(cuda.reads.values()) == AT_THE_END, cuda.reads
        assert sum(cuda.uploads.values()) == 0, cuda.uploads


@pytest.mark.parametrize("name", SCHEDULES)
def test_exact_flows_of_all_schedules(cuda: FakeCuda, name: str) -> None:
    toy, flow = bumps_under(SCHEDULES[name])
    points = toy.sample(3, seeded())
    same_on_card(flow, lambda flow: flow.encode(points, flow.times(2), "exp_ab2"))
    # The schedules are those of other tests too.
    flow.to("cpu")


def gradient(flow: ProbabilityFlow) -> Tensor:
    latents = normal(3, 2).to(flow.device).requires_grad_()
    end = flow.generate(latents, flow.times(2), "exp_ab2", differentiable=True).end
    return torch.autograd.grad(end.square().sum(), latents)[0]


COMPUTED: dict[str, Callable[[ProbabilityFlow], Tensor]] = {
    "log densities": lambda flow: flow.log_prob(
        normal(3, 2), flow.times(2), "heun", trace=Trace("exact")
    ),
    "estimated log densities": lambda flow: flow.log_prob(
        normal(3, 2), flow.times(2), "heun", trace=Trace("hutchinson", probes=2)
    ),
    "samples of a learned law": lambda flow: flow.sample(3, seeded(), flow.times(2), "exp_ab2"),
    "gradients of latents": gradient,
}


@pytest.mark.parametrize("name", COMPUTED)
def test_what_flows_compute_is_that_of_the_cpu(cuda: FakeCuda, name: str) -> None:
    same_on_card(network_flow(), COMPUTED[name])


def test_coordinates_and_conditions_of_tables(cuda: FakeCuda) -> None:
    prior = conditional_prior()

    def sampled(flow: ProbabilityFlow) -> Tensor:
        given = flow.given(labels=double([[0.3]]).to(flow.device))
        points = given.sample(3, seeded(), prior.times.to(flow.device), "exp_ab2")
        return torch.cat([points, given.log_prob(points, flow.times(2), "exp_ab2")[:, None]], dim=1)

    same_on_card(prior.flow, sampled)


def test_image_networks_in_blocks_with_classes(cuda: FakeCuda) -> None:
    batch = points_and_labels("DDPM++ of classes", 3)
    labels = batch.labels

    def melted(flow: ProbabilityFlow) -> Tensor:
        given = flow.in_blocks(2).given(labels=labels.to(flow.device))
        return given.encode(batch.points, flow.times(1), "euler")

    model, _ = model_of("DDPM++ of classes")
    model.denoiser.eval().requires_grad_(False)
    same_on_card(model.flow, melted)


def test_grids_of_times_are_fitted(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.flow.grids.CELLS", 1)
    monkeypatch.setattr("training.flow.grids.FEWEST_STEPS", 1)
    flow, solver = network_flow().to(CARD), SOLVERS["heun"]
    latents = normal(2, 2).to(CARD)
    grid = fit_equal_error_grid(flow, latents, flow.times(2), solver)
    assert choose_steps(flow, latents, grid, solver, tolerance=10.0).steps <= 8
