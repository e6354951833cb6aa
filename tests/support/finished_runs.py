"""Finished trainings on a toy, a table of houses and a table of simulations."""

import csv
import shutil

import numpy as np
import pytest

import dataset_tool
import toy_train
import train
from tests.support.running import good, in_coordinates, run_script, trained

# Eight reports, a state at every second one.
TOY = (
    *("--data_name=circles", "--duration=0.008", "--batch=500", "--tick=1", "--dump=2"),
    "--seed=5",
)
SHORT_TOY = (
    *("--data_name=circles", "--duration=0.006", "--batch=500", "--tick=1", "--dump=1"),
    *("--snap=2", "--no-calibrate", "--device_name=cpu"),
)
HOUSE_NAMES = ["size", "room count", "fixed", "price", "double"]
SIMULATION_NAMES = ["a", "b", "y 1", "y2"]
SMALL = ("--width=16", "--depth=1", "--batch=50", "--duration=0.004", "--tick=1", "--dump=1")
PLAIN = {"marginals": "yeo-johnson", "whiten": "zca"}


def write_houses(path, count=300):
    draw = np.random.default_rng(0)
    size, rooms = draw.gamma(3, 20, count), draw.integers(1, 7, count)
    price = np.round(2 * size + 10 * rooms + draw.normal(0, 5, count), 1)
    rows = np.stack([size, rooms, np.full(count, 4), price, 2 * size + 1], axis=1)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([HOUSE_NAMES, *rows.tolist()])
    return path


def write_csv(path, names, rows):
    quoted = "\n".join(",".join(f"{value:.17g}" for value in row) for row in rows)
    path.write_text(",".join(names) + "\n" + quoted + "\n")
    return path


def write_simulations(path, count=300, seed=0):
    """Parameters a and b, and data y that is linear in them with noise."""
    draw = np.random.default_rng(seed)
    theta = draw.uniform(-1, 1, (count, 2))
    y = theta @ [[1, 0], [1, 3]] + 0.1 * draw.normal(size=(count, 2))
    write_csv(path, SIMULATION_NAMES, np.hstack([theta, y]))
    return y


@pytest.fixture(scope="session")
def houses(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    source = write_houses(folder / "houses.csv")
    path = folder / "houses.npz"
    good(run_script(dataset_tool, f"--source={source}", f"--dest={path}", "--held-out=0.2"))
    return path


@pytest.fixture(scope="session")
def houses_run(houses, tmp_path_factory):
    with in_coordinates(**PLAIN):
        return trained(tmp_path_factory.mktemp("run"), train, f"--data={houses}", *SMALL)


@pytest.fixture(scope="session")
def questions_run(houses, tmp_path_factory):
    options = (f"--data={houses}", *SMALL, "--any")
    return trained(tmp_path_factory.mktemp("questions"), train, *options)


@pytest.fixture(scope="session")
def simulations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf")
    source = folder / "runs.csv"
    y = write_simulations(source)
    made = ("--conditions=y 1,y2", "--bounds=a:-1:1", "--held-out=0.2", f"--source={source}")
    good(run_script(dataset_tool, *made, f"--dest={folder / 'runs.npz'}"))
    how = ("--cond", "--bounded=reject", "--cond_shape=1x2")
    trained(folder / "run", train, f"--data={folder / 'runs.npz'}", *SMALL, *how)
    shutil.copy(folder / "run" / "network-snapshot-000004.pkl", folder / "network.pkl")
    write_csv(folder / "seen.csv", SIMULATION_NAMES[2:], y[:3])
    np.save(folder / "seen.npy", y[:3])
    return folder


def broken_off(whole, copy, *lost):
    """A copy of a run as it was before it saved some states, stopped in the middle of a line."""
    shutil.copytree(whole, copy)
    for number in lost:
        (copy / f"training-state-{number:06d}.pt").unlink()
    max(copy.glob("network-snapshot-*.pkl")).unlink()
    lines = (copy / "stats.jsonl").read_text().splitlines(keepends=True)
    (copy / "stats.jsonl").write_text("".join(lines[: lost[0] - 1]) + lines[lost[0] - 1][:20])
    return copy


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory):
    """The folder of a finished training, not to be written to."""
    return trained(tmp_path_factory.mktemp("toy"), toy_train, *TOY)
