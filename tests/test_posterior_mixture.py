"""Mixtures and rounds of simulations, by the script that people call."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import posterior
from tests.support.commands import COMMANDS, Shelf
from tests.support.outcomes import assert_same, drawn, outcome, told
from tests.support.running import good, quick_endings, refused, run_script
from torch_utils.results import load_arrays, load_json
from training import rounds
from training.inference.user_likelihood import UserFunction

FEW = ("--data_name=circles", "--n_iters=6", "--pool=512", "--device_name=cpu")
SMALL = ("--points=20", "--chains=2", "--draws=100", "--warmup=50")


def test_weights_are_found_again(tmp_path: Path) -> None:
    options = (*FEW, *SMALL, "--noise_std=0.1", "--runs=21")
    result = good(run_script(posterior, "mixture", *options, f"--save_dir={tmp_path}"))
    found = load_json(tmp_path / "circles_PRP_mixture.json")
    arrays = load_arrays(tmp_path / "circles_PRP_mixture.npz")
    assert arrays["weights"].shape == (21, 2, 100, 3)
    assert arrays["truth"].shape == (21, 3)
    assert arrays["observed"].shape == (21, 20, 2)
    np.testing.assert_allclose(arrays["weights"].sum(axis=3), 1)
    assert found["compared_with"] == "quadrature"
    assert found["largest_difference"]["mean"] < 0.05
    assert found["calibration"]["runs"] == 21
    assert found["calibration"]["verdict"] in result.out
    assert len(found["posteriors"]) == 21
    # What was observed says something of the weights.
    mean = arrays["weights"].mean(axis=(1, 2))
    assert np.corrcoef(mean.ravel(), arrays["truth"].ravel())[0, 1] > 0.5


def test_your_own_observations_and_components(tmp_path: Path) -> None:
    means, seen = tmp_path / "means.csv", tmp_path / "seen.npy"
    means.write_text("a,b\n-2,0\n2,0\n", encoding="utf-8")
    np.save(seen, np.array([[0.1], [0.3], [-0.2], [0.5], [0.0]]))
    options = (f"--means={means}", f"--observation={seen}", "--likelihood=mask", "--mask=x1")
    place = f"--save_dir={tmp_path / 'out'}"
    good(run_script(posterior, "mixture", *FEW, *options, "--noise_std=0.3", "--draws=50", place))
    found = load_json(tmp_path / "out" / "circles_PRP_mixture.json")
    assert found["calibration"] is None
    assert found["components"] == {"mean": [[-2, 0], [2, 0]], "std": [0.5, 0.5]}
    assert "truth" not in found["posteriors"][0]
    again = run_script(posterior, "mixture", *FEW, *options, "--noise_std=0.3", place)
    assert again.code == 2
    assert "--overwrite" in again.error


def test_weights_can_be_given(tmp_path: Path) -> None:
    options = (*FEW, *SMALL, "--noise_std=0.2", "--runs=3", "--weights=0.2,0.3,0.5")
    assert run_script(posterior, "mixture", *options, f"--save_dir={tmp_path}").code == 0
    arrays = load_arrays(tmp_path / "circles_PRP_mixture.npz")
    assert (arrays["truth"] == [0.2, 0.3, 0.5]).all()


def test_rounds_narrow_and_go_on_where_they_were_cut_short(shelf: Shelf, tmp_path: Path) -> None:
    whole, place = shelf.done("posterior rounds"), tmp_path / "place"
    one, two = told(whole, "*_posterior.json")["rounds"]
    assert (one["round"], two["round"]) == (1, 2)
    assert one["share"] == 1 > two["share"] > 0
    assert (one["simulated"], two["simulated"], one["failed"] > 0) == (80, 80, True)
    first, second = (load_arrays(whole / f"round{n}" / "shelf.npz") for n in (1, 2))
    old = set(first["points"].ravel()) & set(second["points"].ravel())
    assert len(second["points"]) == 80 - two["failed"] + len(old) == two["rows"]
    arrays = drawn(whole)
    assert arrays["posterior/x"].shape == (4, 20, 1, 1)
    assert np.abs(arrays["posterior/x"]).max() < 1

    calls, command = shelf.folder / "calls.txt", COMMANDS["posterior rounds"]
    before, given = calls.read_text(), [*command.given(shelf), *command.at(place)]
    shutil.copytree(whole, place)
    shutil.rmtree(place / "round2")
    good(command.run(*given, "--overwrite"))
    assert calls.read_text() == before + "80\n"
    assert_same(outcome(place), outcome(whole))
    for path in place.glob("*_posterior.*"):
        path.unlink()
    refused(command.run(*given, "--seed=1"), 2, place / "round1", "is of other options")


@pytest.mark.slow
def test_python_gives_the_same(shelf: Shelf) -> None:
    whole = shelf.done("posterior rounds")
    options = dict(text[2:].split("=") for text in COMMANDS["posterior rounds"].given(shelf))
    simulator = UserFunction.load(options.pop("simulator"), "simulator").function
    del options["observation"], options["bounds"]
    with quick_endings():
        draws = rounds(simulator, {"y1": 0.2, "y2": 0.5}, {"theta": (-1, 1)}, **options)
    x = drawn(whole)["posterior/x"]
    np.testing.assert_array_equal(draws.points[0], x.reshape(-1, 1))
