"""import_network.py: files of the paper's original code, recorded outputs, and hostile files."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import import_network
import toy_pfODE_int
from tests.support.original_files import dumps, toy_content
from tests.support.running import Result, Run, contents, good, refused, run_script
from torch_utils.results import load_arrays
from training.model.model import Model

ROOT = Path(__file__).parent.parent
# Files with random weights, 8 MB, and what the original code makes of some points.
FOLDERS = (ROOT / "tests" / "fixtures", ROOT.parent / "shared" / "fixtures")
NAMES = ("toy_circles_prp", "image_8x8_prr10")
RECORDED = {
    name: next((f for folder in FOLDERS if (f := folder / f"{name}.pkl").exists()), None)
    for name in NAMES
}
needs_recorded = pytest.mark.skipif(
    None in RECORDED.values(), reason=f"needs {' and '.join(NAMES)} in {FOLDERS[0]}"
)


@pytest.fixture
def bring(tmp_path: Path) -> Run:
    """``bring(source, *options)``: imports a file, or content of one, as ``network.pkl``."""

    def run(source: Any, *options: str) -> Result:
        if not isinstance(source, Path):
            content, source = source, tmp_path / "original.pkl"
            source.write_bytes(dumps(content))
        place = f"--dest={tmp_path / 'network.pkl'}"
        return run_script(import_network, f"--source={source}", place, *options)

    return run


# What the original gives.


@needs_recorded
@pytest.mark.parametrize("name", NAMES)
def test_networks_of_the_original_code_give_the_same(bring: Run, tmp_path: Path, name: str) -> None:
    good(bring(RECORDED[name]))
    model = Model.load(tmp_path / "network.pkl")
    with np.load(RECORDED[name].with_suffix(".npz")) as file:
        space = file["space"]
        x, t, given, known_weight = (
            torch.from_numpy(file[key]) for key in ("x_es", "t", "denoised", "weight")
        )
    denoised = model.denoiser(x, t).double()
    if space == "IS":
        # Recorded as images, from points in eigenspace.
        denoised = model.denoiser.basis.from_eigen(denoised)
    error = (denoised - given.double()).norm(dim=1) / given.double().norm(dim=1)
    assert error.max() < 2e-6
    assert model.denoiser.noise_cond == "ddpm_float32"
    # The loss is weighted by 1/c_out, computed in float32 with cancellation.
    weight = 1 / model.denoiser.coefficients(t.double()).c_out
    torch.testing.assert_close(weight, known_weight.double(), rtol=2e-4, atol=0)


# The script.


def test_an_imported_toy_network_can_be_simulated(bring: Run, tmp_path: Path) -> None:
    result = good(bring(toy_content()))
    assert "OriginalToyConvUNet" in result.out
    place = (f"--save_dir={tmp_path}", f"--network={tmp_path / 'network.pkl'}")
    known = ("--data_name=circles", "--data_dim=2", "--dims_to_keep=2", "--solver=euler")
    few = ("--total_samples=5", "--steps=4", "--h=1.5", "--save_freq=2")
    assert run_script(toy_pfODE_int, "net", *place, *known, *few).code == 0
    melt = load_arrays(tmp_path / "circles_PRP_net_melt_results.npz")
    assert melt["xs"].shape == (3, 5, 2)
    assert np.isfinite(melt["xs"]).all()
    assert melt["times"][-1] == 6.0


def test_the_source_is_never_replaced(bring: Run, tmp_path: Path) -> None:
    (tmp_path / "original.pkl").write_bytes(dumps(toy_content()))
    before = contents(tmp_path)
    for name in ("original.pkl", "./original.pkl"):
        dest = f"--dest={tmp_path}/{name}"
        refused(bring(tmp_path / "original.pkl", dest, "--overwrite"), 2, "give another")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "options", "code", "message"),
    [
        (toy_content("spirals"), (), 1, "toy 'spirals'"),
        (toy_content(), ("--data_name=moons",), 2, "data_name is moons"),
        (toy_content(), ("--tmax=8",), 2, "tmax is 8, but"),
    ],
)
def test_what_cannot_be_imported_is_one_line(
    bring: Run, tmp_path: Path, content: Any, options: tuple[str, ...], code: int, message: str
) -> None:
    refused(bring(content, *options), code, message)
    assert os.listdir(tmp_path) == ["original.pkl"]


# Hostile files.


def test_source_text_is_not_run(bring: Run, tmp_path: Path) -> None:
    marker, content = tmp_path / "marker", toy_content()
    content["ema"].source = f"open({str(marker)!r}, 'w').close()"
    content["ema"].child("model").source = content["ema"].source
    assert bring(content).code == 0
    assert not marker.exists()
