"""Flows, posteriors and fits on a card: results of the CPU, and no waiting."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.support.draws import double, normal, seeded
from tests.support.fake_cuda import FakeCuda
from tests.support.flows import SCHEDULES, bumps_under
from tests.support.posteriors import conditional_prior, drawn, gaussian_prior
from tests.support.running import slowly
from tests.support.trainers import model_of, points_and_labels
from training.data.batches import Batch
from training.flow.calibration import fit_calibration
from training.flow.eigenbasis import EigenBasis
from training.flow.grids import choose_steps, fit_equal_error_grid
from training.flow.latent.conditional import ConditionalMixture
from training.flow.likelihood import Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS, Solver, get_solver
from training.inference.likelihoods import Gaussian
from training.inference.prior import Prior
from training.inference.sampling import Problem
from training.inference.target import Target
from training.learning.latent_law import Candidate, fit
from training.learning.melting import LawPlan, melted_latents
from training.measure.residuals import Extractor, Quantities, ResidualProbe
from training.names import METHODS, SAMPLERS

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
    got = compute(flow.to(CARD))
    assert got.device == CARD
    torch.testing.assert_close(got.detach().cpu(), expected, rtol=1e-4, atol=1e-5)


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


CPU, CARD = torch.device("cpu"), torch.device("cuda", 1)
FEW = {"chains": 2, "draws": 2, "warmup": 1, "pool": 16, "particles": 2, "steps": 4}
FEW_ROUNDS: dict[str, object] = {
    "proposals.STEPS": 2,
    "weights.BISECTIONS": 3,
    "samplers.annealing.EXPONENTS": 3,
    "samplers.annealing.MOST_ROUNDS": 3,
    "samplers.annealing.MOST_FINAL": 2,
    "samplers.refining.AGAIN": (64,),
    "samplers.refining.DRAWN": (64, 64),
    "samplers.tempering.MOVES": 1,
    "samplers.tempering.LAST_MOVES": 2,
}


def prior_on(device: torch.device, deblurred: bool = False) -> Prior:
    prior = gaussian_prior(deblurred=deblurred)
    prior.flow.to(device)
    return replace(prior, times=prior.times.to(device))


def problem_on(device: torch.device) -> Problem:
    likelihood = Gaussian(double(0.4), operator=double([[1.0, 0.7]])).to(device)
    prior = prior_on(device)
    target = Target(prior, likelihood, double([[0.3], [-1.0]]).to(device), rows=512)
    return Problem(target, prior, [0, 1], True)


@pytest.mark.parametrize(
    "sampler", slowly([name for name in SAMPLERS if name != "auto"], "elliptical", "hmc", "refined")
)
def test_draws_are_the_cpus(cuda: FakeCuda, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a card that is pretended each operation takes long: few rounds and rough fits will do.
    for name, few in FEW_ROUNDS.items():
        monkeypatch.setattr(f"training.inference.{name}", few)
    expected, got = (drawn(problem_on(device), sampler, **FEW) for device in (CPU, CARD))
    torch.testing.assert_close(got.points.cpu(), expected.points)
    torch.testing.assert_close(got.log_likelihood.cpu(), expected.log_likelihood)


def test_points_without_the_noise_of_the_first_time(cuda: FakeCuda) -> None:
    prior = prior_on(CARD, deblurred=True)
    w = torch.ones(3, prior.dim, dtype=torch.float64, device=CARD)
    assert prior.points(w).points.device == CARD
    assert {moment.device for moment in prior.moments()} == {CARD}


CPU, CARD = torch.device("cpu"), torch.device("cuda", 1)
NAME = "ensemble with conditions"


def test_an_eigenbasis_is_fitted_on_the_card(cuda: FakeCuda) -> None:
    batches = [normal(5, 3, seed=seed) for seed in range(3)]
    expected = EigenBasis.fit(batches)
    there = [batch.to(CARD) for batch in batches]
    cuda.reads.clear()
    got = EigenBasis.fit(there[:2])
    few = cuda.reads.total()
    cuda.reads.clear()
    got = EigenBasis.fit(there)
    assert cuda.reads.total() == few, "a batch more is not waited for"
    assert got.eigenvectors.device == CARD
    torch.testing.assert_close(got.eigenvectors.cpu(), expected.eigenvectors)
    more = iter([normal(4, 3, seed=9)])
    assert got.second_moments(more).device == CARD


@pytest.mark.parametrize("method", METHODS)
def test_calibrations_are_the_cpus(cuda: FakeCuda, method: str) -> None:
    got = []
    for device in (CPU, CARD):
        model, _ = model_of(NAME)
        denoiser = model.denoiser.eval().requires_grad_(False).to(device)
        batch = points_and_labels(NAME, 6)
        points = denoiser.basis.to_eigen(batch.points.to(device))
        times = torch.linspace(0.1, 3, 2, dtype=torch.float64)
        denoiser.calibration = fit_calibration(
            denoiser, points, times, 0, method, conditions=batch.conditions(device)
        )
        out = denoiser(points, times[0].to(device), **batch.conditions(device))
        assert denoiser.calibration.gains.device == device
        got.append(out.cpu())
    torch.testing.assert_close(got[1], got[0], rtol=1e-4, atol=1e-5)


def test_laws_of_latents_are_learned_on_the_cpu(cuda: FakeCuda) -> None:
    model, _ = model_of("MLP")
    model.denoiser.eval().requires_grad_(False).to(CARD)
    plan = LawPlan(lambda count: Batch(normal(count, 2)), None, 8, seed=0, rows=8)
    latents = melted_latents(model.flow.in_blocks(8), plan, 8, lambda part: None)
    # The law is learned on the CPU, which is faster for networks so small.
    assert {latents.train.device, latents.held_out.device} == {CPU}
    law = fit(latents, 1, Candidate("tiny", {"components": 2, "width": 4}, 1, 4, 1e-3), seed=0)
    on_card = model.flow.with_law(law.mixture.to(CARD)).latent
    w = normal(4, 2).to(CARD)
    x = on_card.unwhiten(w)
    torch.testing.assert_close(on_card.whiten(x).cpu(), w.cpu(), rtol=1e-5, atol=1e-6)
    assert on_card.log_prob(x).device == CARD


def test_mixtures_in_chains_are_inverted(cuda: FakeCuda) -> None:
    mixture = ConditionalMixture(1, 2, components=2, width=4, depth=1)
    kept, scores = normal(3, 1), normal(3, 2, seed=1)
    expected = mixture.unwhiten(kept, scores)
    got = mixture.to(CARD).unwhiten(kept.to(CARD), scores.to(CARD))
    torch.testing.assert_close(got.detach().cpu(), expected.detach())


@pytest.mark.parametrize("solver", [None, SOLVERS["heun"]], ids=["independent", "path"])
def test_residuals_are_the_cpus(cuda: FakeCuda, solver: Solver | None) -> None:
    got: dict[torch.device, list[Quantities]] = {}
    batch = points_and_labels(NAME, 5)
    labels = batch.labels
    for device in (CPU, CARD):
        model, _ = model_of(NAME)
        model.denoiser.eval().requires_grad_(False).to(device)
        probe = ResidualProbe(model.flow, model.flow.times(2).cpu())
        extractor = Extractor(
            probe,
            lambda rows: (batch.points[rows.start : rows.stop], {"labels": labels[rows.start :]}),
            count=5,
            batch=5,
            seed=0,
            stream=0,
            solver=solver,
        )
        taken: list[Quantities] = []
        extractor.run(lambda index, first, rows, taken=taken: taken.append(dict(rows)))
        got[device] = taken
    for one, other in zip(got[CPU], got[CARD], strict=True):
        for name in one:
            torch.testing.assert_close(other[name], one[name], rtol=1e-4, atol=1e-5)
