"""Rounds of simulations, by the script that people call."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.commands import COMMANDS, Shelf
from tests.support.finished_runs import good
from tests.support.outcomes import assert_same, outcome, read_netcdf
from tests.support.running import quick_endings, refused
from torch_utils.results import load_arrays
from training import rounds
from training.inference.user_likelihood import UserFunction


def told(folder: Path) -> dict[str, Any]:
    [path] = folder.glob("*_posterior.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_rounds_narrow_and_go_on_where_they_were_cut_short(shelf: Shelf, tmp_path: Path) -> None:
    whole, place = shelf.done("posterior rounds"), tmp_path / "place"
    one, two = told(whole)["rounds"]
    assert (one["round"], two["round"]) == (1, 2)
    assert one["share"] == 1 > two["share"] > 0
    assert (one["simulated"], two["simulated"], one["failed"] > 0) == (80, 80, True)
    first, second = (load_arrays(whole / f"round{n}" / "shelf.npz") for n in (1, 2))
    old = set(first["points"].ravel()) & set(second["points"].ravel())
    assert len(second["points"]) == 80 - two["failed"] + len(old) == two["rows"]
    [path] = whole.glob("*.nc")
    arrays = read_netcdf(path)
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
    [path] = whole.glob("*.nc")
    x = read_netcdf(path)["posterior/x"]
    np.testing.assert_array_equal(draws.points[0], x.reshape(-1, 1))
