"""Hostile files through the command line: exit code 1, one line, nothing made.

Scripts run in this process, as in their own tests; the first files of each format are enough, since
``test_fuzz`` has all of them.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dataset_tool
import fid
import gen_fid_samples
import import_network
import pfODE_int
import toy_pfODE_int
import toy_train
import train
import visualize
from tests.fuzz.readers import READERS
from tests.support.image_models import save_image_model
from tests.support.running import refused

TOY = ("--data_name=circles", "--data_dim=2", "--dims_to_keep=2")


def toy_simulation(file: Path, out: Path) -> tuple[Any, ...]:
    return toy_pfODE_int, "net", f"--network={file}", f"--save_dir={out}", *TOY


def image_samples(file: Path, out: Path) -> tuple[Any, ...]:
    return gen_fid_samples, f"--network={file}", f"--save_dir={out}", "--seeds=0-1", "--bs=2"


def later_simulation(file: Path, out: Path) -> tuple[Any, ...]:
    network = file.parent / "good.pkl"
    save_image_model(network)
    options = (f"--network={network}", f"--prev_melt={file}", f"--save_dir={out}")
    return pfODE_int, "--sim_type=roundtrip", "--n_iters=2", "--solver=euler", *options


def resumed(file: Path, out: Path) -> tuple[Any, ...]:
    return toy_train, f"--resume={file}", "--dry-run"


def imported(file: Path, out: Path) -> tuple[Any, ...]:
    return import_network, f"--source={file}", f"--dest={out / 'network.pkl'}"


def pictures(file: Path, out: Path) -> tuple[Any, ...]:
    return visualize, file, f"--dest={out}"


def training(file: Path, out: Path) -> tuple[Any, ...]:
    return train, f"--data={file}", f"--outdir={out}", "--cond", "--duration=0.001"


def conversion(file: Path, out: Path) -> tuple[Any, ...]:
    return dataset_tool, f"--source={file}", f"--dest={out / 'set.zip'}"


def comparison(file: Path, out: Path) -> tuple[Any, ...]:
    return fid, "calc", f"--images={file.parent}", f"--ref={file}", f"--dest={out / 'fid.json'}"


CASES: tuple[tuple[str, str, Callable[[Path, Path], tuple[Any, ...]]], ...] = (
    ("network", "os.system", toy_simulation),
    ("network", "two gigabytes of zeros", toy_simulation),
    ("network", "a key of 2^60 tuples", image_samples),
    ("network", "shared layers", toy_simulation),
    ("network", "a class with a path", image_samples),
    ("network", "pipe", toy_simulation),
    ("melt", "a gigabyte of zeros", later_simulation),
    ("melt", "objects", later_simulation),
    ("training options", "an option that is a list", resumed),
    ("training options", "deep lists", resumed),
    ("original network", "os.system", imported),
    ("pictures", "2^60 numbers", pictures),
    ("statistics", "line: deep lists", pictures),
    ("image data set", "zip: member outside", training),
    ("image data set", "labels: that are many", training),
    ("images to convert", "zip: links", conversion),
    ("cifar", "three gigabytes first", conversion),
    ("cifar", "pickle: os.system", conversion),
    ("idx", "labels: a bomb", conversion),
    ("lmdb", "root 3", conversion),
    ("reference", "objects in fields", comparison),
)


@pytest.mark.parametrize(
    ("reader", "case", "call"),
    [
        pytest.param(*case, marks=[pytest.mark.hostile] if index % 4 else [])
        for index, case in enumerate(CASES)
    ],
    ids=[f"{reader}: {case}" for reader, case, _ in CASES],
)
def test_a_hostile_file_is_one_line_and_makes_nothing(
    run_script: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reader: str,
    case: str,
    call: Callable[[Path, Path], tuple[Any, ...]],
) -> None:
    given, out, here = (tmp_path / name for name in ("given", "out", "here"))
    for folder in (given, out, here):
        folder.mkdir()
    file = READERS[reader].hostile[case](given)
    monkeypatch.chdir(here)
    script, *arguments = call(file, out)
    before = sorted(os.listdir(given))
    result = run_script(script, *arguments)
    refused(result, 1)
    assert str(given) in result.error or "--" in result.error
    assert list(out.iterdir()) == list(here.iterdir()) == []
    assert sorted(os.listdir(given)) == before
