"""Rounds of simulations, by the script that people call."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.commands import COMMANDS, Shelf
from tests.support.finished_runs import good
from tests.support.outcomes import assert_same, outcome, read_netcdf
from tests.support.running import refused
from torch_utils.results import load_arrays


def told(folder: Path) -> dict[str, Any]:
    [path] = folder.glob("*_posterior.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_rounds_narrow_and_go_on_where_they_were_cut_short(shelf: Shelf, tmp_path: Path) -> None:
    whole, place = shelf.done("posterior rounds"), tmp_path / "place"
    rounds = told(whole)["rounds"]
    assert [one["round"] for one in rounds] == [1, 2]
    assert rounds[0]["share"] == 1 > rounds[1]["share"] > 0
    assert sum(one["simulated"] for one in rounds) == 160
    assert rounds[0]["failed"] > 0  # those below -0.9
    first, second = (load_arrays(whole / f"round{n}" / "shelf.npz") for n in (1, 2))
    old = set(first["points"].ravel()) & set(second["points"].ravel())
    assert len(second["points"]) == 80 - rounds[1]["failed"] + len(old) == rounds[1]["rows"]
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
