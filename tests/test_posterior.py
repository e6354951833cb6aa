"""Posteriors from the command line, checked and explained, and mixtures."""

import re
import shutil
from functools import partial
from unittest import mock

import numpy as np
import pytest

import info
import posterior
import train
from tests.support import finished_runs
from tests.support.commands import COMMANDS
from tests.support.finished_runs import write_csv
from tests.support.image_models import image_model, save_image_model, write_image_set
from tests.support.outcomes import assert_same, drawn, only_json, outcome
from tests.support.running import (
    good,
    in_coordinates,
    quick_endings,
    refused,
    run_script,
    starter,
    trained,
)
from torch_utils.results import load_arrays, load_json
from training import rounds
from training.data.images.dataset import ImageDataset
from training.inference.likelihoods import UserFunction
from training.measure.posterior.calibration import detectable
from training.models import check_runs as posterior_checks
from training.models import group_sampling as posteriors
from training.models.rounds import RoundsTask, warn_of_weak_check
from training.settings.declared import from_values
from training.settings.posterior import RoundsSettings
from training.subjects.image_training import hashes_of

OBSERVATIONS = "x1,x2\n0.5,0.5\n1,-0.2\n-1.2,0.3\n0.1,1.1\n0.4,-0.9\n"
FEW = ("--noise_std=0.3", "--sampler=elliptical", "--draws=48", "--n_iters=3")
MIXED = ("--n_iters=6", "--device_name=cpu")
SMALL = ("--points=20", "--draws=200")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "seen.csv").write_text(OBSERVATIONS)
    write_image_set(folder / "blobs.zip", 3, classes=3)
    save_image_model(folder / "images.pkl", output="random", t_max=3.0)
    save_image_model(folder / "classes.pkl", label_dim=3, output="random", t_max=3.0)
    return folder


@pytest.fixture(scope="module")
def sample(toy_network, files):
    """``sample(folder, option, ...)``: few draws of a toy network's posteriors."""
    network = toy_network("--data_name=circles", "--dims_to_keep=1", "--tmax=5")
    own = (f"--network={network}", f"--observation={files / 'seen.csv'}")
    return starter(posterior, "sample", *FEW, *own)


@pytest.fixture(scope="module")
def check(toy_network):
    network = toy_network("--data_name=circles", "--dims_to_keep=1", "--tmax=5")
    own = (f"--network={network}", "--runs=20", "--sampler=pool")
    return starter(posterior, "check", *FEW, *own)


@pytest.fixture(scope="module")
def done(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    assert "5 of 5 have not converged" in good(sample(folder, "--draws=90")).out
    return folder


def test_arviz_opens_the_draws_and_measures_what_we_do(done, arviz):
    (path,) = done.glob("*.nc")
    data, got = arviz.from_netcdf(path), only_json(done)
    x = data.posterior["x"]
    assert x.dims == ("chain", "draw", "observation", "coordinate")
    assert x.shape == data.posterior["z"].shape == (4, 23, 5, 2)
    assert x.coords["coordinate"].values.tolist() == ["x1", "x2"]
    np.testing.assert_array_equal(data.posterior["x2"], x[..., 1])
    assert data.posterior["z"].coords["latent"].values.tolist() == ["z1", "z2"]
    assert "coordinate" not in data.posterior["z"].coords
    assert "effective_size" not in data.posterior.attrs  # no weights chose these draws
    assert data.sample_stats["log_likelihood"].shape == (4, 23, 5)
    np.testing.assert_array_equal(data.observed_data["y"][1], [1, -0.2])
    assert {"network_calls", "acceptance", "fine_k"} <= set(data.constant_data.data_vars)
    # A state that a chain stays at is computed in two places, which round it differently.
    merged = data.posterior.round(8)
    for name, theirs in {
        "r_hat": arviz.rhat(data.posterior)["x"],
        "ess_bulk": arviz.ess(data.posterior, method="bulk")["x"],
        "ess_tail": arviz.ess(merged, method="tail", prob=(0.05, 0.95))["x"],
        "mcse_mean": arviz.mcse(data.posterior)["x"],
        "mean": x.mean(("chain", "draw")),
        "std": x.std(("chain", "draw"), ddof=1),
    }.items():
        ours = [[one[name][column] for column in ("x1", "x2")] for one in got["posteriors"]]
        np.testing.assert_allclose(ours, theirs.values, rtol=1e-6, err_msg=name)
    seen, residuals = np.array([0.5, 0.5]), x[:, :, 0].values
    density = -((residuals - seen) ** 2).sum(-1) / 0.18 - np.log(2 * np.pi * 0.09)
    np.testing.assert_allclose(data.sample_stats["log_likelihood"][:, :, 0], density)


def test_the_numbers_say_what_was_done(done):
    got = only_json(done)
    assert got["samplers"] == {"elliptical": 5}
    assert (got["observations"], got["coordinates"]) == (5, ["x1", "x2"])
    draws = good(run_script(info, next(done.glob("*.nc")))).out
    assert all(fact in draws for fact in ("4 chains of 23 for each", "5, the first", "2: x1, x2"))
    assert got["points"] == "with the noise of the first time"
    assert got["solvers"]["points"] == {"solver": "exp_ab2", "n_iters": 3}
    assert 0 == got["converged"] < got["network_calls"]
    assert got["r_hat"]["largest"] >= got["r_hat"]["quantile_90"]
    assert "R-hat" in got["rule"]
    first = got["posteriors"][0]
    assert " ".join(first["quantiles"]) == "0.025 0.05 0.1 0.25 0.5 0.75 0.9 0.95 0.975"
    assert got["options"]["noise_std"] == "0.3"
    assert sorted(path.suffix for path in done.iterdir()) == [".json", ".nc"]


def test_strict_exits_with_three_where_some_have_not_converged(sample, tmp_path):
    result = sample(tmp_path / "few", "--strict", "--draws=16")
    assert (result.code, result.err) == (3, "")
    assert "have not converged:\n  observation(s) 1, 2, 3, 4, 5: " in result.out
    said = (
        r"Effective sample size is too small: \d+, need at least [\d,]+. Give more --draws. Chains"
    )
    assert re.search(said, result.out), "chains have no pool to enlarge"
    assert len(drawn(tmp_path / "few")["posterior/x"])
    few = ("--draws=4",)  # without any R-hat
    assert sample(tmp_path / "two", "--strict", *few).code == 3
    assert only_json(tmp_path / "two")["r_hat"] is None
    enough = ("--sampler=pool", "--noise_std=1.5", "--draws=4000")
    assert sample(tmp_path / "enough", "--strict", *enough).code == 0
    assert only_json(tmp_path / "enough")["converged"] == 5


class Cut(BaseException):
    """In place of a kill."""


def cut_short(run, folder, *given, whole=2, checks=False):
    """A run that ends after some groups of two."""
    module, name = (posterior_checks, "VALUES") if checks else (posteriors, "DRAWN")
    form, calls = getattr(module, name), [*[mock.DEFAULT] * whole, Cut()]
    save = mock.Mock(wraps=form.save, side_effect=calls)
    with (
        mock.patch("training.models.group_sampling.GROUP", 2),
        mock.patch.object(module, name, form._replace(save=save)),
        pytest.raises(Cut),
    ):
        run(folder, *given)
    assert len(list(folder.glob("*.part/*.npz"))) == whole
    assert not list(folder.glob("*posterior*.json"))


@pytest.mark.parametrize("last", [0.4, 0.6])
def test_a_run_that_was_cut_short_goes_on_with_its_own_parts(sample, tmp_path, last):
    noise = tmp_path / "noise.npy"
    np.save(noise, np.array([0.3, 0.4]))
    given = (f"--noise_std={noise}", "--sampler=pool")
    cut_short(sample, tmp_path / "cut", *given)
    np.save(noise, np.array([0.3, last]))
    with mock.patch("training.models.group_sampling.GROUP", 2):
        assert sample(tmp_path / "whole", *given).code == 0
        result = sample(tmp_path / "cut", *given)
    assert result.code == 0
    assert ("2 group(s) of 2 already exist" in result.out) == (last == 0.4)
    assert_same(drawn(tmp_path / "cut"), drawn(tmp_path / "whole"))
    assert sorted(path.suffix for path in (tmp_path / "cut").iterdir()) == [".json", ".nc"]


def test_a_mask_is_a_linear_map(sample, tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0.0, 1.0]]))
    (tmp_path / "map.csv").write_text("y\n0.5\n-0.2\n0.3\n1.1\n-0.9\n")
    observed = f"--observation={tmp_path / 'map.csv'}"
    for name, given in (
        ("mask", ("--likelihood=mask", "--mask=x2")),
        ("map", ("--likelihood=linear", f"--operator={tmp_path / 'a.npy'}", observed)),
    ):
        assert sample(tmp_path / name, *given, "--sampler=pool").code == 0
    got, expected = (drawn(tmp_path / name) for name in ("map", "mask"))
    np.testing.assert_allclose(got["posterior/x"], expected["posterior/x"], atol=1e-9)
    np.testing.assert_array_equal(got["observed_data/y"], expected["observed_data/y"])


def test_a_likelihood_of_the_users_own(sample, tmp_path):
    mine = tmp_path / "mine.py"
    density = "-((x - torch.tensor([0.5, 0.5])) / 0.3).square().sum(dim=1) / 2"
    mine.write_text(f"import torch\ndef f(x):\n    return {density}\n")
    own = (f"--likelihood={mine}:f", "--noise_std=none", "--observation=none")
    assert sample(tmp_path / "own", *own, "--sampler=pool").code == 0
    assert sample(tmp_path / "gaussian", "--sampler=pool").code == 0
    own_draws, known = drawn(tmp_path / "own"), drawn(tmp_path / "gaussian")["posterior/x"]
    np.testing.assert_allclose(own_draws["posterior/x"][:, :, 0], known[:, :, 0], atol=1e-9)
    assert not any(name.startswith("observed_data") for name in own_draws)
    mine.write_text(f"import torch\ndef f(x):\n    return ({density}).detach()\n")
    refused(sample(tmp_path / "hmc", *own, "--sampler=hmc"), 2, "gradients")


def test_images_are_observed_in_gray_levels(files, tmp_path):
    network, source = f"--network={files / 'images.pkl'}", f"--observation={files / 'blobs.zip'}"
    few = ["--noise_std=20", "--draws=4", "--n_iters=2", "--sampler=pool"]
    start = starter(posterior, "sample", network, *few)
    chains = ("--likelihood=mask", "--mask=upper-half", "--sampler=elliptical")
    good(start(tmp_path / "chains", source, *chains))
    got = drawn(tmp_path / "chains")
    assert got["posterior/x"].shape == (4, 1, 3, 64)
    assert got["observed_data/y"].shape == (3, 32)
    assert 0 <= got["observed_data/y"].min() < got["observed_data/y"].max() <= 255
    given = (tmp_path / "small", "--likelihood=linear", "--operator=downsample:2")
    refused(start(*given, source), 1, "images of [1, 8, 8], expected [1, 4, 4]")
    np.savetxt(tmp_path / "small.csv", np.full((1, 16), 100), delimiter=",")
    assert start(*given, f"--observation={tmp_path / 'small.csv'}").code == 0
    assert drawn(tmp_path / "small")["constant_data/operator"].sum(axis=1) == pytest.approx(1)
    truth = f"--truth={files / 'blobs.zip'}"
    result = good(start(tmp_path / "truth", source, truth, "--noise_std=2000"))
    got, held = drawn(tmp_path / "truth"), only_json(tmp_path / "truth")["truths_held"]
    # Whole images are observed, and nothing was added to them.
    assert np.array_equal(got["constant_data/truth"], got["observed_data/y"])
    low, high = np.quantile(got["posterior/x"], [0.05, 0.95], axis=(0, 1))
    inside = (low <= got["constant_data/truth"]) & (got["constant_data/truth"] <= high)
    assert held["0.9"] == pytest.approx(inside.mean())
    assert 0 < held["0.5"] < held["0.95"] < 1
    assert "% of the true values" in result.out
    (tmp_path / "classes.csv").write_text("class\n0\n2\n1\n")
    condition = f"--condition={tmp_path / 'classes.csv'}"
    run = (tmp_path / "of classes", f"--network={files / 'classes.pkl'}", source)
    assert start(*run, condition).code == 0
    refused(start(*run, "--overwrite"), 2, "3 classes", "--condition")
    for content, part in (
        ("class\n0\n2\n", "2 classes for 3"),
        ("class\n0\n2\n3\n", "beyond 0 to 2"),
        ("class\n0\n2\n0.5\n", "whole numbers"),
    ):
        (tmp_path / "classes.csv").write_text(content)
        refused(start(*run, condition, "--overwrite"), 2, part)


def test_observations_far_from_the_prior_are_told(sample, tmp_path):
    (tmp_path / "far.csv").write_text("x1,x2\n0,0.5\n0,100\n")
    result = sample(tmp_path / "far", f"--observation={tmp_path / 'far.csv'}", "--strict")
    assert "in observation 2, x2 is " in result.out
    assert " standard deviations from its prior mean: check that its unit" in result.out
    assert result.code == 3
    assert only_json(tmp_path / "far")["posteriors"][1]["converged"] is False


@pytest.mark.parametrize("truth", ["flow", "data"])
def test_a_check_tells_ranks_coverage_and_a_verdict(truth, check, tmp_path):
    result = good(check(tmp_path, f"--truth={truth}", "--runs=30"))
    assert "Central intervals with 50/80/90/95 % cover" in result.out
    got = only_json(tmp_path)
    assert got["question"] == {"flow": "sampler", "data": "model"}[truth]
    assert got["verdict"] in result.out
    names = ["x1", "x2", "log likelihood", "radius"]
    assert all(f"ranks of {name}" in got["p_values"] for name in names)
    assert {"central_intervals", "regions", "adjusted_p_values", "crps"} <= set(got)
    arrays = load_arrays(next(tmp_path.glob("*.npz")))
    assert arrays["names"].tolist() == names
    assert arrays["ranks"].shape == (30, 4)
    assert arrays["crps"].shape == (30, 2)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".npz"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table with held-out rows, and a network that was trained on the others."""
    folder = tmp_path_factory.mktemp("table")
    data, points = folder / "rows.npz", np.random.default_rng(0).normal(size=(100, 2))
    points[:, 1] = 50 + 10 * points[:, 1]
    np.savez(data, points=points, names=["length", "weight"], held_out=np.arange(100) % 4 == 0)
    with in_coordinates(marginals="none", whiten="zca"):
        trained(folder, train, f"--data={data}", *finished_runs.SMALL)
    return data, folder / "network-snapshot-000004.pkl"


def test_held_out_rows_check_a_table(check, table, tmp_path):
    data, network = table
    given = (f"--network={network}", "--truth=data", "--noise_std=0.5,5")
    every = good(check(tmp_path / "own", *given, "--runs=none", f"--data_root={data}"))
    assert "25 test cases: all of them are used" in every.out
    assert only_json(tmp_path / "own")["options"]["runs"] == 25
    assert only_json(tmp_path / "own")["question"] == "model"
    assert only_json(tmp_path / "own")["verdict"].startswith("No miscalibration")
    arrays = load_arrays(next((tmp_path / "own").glob("*.npz")))
    assert arrays["names"].tolist() == ["length", "weight", "log likelihood", "radius"]
    assert arrays["ranks"].shape == (25, 4)
    # Held-out rows from elsewhere, the others as they were.
    others = load_arrays(data)
    others["points"][others["held_out"]] += [3, 30]
    np.savez(tmp_path / "others.npz", **others)
    elsewhere = f"--data_root={tmp_path / 'others.npz'}"
    assert check(tmp_path / "elsewhere", *given, elsewhere).code == 0
    assert only_json(tmp_path / "elsewhere")["verdict"].startswith("Not calibrated")
    refused(check(tmp_path / "many", *given, "--runs=26", elsewhere), 1, "25 held-out rows")


def test_the_model_of_images_is_checked_by_images(check, files, tmp_path):
    write_image_set(tmp_path / "many.zip", 40, classes=3)
    root = f"--data_root={tmp_path / 'many.zip'}"
    for name in ("classes", "images"):
        given = (
            f"--network={files / name}.pkl",
            "--truth=data",
            "--noise_std=20",
        )
        assert check(tmp_path / name, *given, root).code == 0
        got, arrays = only_json(tmp_path / name), load_arrays(next((tmp_path / name).glob("*.npz")))
        assert arrays["names"].tolist()[:2] == ["pixel0", "pixel1"]
        # Of pixels, of quarters, waves and three classes, of radius and log likelihood.
        assert arrays["ranks"].shape == (20, 64 + 7 + 3 + 2)
        # Noise in all pixels, of 256 levels, is not what the network has.
        assert got["verdict"].startswith("Not calibrated")
        assert 10 < arrays["crps"].mean() < 128
    refused(check(tmp_path / "more", *given, root, "--runs=41"), 1, "40 images")
    model = image_model()
    model.about["rows"] = hashes_of(ImageDataset(tmp_path / "many.zip"))
    model.save(tmp_path / "seen.pkl")
    seen = f"--network={tmp_path / 'seen.pkl'}"
    assert "at least 20 of 20 images" in check(tmp_path / "seen", seen, *given[1:], root).out


def test_a_check_that_was_cut_short_goes_on(check, tmp_path):
    with mock.patch("training.models.group_sampling.GROUP", 2):
        assert check(tmp_path / "whole").code == 0
    cut_short(check, tmp_path / "cut", whole=3, checks=True)
    with mock.patch("training.models.group_sampling.GROUP", 2):
        result = check(tmp_path / "cut")
    assert "3 group(s) of 2 already exist" in result.out
    one, other = (load_arrays(next((tmp_path / f).glob("*.npz"))) for f in ("cut", "whole"))
    assert_same(one, other)


@pytest.fixture(scope="module")
def circles(toy_network):
    return f"--network={toy_network('--data_name=circles')}"


def test_weights_are_found_again(circles, tmp_path):
    options = (circles, *MIXED, *SMALL, "--noise_std=0.1", "--runs=21")
    result = good(run_script(posterior, "mixture", *options, f"--save_dir={tmp_path}"))
    got = load_json(tmp_path / "circles_PRP_mixture.json")
    arrays = load_arrays(tmp_path / "circles_PRP_mixture.npz")
    assert arrays["weights"].shape == (21, 4, 50, 3)
    assert arrays["truth"].shape == (21, 3)
    assert arrays["observed"].shape == (21, 20, 2)
    np.testing.assert_allclose(arrays["weights"].sum(axis=3), 1)
    assert got["compared_with"] == "quadrature"
    assert got["largest_difference"]["mean"] < 0.05
    assert got["calibration"]["runs"] == 21
    assert got["calibration"]["verdict"] in result.out
    assert len(got["posteriors"]) == 21
    # What was observed says something of the weights.
    mean = arrays["weights"].mean(axis=(1, 2))
    assert np.corrcoef(mean.ravel(), arrays["truth"].ravel())[0, 1] > 0.5


def test_observations_components_and_weights_can_be_given(circles, tmp_path):
    means, seen = tmp_path / "means.csv", tmp_path / "seen.npy"
    means.write_text("a,b\n-2,0\n2,0\n", encoding="utf-8")
    np.save(seen, np.array([[0.1], [0.3], [-0.2], [0.5], [0.0]]))
    options = (f"--means={means}", f"--observation={seen}", "--likelihood=mask", "--mask=x1")
    place = f"--save_dir={tmp_path / 'out'}"
    good(
        run_script(
            posterior, "mixture", circles, *MIXED, *options, "--noise_std=0.3", "--draws=50", place
        )
    )
    got = load_json(tmp_path / "out" / "circles_PRP_mixture.json")
    assert got["calibration"] is None
    assert got["components"] == {"mean": [[-2, 0], [2, 0]], "std": [0.5, 0.5]}
    assert "truth" not in got["posteriors"][0]
    options = (circles, *MIXED, *SMALL, "--noise_std=0.2", "--runs=3", "--weights=0.2,0.3,0.5")
    assert run_script(posterior, "mixture", *options, f"--save_dir={tmp_path}").code == 0
    arrays = load_arrays(tmp_path / "circles_PRP_mixture.npz")
    assert (arrays["truth"] == [0.2, 0.3, 0.5]).all()


def test_rounds_narrow_and_go_on_where_they_were_cut_short(shelf, tmp_path):
    whole, place = shelf.done("posterior rounds"), tmp_path / "place"
    assert "the posterior was not checked:" in shelf.result("posterior rounds").out
    one, two = only_json(whole, "*_posterior.json")["rounds"]
    assert [one["round"], two["round"], one["simulated"], two["simulated"]] == [1, 2, 80, 80]
    assert one["share"] == 1 > two["share"] > 0 < one["failed"]
    first, second = (load_arrays(whole / f"round{n}" / "shelf.npz") for n in (1, 2))
    old = set(first["points"].ravel()) & set(second["points"].ravel())
    assert len(second["points"]) == 80 - two["failed"] + len(old) == two["rows"]
    x = drawn(whole)["posterior/x"]
    assert (x.shape, np.abs(x).max() < 1) == ((1, 20, 1, 1), True)

    calls, command = shelf.folder / "calls.txt", COMMANDS["posterior rounds"]
    before, given = calls.read_text(), [*command.given(shelf), *command.at(place)]
    shutil.copytree(whole, place)
    shutil.rmtree(place / "round2")
    good(command.run(*given, "--overwrite"))
    assert calls.read_text() == before + "80\n"
    assert_same(outcome(place), outcome(whole))
    for path in place.glob("*_posterior.*"):
        path.unlink()
    refused(command.run(*given, "--seed=1"), 2, place / "round1", "a run with other options")


def test_rounds_say_how_narrow_posteriors_may_be_that_a_check_would_miss(caplog):
    for runs, warned in ((49, True), (1000, False)):
        caplog.clear()
        warn_of_weak_check(runs, detectable(0.01, 11, runs))
        assert ("the check used 49 held-out simulations, which may not" in caplog.text) is warned
        assert ("detect posteriors less than 55 % too narrow" in caplog.text) is warned


def test_functions_are_compared_by_their_token_alone(tmp_path):
    def question(function, token):
        program = UserFunction.of_object(function, token)
        settings = from_values(
            RoundsSettings,
            {
                "save_dir": tmp_path,
                "simulator": str(program),
                "bounds": (("theta", -1.0, 1.0),),
                "observation": write_csv(tmp_path / "seen.csv", ["y"], np.zeros((1, 1))),
            },
        )
        return RoundsTask.of(settings, program, None)

    def scaled(by):
        return lambda theta, draw: by * theta

    # As in a REPL, whose code has no file.
    typed = eval(compile("lambda theta, draw: theta", "<stdin>", "eval"))
    for function in (scaled(1), partial(scaled(1)), typed, np.add):
        asked = question(function, None)
        assert asked.name == getattr(function, "__name__", "lambda").strip("<>")
        assert asked.fingerprint != question(function, None).fingerprint
    assert question(scaled(1), "v1").fingerprint == question(scaled(1), "v1").fingerprint
    assert question(scaled(1), "v1").fingerprint != question(scaled(2), "v2").fingerprint


@pytest.mark.slow
def test_python_gives_the_same(shelf):
    whole = shelf.done("posterior rounds")
    options = dict(text[2:].split("=") for text in COMMANDS["posterior rounds"].given(shelf))
    simulator = UserFunction.load(options.pop("simulator"), "simulator").function
    del options["observation"], options["bounds"]
    with quick_endings():
        draws = rounds(simulator, {"y1": 0.2, "y2": 0.5}, {"theta": (-1, 1)}, **options)
    x = drawn(whole)["posterior/x"]
    np.testing.assert_array_equal(draws.points[0], x.reshape(-1, 1))
