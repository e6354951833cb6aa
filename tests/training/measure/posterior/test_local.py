"""Calibration near observations: what is right on average may not be right here."""

import pytest
import torch
from torch import Tensor

from tests.support.draws import seeded
from training.measure.posterior.calibration import RunValues, calibrate
from training.measure.posterior.local import calibrate_near, tendency

RUNS, NEAR = 400, 100
HALVES = torch.arange(RUNS).view(2, -1)[:, :NEAR]


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=seeded(), dtype=torch.float64)


def of_ranks(ranks: Tensor) -> RunValues:
    """Runs of two coordinates and their log density."""
    return RunValues(("a", "b", "log density"), ranks, {}, torch.zeros(len(ranks), 2).double())


def wide(ranks: Tensor) -> Tensor:
    """Ranks of a posterior that is too wide: nearer to 1/2."""
    return 0.5 + 0.7 * (ranks - 0.5)


def narrow(ranks: Tensor) -> Tensor:
    """Of one that is too narrow: nearer to the ends, for most."""
    inside = uniform(len(ranks)) < 0.3
    ends = torch.where(ranks < 0.5, 0.3 * ranks, 1 - 0.3 * (1 - ranks))
    return torch.where(inside, ranks, ends)


def test_right_posteriors_pass_and_their_number_is_accounted_for() -> None:
    found = calibrate_near(of_ranks(uniform(RUNS, 3)), HALVES)
    assert not found.failed
    for test in found.tests:
        assert test.adjusted >= min(1, 2 * test.p)
    # Ten tests: three of ranks and two of intervals, near each of two observations.
    assert min(t.adjusted / t.p for t in found.tests if t.adjusted < 1) == pytest.approx(10)


def test_errors_that_even_out_are_found_where_they_are() -> None:
    ranks = uniform(RUNS, 3)
    ranks[HALVES[0], 1] = ranks[HALVES[0], 1] ** 2
    ranks[HALVES[1], 1] = 1 - (1 - ranks[HALVES[1], 1]) ** 2
    values = of_ranks(ranks)
    assert float(calibrate(values).p_values["ranks of b"]) > 0.01
    found = calibrate_near(values, HALVES)
    assert found.failed == [0, 1]
    assert [(test.quantity, test.tendency) for test in found.tests] == [
        ("b", "too high"),
        ("b", "too low"),
    ]
    summary = found.summary()
    assert (summary["passed"], summary["neighbors"]) == (False, NEAR)
    assert [one["passed"] for one in summary["observations"]] == [False, False]


def test_widths_are_told_by_intervals_and_by_log_densities() -> None:
    ranks = uniform(RUNS, 3)
    ranks[HALVES[0], 0], ranks[HALVES[1], 0] = (
        wide(ranks[HALVES[0], 0]),
        narrow(ranks[HALVES[1], 0]),
    )
    tests = calibrate_near(of_ranks(ranks), HALVES).tests
    assert [(test.quantity, test.tendency) for test in tests] == [
        ("a", "too wide"),
        ("a", "too narrow"),
    ]
    assert tendency(uniform(50) / 2, False) == "too narrow or misplaced"
    assert tendency(0.5 + uniform(50) / 2, False) == "too wide"
