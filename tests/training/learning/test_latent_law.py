"""Learning the law of latents: what it finds, and when the Gaussian stays."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.support.draws import double, normal, seeded
from tests.support.trainers import tiny_model
from training.data.batches import Batch
from training.flow.latent.normal_mixtures import LOG_ROOT
from training.learning.latent_law import CHAINED, FREE, GENTLE, TURNED, Latents, candidates_for, fit
from training.learning.melting import (
    LawPlan,
    check_kept,
    enough_time,
    learn_latent_law,
    points_to_melt,
    standardized_latents,
)
from training.model.model import Model

SHORT = replace(CHAINED, steps=500, rate=5e-3)
STD = 0.3


def two_branches(count: int, seed: int) -> Tensor:
    """A kept latent, and a compressed one near plus or minus its sine ``[N, 2]``."""
    kept, noise = normal(count, 2, generator=seeded(seed)).unbind(dim=1)
    sign = torch.where(torch.rand(count, generator=seeded(seed + 1)) < 0.5, -1.0, 1.0)
    return torch.stack([kept, sign * (2 * kept).sin() + STD * noise], dim=1)


def branches_log_prob(latents: Tensor) -> Tensor:
    kept, compressed = latents.unbind(dim=1)
    wave = torch.stack([(2 * kept).sin(), -(2 * kept).sin()])
    z = (compressed - wave) / STD
    return (-z.square() / 2).logsumexp(dim=0) - torch.tensor(2 * STD).log() - LOG_ROOT


def test_it_finds_a_law_that_depends_on_the_kept_latents() -> None:
    latents = Latents.split(two_branches(8000, 1), seed=0)
    fitted = fit(latents, 1, SHORT, seed=0)
    fresh = two_branches(4000, 7)
    lacks = branches_log_prob(fresh) - fitted.mixture.log_prob(fresh[:, :1], fresh[:, 1:])
    assert abs(float(lacks.mean())) < 0.03
    normal_law = -(fresh[:, 1].square() / 2 + LOG_ROOT)
    gain = float((branches_log_prob(fresh) - normal_law).mean())
    assert abs(fitted.nats - gain) < 0.05
    assert gain > 0.3


def test_many_dimensions_are_turned_to_their_axes_and_not_chained() -> None:
    assert [each.sizes.get("chained", True) for each in candidates_for(9)] == 3 * [False]
    assert candidates_for(8) == (CHAINED,)
    mix = 2 * torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double()
    rows = normal(2000, 2) @ mix
    fitted = fit(Latents.split(rows, 0), 0, replace(TURNED, steps=100), seed=0)
    turned = fitted.mixture.turned(rows)
    torch.testing.assert_close(turned.T @ turned / 2000, torch.eye(2).double(), atol=0.1, rtol=0)
    expected = torch.distributions.MultivariateNormal(torch.zeros(2).double(), mix @ mix.T)
    found = fitted.mixture.log_prob(rows[:, :0], rows)
    assert abs(float((expected.log_prob(rows) - found).mean())) < 0.05


@pytest.mark.slow
def test_small_steps_find_what_large_ones_pass_over() -> None:
    width = torch.where(torch.arange(30) % 2 == 0, 1.25, 1.0)
    latents = Latents.split(normal(1000, 40) * torch.cat([torch.ones(10), width]), seed=0)
    candidates = (replace(candidate, steps=250) for candidate in (FREE, GENTLE))
    large, small = (fit(latents, 10, candidate, seed=0) for candidate in candidates)
    assert small.is_better
    assert small.nats > large.nats + 2 * small.error


@pytest.fixture
def model() -> Model:
    """Of Gaussian data, by a network that is zero: all latents are normal."""
    made, _ = tiny_model("mlp", "ES", dims_to_keep=1, width=16)
    made.denoiser.eval()
    return made


def gaussian_points(model: Model, count: int) -> Batch:
    basis = model.denoiser.basis
    spread = basis.eigenvalues.sqrt() * normal(count, basis.dim, generator=seeded(9))
    return Batch(basis.from_eigen(spread))


def test_melted_points_are_standardized_and_have_the_noise_of_the_first_time(model: Model) -> None:
    found = standardized_latents(model.flow, gaussian_points(model, 4000), seed=0)
    ratio = found.square().mean(dim=0)
    assert ((ratio - 1).abs() < 4 * (2 / 4000) ** 0.5).all()


def test_a_gaussian_stays_where_it_is_right(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    plan = LawPlan(lambda count: gaussian_points(model, count), None, 1000, 0, 256)
    with caplog.at_level(logging.INFO):
        learn_latent_law(model, plan)
    assert model.learned is None
    assert "the Gaussian is as good" in caplog.text
    assert "The kept latents (1) look normal, as samples assume" in caplog.text
    assert "Warning" not in caplog.text


def test_kept_latents_that_are_not_normal_are_told_with_a_time_that_would_do(model: Model) -> None:
    signs = torch.where(normal(2000, 1) < 0, -1.0, 1.0) + 0.3 * normal(2000, 1, generator=seeded(4))
    rows = torch.cat([signs, normal(2000, 1, generator=seeded(5))], dim=1)
    lost = check_kept(Latents.split(rows, 0), 1, seed=0)
    assert lost.nats > 10 * lost.error
    assert lost.nats > 0.1
    time = enough_time(model, lost.nats)
    schedule, xi = model.denoiser.schedule, model.denoiser.basis.eigenvalues[0]
    now, then = (
        xi / (xi + schedule.noise_variance(double(t))[0])
        for t in (float(model.about["tmax"]), time)
    )
    assert float(lost.nats * (then / now) ** 3) == pytest.approx(0.01)


def test_longer_trainings_melt_more_points() -> None:
    assert [points_to_melt(count) for count in (1e3, 1e6, 1e9)] == [300, 20_000, 100_000]
