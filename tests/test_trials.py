"""From repeated measurements to posteriors and models, by the scripts that people call."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import dataset_tool
import info
import posterior
import train
from tests.support.finished_runs import SMALL, good, write_csv
from tests.support.outcomes import read_netcdf
from tests.support.running import Run, refused, trained

NAMES = ["id", "mu", "tau", "y", "n", "t"]
FEW = ("--chains=2", "--draws=60", "--pool=400", "--sampler=pool")


@pytest.fixture(scope="module")
def shelf(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
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
            trained(run_script, folder / f"{name}-run", train, *where, start, "--keep=9")
        plain = (f"--data={folder / 'one.npz'}", *SMALL, "--marginals=none", "--whiten=zca")
        trained(run_script, folder / "prior-run", train, *plain)
    for name in ("one", "two", "prior"):
        *_, last = sorted((folder / f"{name}-run").glob("network-*.pkl"))
        last.rename(folder / f"{name}.pkl")
    seen = np.array([[7, 0.1, 2, 0.5], [5, 1.0, 4, 0.2], [7, 0.3, 3, 0.1], [9, 2, 1, 0.9]])
    write_csv(folder / "seen.csv", ["dataset", "y", "n", "t"], seen)
    return folder


@pytest.mark.parametrize("prior", ["uniform", "prior.pkl"])
def test_posteriors_of_several_trials_are_drawn(
    run_script: Run, shelf: Path, tmp_path: Path, prior: str
) -> None:
    given = prior if prior == "uniform" else str(shelf / prior)
    place = (f"--network={shelf / 'one.pkl'}", f"--prior={given}", f"--save_dir={tmp_path}")
    seen = f"--observation={shelf / 'seen.csv'}"
    result = run_script(posterior, "sample", *place, seen, *FEW)
    assert result.code == 0, result.err
    assert "3 posterior(s)" in result.out
    [path] = tmp_path.glob("*_posterior.nc")
    arrays = read_netcdf(path)
    x = arrays["posterior/x"]
    assert x.shape == (2, 60, 3, 2)
    assert (np.abs(x) <= 1).all() or prior != "uniform"
    assert arrays["posterior/coordinate"].tolist() == ["mu", "tau"]
    assert np.isfinite(arrays["constant_data/evidence"]).all()
    assert "observed_data/y" not in arrays


def test_models_are_compared(run_script: Run, shelf: Path, tmp_path: Path) -> None:
    networks = [f"--network={shelf / 'one.pkl'}", f"--network={shelf / 'one.pkl'}"]
    place = ("--prior=uniform", f"--save_dir={tmp_path}", f"--observation={shelf / 'seen.csv'}")
    result = run_script(posterior, "compare", *networks, *place, *FEW, "--weights=3,1")
    assert result.code == 0, result.err
    assert "Observation 3: one (1)" in result.out
    text = (tmp_path / "comparison.json").read_text()
    compared: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    for one in compared["observations"]:
        assert sum(one["probability"].values()) == pytest.approx(1)
        assert one["probability"]["one (1)"] == pytest.approx(0.75, abs=0.1)
    assert compared["models"]["one (2)"]["prior_probability"] == 0.25
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.json"]


def test_a_network_file_says_that_it_is_a_likelihood(run_script: Run, shelf: Path) -> None:
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
        ("{one} --prior=uniform --observation={folder}/hole.csv", 1, ("line 3", "'n'")),
        ("{one} --prior=uniform {seen} --sampler=hmc", 2, ("hmc follows gradients",)),
    ],
)
def test_what_is_no_question_of_trials_is_refused(
    run_script: Run, shelf: Path, tmp_path: Path, words: str, code: int, parts: tuple[str, ...]
) -> None:
    (shelf / "hole.csv").write_text("y,n,t\n0,1,0.5\n1,,0.5\n")
    known = {name: f"--network={shelf / f'{name}.pkl'}" for name in ("one", "two", "prior")}
    filled = words.format(**known, folder=shelf, seen=f"--observation={shelf / 'seen.csv'}")
    result = run_script(posterior, "sample", f"--save_dir={tmp_path}", *FEW, *filled.split())
    refused(result, code, *parts)


def test_trainings_of_likelihoods_refuse_what_is_none(
    run_script: Run, shelf: Path, houses: Path, tmp_path: Path
) -> None:
    place = (f"--data={shelf / 'one.npz'}", f"--outdir={tmp_path}", "-n", "--likelihood")
    refused(run_script(train, *place, "--cond"), 2, "--cond", "--likelihood")
    refused(run_script(train, *place, "--bounded=reject"), 2, "--bounded=reject")
    refused(run_script(train, f"--data={houses}", *place[1:]), 2, "--conditions=NAMES")
