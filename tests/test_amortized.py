"""From simulations to posteriors, and checks of these, by the scripts that people call."""

from unittest import mock

import numpy as np
import pytest
import torch

import posterior
from tests.support.finished_runs import SIMULATION_NAMES, write_csv
from tests.support.outcomes import drawn, only_json
from tests.support.running import good, refused, starter
from torch_utils.results import load_arrays
from training import Model
from training.flow.coordinates.conditions import Surprise
from training.flow.solvers import SOLVERS
from training.flow.widths import Widths
from training.models import posterior_reports as posterior_results

FEW = ("--draws=60", "--n_iters=3")


@pytest.fixture(scope="module")
def sample(simulations):
    seen = f"--condition={simulations / 'seen.csv'}"
    return starter(posterior, "sample", f"--network={simulations / 'network.pkl'}", *FEW, seen)


@pytest.fixture(scope="module")
def done(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    assert "3 posterior(s): 3 by flow" in good(sample(folder)).out
    return folder


def test_draws_densities_and_intervals_are_written(done, simulations):
    arrays, got = drawn(done), only_json(done)
    x = arrays["posterior/x"]
    assert x.shape == (1, 60, 3, 2)
    assert arrays["posterior/coordinate"].tolist() == ["a", "b"]
    assert np.abs(x[..., 0]).max() < 1
    assert arrays["sample_stats/lp"].shape == (1, 60, 3)
    assert "sample_stats/log_likelihood" not in arrays
    np.testing.assert_array_equal(arrays["observed_data/y"], np.load(simulations / "seen.npy"))
    assert (got["samplers"], got["converged"], got["r_hat"]) == ({"flow": 3}, 3, None)
    assert got["conditions"] == ["y 1", "y2"]
    assert 0 < got["leaked"]["mean"] <= got["leaked"]["largest"] < 1
    proposed = 60 / (1 - arrays["constant_data/leaked"])
    calls = 3 * SOLVERS["exp_rk5"].calls_per_step + 1  # one more sharpens the draws
    assert (arrays["constant_data/network_calls"] >= calls * 60).all()
    assert (arrays["constant_data/network_calls"] <= calls * (1.5 * proposed + 60)).all()
    first = got["posteriors"][0]
    mean = dict(zip(("a", "b"), x[:, :, 0].mean(axis=(0, 1)), strict=True))
    assert first["mean"] == pytest.approx(mean, rel=1e-9)
    assert first["quantiles"]["0.05"]["b"] < first["quantiles"]["0.95"]["b"]
    assert first["ess_bulk"] == {"a": 60, "b": 60}


def test_conditions_are_found_by_name(sample, done, simulations, tmp_path):
    seen = np.load(simulations / "seen.npy")
    columns = np.stack([seen[:, 1], seen[:, 0], seen[:, 0]], 1)
    turned = write_csv(tmp_path / "turned.csv", ["y2", "other", "y 1"], columns)
    good(sample(tmp_path, f"--condition={turned}", "--no-log_prob"))
    got, expected = drawn(tmp_path), drawn(done)
    np.testing.assert_allclose(got["posterior/x"], expected["posterior/x"], rtol=1e-9, atol=1e-9)
    assert expected.keys() - got.keys() == {"sample_stats/lp"}


def test_strange_data_are_told(sample, done, simulations, tmp_path):
    surprise = only_json(done)["surprise"]
    assert 2 < surprise["limit"] < 20
    assert surprise["unlike"] == 0
    nats = [one["surprise"] for one in only_json(done)["posteriors"]]
    assert max(nats) == surprise["largest"] < surprise["limit"]
    # Both conditions are usual, but not together.
    far = write_csv(tmp_path / "far.csv", SIMULATION_NAMES[2:], np.array([[0, 0], [-1.5, 1.5]]))
    with mock.patch("training.inference.amortized.MAX_ROUNDS", 3):
        result = sample(tmp_path / "out", f"--condition={far}")
    assert "Warning: observation 2 is out of distribution" in result.out
    assert "observation 1 is" not in result.out
    refused(result, 1, "draws for observation 2", "beyond the column bounds", "--bounded=map")


def test_an_observation_unlike_the_simulations_has_not_converged(sample, tmp_path):
    with mock.patch.object(Surprise, "limit", -100.0):
        result = good(sample(tmp_path))
    assert "3 of 3 have not converged" in result.out
    assert "observation(s) 1, 2, 3: The observation is out of distribution" in result.out
    assert only_json(tmp_path)["converged"] == 0


def test_posteriors_that_are_locally_too_wide_are_named(done, simulations, tmp_path):
    model = Model.load(simulations / "network.pkl")
    model.widths = Widths(2)
    model.widths.spread.fill_(1.0)
    model.widths.bias.copy_(torch.tensor([0.5, 1.1]).log())
    model.save(tmp_path / "network.pkl")
    seen = f"--condition={simulations / 'seen.csv'}"
    network = f"--network={tmp_path / 'network.pkl'}"
    result = good(starter(posterior, "sample", network, *FEW, seen)(tmp_path / "out"))
    for number in (1, 2, 3):
        told = f"the posterior of observation {number} may be too wide in a: at simulations"
        assert f"{told} with similar posteriors, errors are 0.5 times" in result.out
    first = only_json(tmp_path / "out")["posteriors"][0]
    assert first["error_over_std"] == pytest.approx({"a": 0.5, "b": 1.1})
    assert "error_over_std" not in only_json(done)["posteriors"][0]


def test_posteriors_as_narrow_as_the_noise_of_the_first_time_are_named(sample, done, tmp_path):
    first = only_json(done)["posteriors"][0]
    assert 0 < first["blur"]["b"] < first["std"]["b"]
    with mock.patch.object(posterior_results, "NARROW", 1e9):
        result = good(sample(tmp_path))
    for number in (1, 2, 3):
        told = f"posterior of observation {number} is nearly as narrow as the noise of the first"
        assert told in result.out
    assert "not reliable, and probably too large. Train with a smaller --gamma0." in result.out


def test_draws_are_corrected_by_a_posterior_of_the_users(sample, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def posterior(theta, y):\n"
        "    assert theta.shape == (60, 2) and y.shape == (60, 2)\n"
        "    return -((theta - y[:, :1]) ** 2).sum(dim=1)\n"
    )
    option = f"--correct={tmp_path / 'mine.py'}"
    good(sample(tmp_path / "out", f"{option}:posterior"))
    first = only_json(tmp_path / "out")["posteriors"][0]
    assert 1 < first["statistics"]["effective_size"] < 60
    assert first["ess_bulk"]["a"] == pytest.approx(first["statistics"]["effective_size"])
    refused(sample(tmp_path / "no", f"{option}:other"), 2, "no function 'other'")
    refused(sample(tmp_path / "no", "--correct=none.py:f"), 2, "--correct", "FILE.py:function")
    alone = sample(tmp_path / "no", f"{option}:posterior", "--no-log_prob")
    refused(alone, 2, "--correct", "--no-log_prob")


def test_a_likelihood_makes_a_flow_a_prior(sample, simulations, tmp_path):
    write_csv(tmp_path / "points.csv", ["a"], np.array([[0.1], [0.2], [-0.3]]))
    more = ("--likelihood=mask", "--mask=a", "--noise_std=0.3", "--sampler=pool")
    good(sample(tmp_path, f"--observation={tmp_path / 'points.csv'}", *more))
    assert drawn(tmp_path)["sample_stats/log_likelihood"].shape == (1, 60, 3)
    two = write_csv(tmp_path / "two.csv", ["a"], np.zeros((2, 1)))
    result = sample(tmp_path / "no", f"--observation={two}", *more)
    refused(result, 2, "3 rows of conditions", "2 obs")


@pytest.fixture(scope="module")
def check(simulations):
    place = (f"--network={simulations / 'network.pkl'}", f"--data_root={simulations / 'runs.npz'}")
    few = ("--truth=data", "--runs=24", "--draws=20", "--n_iters=3")
    return starter(posterior, "check", *place, *few)


def checked(folder):
    return only_json(folder), load_arrays(folder / "runs_PRP_posterior_check.npz")


def test_a_check_asks_whether_held_out_simulations_are_found_again(check, tmp_path):
    text = good(check(tmp_path / "out")).out
    got, arrays = checked(tmp_path / "out")
    assert (got["question"], got["options"]["draws"]) == ("model", 20)
    names = ["a", "b", "log density"]
    assert arrays["names"].tolist() == names
    assert (arrays["ranks"].shape, arrays["crps"].shape) == ((24, 3), (24, 2))
    assert arrays["region_names"].tolist() == ["TARP", "highest-density regions"]
    assert got["verdict"] in text
    leaked = arrays["leaked"]
    assert leaked.shape == (24,)
    assert 0 < leaked.mean() == pytest.approx(got["leaked"]["mean"])
    assert leaked.max() == pytest.approx(got["leaked"]["largest"])
    assert f"{leaked.mean():.2%} of draws" in text
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".json", ".npz"]


def test_others_truths_are_not_found_again(check, simulations, tmp_path):
    arrays = load_arrays(simulations / "runs.npz")
    moved = {**arrays, "points": arrays["points"] / 9 + 0.8 * np.sign(arrays["points"])}
    np.savez(tmp_path / "moved.npz", **moved)
    moved = f"--data_root={tmp_path / 'moved.npz'}"
    result = check(tmp_path / "out", moved, "--runs=60", "--strict")
    assert result.code == 3
    got, _ = checked(tmp_path / "out")
    assert got["verdict"].startswith("Not calibrated")
