"""What ``train.py`` refuses: one line, and nothing written."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import train
from tests.support.image_runs import TINY, Contents, Run, write_images
from tests.support.running import refused
from training.data.sources.writer import image_writer

BAD_OPTIONS = [
    (["--card-memory=24"], ["card-memory", "dry-run"]),
    (["--data_dim=3072"], ["data_dim", "3072", "64", "blobs"]),
    (["--dims_to_keep=65"], ["dims_to_keep", "65", "64"]),
    (["--cres=2,x"], ["cres", "2,x", "2,2,2"]),
    (["--cres="], ["cres"]),
    (["--cres=1,1,1,1,1"], ["--cres=1,1,1,1,1: ", "8"]),
    (["--cbase=7"], ["--cbase=7"]),
    (["--arch=adm"], ["64", "8"]),
    (["--precond=edm", "--rho=2"], ["rho", "2", "edm"]),
    (["--precond=edm", "--dims_to_keep=5"], ["dims_to_keep", "5", "64", "edm"]),
    (["--precond=vp", "--tmin=0"], ["tmin", "0"]),
    (["--tmin=20"], ["tmin", "20", "15.01"]),
    (["--batch=99999999999"], ["--batch", "GiB"]),
    (["--cbase=20000"], ["--cbase=20000", "GiB"]),
    (["--cbase=100000000"], ["--cbase=100000000", "65536"]),
    (["--transfer=http://example.org/network.pkl"], ["http://example.org", "https"]),
]


def test_bad_options_end_with_one_line_and_nothing_written(
    run_script: Run, blobs: Path, tmp_path: Path
) -> None:
    place = (f"--outdir={tmp_path / 'out'}", f"--data={blobs}", *TINY)
    for arguments, parts in BAD_OPTIONS:
        refused(run_script(train, *place, *arguments), 2, *parts)
        assert list(tmp_path.iterdir()) == []


def empty_folder(folder: Path) -> Path:
    (folder / "data").mkdir()
    return folder / "data"


def gray(folder: Path, count: int = 20, side: int = 8) -> Path:
    images = np.random.default_rng(0).uniform(0, 255, (count, side, side, 1))
    return write_images(folder / "data.zip", images)


def constant(folder: Path) -> Path:
    return write_images(folder / "data.zip", np.full((9, 8, 8, 1), 3))


def mixed(folder: Path) -> Path:
    with image_writer(folder / "data.zip") as writer:
        for side in (8, 8, 16):
            writer.add(np.arange(side * side, dtype=np.uint8).reshape(side, side, 1), None)
    return folder / "data.zip"


# What makes the data, further options, exit code, words of the message.
BAD_DATA: dict[str, tuple[Callable[[Path], Path], list[str], int, list[str]]] = {
    "no images": (empty_folder, [], 1, ["data", "dataset_tool.py"]),
    "no labels": (gray, ["--cond"], 1, ["data.zip", "labels"]),
    "odd side": (lambda folder: gray(folder, side=12), [], 2, ["12 x 12", "power of two"]),
    "one image": (lambda folder: gray(folder, count=1), ["--augment=0"], 1, ["one point"]),
    "constant": (constant, [], 1, ["does not vary"]),
    "images that differ in shape": (mixed, [], 1, ["data.zip", "16x16", "8x8"]),
    "transfer of a missing file": (gray, ["--transfer=none.pkl"], 1, ["none.pkl"]),
    "transfer of no network": (gray, [f"--transfer={__file__}"], 1, [Path(__file__).name]),
}


@pytest.mark.parametrize("what", BAD_DATA)
def test_bad_data_ends_with_one_line_and_nothing_written(
    run_script: Run, tmp_path: Path, contents: Contents, what: str
) -> None:
    make, arguments, code, parts = BAD_DATA[what]
    data = make(tmp_path)
    before = contents(tmp_path)
    place = (f"--outdir={tmp_path / 'out'}", f"--data={data}")
    result = run_script(train, *place, *TINY, *arguments)
    refused(result, code, *parts)
    assert contents(tmp_path) == before


def test_a_diverging_run_ends_with_one_line_and_advice(
    run_script: Run, blobs: Path, tmp_path: Path
) -> None:
    place = (f"--outdir={tmp_path / 'out'}", f"--data={blobs}")
    result = run_script(train, *place, *TINY, "--duration=0.0006", "--lr=1e30", "--cres=1")
    refused(result, 1, "--lr")
    assert not list(tmp_path.glob("*/*/network-*"))
