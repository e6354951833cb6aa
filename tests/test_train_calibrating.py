"""``train.py --calibrate``: on what data, what it fits, and what uses it."""

from pathlib import Path

import pytest
import torch

from tests.support.image_runs import IMAGES, SIDE, Run, equal, load, same_end, weights


@pytest.mark.parametrize("how", ["--cond", "--augment=0.5"])
def test_the_last_network_is_calibrated_on_the_images_as_they_are(fit: Run, how: str) -> None:
    folder = fit(how, "--dims_to_keep=5", "--calibrate")
    calibration = load(folder).denoiser.calibration
    assert calibration is not None
    assert calibration.gains.shape[1] == SIDE**2
    assert calibration.times[[0, -1]].tolist() == [0, 15.01]
    assert f"Calibrated on {IMAGES} points" in (folder / "log.txt").read_text()


def test_the_calibration_can_be_fitted_to_images_held_out_of_training(fit: Run, few: Path) -> None:
    own = fit("--dims_to_keep=5", "--calibrate")
    held_out = fit("--dims_to_keep=5", "--calibrate", f"--calibration_data={few}")
    assert same_end(own, held_out) is False
    assert equal(weights(own), weights(held_out))
    assert "Calibrated on 12 points" in (held_out / "log.txt").read_text()
    gains = [load(folder).denoiser.calibration.gains for folder in (own, held_out)]
    assert not torch.equal(*gains)
