"""From simulations to posteriors, by the scripts: amortized ones, and those of repeated trials."""

import shutil
from math import log
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

import dataset_tool
import distill
import info
import posterior
import train
import visualize
from dnnlib.errors import DataError
from tests.support.finished_runs import SIMULATION_NAMES, SMALL, write_csv
from tests.support.outcomes import drawn, told
from tests.support.running import Run, good, refused, run_script, starter, trained
from torch_utils.results import load_arrays
from training.flow.solvers import SOLVERS
from training.subjects.likelihoods import LearnedLikelihood
from training.subjects.networks import NetworkFile

FEW = ("--chains=2", "--draws=30", "--n_iters=3", "--batch-gpu=64")


@pytest.fixture(scope="module")
def sample(simulations: Path) -> Run:
    seen = f"--condition={simulations / 'seen.csv'}"
    return starter(posterior, "sample", f"--network={simulations / 'network.pkl'}", *FEW, seen)


@pytest.fixture(scope="module")
def done(sample: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    told = good(sample(folder)).out
    assert "3 posterior(s): 3 by flow" in told
    return folder


def test_draws_densities_and_intervals_are_written(done: Path, simulations: Path) -> None:
    arrays, found = drawn(done), told(done)
    x = arrays["posterior/x"]
    assert x.shape == (2, 30, 3, 2)
    assert arrays["posterior/coordinate"].tolist() == ["a", "b"]
    assert np.abs(x[..., 0]).max() < 1
    assert arrays["sample_stats/lp"].shape == (2, 30, 3)
    assert "sample_stats/log_likelihood" not in arrays
    np.testing.assert_array_equal(arrays["observed_data/y"], np.load(simulations / "seen.npy"))
    assert (found["samplers"], found["converged"], found["r_hat"]) == ({"flow": 3}, 3, None)
    assert found["conditions"] == ["y 1", "y2"]
    assert 0 < found["leaked"]["mean"] <= found["leaked"]["largest"] < 1
    leaked = arrays["constant_data/leaked"]
    proposed = 60 / (1 - leaked)
    calls = 3 * SOLVERS["exp_rk5"].calls_per_step + 1  # one more sharpens the draws
    assert (arrays["constant_data/network_calls"] >= calls * 60).all()
    assert (arrays["constant_data/network_calls"] <= calls * (1.5 * proposed + 60)).all()
    first = found["posteriors"][0]
    mean = dict(zip(("a", "b"), x[:, :, 0].mean(axis=(0, 1)), strict=True))
    assert first["mean"] == pytest.approx(mean, rel=1e-9)
    assert first["quantiles"]["0.05"]["b"] < first["quantiles"]["0.95"]["b"]
    assert first["ess_bulk"] == {"a": 60, "b": 60}


def test_independent_draws_are_drawn_without_chains(done: Path, tmp_path: Path) -> None:
    shutil.copy(done / "runs_PRP_posterior.nc", tmp_path)
    told = good(run_script(visualize, tmp_path)).out
    assert "posterior_marginals.png" in told
    assert "chains" not in told


def test_conditions_are_found_by_name_or_by_their_order(
    sample: Run, done: Path, simulations: Path, tmp_path: Path
) -> None:
    seen = np.load(simulations / "seen.npy")
    columns = np.stack([seen[:, 1], seen[:, 0], seen[:, 0]], 1)
    turned = write_csv(tmp_path / "turned.csv", ["y2", "other", "y 1"], columns)
    for name, path in (("named", turned), ("array", simulations / "seen.npy")):
        good(sample(tmp_path / name, f"--condition={path}", "--no-log_prob"))
        found, expected = drawn(tmp_path / name), drawn(done)
        np.testing.assert_allclose(found["posterior/x"], expected["posterior/x"], rtol=1e-9)
        assert expected.keys() - found.keys() == {"sample_stats/lp"}


def test_strange_data_are_told(sample: Run, done: Path, simulations: Path, tmp_path: Path) -> None:
    limit = told(done)["surprise"]["limit"]
    assert 2 < limit < 20
    nats = [one["surprise"] for one in told(done)["posteriors"]]
    assert max(nats) == told(done)["surprise"]["largest"] < limit
    assert told(done)["surprise"]["unlike"] == 0
    # Both conditions are usual, but not together.
    far = write_csv(tmp_path / "far.csv", SIMULATION_NAMES[2:], np.array([[0, 0], [-1.5, 1.5]]))
    with mock.patch("training.inference.amortized.MOST_TURNS", 3):
        result = sample(tmp_path / "out", f"--condition={far}")
    assert "observation 2 is unlike the simulations" in result.out
    assert "observation 1 is" not in result.out
    refused(result, 1, "draws for observation 2", "beyond the bounds", "--bounded=map")


def test_draws_are_corrected_by_a_posterior_of_the_users(sample: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def posterior(theta, y):\n"
        "    assert theta.shape == (60, 2) and y.shape == (60, 2)\n"
        "    return -((theta - y[:, :1]) ** 2).sum(dim=1)\n"
    )
    option = f"--correct={tmp_path / 'mine.py'}"
    good(sample(tmp_path / "out", f"{option}:posterior"))
    first = told(tmp_path / "out")["posteriors"][0]
    assert 1 < first["statistics"]["effective_size"] < 60
    assert first["ess_bulk"]["a"] == pytest.approx(first["statistics"]["effective_size"])
    refused(sample(tmp_path / "no", f"{option}:other"), 2, "no function 'other'")
    refused(sample(tmp_path / "no", "--correct=none.py:f"), 2, "--correct", "FILE.py:function")
    for other in ("--no-log_prob", "--deblur"):
        refused(sample(tmp_path / "no", f"{option}:posterior", other), 2, "--correct", other)


def test_teachers_correct_students_draws(sample: Run, simulations: Path, tmp_path: Path) -> None:
    place, data = f"--network={simulations / 'network.pkl'}", f"--data={simulations / 'runs.npz'}"
    taught = ("--paths=200", "--steps=20", "--calls=2", f"--dest={tmp_path / 'student.pkl'}")
    refused(run_script(distill, place, *taught), 2, "--data", "conditions")
    assert "in 2 calls a student is off by" in good(run_script(distill, place, data, *taught)).out
    seen = (f"--condition={simulations / 'seen.csv'}", "--chains=2", "--draws=30")
    student = (f"--network={tmp_path / 'student.pkl'}", f"--save_dir={tmp_path / 'out'}")
    good(run_script(posterior, "sample", *student, *seen, "--correct=teacher"))
    assert 1 < told(tmp_path / "out")["posteriors"][0]["statistics"]["effective_size"] <= 60
    assert drawn(tmp_path / "out")["constant_data/network_calls"].max() < 2 * 60 * 4
    refused(sample(tmp_path / "no", "--correct=teacher"), 2, "networks by distill.py")


def test_a_likelihood_makes_the_flow_a_prior(
    sample: Run, simulations: Path, tmp_path: Path
) -> None:
    write_csv(tmp_path / "points.csv", ["a"], np.array([[0.1], [0.2], [-0.3]]))
    more = ("--likelihood=mask", "--mask=a", "--noise_std=0.3", "--sampler=pool", "--pool=200")
    good(sample(tmp_path, f"--observation={tmp_path / 'points.csv'}", *more))
    assert drawn(tmp_path)["sample_stats/log_likelihood"].shape == (2, 30, 3)
    two = write_csv(tmp_path / "two.csv", ["a"], np.zeros((2, 1)))
    result = sample(tmp_path / "no", f"--observation={two}", *more)
    refused(result, 2, "3 rows of conditions", "2 obs")


# Checks.


@pytest.fixture(scope="module")
def check(simulations: Path) -> Run:
    place = (f"--network={simulations / 'network.pkl'}", f"--data_root={simulations / 'runs.npz'}")
    few = ("--truth=data", "--runs=24", "--chains=2", "--draws=10", "--n_iters=3")
    return starter(posterior, "check", *place, *few)


def checked(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return told(folder), load_arrays(folder / "runs_PRP_posterior_check.npz")


def test_a_check_asks_whether_the_flow_finds_held_out_simulations_again(
    check: Run, simulations: Path, tmp_path: Path
) -> None:
    rows = np.array([[0.3, 0.4], [-1.5, 1.5]])
    far = write_csv(tmp_path / "seen.csv", SIMULATION_NAMES[2:], rows)
    told = good(check(tmp_path / "out", f"--condition={far}")).out
    found, arrays = checked(tmp_path / "out")
    assert (found["question"], found["options"]["draws"]) == ("model", 10)
    names = ["a", "b", "log density"]
    assert arrays["names"].tolist() == names
    assert (arrays["ranks"].shape, arrays["crps"].shape) == ((24, 3), (24, 2))
    assert arrays["region_names"].tolist() == ["TARP", "highest-density regions"]
    assert found["verdict"] in told
    leaked = arrays["leaked"]
    assert leaked.shape == (24,)
    assert 0 < leaked.mean() == pytest.approx(found["leaked"]["mean"])
    assert leaked.max() == pytest.approx(found["leaked"]["largest"])
    assert f"{leaked.mean():.2%} of draws" in told
    assert found["near"]["neighbors"] == 20
    near = found["near"]["observations"]
    assert [one["quantity"] in names for one in near] == [True, True]
    assert near[0]["surprise"] < 2 < near[1]["surprise"]
    assert near[0]["distance"] < 2 < near[1]["distance"]
    assert [one["local"] for one in near] == [False, False]
    assert "observation 2 is unlike the simulations" in told
    assert "Observation 1: no local test" in told
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".json", ".npz"]
    # The runs that are drawn at random are the same without observations.
    good(check(tmp_path / "alone"))
    alone, same = checked(tmp_path / "alone")
    assert "near" not in alone
    np.testing.assert_allclose(same["crps"], arrays["crps"])


def test_others_truths_are_not_found_again(check: Run, simulations: Path, tmp_path: Path) -> None:
    arrays = load_arrays(simulations / "runs.npz")
    moved = {**arrays, "points": arrays["points"] / 9 + 0.8 * np.sign(arrays["points"])}
    np.savez(tmp_path / "moved.npz", **moved)
    given = (f"--data_root={tmp_path / 'moved.npz'}", f"--condition={simulations / 'seen.csv'}")
    result = check(tmp_path / "out", *given, "--runs=60", "--strict")
    assert result.code == 3
    found, _ = checked(tmp_path / "out")
    assert found["verdict"].startswith("Not calibrated")
    # A test that is not local fails too, but claims nothing of the observation.
    assert "Observation 1: no local test" in result.out
    assert "not here" not in result.out


def test_trainings_without_conditions_say_so(simulations: Path, tmp_path: Path) -> None:
    place = (f"--data={simulations / 'runs.npz'}", f"--outdir={tmp_path / 'run'}", "-n")
    assert "y 1, y2 left out: --cond" in good(run_script(train, *place, *SMALL)).out


NAMES = ["id", "mu", "tau", "y", "n", "t"]
POOL = ("--chains=2", "--draws=60", "--pool=400", "--sampler=pool")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two likelihoods, a flow of their parameters, and trials of three observations."""
    folder = tmp_path_factory.mktemp("trials")
    draw = np.random.default_rng(0)
    rows = []
    for place in range(150):
        mu, tau = draw.uniform(-1, 1, 2)
        for _ in range(draw.integers(1, 4)):
            t = draw.uniform()
            rows.append([place, mu, tau, mu + t * tau + draw.normal(), draw.poisson(3), t])
    source = write_csv(folder / "runs.csv", NAMES, np.array(rows))
    making = (f"--source={source}", "--dataset=id", "--conditions=y,n", "--covariates=t")
    bounds = "--bounds=mu:-1:1,tau:-1:1"
    for name, more in {"one": [bounds], "two": ["--bounds=mu:-1:1"]}.items():
        good(run_script(dataset_tool, *making, *more, f"--dest={folder / f'{name}.npz'}"))
    few = mock.patch("training.learning.gaussian_start.STEPS", 40)
    # Without a network, whose densities take long.
    with few, mock.patch("training.subjects.table_training.LEAST_GAIN", 100.0):
        for name in ("one", "two"):
            where = (f"--data={folder / f'{name}.npz'}", "--likelihood", *SMALL)
            start = "--linear_start=gaussian" if name == "one" else "--linear_start=on"
            trained(folder / f"{name}-run", train, *where, start, "--keep=9")
        plain = (f"--data={folder / 'one.npz'}", *SMALL, "--marginals=none", "--whiten=zca")
        trained(folder / "prior-run", train, *plain)
        trained(folder / "post-run", train, *plain, "--cond=True", "--linear_start=on")
        sets = ("--cond=True", "--cond_shape=set:3", "--linear_start=on", "--bounded=map")
        trained(folder / "sets-run", train, *plain, *sets)
        state = max((folder / "sets-run").glob("training-state-*.pt"))
        good(run_script(train, f"--resume={state}"))
    for name in ("one", "two", "prior", "post", "sets"):
        *_, last = sorted((folder / f"{name}-run").glob("network-*.pkl"))
        last.rename(folder / f"{name}.pkl")
    seen = np.array([[7, 0.1, 2, 0.5], [5, 1.0, 4, 0.2], [7, 0.3, 3, 0.1], [9, 2, 1, 0.9]])
    write_csv(folder / "seen.csv", ["dataset", "y", "n", "t"], seen)
    return folder


@pytest.mark.parametrize("prior", ["uniform", "prior.pkl"])
def test_posteriors_of_several_trials_are_drawn(shelf: Path, tmp_path: Path, prior: str) -> None:
    given = prior if prior == "uniform" else str(shelf / prior)
    place = (f"--network={shelf / 'one.pkl'}", f"--prior={given}", f"--save_dir={tmp_path}")
    seen = f"--observation={shelf / 'seen.csv'}"
    result = good(run_script(posterior, "sample", *place, seen, *POOL))
    assert "3 posterior(s)" in result.out
    arrays = drawn(tmp_path)
    x = arrays["posterior/x"]
    assert x.shape == (2, 60, 3, 2)
    assert (np.abs(x) <= 1).all() or prior != "uniform"
    assert arrays["posterior/coordinate"].tolist() == ["mu", "tau"]
    assert np.isfinite(arrays["constant_data/evidence"]).all()
    assert "observed_data/y" not in arrays


def test_members_of_a_population_are_drawn(shelf: Path, tmp_path: Path) -> None:
    rows = np.array([[place, 0.2 * place, 3, 0.5] for place in range(5) for _ in range(3)])
    write_csv(tmp_path / "five.csv", ["dataset", "y", "n", "t"], rows)
    place = (f"--network={shelf / 'one.pkl'}", "--prior=uniform", f"--save_dir={tmp_path}")
    good(run_script(posterior, "sample", *place, f"--observation={tmp_path / 'five.csv'}", *POOL))
    [draws] = tmp_path.glob("*_posterior.nc")
    asked = (f"--draws={draws}", *place[1:], "--bounds=tau:-1:1", "--steps=100", "--chains=2")
    result = good(run_script(posterior, "population", *asked))
    assert "tau: mean of its probit between -1 and 1" in result.out
    content = told(tmp_path, "*_population.json")
    assert content["coordinates"] == {"mu": "itself", "tau": "probit between -1 and 1"}
    low, middle, high = content["population"]["tau"]["further"]["quantiles"].values()
    assert -1 < low < middle < high < 1
    # What all have in common narrows what each is.
    means = [each["mu"]["mean"] for each in content["posteriors"]]
    alone = [each["mu"]["alone"]["mean"] for each in content["posteriors"]]
    assert np.std(means) < np.std(alone)
    law = next(tmp_path.glob("*_population.pkl"))
    good(run_script(visualize, law.with_suffix(".npz")))
    # Under the law of a further member draws are worth more, and what was known before is kept.
    second = (place[0], f"--prior={law}", f"--save_dir={tmp_path / '2'}")
    good(run_script(posterior, "sample", *second, f"--observation={tmp_path / 'five.csv'}", *POOL))
    [draws] = (tmp_path / "2").glob("*_posterior.nc")
    again = (f"--draws={draws}", *second[1:], "--steps=100", "--chains=2")
    good(run_script(posterior, "population", *again))
    more = told(tmp_path / "2", "*_population.json")
    assert more["prior"] == content["prior"]
    assert more["noise"] < content["noise"]
    other = (*asked[:2], f"--save_dir={shelf}")
    refused(run_script(posterior, "population", *other, "--bounds=x:0:"), 2, "mu, tau")
    refused(run_script(posterior, "population", *other, "--bounds=mu:0:"), 1, "'mu' are beyond")


def test_models_are_compared(shelf: Path, tmp_path: Path) -> None:
    networks = [f"--network={shelf / 'one.pkl'}", f"--network={shelf / 'one.pkl'}"]
    place = ("--prior=uniform", f"--save_dir={tmp_path}", f"--observation={shelf / 'seen.csv'}")
    result = good(run_script(posterior, "compare", *networks, *place, *POOL, "--weights=3,1"))
    assert "Observation 3: one (1)" in result.out
    compared = told(tmp_path)
    for one in compared["observations"]:
        assert sum(one["probability"].values()) == pytest.approx(1)
        assert one["probability"]["one (1)"] == pytest.approx(0.75, abs=0.1)
    assert compared["models"]["one (2)"]["prior_probability"] == 0.25
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.json"]


def test_datasets_are_found_again_with_their_trials(shelf: Path) -> None:
    learned = LearnedLikelihood.of(NetworkFile.open(str(shelf / "one.pkl")))
    points, trials = learned.simulations(shelf / "one.npz", 10, 0, ["tau", "mu"])
    rows = np.loadtxt(shelf / "runs.csv", delimiter=",", skiprows=1)
    data = torch.cat([trials.data, trials.covariates], dim=1)
    for point, own in zip(points, data.split(trials.counts.tolist()), strict=True):
        of_point = rows[(rows[:, 1:3] == point.flip(0).numpy()).all(axis=1)]
        assert (own.numpy() == of_point[:, 3:]).all()


def test_likelihoods_are_checked_on_simulations(shelf: Path, tmp_path: Path) -> None:
    place = (f"--network={shelf / 'two.pkl'}", f"--prior={shelf / 'prior.pkl'}", "--truth=data")
    making = (f"--source={shelf / 'runs.csv'}", "--dataset=id", "--conditions=y,n")
    making += ("--covariates=t", f"--dest={tmp_path / 'new.npz'}", "--held-out=0")
    good(run_script(dataset_tool, *making))
    data = (f"--data_root={tmp_path / 'new.npz'}", "--runs=20", f"--save_dir={tmp_path / 'out'}")
    good(run_script(posterior, "check", *place, *data, *POOL))
    content = told(tmp_path / "out")
    assert content["question"] == "model"
    # Of parameters between -1 and 1, of which trials tell something.
    assert -log(4) - 0.5 < content["log_density"]["mean"] < 1
    refused(run_script(posterior, "check", *place[:2], *data[2:]), 2, "--data_root=SIMULATIONS")


def test_a_flow_of_posteriors_is_weighted_by_a_likelihood(shelf: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "one.csv", ["t", "y", "n"], np.array([[0.5, 1.0, 3]]))
    draws = ("--draws=500", f"--condition={tmp_path / 'one.csv'}")
    correct = (f"--correct={shelf / 'one.pkl'}", "--prior=uniform")
    network = (f"--network={shelf / 'post.pkl'}", f"--save_dir={tmp_path}")
    good(run_script(posterior, "sample", *network, *draws, *correct))
    corrected = told(tmp_path)["posteriors"][0]
    direct = (f"--network={shelf / 'one.pkl'}", "--prior=uniform", f"--save_dir={tmp_path}")
    seen = (f"--observation={tmp_path / 'one.csv'}", "--overwrite", "--draws=500")
    good(run_script(posterior, "sample", *direct, *seen))
    of_likelihood = told(tmp_path)["posteriors"][0]
    for name, mean in of_likelihood["mean"].items():
        assert abs(corrected["mean"][name] - mean) < 0.2 * of_likelihood["std"][name]


def test_a_set_of_trials_has_one_posterior(shelf: Path, tmp_path: Path) -> None:
    assert "up to 3, of y, n, t" in good(run_script(info, shelf / "sets.pkl")).out
    network = (f"--network={shelf / 'sets.pkl'}", f"--save_dir={tmp_path}", "--overwrite")
    seen, correct = f"--condition={shelf / 'seen.csv'}", f"--correct={shelf / 'one.pkl'}"
    for more in ((), (correct, "--prior=uniform", "--draws=50")):
        result = good(run_script(posterior, "sample", *network, seen, *more))
        assert "3 posterior(s)" in result.out
    for one in told(tmp_path)["posteriors"]:
        assert one["statistics"]["effective_size"] > 20
    making = (f"--source={shelf / 'runs.csv'}", "--dataset=id", "--conditions=y,n")
    making += ("--covariates=t", f"--dest={tmp_path / 'new.npz'}", "--held-out=0")
    good(run_script(dataset_tool, *making))
    checked = ("--truth=data", f"--data_root={tmp_path / 'new.npz'}", "--runs=20")
    good(run_script(posterior, "check", *network, *checked, seen))
    many = np.array([[0.1, 2, 0.5]] * 4)
    write_csv(tmp_path / "many.csv", ["y", "n", "t"], many)
    place = (network[0], f"--save_dir={tmp_path / 'no'}")
    of_many = f"--condition={tmp_path / 'many.csv'}"
    refused(run_script(posterior, "sample", *place, of_many), 1, "4 trials", "more than 3")
    assert not (tmp_path / "no").exists()


def test_trials_of_a_set_multiply(shelf: Path) -> None:
    learned = LearnedLikelihood.of(NetworkFile.open(str(shelf / "one.pkl")))
    density = learned.log_posterior(learned.prior("uniform"), ["tau", "mu"], torch.arange(3))
    points = torch.tensor([[0.1, 0.5], [0.9, -0.9], [1.1, 0.0]]).double()
    first, second = torch.tensor([[0.5, 3, 0.2]]).double(), torch.tensor([[1.5, 2, 0.9]]).double()
    none = torch.full((1, 3), torch.nan)  # a trial that is not there
    both = density(points, torch.cat([first, second, none], dim=1).expand(3, -1))
    apart = density(points, first.expand(3, -1)) + density(points, second.expand(3, -1))
    # Uniform between -1 and 1 in two dimensions.
    assert both[:2].tolist() == pytest.approx((apart[:2] + log(4)).tolist(), abs=1e-6)
    assert both[2] == -torch.inf


def test_observations_of_more_trials_than_learned_are_named(shelf: Path, tmp_path: Path) -> None:
    learned = LearnedLikelihood.of(NetworkFile.open(str(shelf / "one.pkl")))
    # 135 datasets of two trials: 0.0025 x 270 x 2 / (2 x 4).
    assert learned.most_trials == pytest.approx(0.17, abs=0.03)
    place = (f"--network={shelf / 'one.pkl'}", "--prior=uniform", f"--save_dir={tmp_path}")
    result = run_script(posterior, "sample", *place, f"--observation={shelf / 'seen.csv'}", *POOL)
    named = "for the 2 trial(s) of observation 1, and by more than 0.05 for 2 other(s)"
    assert named in result.err + result.out


def test_a_network_file_says_that_it_is_a_likelihood(shelf: Path) -> None:
    assert "of one trial, given mu, tau, t" in good(run_script(info, shelf / "one.pkl")).out


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        ("{two} --prior=uniform {seen}", 2, ("'tau' has not", "--bounds=tau:LOW:HIGH")),
        ("{one} {seen} --noise_std=1", 2, ("has learned a likelihood", "--prior=uniform")),
        ("{prior} --prior=uniform {seen}", 2, ("has learned no likelihood",)),
        ("{one} --prior={folder}/one.pkl {seen}", 2, ("conditional on mu, tau, t",)),
        ("{one} --prior=uniform {seen} --noise_std=1", 2, ("--noise_std", "--prior")),
        ("{one} --prior=uniform", 2, ("--observation", "a row for each trial")),
        ("{one} --prior=uniform --observation={folder}/hole.csv", 1, ("line 3", "=keep")),
    ],
)
def test_what_is_no_question_of_trials_is_refused(
    shelf: Path, tmp_path: Path, words: str, code: int, parts: tuple[str, ...]
) -> None:
    (shelf / "hole.csv").write_text("y,n,t\n0,1,0.5\n1,,0.5\n")
    known = {name: f"--network={shelf / f'{name}.pkl'}" for name in ("one", "two", "prior")}
    filled = words.format(**known, folder=shelf, seen=f"--observation={shelf / 'seen.csv'}")
    result = run_script(posterior, "sample", f"--save_dir={tmp_path}", *POOL, *filled.split())
    refused(result, code, *parts)


def test_trials_may_lack_data_if_those_of_simulations_did(shelf: Path, tmp_path: Path) -> None:
    rows = np.loadtxt(shelf / "runs.csv", delimiter=",", skiprows=1)
    rows[::3, 3] = rows[1::4, 4] = np.nan
    making = (f"--source={write_csv(tmp_path / 'holes.csv', NAMES, rows)}", "--dataset=id")
    making += ("--conditions=y,n", "--covariates=t", "--bounds=mu:-1:1,tau:-1:1", "--missing=keep")
    good(run_script(dataset_tool, *making, f"--dest={tmp_path / 'holes.npz'}"))
    data = f"--data={tmp_path / 'holes.npz'}"
    with mock.patch("training.learning.gaussian_start.STEPS", 40):
        trained(tmp_path / "run", train, data, "--likelihood", *SMALL)
    *_, network = sorted((tmp_path / "run").glob("network-*.pkl"))
    (tmp_path / "seen.csv").write_text("dataset,y,n,t\n1,0.1,,0.5\n1,,3,0.2\n2,0.4,2,0.9\n")
    place = (f"--network={network}", "--prior=uniform", f"--save_dir={tmp_path / 'out'}", *POOL)
    good(run_script(posterior, "sample", *place, f"--observation={tmp_path / 'seen.csv'}"))
    assert np.isfinite(drawn(tmp_path / "out")["constant_data/evidence"]).all()
    learned = LearnedLikelihood.of(NetworkFile.open(str(network)))
    _, trials = learned.simulations(tmp_path / "holes.npz", 10, 0, ["mu", "tau"])
    assert trials.data.isnan().any()
    (tmp_path / "none.csv").write_text("y,n,t\n1,2,0.5\n,,0.5\n")
    none = f"--observation={tmp_path / 'none.csv'}"
    refused(run_script(posterior, "sample", *place, none, "--overwrite"), 1, "line 3", "no trial")
    refused(run_script(train, data, f"--outdir={tmp_path}", "-n", "--cond"), 2, "--likelihood")
    whole = LearnedLikelihood.of(NetworkFile.open(str(shelf / "one.pkl")))
    with pytest.raises(DataError, match="missing data: data, not covariates"):
        whole.simulations(tmp_path / "holes.npz", 10, 0, ["mu", "tau"])


def test_learning_likelihoods_refuses_others(shelf: Path, houses: Path, tmp_path: Path) -> None:
    place = (f"--data={shelf / 'one.npz'}", f"--outdir={tmp_path}", "-n", "--likelihood")
    refused(run_script(train, *place, "--cond"), 2, "--cond", "--likelihood")
    refused(run_script(train, *place, "--bounded=reject"), 2, "--bounded=reject")
    refused(run_script(train, f"--data={houses}", *place[1:]), 2, "--conditions=NAMES")
    refused(run_script(train, *place, "--cond_shape=set:3"), 2, "set:K is for --cond")
    sets = (*place[1:3], "--cond")
    refused(run_script(train, place[0], *sets, "--cond_shape=set:2"), 2, "y, n, t", "set:3")
    refused(run_script(train, place[0], *sets, "--cond_shape=set:2x3"), 2, "set:2")
    values = np.random.default_rng(0).normal(size=(40, 3))
    source = write_csv(tmp_path / "a.csv", list("abc"), values)
    making = (f"--source={source}", f"--dest={tmp_path / 'plain.npz'}", "--conditions=c")
    good(run_script(dataset_tool, *making))
    data = f"--data={tmp_path / 'plain.npz'}"
    refused(run_script(train, data, *sets, "--cond_shape=set:1"), 2, "no trials", "--dataset=ID")
