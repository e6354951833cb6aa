"""Answers that hold, by the scripts: calibrate, what sample makes of it, refusals, and predict."""

import json
import shutil

import numpy as np
import pytest
import torch
from scipy.stats import norm

import dataset_tool
import posterior
import report
import visualize
from dnnlib.errors import UsageError
from tests.support.finished_runs import SIMULATION_NAMES, write_csv, write_simulations
from tests.support.outcomes import drawn, only_json
from tests.support.running import good, refusal, refused, run_script, starter
from torch_utils.snapshots import read_network, write_network
from training import Guarantee
from training.inference.guarantee import HeldOutTruths
from training.models.calibration import OutlierScores, volume_line
from training.models.inference import InferenceTask
from training.settings.inference import LikelihoodOptions, PriorOptions
from training.settings.posterior import CalibrateSettings
from training.subjects import open_prior
from training.trained.network import TrainedNetwork

FEW = ("--draws=40", "--n_iters=3")
COUNT = 60


def table(folder, name, count, seed, *made):
    """Simulations as those of the fixture."""
    source = folder / f"{name}.csv"
    write_simulations(source, count, seed)
    options = ("--conditions=y 1,y2", "--bounds=a:-1:1", f"--source={source}", *made)
    good(run_script(dataset_tool, *options, f"--dest={folder / name}.npz"))
    return folder / f"{name}.npz"


@pytest.fixture(scope="module")
def shelf(simulations, tmp_path_factory):
    """A calibrated network, and what it was calibrated with."""
    folder = tmp_path_factory.mktemp("holding")
    fresh = table(folder, "fresh", COUNT, 1, "--held-out=0")
    (folder / "mine.py").write_text(
        "def total(points):\n    return points.sum(dim=1)\n"
        "def simulate(points, draw):\n"
        "    import numpy as np\n"
        "    theta = points.numpy()\n"
        "    return theta @ np.array([[1, 0], [1, 3]]) + 0.1 * draw.normal(size=theta.shape)\n"
        "def flat(points, draw):\n    return points.sum(dim=1)\n"
        "def wrong(points, draw):\n    return simulate(points, draw) + 9\n"
    )
    place = (f"--network={simulations / 'network.pkl'}", f"--dest={folder / 'network.pkl'}")
    result = run_script(posterior, "calibrate", *place, f"--data_root={fresh}", *FEW)
    (folder / "said.txt").write_text(good(result).out)
    return folder


@pytest.fixture(scope="module")
def sample(simulations, shelf):
    place = (f"--network={shelf / 'network.pkl'}", f"--condition={simulations / 'seen.csv'}")
    return starter(posterior, "sample", *FEW, *place, "--n_iters=none")


@pytest.fixture(scope="module")
def done(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled")
    result = good(sample(folder, "--n_iters=3"))
    assert "calibration cases, regions of 90% cover at least 90%" in result.out
    assert "near it" in result.out
    assert "compared with the flow, on average over observations: held out " in result.out
    return folder


def test_calibrations_in_networks_say_what_they_guarantee(shelf, simulations):
    network, before = (TrainedNetwork.load(at / "network.pkl") for at in (shelf, simulations))
    assert network.digest() == before.digest()
    assert network.held_out.quantities == ["a", "b"]
    content = only_json(shelf, "*_calibration.json")
    held_out = content["held_out"]
    assert (held_out["truths"], held_out["near"]) == (COUNT, 50)
    assert held_out["holding"]["0.9"]["mean"] == pytest.approx(55 / 61)
    assert content["verdict"] in (shelf / "said.txt").read_text()
    task = np.sort(np.abs(2 * network.held_out.ranks[:, 1].numpy() - 1))[54]
    assert held_out["levels"]["0.9"]["b"] == pytest.approx(task)


def test_samples_come_as_the_flow_says_and_as_held_out(done, shelf):
    arrays, content = drawn(done), only_json(done)
    draws, moved = arrays["posterior/x"], arrays["held_out/x"]
    assert moved.shape == draws.shape
    flat = [each[:, :, 0, 0].flatten() for each in (draws, moved)]
    assert (np.argsort(flat[0]) == np.argsort(flat[1])).all()
    first = content["posteriors"][0]["held_out"]
    low, high = first["flow"]["0.9"]["a"]
    both = draws[:, :, 0].reshape(-1, 2)
    assert ((both[:, 0] >= low) & (both[:, 0] <= high)).mean() == pytest.approx(0.9, abs=0.03)
    low, high = first["flow"]["0.5"]["b"]
    assert ((both[:, 1] >= low) & (both[:, 1] <= high)).mean() == pytest.approx(0.5, abs=0.03)
    densest = arrays["sample_stats/lp"][:, :, 0] >= first["flow"]["0.8"]["log_density"]
    assert densest.mean() == pytest.approx(0.8, abs=0.03)
    assert 0.05 < first["p_value"] <= 1
    guarantee = Guarantee.open(shelf / "network.pkl")  # from Python it is the same
    ends = guarantee.intervals({"b": both[:, 1], "a": both[:, 0]}, 0.9)
    np.testing.assert_allclose(ends, [first["held_out"]["0.9"][name] for name in ("a", "b")])
    np.testing.assert_allclose(guarantee.recalibrated(both), moved[:, :, 0].reshape(-1, 2))
    assert (guarantee.recalibrated(both.round()) % 1 == 0).all()


def test_calibrated_intervals_say_how_much_larger_they_are(done, shelf):
    content, network = only_json(done), TrainedNetwork.load(shelf / "network.pkl")
    lengths = {
        way: np.log(
            [
                [np.diff(each["held_out"][way]["0.9"][name])[0] for name in ("a", "b")]
                for each in content["posteriors"]
            ]
        ).sum(axis=1)
        for way in ("flow", "held_out", "near")
    }
    for way in ("held_out", "near"):
        change = (lengths[way] - lengths["flow"]).mean()
        assert content["held_out"]["log_volume"][way]["0.9"] == pytest.approx(change)
    task = HeldOutTruths(network.held_out).levels().intervals[2, :2].numpy()
    change = np.log(norm.ppf((1 + task) / 2) / norm.ppf(0.95)).sum()
    known = only_json(shelf, "*_calibration.json")["held_out"]["normal_log_volume"]["0.9"]
    assert known == pytest.approx(change)
    assert (network.held_out.beyond > 0).any()  # some true values are beyond 40 draws
    line = volume_line({"calibrated": np.inf}, 2, "if marginals are normal")
    assert "calibrated infinite, because there are too few calibration cases or draws" in line
    said = f"if marginals are normal: calibrated {change:+.2f} ("
    assert said in (shelf / "said.txt").read_text()


def test_python_calibrates_as_scripts_do(shelf, simulations, tmp_path):
    place = {"network": simulations / "network.pkl", "dest": tmp_path / "network.pkl"}
    options = {"draws": 40, "n_iters": 3, **place}
    made = Guarantee.calibrate(data_root=shelf / "fresh.npz", **options)
    own = Guarantee.open(shelf / "network.pkl")
    assert repr(made) == "Guarantee(60 calibration cases of a, b)"
    assert (made.truths.held_out.ranks == own.truths.held_out.ranks).all()
    assert made.holding(0.9).mean == pytest.approx(55 / 61)
    p = made.p_values(np.array([[0.0, 0.0], [-1.5, 1.5]]))
    assert p[1] == made.p_values({"y2": 1.5, "y 1": -1.5}) < 0.05 < p[0]
    with pytest.raises(UsageError, match="no option 'drawz': is 'draws' meant"):
        Guarantee.calibrate(**place, drawz=3)
    made.save(tmp_path / "saved.pkl")
    np.testing.assert_array_equal(
        Guarantee.open(tmp_path / "saved.pkl").truths.held_out.ranks, made.truths.held_out.ranks
    )
    assert "share is 90: give a number" in refusal(made.holding, 90, kind=UsageError)
    assert "was not calibrated" in refusal(Guarantee.open, simulations / "network.pkl")


def test_what_no_data_resemble_is_refused_before_any_draws(sample, tmp_path):
    far = write_csv(tmp_path / "far.csv", SIMULATION_NAMES[2:], np.array([[0, 0], [-1.5, 1.5]]))
    given = (f"--condition={far}", "--n_iters=3")
    result = sample(tmp_path / "out", *given, "--refuse=0.05")
    assert result.code == 3
    assert "Rejected 1 of 2 observations as out of distribution" in result.out
    assert "observation 2 (p = " in result.out
    assert not (tmp_path / "out").exists()
    near = write_csv(tmp_path / "near.csv", SIMULATION_NAMES[2:], np.zeros((1, 2)))
    result = good(sample(tmp_path / "in", f"--condition={near}", *given[1:], "--refuse=0.05"))
    assert "No observation is rejected at level 0.05 (smallest: p = " in result.out
    assert "Rejection finds gross errors only: an observation with one wrong" in result.out
    refused(sample(tmp_path / "out", *given, "--refuse=0.001"), 2, "with 60 calibration cases")


def test_calibrations_are_for_the_draws_they_were_made_of(sample, simulations, shelf, tmp_path):
    other = ("--n_iters=4",)
    refused(sample(tmp_path, *other), 2, "n_iters = 3, not 4", "--no-held_out")
    good(sample(tmp_path / "own", *other, "--no-held_out"))
    assert "held_out" not in only_json(tmp_path / "own")
    plain = (f"--network={simulations / 'network.pkl'}", "--refuse=0.1")
    refused(sample(tmp_path, *plain), 2, "posterior.py calibrate")
    parts, about = read_network(shelf / "network.pkl")
    arguments = parts["held_out"].arguments
    own, scores = arguments["way"], arguments["oddities"]
    arguments["way"] = json.dumps({**json.loads(own), "deblur": True})
    write_network(tmp_path / "clean.pkl", parts, about)
    clean = (f"--network={tmp_path / 'clean.pkl'}", "--n_iters=3")
    refused(sample(tmp_path, *clean), 2, "calibrated with deblur = True, not False")
    state, odd = parts["held_out"].state, parts["held_out"].state["odd"]
    arguments["way"], arguments["oddities"] = own, [*scores, "another score"]
    state["odd"] = torch.cat([odd, odd[:, :1]], dim=1)
    write_network(tmp_path / "scores.pkl", parts, about)
    other = (f"--network={tmp_path / 'scores.pkl'}", "--n_iters=3", "--refuse=0.1")
    refused(sample(tmp_path, *other), 2, "--refuse needs a calibration by this version")
    arguments["oddities"], state["odd"] = scores, odd
    parts["held_out"].arguments["network"] = "0" * 64
    write_network(tmp_path / "moved.pkl", parts, about)
    refused(sample(tmp_path, f"--network={tmp_path / 'moved.pkl'}"), 1, "of another network")
    for way in ("{", "[]", "[" * 100_000):
        parts["held_out"].arguments["way"] = way
        write_network(tmp_path / "odd.pkl", parts, about)
        refused(sample(tmp_path, f"--network={tmp_path / 'odd.pkl'}"), 1, "is inconsistent")


def test_rows_that_a_training_saw_are_no_fresh_truths(simulations, questions_run, houses, tmp_path):
    dest = f"--dest={tmp_path / 'network.pkl'}"

    def calibrate(data, network=simulations / "network.pkl", *more):
        place = (f"--network={network}", dest, f"--data_root={data}")
        return run_script(posterior, "calibrate", *place, *FEW, *more)

    refused(calibrate(simulations / "runs.npz"), 1, "used to select the network", "--kept")
    again = table(tmp_path, "again", 300, 0, "--held-out=0")
    refused(calibrate(again), 1, "was trained on at least 300 of its 300")
    few = table(tmp_path, "few", 12, 2, "--held-out=0")
    refused(calibrate(few), 1, "12 calibration cases: need at least 20")
    questions = questions_run / "network-snapshot-000004.pkl"
    refused(calibrate(houses, questions, "--noise_std=1"), 1, "no test set", "--held-out=0")
    shutil.copy(simulations / "network.pkl", tmp_path / "network.pkl")
    kept = table(tmp_path, "kept", 100, 3, "--kept=0.3")
    refused(calibrate(kept), 2, "network.pkl", "--overwrite")


def test_observations_with_a_likelihood_are_held_out_and_refused_too(toy_network, tmp_path):
    """The middle of circles is a gap: no simulated observation is near it."""
    network = toy_network("--data_name=circles", "--dims_to_keep=1", "--tmax=5")
    made = ("--noise_std=0.05", "--sampler=pool", "--draws=80", "--n_iters=3")
    place = (f"--network={network}", f"--dest={tmp_path / 'network.pkl'}", "--runs=99")
    good(run_script(posterior, "calibrate", *place, *made))
    seen = write_csv(tmp_path / "seen.csv", ["x1", "x2"], np.array([[1.25, 1.25], [0.0, 0.0]]))
    given = (f"--network={tmp_path / 'network.pkl'}", f"--observation={seen}", *made)
    result = run_script(posterior, "sample", *given, f"--save_dir={tmp_path}", "--refuse=0.05")
    assert result.code == 3
    assert "observation 2 (p = 0.0" in result.out
    assert "observation 1 (" not in result.out
    other = [option.replace("0.05", "0.06") for option in given]
    refused(run_script(posterior, "sample", *other, f"--save_dir={tmp_path}"), 2, "noise_std")


def test_images_and_tables_are_looked_at_by_their_own_flows_and_are_not_used_twice(
    fit, blobs, few, simulations, questions_run, houses
):
    network = fit() / "network-snapshot-000000.pkl"
    images = open_prior(TrainedNetwork.open(str(network)))
    assert "at least 20 of its 20" in refusal(images.unseen, blobs, 20, 0)
    assert len(images.unseen(few, 20, 0)) == 12
    table = questions_run / "network-snapshot-000004.pkl"
    rows = open_prior(TrainedNetwork.open(str(table))).truths(houses, 20, 0)
    for path, seen, names in ((network, images.truths(blobs, 20, 0), 3), (table, rows, 5)):
        settings = CalibrateSettings(
            prior=PriorOptions(network=str(path)),
            likelihood=LikelihoodOptions(noise_std="1", given=frozenset({"noise_std"})),
        )
        odd = OutlierScores.of(InferenceTask.open(settings), seen)
        other = OutlierScores.of(InferenceTask.open(settings), seen + 9 * seen.std(dim=0))
        assert odd.values.shape == (20, names)
        assert (other.values[:, :3] > odd.values[:, :3]).double().mean() > 0.9


def test_a_model_is_held_against_what_was_observed(done, shelf, tmp_path):
    draws = f"--draws={done / 'runs_PRP_posterior.nc'}"
    program = shelf / "mine.py"

    def predict(name, *options):
        given = (draws, f"--save_dir={tmp_path / name}", "--strict", *options)
        return run_script(posterior, "predict", *given)

    function = f"--function={program}:total"
    result = good(predict("right", f"--simulator={program}:simulate", function))
    content = only_json(tmp_path / "right")
    assert content["numbers"] == ["y 1", "y2", "total"]
    assert content["verdict"] in result.out
    assert "standard deviations is detected in 90 % of cases." in result.out
    wrong = predict("wrong", f"--simulator={program}:wrong")
    assert wrong.code == 3
    assert "does not reproduce the observations:" in wrong.out
    refused(predict("none"), 2, "--simulator")
    refused(predict("none", f"--simulator={program}:flat"), 1, "flat returned", "must return data")
    pictures = good(run_script(visualize, tmp_path / "right", f"--dest={tmp_path}")).out
    assert "predictive_data.png" in pictures


def test_calibrations_are_drawn_and_reported(shelf, done, tmp_path):
    path = shelf / "runs_PRP_posterior_calibration.npz"
    pictures = good(run_script(visualize, path, f"--dest={tmp_path}")).out
    assert all(f"calibration_{name}.png" in pictures for name in ("before", "after", "map"))
    good(run_script(report, done, path, f"--dest={tmp_path / 'report.html'}"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "as held out" in page
    assert "Check of the posterior of runs" in page
