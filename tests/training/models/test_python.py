"""What Python offers: trainings as by the scripts, and models that are asked."""

import logging
import os
import re
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pandas
import pytest
import torch
import xarray
from scipy import stats
from sklearn.base import clone

import dataset_tool
import posterior
import toy_train
import train
from dnnlib.errors import DataError, InflationError, UsageError
from dnnlib.logs import logger
from dnnlib.warned import InflationWarning
from tests.support.image_models import save_image_model
from tests.support.running import in_coordinates, quick_endings, refusal, run_script
from training import (
    Answers,
    FlowClassifier,
    FlowRegressor,
    Images,
    Model,
    SbiPosterior,
    Simulations,
    Table,
    Toy,
    calibrate,
    check,
)
from training.files.posterior_draws import load_netcdf
from training.flow.likelihood import Density
from training.flow.pfode import ProbabilityFlow
from training.learning.run import StoppedBySignal
from training.models import conversion, datasets
from training.models.adapters import _Estimator
from training.models.draws import PosteriorDraws
from training.models.reports import warn_if_longer

SHORT = {"duration": 0.004, "batch": 256, "seed": 3}
SHORT |= {"calibrate": False}
FEW = {"duration": 0.0004, "width": 8, "depth": 1, "batch": 100}
ROWS = np.random.default_rng(0).normal(size=(60, 3)) @ [[1, 1, 0], [0, 1, 0], [0, 0, 3.0]]
NAMES = ["a", "b", "c"]
TYPED = Table.open(pandas.DataFrame({"kind": ["a", "b"] * 10, "size": np.arange(20.0) ** 2}))


def only_network(folder):
    (path,) = folder.glob("*/network-snapshot-*.pkl")
    return path.read_bytes()


def arguments(**options):
    named = {name: value for name, value in options.items() if name != "calibrate"}
    off = ["--no-calibrate"] * ("calibrate" in options)
    return [*off, *(f"--{name}={value}" for name, value in named.items())]


@quick_endings()
def test_toys_give_the_bytes_of_the_script_and_leave_random_numbers_alone(tmp_path):
    torch.manual_seed(5)
    state, handlers, parts = torch.get_rng_state(), list(logger.handlers), list[float]()
    model = Toy("circles").train(tmp_path / "here", parts.append, dims_to_keep=1, **SHORT)
    assert torch.equal(torch.get_rng_state(), state)
    assert logger.handlers == handlers
    assert parts[-1] == 1
    options = arguments(data_name="circles", dims_to_keep=1, outdir=tmp_path / "there", **SHORT)
    run_script(toy_train, *options)
    assert only_network(tmp_path / "here") == only_network(tmp_path / "there")
    model.save(tmp_path / "again.pkl")
    assert (tmp_path / "again.pkl").read_bytes() == only_network(tmp_path / "there")


@quick_endings()
@pytest.mark.parametrize("way", ["at once", "after a step", "terminated"])
def test_an_interrupted_training_gives_what_there_is(way, caplog):
    def stop(part):
        if part >= 0.1 and way == "at once":
            raise KeyboardInterrupt
        if part >= 0.1:
            os.kill(os.getpid(), signal.SIGTERM if way == "terminated" else signal.SIGINT)

    longer = {**SHORT, "duration": 0.04, "width": 8, "depth": 1, "marginals": "none"}
    table = Table.open(np.random.default_rng(0).normal(size=(60, 2)))
    if way == "terminated":
        with pytest.raises(StoppedBySignal, match="SIGTERM"):
            table.train(progress=stop, **longer)
        return
    # With a network kept at each report, the model has the weights of the last step all the same.
    with mock.patch("training.learning.run.TELL_EVERY", -1.0):
        model = table.train(progress=stop, snap=1, tick=1, **longer)
    assert 0 < model.about["seen"] < 40_000
    assert f"trained on {model.about['seen']:,} samples" in caplog.text
    with pytest.raises(UsageError, match="in memory cannot be resumed"):
        Table.open(np.zeros((20, 2)) + np.arange(20.0)[:, None]).train(resume="elsewhere")


def test_what_comes_before_the_first_step_does_not_lengthen_the_estimate(monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with datasets._shown(True) as tell:
        now[0] += 10  # to choose a space
        for step in range(1, 6):
            tell(0.02 * step)
            now[0] += 0.4  # 20 s in all
    estimates = re.findall(r"< (\d\d):(\d\d)", capsys.readouterr().err)
    seconds = [60 * int(minutes) + int(rest) for minutes, rest in estimates]
    assert seconds
    assert all(9 < each < 40 for each in seconds)


@quick_endings()
def test_a_training_goes_on_with_the_options_of_its_run(tmp_path):
    first = Toy("circles").train(tmp_path, **{**SHORT, "duration": 0.002})
    (run,) = tmp_path.iterdir()
    model = Toy("circles").train(resume=run, duration=SHORT["duration"])
    assert (first.about["seen"], model.about["seen"]) == (2048, 4096)


def test_tables_of_files_arrays_and_frames_train_as_with_the_script(tmp_path):
    values = np.random.default_rng(0).normal(size=(300, 2)).round(5)
    source, names = tmp_path / "my rows.csv", ["a", "b"]
    np.savetxt(source, values, delimiter=",", header="a,b", comments="", fmt="%.5f")
    of_file = Table.open(source, conditions=["b"])
    assert repr(of_file) == "Table('my rows', 300 rows of a given b)"
    for other in (
        Table.open(values, columns=names, conditions=["b"], name="rows"),
        Table.open(pandas.DataFrame(values, columns=names), conditions=["b"], name="rows"),
    ):
        np.testing.assert_array_equal(other.rows.values, of_file.rows.values)
        np.testing.assert_array_equal(other.rows.conditions, of_file.rows.conditions)
    trained = of_file.train(tmp_path / "here", **SHORT)
    assert trained.integrations
    assert trained.columns == ["a"]
    data = tmp_path / "my rows.npz"
    run_script(dataset_tool, *arguments(source=source, dest=data, conditions="b"))
    options = arguments(data=data, outdir=tmp_path / "there", **SHORT)
    run_script(train, "--cond", *options, whole=True)
    assert only_network(tmp_path / "here") == only_network(tmp_path / "there")
    assert Table.open(data).columns == ["a"]
    for choice in ({"columns": names}, {"conditions": ["a"]}, {"missing": "drop"}, {"held_out": 0}):
        why = refusal(Table.open, data, kind=UsageError, **choice)
        assert why.startswith(f"{next(iter(choice))} is an option for making data sets")


def test_what_cannot_be_trained_is_said_in_a_sentence(tmp_path):
    toy = Toy("circles")
    for options, words in (
        ({"sead": 1}, "no option 'sead': is 'seed' meant"),
        ({"data_name": "moons"}, "no option 'data_name'"),
        ({"lr": -1}, "lr.*-1 is not a number above 0"),
        ({"lr": [1, 2]}, "'lr': \\[1, 2\\]"),
        ({"dry_run": True}, "a dry run"),
    ):
        with pytest.raises(UsageError, match=words):
            toy.train(**options)
    for source, error, words in (
        (np.zeros(3), DataError, r"shape \[3\]: give rows"),
        (np.array([["x", "y"]]), DataError, "give only numbers"),
        (np.ones((30, 2), complex), DataError, "give only numbers"),
        (np.ma.masked_less(np.eye(30), 0.5), DataError, "only constants"),
        (pandas.DataFrame({"a": pandas.array([None, 1], "Int64")}), DataError, "2 rows"),
        (tmp_path / "none.csv", DataError, "none.csv"),
    ):
        with pytest.raises(error, match=words):
            Table.open(source)
    with pytest.raises(UsageError, match="columns has 1 names, but table has 2 columns"):
        Table.open(np.zeros((30, 2)), columns=["a"])
    frame = pandas.DataFrame(np.eye(30))
    for what, options in (
        (Table, {"missing": "kep"}),
        (Table, {"held_out": -1}),
        (Table, {"seed": 1.5}),
        (Table, {"bounds": {"0": 5}}),
        (Table, {"missing_values": "-9"}),
        (Table, {"types": ["0"]}),
        (Table, {"name": ""}),
        (Table, {"name": "my table"}),
        (Table, {"name": None}),
    ):
        assert next(iter(options)) in refusal(what.open, frame, kind=UsageError, **options)
    assert Table.open(frame, columns=[0, 1], held_out=0).columns == ["0", "1"]
    both = pandas.DataFrame({name: [0, 1, 2, 0.5] * 10 for name in ("ab", "a", "b")})
    assert Table.open(both, columns="ab").columns == ["ab"]
    assert "none" in refusal(Images.open, tmp_path / "none.zip")
    assert "ndarray: give a zip" in refusal(Images.open, np.zeros((9, 8, 8)))


@quick_endings()
def test_a_table_is_trained_on_as_its_cells_require_and_why_is_logged(tmp_path, caplog):
    frame, few = pandas.DataFrame(ROWS, columns=NAMES), {**FEW, "batch": 32, "width": 16}
    with caplog.at_level(logging.INFO):
        assert isinstance(Table.open(frame).train(**few), Model)
        assert "since all cells are numbers" in caplog.text
        assert isinstance(Table.open(frame).train(any=True, **few), Answers)
        assert "(the options ask for it)" in caplog.text
        holes = frame.mask(np.random.default_rng(0).random(frame.shape) < 0.1)
        table = Table.open(holes)
        assert isinstance(table.train(**few), Answers)
        assert f"({table.why})" in caplog.text
    assert table.why.endswith("the value is missing (nan)")
    table.save(tmp_path / "holes.npz")
    again = Table.open(tmp_path / "holes.npz")
    np.testing.assert_array_equal(again.rows.values, table.rows.values)
    words = Table.open(frame.assign(garden=["yes", "no"] * (len(frame) // 2)))
    assert words.why == "table: column 'garden' has other values than numbers"
    refused = refusal(Table.open, holes, conditions=NAMES[:1], kind=UsageError)
    assert "conditions is for tables of numbers without missing values" in refused
    assert "missing" in refusal(Table.open, holes, missing="refuse")


@pytest.fixture(scope="module")
@quick_endings()
def model():
    return Table.open(pandas.DataFrame(ROWS, columns=NAMES)).train(**FEW)


@pytest.fixture(scope="module")
@quick_endings()
def conditional():
    parameters = np.random.default_rng(1).uniform(-1, 1, (200, 2))
    data = parameters + 0.3 * np.random.default_rng(2).normal(size=(200, 2))
    return Simulations(parameters, data).train(**FEW)


@quick_endings()
def test_rows_come_back_in_their_kind_and_columns_are_found_by_name(model):
    frame = pandas.DataFrame(ROWS, columns=NAMES)
    drawn = model.sample(5, seed=1)
    assert isinstance(drawn, pandas.DataFrame)
    assert list(drawn.columns) == model.columns == NAMES
    pandas.testing.assert_frame_equal(drawn, model.sample(5, seed=1))
    expected = model.log_prob(frame)
    with_errors = model.log_prob_with_error(frame)
    np.testing.assert_array_equal(with_errors, [expected, np.zeros(len(expected))])
    for rows in (frame[["c", "a", "b"]], ROWS, torch.from_numpy(ROWS), dict(frame)):
        np.testing.assert_array_equal(model.log_prob(rows), expected)
    of_one = model.log_prob(frame[["c", "a", "b"]].iloc[0])
    np.testing.assert_allclose(of_one, expected[:1], err_msg="a row by pandas has names too")
    back = model.decode(model.encode(frame))
    np.testing.assert_allclose(back.to_numpy(), ROWS, atol=1e-4)
    tensors = Table.open(torch.from_numpy(ROWS)).train(**FEW)
    assert isinstance(tensors.sample(2), torch.Tensor)


def test_posteriors_are_those_of_the_command(model, tmp_path):
    few = {"draws": 20, "seed": 3, "n_iters": 2}
    with quick_endings():
        draws = model.posterior(noise_std=0.5).sample({"b": [0.4, 1.0], "a": [0.1, 0.0]}, **few)
    model.save(tmp_path / "network.pkl")
    (tmp_path / "seen.csv").write_text("b,a\n0.4,0.1\n1.0,0.0\n")
    options = [f"--{name}={value}" for name, value in few.items()]
    place = (f"--save_dir={tmp_path}", f"--observation={tmp_path / 'seen.csv'}")
    what = ("--likelihood=mask", "--mask=b,a", "--noise_std=0.5")
    network = f"--network={tmp_path / 'network.pkl'}"
    run_script(posterior, "sample", network, *place, *what, *options)
    (path,) = tmp_path.glob("*.nc")
    saved = load_netcdf(path, 2).points
    np.testing.assert_array_equal(draws.points, np.moveaxis(saved, 2, 0).reshape(2, -1, 3))
    labeled = draws.groups["posterior"]["b"]
    assert labeled.dims == ("chain", "draw", "observation")
    np.testing.assert_array_equal(labeled, saved[..., NAMES.index("b")])
    table = draws.summary()
    assert list(table["name"]) == NAMES * 2
    np.testing.assert_allclose(table["mean"], draws.points.mean(axis=1).ravel(), rtol=1e-6)
    most = pandas.get_option("display.max_columns")
    printed = str(table)
    assert all(column in printed for column in table.columns)
    assert "..." not in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert pandas.get_option("display.max_columns") == most
    assert list(draws.rows(1).columns) == NAMES
    draws.save(tmp_path / "copy.nc")
    for again in (PosteriorDraws.load(each, model) for each in (tmp_path / "copy.nc", path)):
        pandas.testing.assert_frame_equal(again.summary(), table)
        np.testing.assert_array_equal(again.points, draws.points)
    assert "ends in .nc" in refusal(draws.save, tmp_path / "copy.pkl", kind=UsageError)
    (tmp_path / "copy.json").write_text("{}")
    assert "not contain the number of o" in refusal(
        PosteriorDraws.load, tmp_path / "copy.nc", model
    )


def test_an_operator_is_a_matrix_or_a_pair_of_functions(model):
    few = {"draws": 20, "sampler": "pool", "n_iters": 2}

    def total(x):
        return x.sum(dim=1, keepdim=True)

    def spread(y):
        return y.expand(-1, 3)

    pair, matrix = (
        model.posterior(noise_std=0.5, likelihood="linear", operator=each).sample([[0.7]], **few)
        for each in ((total, spread), np.ones((1, 3)))
    )
    np.testing.assert_array_equal(pair.points, matrix.points)
    wrong = (total, lambda y: 2 * spread(y))
    assert "linear and adjoint" in refusal(model.posterior, noise_std=0.5, operator=wrong)


def test_a_likelihood_of_your_own_takes_no_observation(model, tmp_path):
    (tmp_path / "mine.py").write_text("def near(x):\n    return -x.square().sum(dim=1)\n")
    few = {"draws": 20, "n_iters": 2, "sampler": "pool"}
    own = model.posterior(likelihood=f"{tmp_path / 'mine.py'}:near", **few)
    draws = own.sample().points
    assert draws.shape == (1, 20, 3)
    np.testing.assert_array_equal(own.sample(None).points, draws)
    assert own.latent_density()(torch.zeros(3)).shape == ()
    for observed in ([], {}, {"a": 1.0}):
        assert "leave the observation out" in refusal(own.sample, observed, kind=UsageError)
    gaussian = model.posterior(noise_std=0.5, **few)
    assert "no observation is given" in refusal(gaussian.sample, kind=UsageError)


@quick_endings()
@mock.patch("training.subjects.table_training.MOST_STEPS", 5000)
def test_the_end_of_flows_of_few_simulations_is_chosen_by_held_out_rows(caplog):
    draw = np.random.default_rng(0)
    theta = draw.uniform(-1, 1, size=(200, 1))
    data = np.sign(draw.normal(size=theta.shape)) * theta + 0.1 * draw.normal(size=theta.shape)
    simulations, options = Simulations(theta, data), {"width": 16, "duration": 0.02}
    model = simulations.train(**options)
    (line,) = [line for line in caplog.messages if line.startswith("End time")]
    end, first, last, second, _ = map(float, re.findall(r"-?\d+\.\d+", line))
    assert last > end - 0.01 or second > first
    assert model.flow.end_time == pytest.approx(end, abs=0.01)
    assert np.isfinite(model.log_prob(theta[:5], given=data[:5])).all()
    caplog.clear()
    assert simulations.train(**options, tmax=9.0).flow.end_time == 9
    assert not [line for line in caplog.messages if line.startswith("End time")]


@pytest.mark.parametrize("bounded", ["reject", "map"])
def test_the_density_of_a_posterior_is_that_of_its_draws(bounded, tmp_path):
    random = np.random.default_rng(0)
    theta = random.uniform(-1, 1, size=(400, 1))
    data = theta + 0.2 * random.normal(size=theta.shape)
    fixed = {"bounded": bounded, "tmax": 11.0, "width": 16}
    with quick_endings():
        simulations = Simulations(theta, data, bounds={"theta1": (-1, 1)})
        model = simulations.train(duration=0.02, **fixed)
    edges, size = np.linspace(-1, 1, 41), 2 / 400
    grid = np.arange(-1 + size / 2, 1, size)
    for seen in (0.0, 0.95):
        density = np.exp(model.log_prob(grid[:, None], given=[seen]))
        cells = np.histogram(grid, edges, weights=density * size)[0]
        assert cells.sum() == pytest.approx(1, abs=0.02)
        draws = model.posterior(log_prob=False).sample([seen], draws=4000).points
        found = np.histogram(draws, edges)[0] / draws.size
        assert np.abs(found - cells).sum() / 2 < 0.06  # chance is up to 0.04
    both = [[0.9], [1.1], [-3.0]]
    assert np.isneginf(model.log_prob(both, given=[0.95])).tolist() == [False, True, True]
    each = model.log_prob([[0.9], [0.5]], given=[[0.95], [0.4]])
    np.testing.assert_allclose(each[0], model.log_prob([[0.9]], given=[0.95])[0], atol=1e-6)
    file = tmp_path / "mine.py"
    file.write_text("def f(theta, y):\n    return -200 * (theta[:, 0] - y[:, 0] + 0.1) ** 2\n")
    weighted = model.posterior(correct=f"{file}:f")
    exact = stats.norm(0.85, 0.05)
    logs = weighted.log_prob([[0.8], [0.9], [1.1]], [0.95])
    expected = [*exact.logpdf([0.8, 0.9]) - exact.logcdf(1), -np.inf]
    np.testing.assert_allclose(logs, expected, atol=0.1)
    assert "latent_density" in refusal(weighted.density, [0.95], kind=UsageError)


def test_latent_densities_have_the_gradients_of_the_posterior(model):
    density = model.posterior(noise_std=0.5, n_iters=4).latent_density({"b": 0.4})
    w = (0.5 * torch.randn(3, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(density, (w,), eps=1e-2, atol=1e-2, rtol=2e-2)
    seen = density.points(w.detach())[:, 1]
    expected = -0.5 * ((seen - 0.4) / 0.5) ** 2 - 0.5 * np.square(w.detach().numpy()).sum(axis=1)
    constant = density(w).detach().numpy() - expected
    np.testing.assert_allclose(constant, constant[0], atol=1e-6)


def test_draws_given_one_row_do_not_depend_on_the_other_rows_of_a_call(conditional, monkeypatch):
    given = np.linspace([-1, 1], [1, -1], 6)
    whole = conditional.sample(7, seed=3, given=given)
    assert whole.shape == (42, 2)
    assert len(np.unique(whole, axis=0)) == 42
    monkeypatch.setattr("training.models.model.MOST_DRAWS", 14)
    np.testing.assert_array_equal(conditional.sample(7, seed=3, given=given[:4]), whole[:28])
    assert conditional.sample(7, given=given[:0]).shape == (0, 2)
    assert conditional.sample(0, given=given).shape == (0, 2)


def test_posteriors_under_another_prior_are_reweighted_and_told_if_they_cannot_be(conditional):
    posterior, seen = conditional.posterior(log_prob=False), [[0.1, 0.2], [9.0, 9.0]]
    priors = [{"theta1": stats.norm(0, std), "theta2": stats.norm(0, std)} for std in (1, 3)]
    [one, far] = posterior.diagnose(seen, *priors, draws=500)
    points = posterior.sample(seen, draws=500).points[0]
    weights = np.exp(-np.square(points).sum(axis=1) * (1 - 1 / 9) / 2)
    expected = weights @ points / weights.sum()
    told = [one["parameters"][name] for name in ("theta1", "theta2")]
    assert [each["other_mean"] for each in told] == pytest.approx(expected.tolist(), abs=0.01)
    assert [each["mean"] for each in told] == pytest.approx(points.mean(axis=0).tolist())
    assert told[0]["shift"] == (told[0]["other_mean"] - told[0]["mean"]) / told[0]["std"]
    assert (one["reliable"], one["unlike"], far["unlike"]) == (True, False, True)
    narrow = {"theta1": stats.norm(5, 0.01), "theta2": stats.norm(5, 0.01)}
    assert not posterior.diagnose(seen[:1], narrow, priors[1], draws=500)[0]["reliable"]
    assert "give it as before=" in refusal(posterior.diagnose, seen, narrow, kind=UsageError)


def test_what_a_simulator_gave_is_parameters_given_data(conditional):
    assert (conditional.columns, conditional.conditions) == (["theta1", "theta2"], ["y1", "y2"])
    draws = conditional.posterior().sample([[0.1, 0.2], [0.3, 0.4]], draws=30)
    assert draws.points.shape == (2, 30, 2)
    assert conditional.sample(1, given={"y2": 0.2, "y1": 0.1}).shape == (1, 2)
    rows = {"theta1": [0.1], "theta2": [0.2], "y1": [0.0], "y2": [0.3]}
    expected = conditional.log_prob([[0.1, 0.2]], given=[0.0, 0.3])
    np.testing.assert_array_equal(conditional.log_prob(rows), expected)
    several = SbiPosterior(conditional).sample_batched((3, 4), torch.zeros(5, 2))
    alone = SbiPosterior(conditional).set_default_x([0.0, 0.3])
    assert (several.shape, alone.sample().shape) == ((3, 4, 5, 2), (2,))
    torch.testing.assert_close(alone.log_prob([[0.1, 0.2]]).numpy(), np.float32(expected))
    parameters = np.random.default_rng(3).uniform(-1, 1, (60, 2))
    design = Simulations(parameters, parameters[:, ::-1], covariates=["y1"]).rows
    assert (design.condition_names, list(design.covariates)) == (["y1", "y2"], ["y1"])
    np.testing.assert_array_equal(design.conditions, parameters[:, ::-1])
    truths = Simulations(parameters, parameters, held_out=0.5)
    assert "runs at level" in conditional.check(truths, runs=20, draws=5)["verdict"]


@quick_endings()
def test_a_learned_likelihood_corrects_posteriors_if_the_prior_is_known(caplog):
    random = np.random.default_rng(0)
    theta = random.uniform(-1, 1, size=(600, 1))
    data = np.concatenate([theta, theta**2], axis=1) + 0.2 * random.normal(size=(600, 2))
    bounds = {"theta1": (-1, 1)}
    options = {**FEW, "bounded": "map"}
    with (
        mock.patch("training.subjects.table_spaces.FEW_STEPS", 20),
        mock.patch("training.models.model.MOST_COMPARED", 20),
        caplog.at_level("INFO"),
    ):
        posterior = Simulations(theta, data, bounds=bounds).posterior(**options)
    with mock.patch.object(Simulations, "train", return_value=posterior.model):
        plain = Simulations(theta, data, bounds=bounds).posterior(fast=True)
        Simulations(theta, data).posterior()
    assert "they are used" in caplog.text
    assert not plain.options
    assert "the prior is unknown, so give Simulations(..., prior=...)" in caplog.text
    grid = np.linspace(-0.999, 0.999, 1000)
    seen = np.array([[0.5, 0.3]])
    far = np.square(grid - 0.5) + np.square(grid**2 - 0.3)
    exact = np.exp(-far / 0.08)
    density = np.exp(posterior.log_prob(grid[:, None], seen))
    exact *= density.sum() / exact.sum()
    assert density.sum() * 0.002 == pytest.approx(1, abs=0.03)
    assert np.abs(density - exact).sum() / density.sum() / 2 < 0.1
    draws = posterior.sample(seen)
    found = np.histogram(draws.points, 20, (-1, 1))[0] / draws.points.size
    assert np.abs(found - 0.002 * density.reshape(20, -1).sum(axis=1)).sum() / 2 < 0.06
    assert draws.facts["posteriors"][0]["statistics"]["shift"].keys() == {"theta1"}
    checked = Simulations(theta[:100], data[:100], bounds=bounds, held_out=0)
    assert "runs at level" in posterior.check(checked, runs=50)["verdict"]


@in_coordinates(linear_start="on")
def test_trials_are_multiplied_and_models_compared():
    draw, dataset = np.random.default_rng(0), np.repeat(np.arange(80), 4)
    parameters = draw.uniform(-1, 1, 80)[dataset]
    data = parameters + draw.normal(0, 0.5, 320)
    prior = {"theta1": stats.uniform(-1, 2)}
    simulations = Simulations(parameters, data, None, dataset, held_out=0.5, prior=prior)
    model = simulations.train(likelihood=True, **FEW)
    assert (model.columns, model.conditions, model.covariates) == (["y1"], ["theta1"], [])
    assert model.sample(3, given=[0.2]).shape == (3, 1)
    trials = np.array([[0.3], [0.5], [-0.1], [0.2]])
    posterior = model.posterior(prior="uniform")
    few = {"draws": 400, "sampler": "pool"}
    draws = posterior.sample(trials, **few).points[0]
    assert draws.mean() == pytest.approx(trials.mean(), abs=0.1)
    assert draws.std() == pytest.approx(0.5 / 2, rel=0.3)
    stated = model.posterior().sample(trials, **few).points[0]  # its prior is in the model
    np.testing.assert_allclose(stated, draws, atol=1e-6)
    far = model.posterior(prior={"theta1": stats.norm(0, 9)}, **few)
    compared = far.compare([posterior], trials)
    assert np.diff(compared.log_evidence[0]) == pytest.approx(2.4, abs=0.4)
    assert "runs at" in posterior.check(simulations, runs=20, **few | {"draws": 20})["verdict"]
    four = {"dataset": [1, 2, 3, 4], "y1": [0.3, 0.5, -0.1, 0.2]}
    common = posterior.sample(four, **few).population(n_draws=400)
    assert common.summary()["mean"][0] == pytest.approx(0.2, abs=0.2)
    sets = simulations.train(marginals="none", cond_shape="set:1", **FEW)
    own = sets.posterior(correct=model, prior="uniform").sample({"y1": trials[:, 0]}, draws=2000)
    assert own.points.mean() == pytest.approx(draws.mean(), abs=0.1)
    own, distribution = sets.posterior(log_prob=False).sample(four, draws=10), far.options["prior"]
    known = own.population(distribution, n_draws=400).facts["prior"]["theta1"]["std"]
    got = [known, len(own.points), *sets.sample(3, given=trials).shape]
    assert got == pytest.approx([9, 4, 3, 1], rel=0.1)


def test_what_sbi_trains_does_not_depend_on_units():
    theta, x = torch.randn(50, 2), torch.randn(50, 3)
    one, other = (_Estimator(k * theta, x, 1e-3, {"width": 8, "depth": 1}) for k in (1, 1000))
    assert one.loss(theta, x).shape == (50,)
    assert one.sample(torch.Size([4]), x[:3]).shape == (4, 3, 2)
    density = one.log_prob(theta[None], x) - other.log_prob(1000 * theta[None], x)
    torch.testing.assert_close(density, torch.full((1, 50), 2 * np.log(1000.0)).float())


@quick_endings()
def test_discrete_columns_have_the_density_of_their_step():
    counts = np.random.default_rng(0).integers(0, 6, (200, 1))
    model = Simulations(counts, counts + ROWS[:1, :1]).train(**FEW)
    alone = model.log_prob([[2]], given=[2.1])
    each = model.log_prob([[2.2], [3]], given=[[2.1], [3.3]])
    assert each[0] == pytest.approx(alone[0], abs=1e-6)
    whole = model.sample(3, given=[2.1]).ravel()
    assert whole == pytest.approx(np.rint(whole))


def test_work_on_the_cpu_does_not_start_cuda(monkeypatch):
    def start(*_):
        raise AssertionError("CUDA was started")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", start)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with conversion.left_alone():
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_names_of_columns_may_have_commas_and_signs():
    names = ["price, EUR", "-logL", '+1y "real"']
    model = Table.open(pandas.DataFrame(ROWS, columns=names)).train(**FEW)
    few = {"noise_std": 0.5, "draws": 40, "sampler": "pool"}
    seen = model.posterior(**few).sample({"price, EUR": 0.5, "-logL": 0.1})
    assert seen.facts["options"]["mask"] == '"price, EUR",-logL'
    masked = model.posterior(mask=["price, EUR"], **few).sample([[0.5]])
    assert list(masked.rows().columns) == names
    for name in ("=a", "@a", "+cmd|' /C calc'!A0", "-HYPERLINK(a)"):
        with pytest.raises(DataError, match="formula"):
            Table.open(pandas.DataFrame({name: [0.0, 1.0], "b": [1.0, 2.0]}))


@quick_endings()
@pytest.mark.parametrize("kind", ["numpy", "torch", "xarray"])
def test_saved_models_return_rows_of_the_kind_that_they_were_trained_on(tmp_path, kind):
    rows = {"numpy": ROWS, "torch": torch.from_numpy(ROWS)}.get(kind)
    rows = xarray.DataArray(ROWS) if rows is None else rows
    expected = torch.Tensor if kind == "torch" else np.ndarray
    model = Table.open(rows).train(tmp_path / "run", **FEW)
    model.save(tmp_path / "saved.pkl")
    (network,) = tmp_path.glob("run/*/network-snapshot-*.pkl")
    for one in (model, Model.load(tmp_path / "saved.pkl"), Model.load(network)):
        assert type(one.sample(2)) is expected
    assert pandas.DataFrame is not type(model.sample(1))
    one.about["row_package"] = "antigravity"  # names in files import nothing
    assert type(one.sample(2)) is np.ndarray
    assert "antigravity" not in sys.modules


def test_conditions_of_images_may_be_vectors(tmp_path):
    save_image_model(tmp_path / "a.pkl", 10, label_dim=3, output="random", t_max=3.0)
    model = Model.load(tmp_path / "a.pkl")
    model.about["vectors"] = True
    vectors = np.array([[0.5, -1.0, 2.0], [0.1, 0.2, 0.3]])
    latents = np.zeros((2, 64))
    expected = (model.flow.given(labels=vectors).decode(latents) + 1) * 127.5
    np.testing.assert_allclose(model.decode(latents, given=vectors).reshape(2, 64), expected)
    assert model.sample(2, given=vectors[0]).shape == model.sample(2, given=vectors).shape
    for wrong in (2, [0, 1], "a", [np.nan] * 3):
        assert "give vectors of 3 numbers" in refusal(model.sample, 2, given=wrong, kind=UsageError)
    assert "vectors of 3 numbers" in refusal(model.sample, 2, kind=UsageError)


def test_images_of_classes_are_images(tmp_path, monkeypatch):
    save_image_model(tmp_path / "a.pkl", 10, label_dim=3, output="random", t_max=3.0)
    model = Model.load(tmp_path / "a.pkl")
    images = model.sample(2, given=[0, 1])
    assert images.shape == model.sample(2).shape == (2, 1, 8, 8)
    back = model.decode(model.encode(images, given=[0, 1]), given=[0, 1])
    np.testing.assert_allclose(back, images, atol=1e-3)
    assert "give classes 0 to 2" in refusal(model.sample, 2, given=7, kind=InflationError)
    levels = (model.flow.given(labels=np.eye(3)[:2]).decode(np.zeros((2, 64))) + 1) * 127.5
    flat = model.decode(np.zeros((2, 64)), given=[0, 1]).reshape(2, 64)
    np.testing.assert_allclose(flat, levels)

    def sums(self, points):
        return Density(points.sum(dim=1), torch.ones(len(points)))

    monkeypatch.setattr(ProbabilityFlow, "log_prob_with_error", sums)
    inner = (images.reshape(2, 64) / 127.5 - 1).sum(axis=1)
    np.testing.assert_allclose(model.log_prob(images, given=[0, 1]), inner - 64 * np.log(127.5))


def test_posteriors_of_images_are_in_gray_levels_as_images_are(tmp_path, caplog):
    save_image_model(tmp_path / "a.pkl", 64, t_max=3.0)
    model = Model.load(tmp_path / "a.pkl")
    image, seen = model.sample(1), np.arange(64).reshape(1, 8, 8) % 60 == 3
    few = {"noise_std": 10.0, "draws": 40, "sampler": "pool"}
    masked = model.posterior(mask=seen, **few).sample(image).rows()
    assert masked.shape == (40, 1, 8, 8)
    assert np.abs(masked - image)[:, seen].mean() < 20
    for values, unlike in ((image, False), ((image / 127.5 - 1).clip(-1, 1), True)):
        np.save(tmp_path / "seen.npy", values.reshape(1, 64))
        model.subject.points(tmp_path / "seen.npy")
        assert ("no value outside -1 to 1:" in caplog.text) == unlike
    rows = np.ones((1, 64))
    total = model.posterior(likelihood="linear", operator=rows, **few).sample([image.sum()])
    assert np.abs(total.points.sum(axis=2) - image.sum()).mean() < 50
    # The same operator as a pair of functions of images [..., C, H, W].
    pair = (
        lambda x: x.sum(dim=(-3, -2, -1)).unsqueeze(-1),
        lambda y: y[..., None, None].expand(*y.shape[:-1], 1, 8, 8),
    )
    same = model.posterior(operator=pair, **few).sample([image.sum()])
    assert np.array_equal(same.points, total.points)


def test_mistakes_are_sentences(model, conditional):
    for call, message in (
        (lambda one, other: one.log_prob({"a": [1]}), "no column 'b': give a, b, c"),
        (lambda one, other: one.log_prob(pandas.DataFrame(ROWS, columns=[*"aab"])), "columns 'a'"),
        (lambda one, other: one.log_prob(ROWS[:, :2]), "2 columns: give a, b, c in this order"),
        (lambda one, other: one.encode([[1, 2, 3], [1, np.nan, 3]]), "row 2, column 'b': the"),
        (lambda one, other: one.log_prob({"a": [1], "b": [1, 2]}), "give equally long"),
        (lambda one, other: one.sample(3, given=[1]), "the model is not conditional: leave"),
        (lambda one, other: other.sample(-1, given=[0, 0]), "count is -1: give a whole number"),
        (lambda one, other: one.flow.sample(2.5), "count is 2.5: give a whole number"),
        (lambda one, other: one.sample(3, seed="x"), "seed is 'x': give a whole number"),
        (lambda one, other: other.sample(3), "is conditional: give y1, y2"),
        (lambda one, other: one.posterior(noise=1).sample([0, 0, 0]), "no option 'noise'"),
        (lambda one, other: one.posterior(noise_std=1).sample({"d": 1}), "^the observation has a"),
        (lambda one, other: one.posterior(noise_std=1).check(3), "data is int: give a Table"),
        (lambda one, other: one.posterior(noise_std=1).check(TYPED), "data is a typed table: give"),
        (lambda one, other: Simulations(ROWS, ROWS[1:]), "have 59 and 60 rows"),
        (lambda one, other: Simulations(ROWS, ROWS, {"theta1": (1, 0)}), "'theta1' are .1, 0."),
        (
            lambda one, other: Simulations(ROWS, ROWS, prior=stats.norm),
            "1 parameter.s. .theta1.* 3",
        ),
        (
            lambda one, other: Simulations(ROWS, ROWS, {"a": (0, 1)}, prior=stats.norm([0, 0, 0])),
            "leave bounds out",
        ),
        (lambda one, other: Simulations({"a": [0]}, {"a": [0]}), "'a' is .* a parameter and of a"),
    ):
        with pytest.raises(InflationError, match=message):
            call(model, conditional)


@pytest.mark.slow
@quick_endings()
def test_an_estimator_of_scikit_learn_is_one():
    from sklearn.utils.estimator_checks import check_estimator

    from training.models.adapters import FlowDensity

    check_estimator(FlowDensity(duration=0.0002), on_skip=None)


def test_parameters_that_look_uniform_and_have_no_bounds_get_one_hint():
    draw = np.random.default_rng(0)
    columns = {
        "a": draw.uniform(-1, 3, 400),
        "b": draw.normal(size=400),
        "c": draw.uniform(size=400),
    }
    frame, data = pandas.DataFrame(columns), draw.normal(size=(400, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", InflationWarning)
        Simulations(frame, data, bounds={"a": (-1, 3), "c": (0, 1)})
        Simulations(frame[["b"]], data)
        Simulations(frame[:150], data[:150])
    with pytest.warns(InflationWarning) as issued:
        Simulations(frame, data, bounds={"c": (0, 1)})
    (line,) = [str(each.message) for each in issued]
    assert "a on [-0.9" in line
    assert "bounds={'a': (low, high)}" in line
    assert "c on" not in line


@quick_endings()
def test_predictors_take_missing_values_and_categories_and_are_cloned():
    draw = np.random.default_rng(0)
    frame = pandas.DataFrame({"x": draw.normal(size=300), "kind": draw.choice(["a", "b"], 300)})
    y = 3 * frame["x"] + 2 * (frame["kind"] == "a") + 0.3 * draw.normal(size=300)
    frame.loc[::7, "x"], frame.loc[::5, "kind"], frame["same"] = np.nan, None, 1
    model = clone(FlowRegressor(duration=0.01, options={"width": 16}).set_params(held_out=0.3))
    assert model.get_params()["held_out"] == 0.3
    fitted = model.fit(frame[:200], y[:200])
    assert fitted.score(frame[200:], y[200:]) > 0.6
    widths = []
    for level in (0.5, 0.9):
        low, high = fitted.predict_interval(frame[200:], level).T
        assert abs(np.mean((low <= y[200:]) & (y[200:] <= high)) - level) < 0.15
        widths.append((high - low).mean())
    assert widths[0] < widths[1]
    labels = np.where(y > 1, "high", "low")
    classifier = FlowClassifier(duration=0.01, options={"width": 16}).fit(frame[:200], labels[:200])
    assert classifier.classes_.tolist() == ["high", "low"]
    shares = classifier.predict_proba(frame[200:])
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (classifier.predict(frame[200:]) == classifier.classes_[shares.argmax(axis=1)]).all()
    assert classifier.score(frame[200:], labels[200:]) > 0.8
    for call in (
        lambda: fitted.predict_interval(frame, level=90),
        lambda: fitted.predict(frame.drop(columns="x")),
        lambda: FlowClassifier().fit(frame, np.ones(300)),
        lambda: FlowRegressor().fit(frame[:5], y[:5]),
    ):
        with pytest.raises(ValueError, match=r"level is 90|should match|1 class|minimum of 10"):
            call()


@pytest.mark.slow
@pytest.mark.parametrize("cls", [FlowRegressor, FlowClassifier])
@quick_endings()
def test_predictors_pass_checks_of_scikit_learn(cls):
    from sklearn.utils import estimator_checks as checks

    model = cls(duration=0.0002, options={"width": 8, "depth": 1})
    for each in (
        checks.check_no_attributes_set_in_init,
        checks.check_get_params_invariance,
        checks.check_set_params,
        checks.check_estimators_unfitted,
        checks.check_n_features_in,
        checks.check_dict_unchanged,
        checks.check_fit2d_predict1d,
        checks.check_estimators_pickle,
        checks.check_complex_data,
        checks.check_dataframe_column_names_consistency,
        checks.check_supervised_y_no_nan,
    ):
        each(cls.__name__, model)


def test_a_command_that_takes_longer_than_its_minutes_says_so(caplog):
    warn_if_longer("the training", 66, 1.0, "why")
    warn_if_longer("the training", 1e9, None, "why")
    assert not caplog.text
    warn_if_longer("the training", 290, 1.0, "it counts steps alone")
    assert "took 4.8 minutes, more than --minutes=1: it counts steps alone" in caplog.text


def test_files_elsewhere_would_be_noticed(watch, tmp_path_factory):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "file").write_text("text")
    assert {folder, f"{folder}/file"} <= {*watch.outside(tmp_path_factory.getbasetemp())}
    watch.seen = []


class NormalPosterior:
    """The posterior of N(0, 1) given an observation with noise N(0, 1), wider by a factor."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def sample(self, observed, draws, seed):
        noise = np.random.default_rng(seed).normal(size=(len(observed), draws, observed.shape[1]))
        return observed[:, None] / 2 + self.factor * 0.5**0.5 * noise


def test_any_posterior_is_checked_and_calibrated_with_pairs():
    draw = np.random.default_rng(0)
    theta = draw.normal(size=(400, 2))
    seen = theta + draw.normal(size=(400, 2))
    assert check(NormalPosterior(), theta, seen).passed
    wide = NormalPosterior(2.0)
    report = check(wide, theta, seen)
    assert not report.passed
    assert "theta1" in str(report.facts["p_values"])
    calibrated = calibrate(wide, theta, seen, draws=500)
    fresh = draw.normal(size=(2000, 2))
    observed = fresh + draw.normal(size=(2000, 2))
    low, high = np.moveaxis(calibrated.intervals(observed, 0.8, draws=500), 2, 0)
    held = calibrated.holding(0.8)
    assert held.low - 0.03 < ((low < fresh) & (fresh < high)).mean() < held.high + 0.03
    drawn = calibrated.sample(observed[:50], draws=500)
    assert drawn.std(axis=1).mean() == pytest.approx(0.5**0.5, rel=0.1)
    assert "at least 20" in refusal(check, wide, theta[:9], seen[:9])
    assert "one observation per row" in refusal(check, wide, theta, seen[:60])
    model = Simulations(theta, seen).train(**FEW)
    assert check(model.posterior(), theta[:60], seen[:60], draws=20).facts["runs"] == 60
