"""Scripts say what they are without waiting for what they compute with."""

import subprocess
import sys
from pathlib import Path

import torch

from training import names
from training.data.toys import _RECIPES
from training.flow.coordinates.coordinates import Coordinates
from training.flow.denoisers import DTYPES
from training.flow.eigenbasis import EigenBasis
from training.flow.latent.conditional import ConditionalMixture
from training.flow.solvers import SOLVERS
from training.inference.sampling import KERNELS
from training.model.model import Model
from training.model.recipe import Recipe
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
    (posterior, ["check", *place[1:], "--condition=none.csv"]),
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


def test_no_help_imports_what_takes_long() -> None:
    subprocess.run([sys.executable, "-c", HELP_OF_ALL], cwd=ROOT, check=True)


def test_what_needs_no_network_is_refused_without_waiting_for_it() -> None:
    subprocess.run([sys.executable, "-c", REFUSALS], cwd=ROOT, check=True)


def test_opening_a_network_and_laying_one_out_import_no_compiler(tmp_path: Path) -> None:
    names = {"dim": 3, "noise_range": [-1.0, 0.3], "width": 8, "label_dim": 2}
    recipe = Recipe("ifs", {"dims_to_keep": 1}, "mlp", names)
    basis = EigenBasis(torch.zeros(3), torch.ones(3), torch.eye(3))
    maps = ["bounded", "yeo-johnson", "normal scores", "prediction", "zca"]
    coordinates = Coordinates(3, maps, knots=5, conditions=2, surprise=True)
    about = {"data_dim": 3, "dims_to_keep": 1, "tmin": 0.0, "tmax": 7.0}
    path = tmp_path / "network.pkl"
    Model(recipe.build(basis), recipe, about, coordinates, ConditionalMixture(1, 2)).save(path)
    opened = f"""
import sys, torch
from training.model.model import Model
from training.networks import IMAGE_NETWORKS, TOY_NETWORKS
Model.load({str(path)!r})
with torch.device("meta"):
    for network in TOY_NETWORKS.values():
        network(dim=2, noise_range=(-1.0, 1.0))
    for network in IMAGE_NETWORKS.values():
        network(image_shape=[1, 16, 16], model_channels=64)
assert not {{"torch._dynamo", "sympy"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", opened], cwd=ROOT, check=True)


def test_names_that_options_offer_are_those_that_there_are() -> None:
    assert tuple(SOLVERS) == names.SOLVER_NAMES
    assert tuple(TOY_NETWORKS) == names.TOY_NETWORK_NAMES
    assert tuple(IMAGE_NETWORKS) == names.IMAGE_NETWORK_NAMES
    assert tuple(DTYPES) == names.PRECISIONS
    assert set(KERNELS) == set(names.WARMUP) < set(names.SAMPLERS)
    assert tuple(_RECIPES) == names.TOY_NAMES
