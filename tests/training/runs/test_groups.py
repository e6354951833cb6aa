"""Runs of many posteriors: what they tell while they work and when they end."""

import logging
from dataclasses import replace
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch

from dnnlib.errors import UsageError
from tests.support.draws import double, seeded
from tests.support.image_models import save_image_model
from tests.support.posteriors import conditional_prior, gaussian_prior, problem
from tests.support.running import refusal
from torch_utils.results import save_arrays
from training.inference.likelihoods import Gaussian
from training.inference.samplers.twisted import calls_of, twist
from training.inference.sampling import SamplingPlan
from training.measure.posterior.calibration import RunValues, calibrate
from training.measure.posterior.local import LocalCalibration, LocalTest
from training.runs import posteriors
from training.runs.posterior_results import report_check, report_near, warn_of_unlike
from training.runs.posteriors import Groups, planned, sample_groups, sampled
from training.subjects import ImageFlow, NetworkFile, open_subject


@pytest.fixture
def groups(tmp_path):
    return Groups(tmp_path / "out" / "posterior.part", "this run", 5, 2)


def cut_short(groups, whole, fingerprint="this run"):
    def work(index, places, path, progress):
        if index == whole:
            raise KeyboardInterrupt
        save_arrays(path, {"fingerprint": np.array(fingerprint)})
        return False

    with pytest.raises(KeyboardInterrupt), groups.told_when_cut_short():
        groups.run(work)


def test_runs_cut_short_say_how_to_go_on(groups, caplog):
    cut_short(groups, 2)
    assert f"4 of 5 posteriors are done and kept in {groups.folder}" in caplog.text
    assert "The same command goes on from there" in caplog.text
    assert len(list(groups.folder.iterdir())) == 2


def test_runs_cut_short_keep_only_what_is_theirs(groups, caplog):
    cut_short(groups, 0)
    assert not groups.folder.parent.exists()
    cut_short(groups, 2, "another run")
    assert "kept" not in caplog.text


def test_without_a_terminal_lines_say_how_far_a_long_step_is(caplog, monkeypatch):
    monkeypatch.setattr(posteriors, "monotonic", partial(next, count(100, 20)))  # seconds
    with (
        caplog.at_level(logging.INFO),
        posteriors.progress("Making 10 draws", "draws", 10, "draw") as move,
    ):
        for _ in range(5):
            move(2)
    first, second = (f"Draws: {n} % after {n} s, about {100 - n} s to go" for n in (40, 80))
    assert caplog.messages == ["Making 10 draws", first, second]


def test_as_many_particles_are_taken_as_fit_into_minutes(monkeypatch, caplog):
    monkeypatch.setattr(posteriors, "seconds_of_a_call", lambda target: 1e-3)
    seen = Gaussian(double(0.5), torch.tensor([1]))
    which = problem(gaussian_prior(), seen, double([[0.2]]))

    def wanted(minutes, sampler="twisted"):
        return planned(which, SamplingPlan(sampler, draws=50, minutes=minutes), 10)

    for minutes in (2, 4, 8):
        own, plan = wanted(minutes)
        fit = plan.particles
        calls = [calls_of(which.target, 10, own.ahead, 4, 50, size) for size in (fit, 2 * fit)]
        # Most of the time is for network calls, and what is left of it for moves.
        assert calls[0] * 1e-3 < 0.8 * 60 * minutes < calls[1] * 1e-3
        assert calls[0] + 40 * fit * own.ahead.most == pytest.approx(0.8e3 * 60 * minutes)
    with pytest.raises(UsageError, match="32 particles of 4 chains and 10 observations take about"):
        wanted(0.1)
    assert "this is by hmc" in refusal(wanted, 2, "hmc", kind=UsageError)
    monkeypatch.setattr("training.inference.lookahead.MOST_WRONG", 0.0)
    wanted(2)
    assert "24 steps of particles are few" in caplog.text
    caplog.clear()
    planned(which, SamplingPlan("hmc", typed=frozenset({"pool", "thin", "seed"})), 1)
    assert caplog.messages == [
        "Warning: --pool has no effect on hmc: it is of pool, refined, annealed"
    ]


def test_what_noisy_states_tell_is_kept_for_further_posteriors(monkeypatch, tmp_path):
    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", str(tmp_path))
    monkeypatch.setattr(posteriors, "KEPT_FROM", 0.0)
    which = problem(gaussian_prior(), Gaussian(double(0.5), torch.tensor([1])), double([[0.2]]))

    def ahead_of(network="one"):
        plan = SamplingPlan("twisted", draws=10, particles=10)
        return planned(replace(which, network=network), plan, 1)[0].ahead

    first, again = ahead_of(), ahead_of()
    assert (first.kept, again.kept, ahead_of("another").kept) == (False, True, False)
    draws = [twist(which.target, 0, [0], 2, 10, 10, ahead=each) for each in (first, again)]
    assert torch.equal(draws[0].points, draws[1].points)
    assert draws[0].calls == draws[1].calls > first.measured(which.target).calls > 0
    assert [file.write_bytes(b"PK broken") for file in tmp_path.iterdir()] == [9, 9]
    assert not ahead_of().kept


def test_posteriors_of_whole_steps_are_at_them(groups):
    prior = conditional_prior()
    one = double([[1.0, 0.0], [-1.0, 0.0]])
    prior.flow.coordinates.hold_steps(double([1.0, 0.0]), double([0.0, 0.0]), one)
    which = problem(prior, Gaussian(double(0.5), torch.tensor([1])), double([[0.2]] * groups.count))
    which.target.labels = double([[0.0]] * groups.count)
    sample_groups(which, SamplingPlan("pool", chains=2, draws=50, pool=1024), groups)
    for draws, summary in sampled(groups):
        assert set(draws.points[..., 0].flatten().tolist()) == {-1, 0, 1}
        torch.testing.assert_close(summary.mean[:, 0], draws.points[..., 0].mean(dim=(1, 2)))


def test_local_tests_claim_nothing_where_runs_are_far(caplog):
    tests = [LocalTest("a", 1e-5, 1e-5, "too low", [0.4]), LocalTest("a", 0.5, 1, "too low", [0.5])]
    reaches = torch.tensor([[0.5, 0.9], [0.2, 3.7]])
    with caplog.at_level(logging.INFO):
        report_near(LocalCalibration(tests, 2, 0.01, 6), reaches, on_average=True)
        report_near(LocalCalibration(tests[::-1], 2, 0.01, 6), reaches, on_average=True)
    near, far, size, *others = caplog.messages
    assert "1: calibrated on average, but not here: the posterior is too" in near
    assert "2: no local test, since the 2 simulations nearest to it lie up" in far
    assert "3.7 standard deviations away; among them no miscalibration was seen" in far
    assert size.startswith("Near an observation, an error of 100 points")
    assert others[0].startswith("Observation 1: no miscalibration seen")
    assert "among them posteriors are too low" in others[1]


def test_draws_mostly_beyond_bounds_are_explained(caplog):
    ranks = torch.rand(20, 1, generator=seeded(), dtype=torch.float64)
    for most, explained in ((0.3, False), (0.9848, True)):
        leaked = torch.linspace(0, most, 20)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            report_check(calibrate(RunValues(("a",), ranks, {}, ranks, leaked)))
        assert ("train with --bounded=map" in caplog.text) is explained


def test_images_that_are_called_after_a_toy_are_images(tmp_path):
    save_image_model(tmp_path / "network.pkl", data_name="moons", t_max=3.0)
    subject = open_subject(NetworkFile.open(str(tmp_path / "network.pkl")))
    assert isinstance(subject, ImageFlow)
    assert subject.image_shape == (1, 8, 8)
    # As a sentence calls them: the 52nd number.
    assert subject.words[51] == "the pixel in row 7, column 4"


def test_where_no_law_of_conditions_is_known_that_is_said(caplog):
    with caplog.at_level("INFO"):
        assert warn_of_unlike(None, torch.zeros(2, 3)) is None
    assert "is not known" in caplog.text
