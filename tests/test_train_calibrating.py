"""``train.py --calibrate``: on what data, what it fits, and what uses it."""

from pathlib import Path

import numpy as np
import pytest
import torch

import pfODE_int
import train
from tests.support.image_runs import (
    IMAGES,
    SIDE,
    TINY,
    Run,
    load,
    network_file,
    same_end,
    vector,
    weights,
)
from tests.support.running import refused
from training.model.model import Model


@pytest.mark.parametrize("how", ["--cond", "--augment=0.5"])
def test_the_last_network_is_calibrated_on_the_images_as_they_are(fit: Run, how: str) -> None:
    folder = fit(how, "--dims_to_keep=5", "--calibrate")
    calibration = load(folder).denoiser.calibration
    assert calibration is not None
    assert calibration.gains.shape[1] == SIDE**2
    assert calibration.times[[0, -1]].tolist() == [0, 15.01]
    assert f"Calibrated on {IMAGES} points" in (folder / "log.txt").read_text()
    assert load(fit(how, "--dims_to_keep=5")).denoiser.calibration is None


def test_the_calibration_can_be_fitted_to_images_held_out_of_training(fit: Run, few: Path) -> None:
    own = fit("--dims_to_keep=5", "--calibrate")
    held_out = fit("--dims_to_keep=5", "--calibrate", f"--calibration_data={few}")
    assert same_end(own, held_out) is False
    assert torch.equal(vector(weights(own)), vector(weights(held_out)))
    assert "Calibrated on 12 points" in (held_out / "log.txt").read_text()
    gains = [load(folder).denoiser.calibration.gains for folder in (own, held_out)]
    assert not torch.equal(*gains)


def test_what_a_calibration_fits_can_be_chosen(fit: Run, few: Path) -> None:
    data = f"--calibration_data={few}"
    fitted = {
        method: load(fit("--dims_to_keep=5", "--calibrate", data, *given)).denoiser.calibration
        for method, given in {
            "default": (),
            "gain": ("--calibration_fit=gain",),
            "marginal": ("--calibration_fit=marginal",),
            "path": ("--calibration_fit=path",),
        }.items()
    }
    for calibration in fitted.values():
        assert torch.equal(calibration.gains, fitted["default"].gains)
    assert not fitted["default"].slopes.any()
    assert not fitted["gain"].slopes.any()
    assert fitted["marginal"].slopes.any()
    assert (fitted["path"].slopes - fitted["marginal"].slopes).abs().max() > 1e-6


def test_calibration_data_must_fit_the_data_and_be_of_use(
    run_script: Run, blobs: Path, colors: Path, tmp_path: Path
) -> None:
    place = (f"--outdir={tmp_path / 'out'}", f"--data={blobs}", *TINY)
    other = f"--calibration_data={colors}"
    unlike = run_script(train, *place, "--calibrate", other)
    refused(unlike, 1, colors)
    useless = run_script(train, *place, "--no-calibrate", other)
    refused(useless, 2, "--calibration_data")
    useless = run_script(train, *place, "--no-calibrate", "--calibration_fit=path")
    refused(useless, 2, "--calibration_fit")
    assert not (tmp_path / "out").exists()


def test_a_simulation_uses_a_calibration_unless_told_not_to(
    run_script: Run, fit: Run, blobs: Path, few: Path, tmp_path: Path
) -> None:
    network = network_file(fit("--calibrate", f"--calibration_data={few}"))
    Model.load(network, calibrated=False).save(tmp_path / "plain.pkl")
    ends = {}
    for name, given in {
        "used": [f"--network={network}"],
        "refused": [f"--network={network}", "--no-calibration"],
        "absent": [f"--network={tmp_path / 'plain.pkl'}"],
    }.items():
        place = (f"--save_dir={tmp_path / name}", f"--data_root={blobs}", "--sim_type=melt")
        steps = ("--bs=3", "--n_iters=2", "--solver=heun")
        assert run_script(pfODE_int, *place, *steps, *given).code == 0
        (path,) = (tmp_path / name).glob("*_melt.npz")
        with np.load(path) as results:
            ends[name] = results["xs_es"][-1]
    assert np.array_equal(ends["refused"], ends["absent"])
    assert not np.array_equal(ends["used"], ends["absent"])


@pytest.mark.parametrize("precond", ["edm", "vp", "ve"])
def test_isotropic_models_cannot_be_calibrated(
    run_script: Run, blobs: Path, tmp_path: Path, precond: str
) -> None:
    place = (f"--outdir={tmp_path / 'other'}", f"--data={blobs}")
    result = run_script(train, *place, *TINY, f"--precond={precond}", "--calibrate")
    refused(result, 2, "--calibrate", precond)
    assert not (tmp_path / "other").exists()
