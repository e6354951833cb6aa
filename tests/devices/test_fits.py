"""What is fitted to data on a card: eigenbases, calibrations, laws of latents; and residuals."""

import pytest
import torch

from tests.support.card_training import model_of, points_and_labels
from tests.support.draws import normal
from tests.support.fake_cuda import FakeCuda
from training.data.batches import Batch
from training.flow.calibration import fit_calibration
from training.flow.eigenbasis import EigenBasis
from training.flow.latent.conditional import ConditionalMixture
from training.flow.solvers import SOLVERS, Solver
from training.learning.latent_law import Candidate, fit
from training.learning.melting import LawPlan, melted_latents
from training.measure.residuals import Extractor, Quantities, ResidualProbe
from training.names import METHODS

CPU, CARD = torch.device("cpu"), torch.device("cuda", 1)
NAME = "ensemble with conditions"


def test_an_eigenbasis(cuda: FakeCuda) -> None:
    batches = [normal(5, 3, seed=seed) for seed in range(3)]
    expected = EigenBasis.fit(batches)
    there = [batch.to(CARD) for batch in batches]
    cuda.reads.clear()
    found = EigenBasis.fit(there[:2])
    few = cuda.reads.total()
    cuda.reads.clear()
    found = EigenBasis.fit(there)
    assert cuda.reads.total() == few, "a batch more is not waited for"
    assert found.eigenvectors.device == CARD
    torch.testing.assert_close(found.eigenvectors.cpu(), expected.eigenvectors)
    more = iter([normal(4, 3, seed=9)])
    assert found.second_moments(more).device == CARD


@pytest.mark.parametrize("method", METHODS)
def test_calibrations(cuda: FakeCuda, method: str) -> None:
    found = []
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
        found.append(out.cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_laws_of_latents(cuda: FakeCuda) -> None:
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
    found = mixture.to(CARD).unwhiten(kept.to(CARD), scores.to(CARD))
    torch.testing.assert_close(found.detach().cpu(), expected.detach())


@pytest.mark.parametrize("solver", [None, SOLVERS["heun"]], ids=["independent", "path"])
def test_residuals(cuda: FakeCuda, solver: Solver | None) -> None:
    found: dict[torch.device, list[Quantities]] = {}
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
        found[device] = taken
    for one, other in zip(found[CPU], found[CARD], strict=True):
        for name in one:
            torch.testing.assert_close(other[name], one[name], rtol=1e-4, atol=1e-5)
