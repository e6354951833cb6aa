"""From repeated measurements to posteriors and models, by the scripts that people call."""

import logging
from dataclasses import replace
from math import log
from unittest import mock

import numpy as np
import pytest
import torch

import dataset_tool
import info
import posterior
import train
import visualize
from tests.support.finished_runs import SMALL, write_csv
from tests.support.image_runs import network_file
from tests.support.outcomes import drawn, only_json
from tests.support.running import good, in_coordinates, refusal, refused, run_script, trained
from training import Model
from training.data.tables.schema import Dropped
from training.files.population import SavedPopulation
from training.inference.population import Population
from training.models import hierarchical
from training.models.comparison import report
from training.models.hierarchical import numbers_of
from training.models.results import ModelEvidence
from training.subjects.likelihoods import LearnedLikelihood
from training.trained.network import TrainedNetwork

NAMES = ["id", "mu", "tau", "y", "n", "t"]
POOL = ("--draws=120", "--sampler=pool")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
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
    for name, more in {"one": bounds, "two": "--bounds=mu:-1:1", "new": "--held-out=0"}.items():
        good(run_script(dataset_tool, *making, more, f"--dest={folder / f'{name}.npz'}"))
    few = mock.patch("training.learning.gaussian_start.STEPS", 40)
    # Without a network, whose densities take long.
    with few, mock.patch("training.subjects.table_training.LEAST_GAIN", 100.0):
        for name in ("one", "two"):
            where = (f"--data={folder / f'{name}.npz'}", "--likelihood", *SMALL)
            with in_coordinates(linear_start="gaussian" if name == "one" else "on"):
                trained(folder / f"{name}-run", train, *where)
        plain = (f"--data={folder / 'one.npz'}", *SMALL, "--marginals=none")
        with in_coordinates(whiten="zca", linear_start="on"):
            trained(folder / "prior-run", train, *plain)
            trained(folder / "post-run", train, *plain, "--cond=True")
            sets = ("--cond=True", "--cond_shape=set:3", "--bounded=map")
            trained(folder / "sets-run", train, *plain, *sets)
        state = max((folder / "sets-run").glob("training-state-*.pt"))
        good(run_script(train, f"--resume={state}"))
    for name in ("one", "two", "prior", "post", "sets"):
        network_file(folder / f"{name}-run").rename(folder / f"{name}.pkl")
    seen = np.array([[7, 0.1, 2, 0.5], [5, 1.0, 4, 0.2], [7, 0.3, 3, 0.1], [9, 2, 1, 0.9]])
    write_csv(folder / "seen.csv", ["dataset", "y", "n", "t"], seen)
    return folder


@pytest.mark.parametrize("prior", ["uniform", "prior.pkl"])
def test_posteriors_of_several_trials_are_drawn(shelf, tmp_path, prior):
    given = prior if prior == "uniform" else str(shelf / prior)
    place = (f"--network={shelf / 'one.pkl'}", f"--prior={given}", f"--save_dir={tmp_path}")
    seen = f"--observation={shelf / 'seen.csv'}"
    result = good(run_script(posterior, "sample", *place, seen, *POOL))
    assert "3 posterior(s)" in result.out
    arrays = drawn(tmp_path)
    x = arrays["posterior/x"]
    assert x.shape == (1, 120, 3, 2)
    assert (np.abs(x) <= 1).all() or prior != "uniform"
    assert arrays["posterior/coordinate"].tolist() == ["mu", "tau"]
    assert np.isfinite(arrays["constant_data/evidence"]).all()
    assert "observed_data/y" not in arrays


def test_members_of_a_population_are_drawn(shelf, tmp_path):
    rows = np.array([[place, 0.2 * place, 3, 0.5] for place in range(5) for _ in range(3)])
    write_csv(tmp_path / "five.csv", ["dataset", "y", "n", "t"], rows)
    place = (f"--network={shelf / 'one.pkl'}", "--prior=uniform", f"--save_dir={tmp_path}")
    good(run_script(posterior, "sample", *place, f"--observation={tmp_path / 'five.csv'}", *POOL))
    [draws] = tmp_path.glob("*_posterior.nc")
    asked = (
        f"--draws={draws}",
        *place[1:],
        "--bounds=tau:-1:1",
        "--n_draws=400",
    )
    said = good(run_script(posterior, "population", *asked)).out
    assert "tau: population mean (of its probit between -1 and 1) " in said
    content = only_json(tmp_path, "*_population.json")
    assert content["coordinates"] == {"mu": "identity", "tau": "probit between -1 and 1"}
    low, middle, high = content["population"]["tau"]["further"]["quantiles"].values()
    assert -1 < low < middle < high < 1
    assert len(content["posteriors"]) == 5
    assert all({"mean", "alone"} <= each["mu"].keys() for each in content["posteriors"])
    distribution = next(tmp_path.glob("*_population.pkl"))
    good(run_script(visualize, distribution.with_suffix(".npz")))
    # Members are drawn again under the prior of a new member; the first prior is kept.
    second = (place[0], f"--prior={distribution}", f"--save_dir={tmp_path / '2'}")
    good(run_script(posterior, "sample", *second, f"--observation={tmp_path / 'five.csv'}", *POOL))
    [draws] = (tmp_path / "2").glob("*_posterior.nc")
    again = (
        f"--draws={draws}",
        *second[1:],
        "--n_draws=400",
    )
    good(run_script(posterior, "population", *again))
    more = only_json(tmp_path / "2", "*_population.json")
    assert more["prior"] == content["prior"]
    other = (*asked[:2], f"--save_dir={shelf}")
    refused(run_script(posterior, "population", *other, "--bounds=x:0:"), 2, "mu, tau")
    refused(run_script(posterior, "population", *other, "--bounds=mu:0:"), 1, "'mu' are beyond")


def test_populations_whose_members_have_few_effective_draws_say_how_many_are_needed(caplog):
    worth = torch.full((100,), 2000.0).double()
    worth[11] = 7
    apart = torch.arange(2)[:, None, None].double() + torch.rand(2, 50, 1).double() / 9
    drawn = Population(apart, apart + 1, torch.zeros(2, 50, 100, dtype=torch.int64), worth, 0.6)
    points = torch.arange(20.0)[None, :, None].expand(100, 20, 1).double()
    few = np.ones((2, 50, 1))
    result = SavedPopulation(("a",), few, few, few, np.ones((2, 50, 100, 1)), np.ones((3, 100, 1)))
    of_all = numbers_of(result, drawn, points)["population"]
    with caplog.at_level(logging.INFO):
        hierarchical.report(result, drawn, ["identity"], points, of_all, "prior.pkl")
    said, *_, why = caplog.messages
    assert "a: population mean 1 ± 0, population standard deviation 1 ± 0; a new member" in said
    assert "the smallest effective sample size is 7, of member 12, and an error above 0.3" in why
    assert "with --prior=prior.pkl and 4 times as many --draws" in why
    assert "Chains disagree: R-hat is" in why


def test_models_are_compared(shelf, tmp_path):
    networks = [f"--network={shelf / 'one.pkl'}", f"--network={shelf / 'one.pkl'}"]
    place = ("--prior=uniform", f"--save_dir={tmp_path}", f"--observation={shelf / 'seen.csv'}")
    result = good(run_script(posterior, "compare", *networks, *place, *POOL, "--weights=3,1"))
    assert "Observation 3: one (1)" in result.out
    compared = only_json(tmp_path)
    for one in compared["observations"]:
        assert sum(one["probability"].values()) == pytest.approx(1)
        assert one["probability"]["one (1)"] == pytest.approx(0.75, abs=0.1)
        assert one["mean_errors"]["one (1)"] > 0.1
    assert "include only sampling noise" in compared["errors"]
    assert compared["errors"] in result.out
    assert compared["models"]["one (2)"]["prior_probability"] == 0.25
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.json"]


def test_errors_of_evidences_are_said_to_leave_out_that_likelihoods_are_learned(caplog):
    numbers = np.array([[1.0, 2.0], [1.0, 3.0]])
    shifts = np.array([[0.02, 0.01], [0.13, 0.04]])
    with caplog.at_level(logging.INFO):
        report(
            ModelEvidence(
                names=["one", "two"],
                log_evidence=numbers,
                error=0 * numbers,
                probability=0 * numbers,
                converged=numbers > 0,
                shifts=shifts,
                facts={},
            )
        )
    *_, said = caplog.messages
    assert "only sampling noise. Errors of the learned likelihoods come in addition" in said
    assert "Errors of one may shift the posterior means of observation 2 by 0.13 standard" in said


def test_likelihoods_say_what_they_are_and_find_datasets_again_with_their_trials(shelf):
    assert "of one trial, given mu, tau, t" in good(run_script(info, shelf / "one.pkl")).out
    sample = Model.load(shelf / "one.pkl").posterior(prior="uniform").sample
    assert "no column names: give y, n, t by name" in refusal(sample, np.zeros((2, 3)))
    learned = LearnedLikelihood.of(TrainedNetwork.open(str(shelf / "one.pkl")))
    points, trials = learned.simulations(shelf / "one.npz", 10, 0, ["tau", "mu"])
    rows = np.loadtxt(shelf / "runs.csv", delimiter=",", skiprows=1)
    data = torch.cat([trials.data, trials.covariates], dim=1)
    for point, own in zip(points, data.split(trials.counts.tolist()), strict=True):
        of_point = rows[(rows[:, 1:3] == point.flip(0).numpy()).all(axis=1)]
        assert (own.numpy() == of_point[:, 3:]).all()


def test_likelihoods_are_checked_on_simulations(shelf, tmp_path):
    place = (f"--network={shelf / 'two.pkl'}", f"--prior={shelf / 'prior.pkl'}", "--truth=data")
    data = (f"--data_root={shelf / 'new.npz'}", "--runs=20", f"--save_dir={tmp_path / 'out'}")
    good(run_script(posterior, "check", *place, *data, *POOL))
    content = only_json(tmp_path / "out")
    assert content["question"] == "model"
    # Of parameters between -1 and 1, of which trials tell something.
    assert -log(4) - 0.5 < content["log_density"]["mean"] < 1
    refused(run_script(posterior, "check", *place[:2], *data[2:]), 2, "--data_root=SIMULATIONS")


def test_a_flow_of_posteriors_is_weighted_by_a_likelihood(shelf, tmp_path):
    write_csv(tmp_path / "one.csv", ["t", "y", "n"], np.array([[0.5, 1.0, 3]]))
    draws = ("--draws=500", f"--condition={tmp_path / 'one.csv'}")
    correct = (f"--correct={shelf / 'one.pkl'}", "--prior=uniform")
    network = (f"--network={shelf / 'post.pkl'}", f"--save_dir={tmp_path}")
    good(run_script(posterior, "sample", *network, *draws, *correct))
    corrected = only_json(tmp_path)["posteriors"][0]
    direct = (f"--network={shelf / 'one.pkl'}", "--prior=uniform", f"--save_dir={tmp_path}")
    seen = (f"--observation={tmp_path / 'one.csv'}", "--overwrite", "--draws=500")
    good(run_script(posterior, "sample", *direct, *seen))
    of_likelihood = only_json(tmp_path)["posteriors"][0]
    for name, mean in of_likelihood["mean"].items():
        assert abs(corrected["mean"][name] - mean) < 0.2 * of_likelihood["std"][name]


def test_a_set_of_trials_has_one_posterior(shelf, tmp_path):
    assert "up to 3, of y, n, t" in good(run_script(info, shelf / "sets.pkl")).out
    network = (f"--network={shelf / 'sets.pkl'}", f"--save_dir={tmp_path}", "--overwrite")
    seen, correct = f"--condition={shelf / 'seen.csv'}", f"--correct={shelf / 'one.pkl'}"
    for more in ((), (correct, "--prior=uniform", "--draws=50")):
        result = good(run_script(posterior, "sample", *network, seen, *more))
        assert "3 posterior(s)" in result.out
    for one in only_json(tmp_path)["posteriors"]:
        assert one["statistics"]["effective_size"] > 20
    checked = ("--truth=data", f"--data_root={shelf / 'new.npz'}", "--runs=20")
    good(run_script(posterior, "check", *network, *checked))
    write_csv(tmp_path / "many.csv", ["y", "n", "t"], np.array([[0.1, 2, 0.5]] * 4))
    place = (network[0], f"--save_dir={tmp_path / 'no'}")
    of_many = f"--condition={tmp_path / 'many.csv'}"
    refused(run_script(posterior, "sample", *place, of_many), 1, "4 trials", "more than 3")
    assert not (tmp_path / "no").exists()


def test_trials_of_a_set_multiply(shelf):
    learned = LearnedLikelihood.of(TrainedNetwork.open(str(shelf / "one.pkl")))
    density = learned.log_posterior(learned.prior("uniform"), ["tau", "mu"], torch.arange(3))
    points = torch.tensor([[0.1, 0.5], [0.9, -0.9], [1.1, 0.0]]).double()
    first, second = torch.tensor([[0.5, 3, 0.2]]).double(), torch.tensor([[1.5, 2, 0.9]]).double()
    none = torch.full((1, 3), torch.nan)  # a trial that is not there
    both = density(points, torch.cat([first, second, none], dim=1).expand(3, -1))
    apart = density(points, first.expand(3, -1)) + density(points, second.expand(3, -1))
    # Uniform between -1 and 1 in two dimensions.
    assert both[:2].tolist() == pytest.approx((apart[:2] + log(4)).tolist(), abs=1e-6)
    assert both[2] == -torch.inf


def test_trials_that_do_not_fit_what_was_learned_are_named(shelf, tmp_path, caplog):
    learned = LearnedLikelihood.of(TrainedNetwork.open(str(shelf / "one.pkl")))
    # 135 datasets of two trials: 0.0025 x 270 x 2 / (2 x 4).
    assert learned.most_trials == pytest.approx(0.17, abs=0.03)
    place = (f"--network={shelf / 'one.pkl'}", "--prior=uniform", f"--save_dir={tmp_path}")
    result = run_script(posterior, "sample", *place, f"--observation={shelf / 'seen.csv'}", *POOL)
    said = "posterior means of observation 1 (2 trials) have errors of 0.17 standard deviations or"
    assert said in result.out
    assert f"learned from only {learned.trained_on:,} simulated trials: simulate" in result.out
    assert " 2 more observation(s) are affected." in result.out
    same = Dropped(["c"], torch.ones(1).double(), torch.zeros(1, 2).double())
    given = write_csv(tmp_path / "more.csv", ["c", "y", "n", "t"], np.array([[1, 2, 3, 0.5]] * 4))
    given.write_text(given.read_text() + "5,2,3,0.5\n")
    schema = replace(learned.table.schema, dropped=same, order=["y", "n", "c"])
    replace(learned, table=replace(learned.table, schema=schema)).trials(given)
    assert "'c' is constant in the training data, but not in 1 row(s): row 5 has 5 " in caplog.text


def test_what_is_no_question_of_trials_is_refused(shelf, tmp_path):
    (shelf / "hole.csv").write_text("y,n,t\n0,1,0.5\n1,,0.5\n")
    known = {name: f"--network={shelf / f'{name}.pkl'}" for name in ("one", "two", "prior")}
    known |= {"folder": shelf, "seen": f"--observation={shelf / 'seen.csv'}"}
    for words, code, *parts in (
        ("sample {two} --prior=uniform {seen}", 2, "'tau' does not have", "--bounds=tau:LOW:HIGH"),
        ("sample {one} {seen} --noise_std=1", 2, "is a learned likelihood", "--prior=uniform"),
        ("sample {prior} --prior=uniform {seen}", 2, "needs a learned likelihood"),
        ("sample {one} --prior={folder}/one.pkl {seen}", 2, "conditional on mu, tau, t"),
        ("sample {one} --prior=uniform {seen} --noise_std=1", 2, "--noise_std", "--prior"),
        ("sample {one} --prior=uniform", 2, "--observation", "with one trial per row"),
        ("sample {one} --prior=uniform --observation={folder}/hole.csv", 1, "line 3", "missing"),
        ("calibrate {one} --prior=uniform", 2, "is a learned", "sample, check or compare"),
    ):
        given = words.format(**known).split()
        refused(run_script(posterior, *given, f"--save_dir={tmp_path}", *POOL), code, *parts)


def test_levels_beside_a_number_have_probabilities_and_it_a_law_given_each(tmp_path):
    draw = np.random.default_rng(0)
    theta = draw.uniform(-1, 1, 300).repeat(5)
    choice = draw.uniform(size=1500) < 1 / (1 + np.exp(-3 * theta))
    y = theta + 3 * choice + 0.5 * draw.normal(size=1500)
    rows = np.column_stack([np.arange(1500) // 5, theta, y, choice])
    source = write_csv(tmp_path / "runs.csv", ["id", "theta", "y", "choice"], rows)
    making = (f"--source={source}", "--dataset=id", "--conditions=y,choice", "--bounds=theta:-1:1")
    good(run_script(dataset_tool, *making, f"--dest={tmp_path / 'runs.npz'}"))
    few = mock.patch("training.learning.gaussian_start.STEPS", 60)
    with few, mock.patch("training.subjects.table_training.LEAST_GAIN", 100.0):
        data = (f"--data={tmp_path / 'runs.npz'}", "--likelihood")
        with in_coordinates(linear_start="gaussian"):
            trained(tmp_path / "run", train, *data, *SMALL)
    network = network_file(tmp_path / "run")
    assert "choice, by their probabilities" in good(run_script(info, network)).out
    learned = LearnedLikelihood.of(TrainedNetwork.open(str(network)))
    assert (learned.data, list(learned.covariates)) == (["y", "choice"], [])
    places = torch.linspace(-4, 7, 1101).double()
    for parameter in (-0.6, 0.0, 0.6):
        of_level, means = [], []
        for level in (0.0, 1.0):
            trials = torch.stack([places, torch.full_like(places, level)], dim=1)
            given = torch.full_like(places, parameter)[:, None]
            density = learned.distribution.log_prob(trials, given[:, :0], given).exp() * 0.01
            of_level.append(float(density.sum()))
            means.append(float((density * places).sum() / density.sum()))
        assert sum(of_level) == pytest.approx(1, abs=1e-3)
        assert of_level[1] == pytest.approx(1 / (1 + np.exp(-3 * parameter)), abs=0.07)
        assert means == pytest.approx([parameter, parameter + 3], abs=0.15)
    (tmp_path / "seen.csv").write_text("y,choice\n3.1,1\n0.2,0\n")
    place = (f"--network={network}", "--prior=uniform", f"--save_dir={tmp_path / 'out'}", *POOL)
    good(run_script(posterior, "sample", *place, f"--observation={tmp_path / 'seen.csv'}"))
    (tmp_path / "wrong.csv").write_text("y,choice\n3.1,2\n")
    wrong = f"--observation={tmp_path / 'wrong.csv'}"
    refused(run_script(posterior, "sample", *place, wrong, "--overwrite"), 1, "'choice' = 2")


def test_learning_likelihoods_refuses_others(shelf, houses, tmp_path):
    place = (f"--data={shelf / 'one.npz'}", f"--outdir={tmp_path}", "-n", "--likelihood")
    assert "ignoring y, n, t: --cond" in good(run_script(train, *place[:3])).out
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
