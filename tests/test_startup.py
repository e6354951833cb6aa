"""Scripts start at once, run where there is no POSIX, and install below one name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.samples import save_network_of_table
from tests.support.running import slowly
from training import names
from training.data.toys import _RECIPES
from training.flow.denoisers import DTYPES
from training.flow.solvers import SOLVERS
from training.inference.sampling import KERNELS
from training.networks import IMAGE_NETWORKS, TOY_NETWORKS

ROOT = Path(__file__).parent.parent
HELP_OF_ALL = """
import contextlib, importlib, io, sys
from inflationary_flows.__main__ import scripts
for path in scripts().values():
    main = importlib.import_module(path.stem).main
    for words in [[], *([name] for name in getattr(main, "commands", ()))]:
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            main.main([*words, "--help"], standalone_mode=False)
        assert "--help" in shown.getvalue(), (path, words)
        heavy = {"bokeh", "matplotlib", "numpy", "scipy", "torch"} & set(sys.modules)
        assert not heavy, f"{path} {words} imports {heavy}"
"""
REFUSALS = """
import sys
import pfODE_int, posterior, train
from dnnlib.errors import InflationError
any_file = "README.md"
place = ["sample", f"--network={any_file}", "--save_dir=nowhere"]
for script, words in (
    (posterior, [*place, "--observation=README.md", "--noise_std=-0.1"]),
    (posterior, [*place, "--observation=none.csv", "--noise_std=0.1"]),
    (posterior, [*place, "--condition=none.csv"]),
    (posterior, ["check", *place[1:], "--truth=data", "--data_root=none.npz"]),
    (posterior, ["sample", "--network=none.pkl", "--save_dir=nowhere", "--noise_std=1"]),
    (pfODE_int, ["--network=none.pkl", "--save_dir=nowhere", "--sim_type=gen"]),
    (train, ["--data=none.npz", "--outdir=nowhere"]),
):
    try:
        script.main.main(words, standalone_mode=False)
    except InflationError:
        assert "torch" not in sys.modules, words
    else:
        raise AssertionError(words)
"""
MADE = {"2": {".npz", ".json", ".pkl", ".pt"}, "5": {".zip", ".png"}}
"""Kinds of files that so many runs make."""


def test_neither_helps_nor_refusals_that_need_no_network_import_what_takes_long():
    subprocess.run([sys.executable, "-c", HELP_OF_ALL], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-c", REFUSALS], cwd=ROOT, check=True)


def test_opening_a_network_and_laying_one_out_import_no_compiler(tmp_path):
    path = tmp_path / "network.pkl"
    save_network_of_table(path)
    opened = f"""
import sys, torch
from training.trained.network import TrainedNetwork
from training.networks import IMAGE_NETWORKS, TOY_NETWORKS
TrainedNetwork.load({str(path)!r})
with torch.device("meta"):
    for network in TOY_NETWORKS.values():
        network(dim=2, noise_range=(-1.0, 1.0))
    for network in IMAGE_NETWORKS.values():
        network(image_shape=[1, 16, 16], model_channels=64)
assert not {{"torch._dynamo", "sympy"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", opened], cwd=ROOT, check=True)


def test_names_that_options_offer_are_those_that_there_are():
    assert set(SOLVERS) - set(names.SOLVER_NAMES) == {"exp_rk4"}  # that of densities alone
    assert set(names.SOLVER_NAMES) < set(SOLVERS)
    assert tuple(TOY_NETWORKS) == names.TOY_NETWORK_NAMES
    assert tuple(IMAGE_NETWORKS) == names.IMAGE_NETWORK_NAMES
    assert tuple(DTYPES) == names.PRECISIONS
    assert set(KERNELS) == set(names.WARMUP) < set(names.SAMPLERS)
    assert tuple(_RECIPES) == names.TOY_NAMES


@pytest.mark.parametrize("runs", slowly(MADE, "2", "5"))
def test_scripts_run_without_what_windows_lacks(tmp_path, runs):
    command = [sys.executable, "-X", "warn_default_encoding", "tests/support/like_windows.py"]
    done = subprocess.run([*command, str(tmp_path), runs], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = [line for line in done.stdout.splitlines() if (tmp_path / line).is_file()]
    assert {Path(name).suffix for name in names} >= MADE[runs]
    assert not [name for name in names if re.search(r'[<>:"|?*]|[. ]$', name)]


PROGRAM = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
from inflationary_flows.__main__ import main
main()
"""


def test_a_copy_works_beside_other_packages_of_our_names_and_tells_mistakes_in_a_line(tmp_path):
    pytest.importorskip("setuptools")
    build = (sys.executable, "setup.py", "-q", "egg_info", f"--egg-base={tmp_path}", "build")
    made = (f"--build-base={tmp_path / 'build'}", f"--build-lib={tmp_path / 'copy'}")
    subprocess.run([*build, *made], cwd=ROOT, check=True, capture_output=True)
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {"inflationary_flows"}
    for name in ("dnnlib", "torch_utils", "training"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('of another program')")
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path / 'copy'}{os.pathsep}{tmp_path}"}
    exact = ("toy_pfODE_int", "exact", "--data_name=circles", "--total_samples=9", "--steps=2")
    for arguments, code, line in (
        ((*exact, "--device_name=cpu", "--save_dir=out"), 0, ""),
        (("--version",), 0, ""),
        (("trian",), 2, "ifs: error: there is no command 'trian': see ifs --help\n"),
        (
            ("train", "--data=rows.csv", "--outdir=b"),
            1,
            "ifs train: error: rows.csv is not a data set: convert it with ifs dataset_tool ",
        ),
        (("train.py", "--data=a", "--outdir=b"), 1, "ifs train: error: a does not exist: give "),
    ):
        command = [sys.executable, "-c", PROGRAM, *arguments]
        result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert (result.returncode, result.stderr.count("\n")) == (code, bool(line))
        assert result.stderr.startswith(line)
    assert list((tmp_path / "out").glob("circles_PRP_*.npz"))


def test_messages_name_commands_as_they_are_typed(monkeypatch):
    assert names.script("train") == "train.py"
    monkeypatch.setattr(sys, "argv", ["ifs posterior"])
    assert names.script("train") == "ifs train"
