"""``train.py --calibrate``: on what data, what it fits, and what uses it."""

from pathlib import Path

import torch

from tests.support.image_runs import IMAGES, SIDE, Run, equal, load, same_end, weights


def test_the_last_network_is_calibrated_on_the_images_as_they_are_or_on_others(
    fit: Run, few: Path
) -> None:
    how = ("--augment=0.5", "--dims_to_keep=5", "--calibrate")
    own, held_out = fit(*how), fit(*how, f"--calibration_data={few}")
    calibration, other = (load(folder).denoiser.calibration for folder in (own, held_out))
    assert calibration is not None
    assert calibration.gains.shape[1] == SIDE**2
    assert calibration.times[[0, -1]].tolist() == [0, 15.01]
    assert f"Calibrated on {IMAGES} points" in (own / "log.txt").read_text()
    assert same_end(own, held_out) is False
    assert equal(weights(own), weights(held_out))
    assert "Calibrated on 12 points" in (held_out / "log.txt").read_text()
    assert not torch.equal(calibration.gains, other.gains)
