"""Reports of posteriors claim no more than was tested, and of the right subject."""

import logging
from pathlib import Path

import pytest
import torch

from tests.support.draws import seeded
from tests.support.image_models import save_image_model
from training.measure.posterior.calibration import RunValues, calibrate
from training.measure.posterior.local import LocalCalibration, LocalTest
from training.runs.posterior_results import report_check, report_near, warn_of_unlike
from training.subjects import ImageFlow, NetworkFile, open_subject


def test_a_local_test_claims_nothing_where_its_runs_are_far(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tests = [LocalTest("a", 1e-5, 1e-5, "too low", [0.4]), LocalTest("a", 0.5, 1, "too low", [0.5])]
    reaches = torch.tensor([[0.5, 0.9], [0.2, 3.7]])
    with caplog.at_level(logging.INFO):
        report_near(LocalCalibration(tests, 2, 0.01, 6), reaches, on_average=True)
        report_near(LocalCalibration(tests[::-1], 2, 0.01, 6), reaches, on_average=True)
    near, far, size, *others = caplog.messages
    assert near.startswith(
        "Observation 1: calibrated on average, but not here: the posterior is too"
    )
    assert far.startswith(
        "Observation 2: no local test, since the 2 simulations nearest to it lie up"
    )
    assert "3.7 standard deviations away; among them no miscalibration was seen" in far
    assert size.startswith("Near an observation, an error of 100 points")
    assert others[0].startswith("Observation 1: no miscalibration seen")
    assert "no local test" in others[1]
    assert "among them posteriors are too low" in others[1]


def test_draws_of_which_most_were_beyond_bounds_are_explained(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ranks = torch.rand(20, 1, generator=seeded(), dtype=torch.float64)
    for most, explained in ((0.3, False), (0.9848, True)):
        leaked = torch.linspace(0, most, 20)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            report_check(calibrate(RunValues(("a",), ranks, {}, ranks, leaked)))
        assert ("train with --bounded=map" in caplog.text) is explained


def test_images_that_are_called_after_a_toy_are_images(tmp_path: Path) -> None:
    save_image_model(tmp_path / "network.pkl", data_name="moons", t_max=3.0)
    subject = open_subject(NetworkFile.open(str(tmp_path / "network.pkl")))
    assert isinstance(subject, ImageFlow)
    assert subject.image_shape == (1, 8, 8)
    # As a sentence calls them: the 52nd number.
    assert subject.words[51] == "the pixel in row 7, column 4"


def test_where_no_law_of_conditions_is_known_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO"):
        assert warn_of_unlike(None, torch.zeros(2, 3)) is None
    assert "is not known" in caplog.text
