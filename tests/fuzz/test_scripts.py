"""Hostile files through the command line: exit code 1, one line, nothing made.

Scripts run in this process, as in their own tests; a file of each script is enough, since
``test_fuzz`` has all of them.
"""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dataset_tool
import fid
import gen_fid_samples
import import_network
import pfODE_int
import report
import toy_pfODE_int
import toy_train
import train
import visualize
from tests.fuzz.readers import READERS
from tests.support.image_models import save_image_model
from tests.support.running import refused

COMMANDS = {
    toy_pfODE_int: "net --network={file} --save_dir={out} --data_name=circles --data_dim=2 "
    "--dims_to_keep=2",
    gen_fid_samples: "--network={file} --save_dir={out} --seeds=0-1 --bs=2",
    pfODE_int: "--network={good} --prev_melt={file} --save_dir={out} --sim_type=roundtrip "
    "--n_iters=2 --solver=euler",
    toy_train: "--resume={file} --dry-run",
    import_network: "--source={file} --dest={out}/network.pkl",
    visualize: "{file} --dest={out}",
    report: "{file} --dest={out}/report.html",
    train: "--data={file} --outdir={out} --cond --duration=0.001",
    dataset_tool: "--source={file} --dest={out}/set.zip",
    fid: "calc --images={file.parent} --ref={file} --dest={out}/fid.json",
}
CASES = (
    ("network", "shared layers", toy_pfODE_int),
    ("network", "a key of 2^60 tuples", gen_fid_samples),
    ("melt", "a gigabyte of zeros", pfODE_int),
    ("training options", "deep lists", toy_train),
    ("original network", "os.system", import_network),
    ("pictures", "2^60 numbers", visualize),
    ("statistics", "line: deep lists", report),
    ("image data set", "labels: that are many", train),
    ("cifar", "three gigabytes first", dataset_tool),
    ("reference", "objects in fields", fid),
)


@pytest.mark.parametrize(
    ("reader", "case", "script"),
    [
        pytest.param(*case, marks=[pytest.mark.hostile] if index % 2 else [])
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
    script: ModuleType,
) -> None:
    given, out, here = (tmp_path / name for name in ("given", "out", "here"))
    for folder in (given, out, here):
        folder.mkdir()
    places = {
        "file": READERS[reader].hostile[case](given),
        "out": out,
        "good": tmp_path / "good.pkl",
    }
    save_image_model(places["good"])
    monkeypatch.chdir(here)
    before = sorted(os.listdir(given))
    arguments = [part.format(**places) for part in COMMANDS[script].split()]
    result = run_script(script, *arguments)
    refused(result, 1)
    assert str(given) in result.error or "--" in result.error
    assert list(out.iterdir()) == list(here.iterdir()) == []
    assert sorted(os.listdir(given)) == before
