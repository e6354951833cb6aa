"""From simulations to posteriors without a likelihood, by the scripts that people call."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pfODE_int
import posterior
import train
import visualize
from tests.reliability.whole import read_netcdf
from tests.support.finished_runs import SIMULATION_NAMES, SMALL, good, write_csv
from tests.support.running import Result, refused, unless_given
from torch_utils.results import load_arrays
from torch_utils.snapshots import Part, read_network, write_network
from training.flow.solvers import SOLVERS

Run = Callable[..., Result]
FEW = ("--chains=2", "--draws=30", "--n_iters=3", "--batch-gpu=64")


@pytest.fixture(scope="module")
def sample(run_script: Run, simulations: Path) -> Run:
    def start(folder: Path, *options: str, run: Run = run_script) -> Result:
        place = (f"--network={simulations / 'network.pkl'}", f"--save_dir={folder}")
        seen = (
            ()
            if any("--condition" in o for o in options)
            else (f"--condition={simulations / 'seen.csv'}",)
        )
        kept = [option for option in options if not option.endswith("=none")]
        return run(posterior, "sample", *place, *FEW, *seen, *kept)

    return start


def drawn(folder: Path) -> dict[str, np.ndarray]:
    return read_netcdf(folder / "runs_PRP_posterior.nc")


def told(folder: Path) -> dict[str, Any]:
    text = (folder / "runs_PRP_posterior.json").read_text()
    found: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    return found


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


def test_independent_draws_are_drawn_without_chains(
    done: Path, run_script: Run, tmp_path: Path
) -> None:
    shutil.copy(done / "runs_PRP_posterior.nc", tmp_path)
    told = good(run_script(visualize, tmp_path)).out
    assert "posterior_marginals.png" in told
    assert "chains" not in told


def test_conditions_are_found_by_name_or_by_their_order(
    sample: Run, done: Path, simulations: Path, tmp_path: Path
) -> None:
    seen = np.load(simulations / "seen.npy")
    turned = write_csv(
        tmp_path / "turned.csv",
        ["y2", "other", "y 1"],
        np.stack([seen[:, 1], seen[:, 0], seen[:, 0]], 1),
    )
    for name, path in (("named", turned), ("array", simulations / "seen.npy")):
        good(sample(tmp_path / name, f"--condition={path}", "--no-log_prob"))
        found, expected = drawn(tmp_path / name), drawn(done)
        np.testing.assert_allclose(found["posterior/x"], expected["posterior/x"], rtol=1e-9)
        assert expected.keys() - found.keys() == {"sample_stats/lp"}


def test_an_observation_unlike_all_simulations_is_told_of(
    sample: Run, done: Path, simulations: Path, tmp_path: Path
) -> None:
    limit = told(done)["surprise"]["limit"]
    assert 2 < limit < 20
    nats = [one["surprise"] for one in told(done)["posteriors"]]
    assert max(nats) == told(done)["surprise"]["largest"] < limit
    assert told(done)["surprise"]["unlike"] == 0
    # Both conditions are usual, but not together.
    far = write_csv(tmp_path / "far.csv", SIMULATION_NAMES[2:], np.array([[0, 0], [-1.5, 1.5]]))
    result = sample(tmp_path / "out", f"--condition={far}")
    assert "observation 2 is unlike the simulations" in result.out
    assert "observation 1 is" not in result.out
    refused(result, 1, "draws for observation 2", "beyond the bounds", "--bounded=map")
    parts, about = read_network(simulations / "network.pkl")
    old = parts["coordinates"]
    state = {name: value for name, value in old.state.items() if not name.startswith("surprise")}
    arguments = {name: value for name, value in old.arguments.items() if name != "surprise"}
    parts["coordinates"] = Part("Coordinates", arguments, state)
    write_network(tmp_path / "old.pkl", parts, about)
    result = good(sample(tmp_path / "old", f"--network={tmp_path / 'old.pkl'}"))
    assert "is not known" in result.out
    assert told(tmp_path / "old")["surprise"] is None


def test_draws_are_corrected_by_a_posterior_of_the_users(sample: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def posterior(theta, y):\n"
        "    assert theta.shape == (60, 2) and y.shape == (60, 2)\n"
        "    return -((theta - y[:, :1]) ** 2).sum(dim=1)\n"
    )
    option = f"--correct={tmp_path / 'mine.py'}"
    result = sample(tmp_path / "out", f"{option}:posterior")
    assert result.code == 0
    first = told(tmp_path / "out")["posteriors"][0]
    assert 1 < first["statistics"]["effective_size"] < 60
    assert first["ess_bulk"]["a"] == pytest.approx(first["statistics"]["effective_size"])
    refused(sample(tmp_path / "no", f"{option}:other"), 2, "no function 'other'")
    refused(sample(tmp_path / "no", "--correct=none.py:f"), 2, "--correct", "FILE.py:function")
    for other in ("--no-log_prob", "--deblur"):
        refused(sample(tmp_path / "no", f"{option}:posterior", other), 2, "--correct", other)


def test_with_a_likelihood_the_flow_is_the_prior_given_the_conditions(
    sample: Run, simulations: Path, tmp_path: Path
) -> None:
    write_csv(tmp_path / "points.csv", ["a"], np.array([[0.1], [0.2], [-0.3]]))
    more = ("--likelihood=mask", "--mask=a", "--noise_std=0.3", "--sampler=pool", "--pool=200")
    result = sample(tmp_path, f"--observation={tmp_path / 'points.csv'}", *more)
    assert result.code == 0, result.err
    assert drawn(tmp_path)["sample_stats/log_likelihood"].shape == (2, 30, 3)
    two = write_csv(tmp_path / "two.csv", ["a"], np.zeros((2, 1)))
    refused(
        sample(tmp_path / "no", f"--observation={two}", *more), 2, "3 rows of conditions", "2 obs"
    )


def test_what_does_not_go_together_is_refused(
    sample: Run,
    run_script: Run,
    toy_network: Callable[..., Path],
    simulations: Path,
    tmp_path: Path,
) -> None:
    seen, out = np.load(simulations / "seen.npy"), tmp_path / "out"
    other = write_csv(tmp_path / "other.csv", ["y 1", "y3"], seen)
    holes = tmp_path / "holes.csv"
    holes.write_text("y 1,y2\n1,\n")
    np.save(tmp_path / "wide.npy", np.zeros((2, 3)))
    for path, said in (
        (other, "no column 'y2'"),
        (holes, "row 1, column 'y2'"),
        (tmp_path / "wide.npy", "3 columns"),
        (simulations / "network.pkl", "no table"),
    ):
        refused(sample(out, f"--condition={path}"), 1, path.name, said)
    refused(sample(out, "--condition=none"), 2, "--noise_std")
    toy = f"--network={toy_network('--data_name=circles')}"
    refused(sample(out, toy), 2, "--condition is for networks with classes or conditions")
    seen = f"--observation={simulations / 'network.pkl'}"
    refused(sample(out, "--condition=none", "--noise_std=1", seen), 2, "y 1, y2")
    refused(sample(out, "--sampler=hmc"), 2, "--sampler is for a likelihood")
    melt = (f"--network={simulations / 'network.pkl'}", f"--save_dir={out}", "--sim_type=gen")
    refused(run_script(pfODE_int, *melt), 2, "conditional on y 1, y2", "posterior.py sample")
    parts, about = read_network(simulations / "network.pkl")
    write_network(tmp_path / "broken.pkl", parts, {**about, "condition_names": ["y 1"]})
    broken = sample(out, f"--network={tmp_path / 'broken.pkl'}")
    refused(broken, 1, "broken.pkl", "does not name its 2 conditions")


# Checks.


@pytest.fixture(scope="module")
def check(run_script: Run, simulations: Path) -> Run:
    def start(folder: Path, *options: str) -> Result:
        given = unless_given(
            {
                "--network": simulations / "network.pkl",
                "--data_root": simulations / "runs.npz",
                "--truth": "data",
                "--runs": 24,
                "--chains": 2,
                "--draws": 10,
                "--n_iters": 3,
            },
            options,
        )
        kept = [option for option in given if not option.endswith("=none")]
        return run_script(posterior, "check", f"--save_dir={folder}", *kept)

    return start


def checked(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    numbers = folder / "runs_PRP_posterior_check.json"
    found: dict[str, Any] = json.loads(numbers.read_text(), parse_constant=pytest.fail)
    return found, load_arrays(numbers.with_suffix(".npz"))


def test_a_check_asks_whether_the_flow_finds_held_out_simulations_again(
    check: Run, simulations: Path, tmp_path: Path
) -> None:
    far = write_csv(
        tmp_path / "seen.csv", SIMULATION_NAMES[2:], np.array([[0.3, 0.4], [-1.5, 1.5]])
    )
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


def test_truths_from_elsewhere_are_not_found_again(
    check: Run, simulations: Path, tmp_path: Path
) -> None:
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


def test_checks_that_cannot_be_are_told(
    check: Run, simulations: Path, toy_network: Callable[..., Path], tmp_path: Path
) -> None:
    arrays, out = load_arrays(simulations / "runs.npz"), tmp_path / "out"
    np.savez(tmp_path / "plain.npz", points=arrays["points"], names=arrays["names"])
    np.savez(tmp_path / "other.npz", **{**arrays, "condition_names": ["y 1", "y3"]})
    seen = write_csv(tmp_path / "seen.csv", ["y 1"], np.zeros((1, 1)))
    for options, code, said in (
        (("--truth=flow", "--data_root=none"), 2, "give --truth=data --data_root="),
        ((f"--data_root={tmp_path / 'plain.npz'}",), 1, "no conditions"),
        ((f"--data_root={tmp_path / 'other.npz'}",), 1, "no condition 'y2'"),
        (("--runs=61",), 1, "60 held-out rows"),
        ((f"--condition={simulations / 'seen.csv'}", "--neighbors=21"), 2, "at most 20"),
        (("--neighbors=20",), 2, "--neighbors goes with --condition"),
        (("--noise_std=1",), 2, "leave --noise_std out"),
        (("--noise_std=1", f"--condition={seen}"), 2, "without a likelihood"),
        ((f"--network={toy_network('--data_name=circles')}", "--data_root=none"), 2, "--noise_std"),
    ):
        refused(check(out, *options), code, said)
    assert not out.exists()


def test_trainings_without_conditions_say_so(
    run_script: Run, simulations: Path, tmp_path: Path
) -> None:
    data, place = simulations / "runs.npz", (f"--outdir={tmp_path / 'run'}", "-n")
    result = run_script(train, f"--data={data}", *place, *SMALL)
    assert result.code == 0
    assert "y 1, y2 left out: --cond" in result.out
    for shape in ("3", "1x1x1x2"):
        wrong = run_script(train, f"--data={data}", *place, "--cond", f"--cond_shape={shape}")
        refused(wrong, 2, f"--cond_shape={shape}", "2 conditions")
    both = ("--cond", "--cond_shape=2", "--cond_screen=on")
    refused(run_script(train, f"--data={data}", *place, *both), 2, "--cond_shape", "one of them")
    for option in ("--linear_start=on", "--bounded=map", "--cond_shape=2", "--cond_screen=on"):
        refused(run_script(train, f"--data={data}", *place, option), 2, "--cond", option[:9])
    arrays = load_arrays(data)
    plain = tmp_path / "plain.npz"
    np.savez(plain, points=arrays["points"])
    refused(run_script(train, f"--data={plain}", *place, "--cond"), 2, "no conditions")
    np.savez(plain, points=arrays["points"], conditions=arrays["conditions"], condition_names=["y"])
    refused(run_script(train, f"--data={plain}", *place, "--cond"), 1, "2 conditions, but 1 names")
    network = ("sample", f"--network={plain}", f"--condition={plain}", f"--save_dir={tmp_path}")
    assert run_script(posterior, *network).code == 1
