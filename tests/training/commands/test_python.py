"""Training from Python: the same bytes as the scripts, and nothing else touched."""

from pathlib import Path

import numpy as np
import pytest
import torch

import dataset_tool
import toy_train
import train
from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from tests.support.refusals import refusal
from tests.support.running import run_script
from training import Images, Table, Toy

SHORT = {
    "duration": 0.004,
    "batch": 256,
    "seed": 3,
    "threads": 1,
    "calibrate": False,
    "latent_law": "gaussian",
}


def only_network(folder: Path) -> bytes:
    (path,) = folder.glob("*/network-snapshot-*.pkl")
    return path.read_bytes()


def arguments(**options: object) -> list[str]:
    named = {name: value for name, value in options.items() if name != "calibrate"}
    off = ["--no-calibrate"] * ("calibrate" in options)
    return [*off, *(f"--{name}={value}" for name, value in named.items())]


def test_toys_give_the_bytes_of_the_script_and_leave_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    state, handlers, parts = torch.get_rng_state(), list(logger.handlers), list[float]()
    model = Toy("circles").train(tmp_path / "here", parts.append, dims_to_keep=1, **SHORT)
    assert torch.equal(torch.get_rng_state(), state)
    assert logger.handlers == handlers
    assert parts[-1] == 1
    options = arguments(data_name="circles", dims_to_keep=1, outdir=tmp_path / "there", **SHORT)
    run_script(toy_train, *options, whole=True)
    assert only_network(tmp_path / "here") == only_network(tmp_path / "there")
    model.save(tmp_path / "again.pkl")
    assert (tmp_path / "again.pkl").read_bytes() == only_network(tmp_path / "there")


def test_an_interrupted_training_gives_what_there_is() -> None:
    def stop(part: float) -> None:
        if part >= 0.5:
            raise KeyboardInterrupt

    longer = {**SHORT, "duration": 0.04, "width": 8, "depth": 1}
    model = Table.open(np.random.default_rng(0).normal(size=(60, 2))).train(progress=stop, **longer)
    assert 0 < model.about["seen"] < 40_000
    with pytest.raises(UsageError, match="in memory cannot be resumed"):
        Table.open(np.zeros((20, 2)) + np.arange(20.0)[:, None]).train(resume="elsewhere")


def test_a_training_goes_on_with_the_options_of_its_run(tmp_path: Path) -> None:
    first = Toy("circles").train(tmp_path, **{**SHORT, "duration": 0.002})
    (run,) = tmp_path.iterdir()
    model = Toy("circles").train(resume=run, duration=SHORT["duration"])
    assert (first.about["seen"], model.about["seen"]) == (2048, 4096)


class Frame:
    """What a data frame of any library has."""

    def __init__(self, columns: list[str], values: np.ndarray):
        self.columns, self.values = columns, values

    def to_numpy(self) -> np.ndarray:
        return self.values


def test_tables_of_files_arrays_and_frames_train_as_with_the_script(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(300, 2)).round(5)
    source, names = tmp_path / "rows.csv", ["a", "b"]
    np.savetxt(source, values, delimiter=",", header="a,b", comments="", fmt="%.5f")
    of_file = Table.open(source, conditions=["b"])
    assert repr(of_file) == "Table('rows', 300 rows of a given b)"
    for other in (
        Table.open(values, columns=names, conditions=["b"], name="rows"),
        Table.open(Frame(names, values), conditions=["b"], name="rows"),
    ):
        assert torch.equal(other.rows.points, of_file.rows.points)
        assert torch.equal(other.rows.conditions, of_file.rows.conditions)
    with_options = {**SHORT, "linear_start": "on", "cond_screen": "off"}
    assert of_file.train(tmp_path / "here", **with_options).courses
    data = tmp_path / "rows.npz"
    run_script(dataset_tool, *arguments(source=source, dest=data, conditions="b"))
    options = arguments(data=data, outdir=tmp_path / "there", **with_options)
    run_script(train, "--cond", *options, whole=True)
    assert only_network(tmp_path / "here") == only_network(tmp_path / "there")
    assert Table.open(data).columns == ["a"]


def test_what_cannot_be_trained_is_said_in_a_sentence(tmp_path: Path) -> None:
    toy = Toy("circles")
    for options, words in (
        ({"sead": 1}, "no option 'sead': is 'seed' meant"),
        ({"data_name": "moons"}, "no option 'data_name'"),
        ({"lr": -1}, "--lr.*is not in the range"),
        ({"lr": [1, 2]}, "'lr' does not take \\[1, 2\\]"),
        ({"dry_run": True}, "a dry run"),
    ):
        with pytest.raises(UsageError, match=words):
            toy.train(**options)
    for source, error, words in (
        (np.zeros(3), DataError, r"shape \[3\]: give rows"),
        (np.array([["x", "y"]]), DataError, "give numbers alone"),
        (tmp_path / "none.csv", DataError, "none.csv"),
    ):
        with pytest.raises(error, match=words):
            Table.open(source)
    with pytest.raises(UsageError, match="names 1, but table has 2"):
        Table.open(np.zeros((30, 2)), columns=["a"])
    assert "none" in refusal(Images.open, tmp_path / "none.zip")
