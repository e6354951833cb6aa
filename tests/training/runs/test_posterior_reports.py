"""What ``posterior.py`` says of its results, in words that claim no more than was seen."""

import logging

import pytest
import torch

from tests.support.draws import seeded
from training.measure.posterior.calibration import RunValues, calibrate
from training.measure.posterior.local import LocalCalibration, LocalTest
from training.runs.posterior_results import report_check, report_near


def test_a_local_test_claims_nothing_where_its_runs_are_far(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tests = [LocalTest("a", 1e-5, 1e-5, "too low", [0.4]), LocalTest("a", 0.5, 1, "too low", [0.5])]
    reaches = torch.tensor([[0.5, 0.9], [0.2, 3.7]])
    with caplog.at_level(logging.INFO):
        report_near(LocalCalibration(tests, 2, 0.01), reaches, on_average=True)
        report_near(LocalCalibration(tests[::-1], 2, 0.01), reaches, on_average=True)
    near, far, *others = caplog.messages
    assert near.startswith(
        "Observation 1: calibrated on average, but not here: the posterior is too"
    )
    assert far.startswith(
        "Observation 2: no local test, since the 2 simulations nearest to it lie up"
    )
    assert "3.7 standard deviations away; among them no miscalibration was seen" in far
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
