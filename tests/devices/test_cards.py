"""Flows, posteriors, fits and trainings on a card: results of the CPU, and no waiting."""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist

from dnnlib.errors import UsageError
from tests.support import trainers
from tests.support.draws import double, normal, seeded
from tests.support.fake_cuda import fake_cuda
from tests.support.flows import SCHEDULES, exact_flow
from tests.support.posteriors import conditional_prior, drawn, gaussian_prior
from tests.support.running import quick_endings, slowly
from tests.support.trainers import model_of, points_and_labels
from torch_utils import distributed
from training import Simulations, Table
from training.data.batches import Batch
from training.flow.denoisers import fit_calibration
from training.flow.eigenbasis import EigenBasis
from training.flow.integration_choice import fit_equal_error_grid
from training.flow.latent import ConditionalMixture
from training.flow.likelihood import Trace
from training.flow.solvers import SOLVERS, get_solver
from training.inference.likelihoods import Gaussian
from training.inference.sampling import Problem
from training.inference.target import Target
from training.learning.finishing import LatentPlan, encoded_latents
from training.learning.loss import MOST_NEAR
from training.names import METHODS, SAMPLERS
from training.paper.residuals import Extractor, ResidualProbe


@pytest.fixture
def cuda():
    with fake_cuda(devices=2) as cards:
        yield cards


CPU, CARD = torch.device("cpu"), torch.device("cuda", 1)
"""The second card is not the current one, which ``cuda`` without a number means."""
WAYS = ("heun", "exp_ab2", "exp_rk5")
"""A solver of each kind."""
ENSEMBLE = "ensemble with conditions"


def assert_same_on_card(compute):
    """Asserts that what is computed on a card stays there, and is that of the CPU."""
    expected, got = compute(CPU), compute(CARD)
    assert got.device == CARD
    torch.testing.assert_close(got.detach().cpu(), expected, rtol=1e-4, atol=1e-5)


def untrained(name, device):
    model, _ = model_of(name)
    model.denoiser.eval().requires_grad_(False).to(device)
    return model


def network_flow(device):
    """The flow of a network; it has a learned law of its compressed latent."""
    model = untrained("MLP", CPU)
    model.learned = ConditionalMixture(1, 1, components=2, width=4, depth=1)
    return model.flow.to(device)


@pytest.mark.parametrize("solver", WAYS)
def test_points_melt_and_return_and_explicit_steps_never_wait(cuda, solver):
    points = normal(3, 2)
    method = get_solver(solver)
    steps = 1 + method.multistep

    def there_and_back(device):
        flow = network_flow(device)
        latents = flow.encode(points, flow.times(steps), method)
        return torch.cat([latents, flow.decode(latents, flow.times(steps), method)])

    assert_same_on_card(there_and_back)
    flow = network_flow(CARD)
    start, times = flow.to_eigen(points.to(CARD)), flow.times(steps).to(CARD)
    cuda.reads.clear()
    cuda.uploads.clear()
    calls = flow.simulate(start, times, method, save_every=1).calls
    if SOLVERS[solver].calls_per_step is None:  # which chooses, and looks at what it has reached
        assert sum(cuda.reads.values()) <= 2 * calls, cuda.reads
    else:
        # After the last step: whether states are finite.
        assert sum(cuda.reads.values()) == 1, cuda.reads
        assert sum(cuda.uploads.values()) == 0, cuda.uploads


@pytest.mark.parametrize("name", SCHEDULES)
def test_exact_flows_of_all_schedules(cuda, name):
    def encoded(device):
        toy, flow = exact_flow("bumps3", schedule=deepcopy(SCHEDULES[name]))
        return flow.to(device).encode(toy.sample(3, seeded()), flow.times(2), "exp_ab2")

    assert_same_on_card(encoded)


def density(trace):
    def of_points(device):
        flow = network_flow(device)
        return flow.log_prob(normal(3, 2), flow.times(2), "heun", trace=trace)

    return of_points


def samples_of_a_learned_law(device):
    flow = network_flow(device)
    return flow.sample(3, seeded(), flow.times(2), "exp_ab2")


def gradients_of_latents(device):
    flow, latents = network_flow(device), normal(3, 2).to(device).requires_grad_()
    end = flow.generate(latents, flow.times(2), "exp_ab2", differentiable=True).end
    return torch.autograd.grad(end.square().sum(), latents)[0]


def rows_of_a_table(device):
    """In coordinates, given conditions, and with their densities."""
    prior = conditional_prior()
    flow = prior.flow.to(device).given(labels=double([[0.3]]).to(device))
    points = flow.sample(3, seeded(), prior.times.to(device), "exp_ab2")
    return torch.cat([points, flow.log_prob(points, flow.times(2), "exp_ab2")[:, None]], dim=1)


def images_of_classes(device):
    batch = points_and_labels("DDPM++ of classes", 3)
    flow = untrained("DDPM++ of classes", device).flow.in_blocks(2)
    given = flow.given(labels=batch.labels.to(device))
    return given.encode(batch.points, flow.times(1), "euler")


def calibrated(method):
    def outputs(device):
        denoiser, batch = untrained(ENSEMBLE, device).denoiser, points_and_labels(ENSEMBLE, 6)
        points = denoiser.basis.to_eigen(batch.points.to(device))
        conditions = batch.conditions(device)
        times = torch.linspace(0.1, 3, 2, dtype=torch.float64)
        denoiser.calibration = fit_calibration(
            denoiser, points, times, 0, method, conditions=conditions
        )
        assert denoiser.calibration.gains.device == device
        return denoiser(points, times[0].to(device), **conditions)

    return outputs


@pytest.mark.parametrize(
    "compute",
    [
        *(density(Trace("exact")), density(Trace("hutchinson", probes=2))),
        *(samples_of_a_learned_law, gradients_of_latents, rows_of_a_table, images_of_classes),
        *map(calibrated, METHODS),
    ],
    ids=lambda compute: compute.__qualname__.partition(".")[0],
)
def test_results_are_those_of_the_cpu(cuda, compute):
    assert_same_on_card(compute)


def test_grids_of_times_are_fitted(cuda, monkeypatch):
    monkeypatch.setattr("training.flow.integration_choice.CELLS", 1)
    flow, solver = network_flow(CARD), SOLVERS["heun"]
    latents = normal(2, 2).to(CARD)
    grid = fit_equal_error_grid(flow, latents, flow.times(2), solver)
    assert grid(3).tolist() == sorted(grid(3).tolist())


FEW = {"chains": 2, "draws": 2, "warmup": 1, "pool": 16, "particles": 2, "steps": 4}
FEW_ROUNDS = {
    "proposals.STEPS": 2,
    "draws.BISECTIONS": 3,
    "samplers.populations.EXPONENTS": 2,
    "samplers.populations.SETTLED": 1,
    "samplers.populations.MOST_ROUNDS": 2,
    "samplers.populations.MOST_FINAL": 1,
    "samplers.populations.AGAIN": (64,),
    "samplers.populations.DRAWN": (64, 64),
}


def prior_on(device):
    prior = gaussian_prior()
    prior.flow.to(device)
    return replace(prior, times=prior.times.to(device))


def problem_on(device):
    likelihood = Gaussian(double(0.4), operator=double([[1.0, 0.7]])).to(device)
    prior = prior_on(device)
    target = Target(prior, likelihood, double([[0.3], [-1.0]]).to(device), rows=512)
    return Problem(target, prior, [0, 1], True)


@pytest.mark.parametrize(
    "sampler",
    slowly(
        [name for name in SAMPLERS if name != "auto"], "annealed", "elliptical", "hmc", "refined"
    ),
)
def test_draws_are_the_cpus(cuda, sampler, monkeypatch):
    # On a card that is pretended each operation takes long: few rounds and rough fits will do.
    for name, few in FEW_ROUNDS.items():
        monkeypatch.setattr(f"training.inference.{name}", few)
    expected, got = (drawn(problem_on(device), sampler, **FEW) for device in (CPU, CARD))
    torch.testing.assert_close(got.points.cpu(), expected.points)
    torch.testing.assert_close(got.log_likelihood.cpu(), expected.log_likelihood)


def test_an_eigenbasis_is_fitted_on_the_card(cuda):
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
    assert got.second_moments(iter([normal(4, 3, seed=9)])).device == CARD


def test_laws_of_latents_are_learned_on_the_cpu_and_inverted_on_the_card(cuda):
    flow = untrained("MLP", CARD).flow.in_blocks(8)
    plan = LatentPlan(lambda count: Batch(normal(count, 2)), None, 8, seed=0, rows=8)
    latents = encoded_latents(flow, plan, 8, lambda part: None)
    # The law is learned on the CPU, which is faster for networks so small.
    assert {latents.train.device, latents.held_out.device} == {CPU}
    mixture = ConditionalMixture(1, 2, components=2, width=4, depth=1)
    kept, scores = normal(3, 1), normal(3, 2, seed=1)
    expected = mixture.unwhiten(kept, scores)
    got = mixture.to(CARD).unwhiten(kept.to(CARD), scores.to(CARD))
    torch.testing.assert_close(got.detach().cpu(), expected.detach())


@pytest.mark.parametrize("solver", [None, SOLVERS["heun"]], ids=["independent", "path"])
def test_residuals_are_the_cpus(cuda, solver):
    batch, taken = points_and_labels(ENSEMBLE, 5), {CPU: [], CARD: []}

    def source(rows):
        return batch.points, {"labels": batch.labels}

    for device, of_times in taken.items():
        flow = untrained(ENSEMBLE, device).flow
        probe = ResidualProbe(flow, flow.times(2).cpu())
        extractor = Extractor(probe, source, count=5, batch=5, seed=0, stream=0, solver=solver)
        extractor.run(lambda index, first, rows, put=of_times.append: put(dict(rows)))
    torch.testing.assert_close(taken[CARD], taken[CPU], rtol=1e-4, atol=1e-5)


def assert_on_card(trainer):
    assert {tensor.device for tensor in trainers.tensors_of(trainer)} == {CARD}


@pytest.mark.parametrize(
    "name", slowly(trainers.NETWORKS, "ADM", "NCSN++ of augmented images", "ToySongUNet")
)
def test_a_step_on_a_card_is_that_of_the_cpu(name):
    expected = trainers.run_steps(*trainers.trainer_on(CPU, name)).collect()
    with fake_cuda(devices=2):
        trainer, source = trainers.trainer_on(CARD, name)
        got = trainers.run_steps(trainer, source).collect()
        assert_on_card(trainer)
    assert trainer.skipped == 0
    for statistic in ("Loss/loss", "Gradient/norm"):
        assert got[statistic] == pytest.approx(expected[statistic], rel=1e-3)


@pytest.mark.parametrize("precision", slowly(["bf16", "fp16"], "fp16"))
def test_lower_precisions_and_microbatches(cuda, precision):
    settings = {"ls": 2.0**-6, "batch_gpu": 3, "weight_decay": 0.1}
    trainer, source = trainers.trainer_on(CARD, "ADM", precision, **settings)
    means = trainers.run_steps(trainer, source)
    assert_on_card(trainer)
    assert trainer.skipped == 0
    expected = trainers.run_steps(*trainers.trainer_on(CPU, "ADM")).collect()["Loss/loss"]["mean"]
    assert means.collect()["Loss/loss"]["mean"] == pytest.approx(expected, rel=0.1)


def test_steps_wait_for_nothing(cuda):
    trainer, source = trainers.trainer_on(CARD, "ensemble with conditions", batch_gpu=2)
    trainers.run_steps(trainer, source)
    cuda.reads.clear()
    cuda.uploads.clear()
    trainers.run_steps(trainer, source, steps=3)
    assert sum(cuda.reads.values()) == 0, cuda.reads
    # Points and conditions, which these batches have on the CPU.
    assert sum(cuda.uploads.values()) == 3 * 2, cuda.uploads
    assert list(cuda.seeded) == [CARD.index], "dropout is seeded on a card that is not current"


def test_averaged_targets_of_a_card_are_those_of_the_cpu_and_wait_for_nothing():
    batch = trainers.points_and_labels("MLP")._replace(others=normal(3 * MOST_NEAR, 2, seed=2))
    trainer, _ = trainers.trainer_on(CPU, "MLP")
    trainers.run_steps(trainer, trainers.Repeated(batch))
    expected = trainers.run_steps(trainer, trainers.Repeated(batch)).collect()
    with fake_cuda(devices=2) as cuda:
        trainer, _ = trainers.trainer_on(CARD, "MLP")
        trainers.run_steps(trainer, trainers.Repeated(batch))
        cuda.reads.clear()
        means = trainers.run_steps(trainer, trainers.Repeated(batch))
        assert sum(cuda.reads.values()) == 0, cuda.reads
        got = means.collect()
    assert got["Loss/loss"] == pytest.approx(expected["Loss/loss"], rel=1e-6)


def test_augmentation_waits_and_sends_for_nothing(cuda):
    _, source = trainers.trainer_on(CARD, "NCSN++ of augmented images")
    batches = source.batches(0)
    next(batches)
    cuda.reads.clear()
    cuda.uploads.clear()
    next(batches)
    assert not cuda.reads, cuda.reads
    assert not cuda.uploads, cuda.uploads


def test_steps_that_are_not_finite_are_skipped_on_a_card(cuda):
    trainer, source = trainers.trainer_on(CARD, "MLP")
    next(iter(source.batches(0))).points[trainers.BATCH - 1, 0] = torch.nan
    before = [weights.tolist() for weights in trainer.denoiser.parameters()]
    trainers.run_steps(trainer, source)
    assert (trainer.step, trainer.skipped) == (1, 1)
    assert [weights.tolist() for weights in trainer.denoiser.parameters()] == before


def test_a_state_goes_on_on_another_card(cuda):
    trainer, source = trainers.trainer_on(torch.device("cuda", 0), "MLP")
    trainers.run_steps(trainer, source)
    moved, _ = trainers.trainer_on(CARD, "MLP")
    moved.restore(trainer.state(), "a state")
    assert_on_card(moved)
    expected = trainers.run_steps(trainer, source).collect()["Loss/loss"]
    assert trainers.run_steps(moved, source).collect()["Loss/loss"] == expected


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_take_a_card_each(cuda, monkeypatch, rank):
    for name, value in {"WORLD_SIZE": 2, "RANK": 2 + rank, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, str(value))
    store = dist.HashStore()
    with (
        mock.patch.object(distributed, "rendezvous", return_value=iter([(store, 2 + rank, 4)])),
        mock.patch.object(dist, "init_process_group") as init,
        distributed.process_group(None) as device,
    ):
        assert device == torch.device("cuda", rank)
        # NCCL and what says "cuda" without a number take the current one.
        assert torch.cuda.current_device() == rank
        assert init.call_args.args == ("nccl",)
        trainer, source = trainers.trainer_on(device, "MLP")
        trainers.run_steps(trainer, source)
        assert {tensor.device for tensor in trainers.tensors_of(trainer)} == {device}


def test_named_cards_are_taken_by_any_rank_and_others_are_counted(cuda, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with distributed.process_group("cuda:1") as device:
        assert device == torch.device("cuda", 1)
        assert torch.cuda.current_device() == 1
    # CUDA_VISIBLE_DEVICES=3 makes of the fourth card the first and only one.
    monkeypatch.setenv("LOCAL_RANK", "1")
    refused = pytest.raises(UsageError, match="1 does not exist: the number of devices is 1")
    with fake_cuda(devices=1), refused, distributed.process_group(None):
        pass


def test_models_compute_on_their_card_and_only_results_come_back(cuda, monkeypatch):
    """The number of host reads depends neither on rows nor on steps."""
    monkeypatch.setattr("torch.random.fork_rng", lambda **_: nullcontext())
    rows = normal(60, 2, seed=1)
    with quick_endings():
        brief = {"duration": 0.001, "device_name": "cpu"}
        table = Table.open(rows.numpy()).train(**brief)
        simulations = Simulations(rows.numpy(), (rows + normal(60, 2, seed=2)).numpy())
        model = simulations.train(**brief)

    def calls(count):
        seen = [[0.1, 0.2]]
        yield "sample", lambda: table.sample(count)
        yield "given", lambda: model.sample(count, given=seen)
        posterior = model.posterior(n_iters=count // 2, log_prob=False)
        yield "draws", lambda: posterior.sample(seen, draws=2 * count).points

    expected = {name: call() for name, call in calls(4)}
    for each in (table, model):
        each.to(CARD)
        each.digest()
    reads = {}
    for count in (4, 8):
        for name, call in calls(count):
            cuda.reads.clear()
            result = call()
            if count == 4:
                np.testing.assert_allclose(result, expected[name], rtol=1e-3, atol=1e-4)
            reads.setdefault(name, []).append(cuda.reads.total())
    assert all(few == many for few, many in reads.values()), reads
    with pytest.raises(
        UsageError, match=r'the model is on cuda:1: move it with model\.to\("cpu"\)'
    ):
        model.posterior().sample([[0.1, 0.2]], draws=2, device_name="cpu")
