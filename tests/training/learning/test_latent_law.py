"""Laws of latents and mixtures that are learned: what they find, and where a training starts."""

import logging
from dataclasses import replace
from itertools import islice

import pytest
import torch

from tests.support.draws import double, normal, seeded
from tests.support.trainers import tiny_model
from training.data.batches import Batch
from training.flow.latent.conditional import LOG_ROOT
from training.learning import melting, mixture_start
from training.learning.melting import CHAINED, FREE, GENTLE, TURNED, Latents, candidates_for, fit
from training.learning.mixture_start import completed, fit_mixture
from training.learning.questions import OneQuestion, QuestionBatches, draw_states
from training.model.questions import EncodedRows
from training.networks.mixture import ABSENT, ASKED, KNOWN
from training.networks.questions import QuestionNetwork

SHORT = replace(CHAINED, steps=300, rate=5e-3)
STD = 0.3


def two_branches(count, seed):
    """A kept latent, and a compressed one near plus or minus its sine ``[N, 2]``."""
    kept, noise = normal(count, 2, generator=seeded(seed)).unbind(dim=1)
    sign = torch.where(torch.rand(count, generator=seeded(seed + 1)) < 0.5, -1.0, 1.0)
    return torch.stack([kept, sign * (2 * kept).sin() + STD * noise], dim=1)


def branches_log_prob(latents):
    kept, compressed = latents.unbind(dim=1)
    wave = torch.stack([(2 * kept).sin(), -(2 * kept).sin()])
    z = (compressed - wave) / STD
    return (-z.square() / 2).logsumexp(dim=0) - torch.tensor(2 * STD).log() - LOG_ROOT


def test_it_finds_a_law_that_depends_on_the_kept_latents():
    fitted = fit(Latents.split(two_branches(8000, 1), seed=0), 1, SHORT, seed=0)
    fresh = two_branches(4000, 7)
    lacks = branches_log_prob(fresh) - fitted.mixture.log_prob(fresh[:, :1], fresh[:, 1:])
    assert abs(float(lacks.mean())) < 0.03
    normal_law = -(fresh[:, 1].square() / 2 + LOG_ROOT)
    gain = float((branches_log_prob(fresh) - normal_law).mean())
    assert abs(fitted.nats - gain) < 0.05
    assert gain > 0.3


def test_many_dimensions_are_turned_to_their_axes_and_not_chained():
    assert [each.sizes.get("chained", True) for each in candidates_for(9)] == 3 * [False]
    assert candidates_for(8) == (CHAINED,)
    mix = 2 * torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double()
    rows = normal(2000, 2) @ mix
    fitted = fit(Latents.split(rows, 0), 0, replace(TURNED, steps=100), seed=0)
    turned = fitted.mixture.turned(rows)
    torch.testing.assert_close(turned.T @ turned / 2000, torch.eye(2).double(), atol=0.1, rtol=0)
    expected = torch.distributions.MultivariateNormal(torch.zeros(2).double(), mix @ mix.T)
    got = fitted.mixture.log_prob(rows[:, :0], rows)
    assert abs(float((expected.log_prob(rows) - got).mean())) < 0.05


@pytest.mark.slow
def test_small_steps_find_what_large_ones_pass_over():
    width = torch.where(torch.arange(30) % 2 == 0, 1.25, 1.0)
    latents = Latents.split(normal(1000, 40) * torch.cat([torch.ones(10), width]), seed=0)
    candidates = (replace(candidate, steps=250) for candidate in (FREE, GENTLE))
    large, small = (fit(latents, 10, candidate, seed=0) for candidate in candidates)
    assert small.is_better
    assert small.nats > large.nats + 2 * small.error


@pytest.fixture
def model():
    """Of Gaussian data, by a network that is zero: all latents are normal."""
    made, _ = tiny_model("mlp", "ES", dims_to_keep=1, width=16)
    made.denoiser.eval()
    return made


def gaussian_points(model, count):
    basis = model.denoiser.basis
    spread = basis.eigenvalues.sqrt() * normal(count, basis.dim, generator=seeded(9))
    return Batch(basis.from_eigen(spread))


def test_melted_points_are_standardized_and_more_of_them_of_longer_trainings(model):
    got = melting.standardized_latents(model.flow, gaussian_points(model, 4000), seed=0)
    assert ((got.square().mean(dim=0) - 1).abs() < 4 * (2 / 4000) ** 0.5).all()
    assert [melting.points_to_melt(count) for count in (1e3, 1e6, 1e9)] == [300, 20_000, 100_000]


def test_a_gaussian_stays_where_it_is_right(model, caplog):
    plan = melting.LawPlan(lambda count: gaussian_points(model, count), None, 500, 0, 256)
    with caplog.at_level(logging.INFO):
        melting.learn_latent_law(model, plan)
    assert model.learned is None
    assert "the Gaussian is as good" in caplog.text
    assert "The kept latents (1) look normal, as samples assume" in caplog.text
    assert "Warning" not in caplog.text


def test_kept_latents_that_are_not_normal_are_told_with_a_time_that_would_do(model):
    signs = torch.where(normal(2000, 1) < 0, -1.0, 1.0) + 0.3 * normal(2000, 1, generator=seeded(4))
    rows = torch.cat([signs, normal(2000, 1, generator=seeded(5))], dim=1)
    lost = melting.check_kept(Latents.split(rows, 0), 1, seed=0)
    assert lost.nats > 10 * lost.error
    assert lost.nats > 0.1
    time = melting.enough_time(model, lost.nats)
    schedule, xi = model.denoiser.schedule, model.denoiser.basis.eigenvalues[0]
    now, then = (
        xi / (xi + schedule.noise_variance(double(t))[0])
        for t in (float(model.about["tmax"]), time)
    )
    assert float(lost.nats * (then / now) ** 3) == pytest.approx(0.01)


def test_of_one_point_it_cannot_be_known(model, caplog):
    fitted = melting.check_kept(Latents(normal(20, 2), normal(1, 2, generator=seeded(4))), 1, 0)
    with caplog.at_level(logging.INFO):
        melting._report_kept(model, fitted)
    assert "at most inf nats" in caplog.text


def test_what_is_missing_is_neither_asked_nor_known(generator):
    present = torch.rand(5000, 6, generator=generator) > 0.3
    states = draw_states(present, generator)
    assert bool((states[~present] == ABSENT).all())
    asked = (states == ASKED).sum(dim=1)
    single = float((asked == 1).double().mean())
    assert 0.4 < single < 0.65, "near half of the questions are about one cell"
    assert bool(((states == KNOWN).sum(dim=1)[asked == 1] > 2).any())
    half = draw_states(present, generator, OneQuestion([2], 0.5))
    alone = (half == ASKED).sum(dim=1) == (half[:, 2] == ASKED).long()
    rest = torch.arange(6) != 2
    own = alone & (half[:, rest] == torch.where(present[:, rest], KNOWN, ABSENT)).all(dim=1)
    assert 0.5 < float(own.double().mean()) < 0.65, "half of the questions, and some by chance"


def test_to_be_absent_says_nothing_though_what_is_missing_does(generator):
    """The second number is missing where the first is large, but what is asked is of all rows."""
    first = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    rows = torch.cat([first, first + 0.5 * torch.randn(first.shape, generator=generator)], dim=1)
    rows[(rows[:, 0] > 0.3) & (torch.rand(4000, generator=generator) < 0.9), 1] = torch.nan
    known = EncodedRows(rows, torch.zeros(4000, 0, dtype=torch.long))
    mixture, _ = fit_mixture(known, known.at(slice(0, 0)), [], seed=0)

    def complete(cells, generator):
        return completed(mixture, cells, [], generator)

    network = QuestionNetwork(2, (-1.0, 1.0))
    source = QuestionBatches(lambda _: known, known, network, 4000, 0, None, complete)
    batches = list(islice(source.batches(0), 8))
    points = torch.cat([batch.points for batch in batches])
    states = torch.cat([batch.labels[:, 2:4] for batch in batches if batch.labels is not None])
    for asked in (0, 1):
        alone = (states[:, asked] == ASKED) & (states[:, 1 - asked] == ABSENT)
        assert abs(float(points[alone, asked].mean())) < 0.12
    assert float(points[(states == ASKED).all(dim=1)].mean(dim=0).abs().max()) < 0.1


def test_a_mixture_is_right_where_cells_are_missing_given_others(generator):
    """Rows lose their second number where the first is large: means of what is left are off."""
    count = 8000
    first = torch.randn(count, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    second = 0.8 * first + 0.6 * noise
    second[first > 0.3] = torch.nan
    level = (first + 0.5 * noise > 0).long()
    rows = EncodedRows(torch.stack([first, second], dim=1), level[:, None])
    mixture, _ = fit_mixture(rows, rows.at(slice(0, 0)), [2], seed=0)
    assert abs(float(rows.numbers[:, 1].nanmean())) > 0.2
    assert mixture.weights[0] > 0.9
    assert abs(float(mixture.covariances[0, 0, 1]) - 0.8) < 0.05
    assert abs(float(mixture.shares[0, 1]) - 0.5) < 0.03


def test_as_many_components_as_held_out_rows_want(generator):
    centers = torch.tensor([[-1.2, -1.2], [1.2, 1.2], [-1.2, 1.2]], dtype=torch.float64)
    which = torch.randint(3, (6000,), generator=generator)
    numbers = centers[which] + 0.3 * torch.randn(6000, 2, generator=generator).double()
    rows = EncodedRows(numbers, torch.zeros(6000, 0, dtype=torch.long))
    mixture, nats = fit_mixture(rows.at(slice(0, 5000)), rows.at(slice(5000, None)), [], seed=0)
    assert len(mixture.weights) in (4, 5), "three, perhaps one more, and the wide one"
    entropy = torch.log(torch.tensor(3.0)) + 2 * torch.log(torch.tensor(0.3)) + 1 + 1.8379
    assert abs(nats + float(entropy)) < 0.06


def test_whole_rows_are_fitted_as_rows_with_holes_are(monkeypatch, generator):
    """By sums of products, or cell by cell."""
    which = torch.randint(3, (600,), generator=generator)
    numbers = which[:, None] + torch.randn(600, 3, generator=generator, dtype=torch.float64)
    rows = EncodedRows(numbers, which[:, None] % 2)
    parts, fits = (rows.at(slice(0, 500)), rows.at(slice(500, 600))), []
    for most in (mixture_start.MOST_NUMBERS, 0):
        monkeypatch.setattr(mixture_start, "MOST_NUMBERS", most)
        fits.append(fit_mixture(*parts, [2], seed=0))
    (mixture, score), (other, of_other) = fits
    assert len(mixture.weights) > 2
    torch.testing.assert_close([*mixture, score], [*other, of_other], atol=1e-8, rtol=0)
