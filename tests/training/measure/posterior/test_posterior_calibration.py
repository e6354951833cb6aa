"""Calibration of posteriors, over all runs and near an observation: what passes, what fails."""

import json

import pytest
import torch
from torch import Tensor

from dnnlib.errors import DataError
from tests.support.draws import double, normal, seeded
from tests.support.refusals import refusal
from training.measure.posterior.calibration import (
    CalibrationCheck,
    RunValues,
    calibrate,
    run_values,
)
from training.measure.posterior.local import calibrate_near, tendency
from training.measure.posterior.ranks import ks_p_values
from training.measure.posterior.verdicts import detectable, holm, verdict


def gaussian_values(
    noise: float, claimed: float, dims: int, width: float = 1.0, runs: int = 300
) -> RunValues:
    """Runs of ``y = x + noise`` with a standard normal prior, and exact posteriors.

    Args:
        noise: The standard deviation of data.
        claimed: The one that posteriors assume.
        dims: Of x.
        width: Of posteriors, relative to the one that follows.
        runs: Their number.
    """
    truth = normal(runs, dims, seed=1)
    data = truth + noise * normal(runs, dims, seed=2)
    mean, std = data / (1 + claimed**2), claimed / (1 + claimed**2) ** 0.5
    draws = mean[:, None] + width * std * normal(runs, 200, dims, seed=3)

    def log_likelihood(x: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        return -((data - x) / claimed).square().sum(dim=-1) / 2

    def log_density(x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        return -((x - mean) / std).square().sum(dim=-1) / 2

    likelihood = (log_likelihood(draws, data[:, None]), log_likelihood(truth, data))
    density = (log_density(draws, mean[:, None]), log_density(truth, mean))
    others = {"log-likelihood": likelihood}
    return run_values(draws, truth, seeded(4), others=others, log_density=density)


def smallest(found: CalibrationCheck, words: str) -> float:
    return min(p for name, p in found.adjusted.items() if words in name)


def test_exact_posteriors_pass() -> None:
    found = calibrate(gaussian_values(0.5, 0.5, dims=3, runs=1000))
    assert found.passed
    assert found.verdict.startswith("No miscalibration seen in 14 tests of 1000 runs")
    assert float(found.crps.mean()) == pytest.approx(0.2**0.5 / torch.pi**0.5, rel=0.04)
    assert abs(found.intervals.pooled_deviation) < 3


def test_a_dimension_that_never_changes_is_no_failure() -> None:
    draws, truth = normal(200, 50, 2), normal(200, 2, seed=1)
    draws[..., 1] = truth[:, 1] = 7
    found = calibrate(run_values(draws, truth, seeded()))
    assert found.passed
    assert float(found.crps[1]) == pytest.approx(0, abs=1e-12)


def test_narrow_posteriors_fail_in_coverage_and_in_tarp() -> None:
    found = calibrate(gaussian_values(0.5, 0.5, dims=3, width=0.8, runs=1000))
    assert not found.passed
    for words in ("central intervals of x1", "TARP", "highest-density regions"):
        assert smallest(found, words) < 1e-3
    assert found.intervals.pooled_deviation < -6
    assert found.verdict.startswith("Not calibrated: ")


def test_only_the_rank_of_the_log_likelihood_finds_a_misstated_noise() -> None:
    found = calibrate(gaussian_values(2.0, 0.8 * 2.0, dims=20))
    assert smallest(found, " of x") > 0.01 > 1e-10 > smallest(found, "ranks of log-likelihood")
    assert "ranks of log-likelihood" in found.verdict


def test_portions_of_runs_are_joined() -> None:
    draws, truth = normal(6, 50, 2), normal(6, 2, seed=1)
    generators = [seeded(run) for run in range(6)]
    references = normal(6, 2, seed=2)

    def values(run: int) -> RunValues:
        one = slice(run, run + 1)
        return run_values(
            draws[one],
            truth[one],
            generators[run],
            names=("a", "b"),
            others={"radius": (draws[one].norm(dim=2), truth[one].norm(dim=1))},
            references=references[one],
            scale=double([1, 2]),
            effective=double([10.0]),
        )

    joined = RunValues.joined([values(run) for run in range(6)])
    assert joined.names == ("a", "b", "radius")
    assert (joined.ranks.shape, joined.scores.shape) == ((6, 3), (6, 2))
    assert joined.regions["TARP"].shape == (6,)
    # Ten of 50 draws are kept: the 5th, 10th and so on.
    below = (draws[:, 4::5] < truth[:, None]).sum(dim=1)
    assert torch.equal((11 * joined.ranks[:, :2]).floor().long(), below)
    closer = ((draws[:, 4::5] - references[:, None]) / double([1, 2])).norm(dim=2)
    reach = ((truth - references) / double([1, 2])).norm(dim=1)
    closer = (closer < reach[:, None]).sum(dim=1)
    assert torch.equal((11 * joined.regions["TARP"]).floor().long(), closer)
    with pytest.raises(DataError, match="same quantities"):
        RunValues.joined([joined, gaussian_values(1, 1, dims=1, runs=2)])


def test_a_calibration_is_plain_numbers_in_json() -> None:
    found = calibrate(gaussian_values(0.5, 0.5, dims=2, runs=40))
    summary = found.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["quantities"] == ["x1", "x2", "log-likelihood"]
    assert set(summary["regions"]) == {"TARP", "highest-density regions"}
    assert len(summary["central_intervals"]["found"][0]) == 2


@pytest.mark.parametrize(
    ("draws", "names", "error"),
    [((30, 5), None, "must be"), ((30, 5, 2), ("x",), "names"), ((30, 5, 2), ("x", "x"), "names")],
)
def test_bad_runs_fail(draws: tuple[int, ...], names: tuple[str, ...] | None, error: str) -> None:
    with pytest.raises(DataError, match=error):
        run_values(normal(*draws), normal(30, *draws[2:]), seeded(), names=names)


def test_holm_multiplies_by_the_hypotheses_that_are_left() -> None:
    found = holm({"a": 0.03, "b": 0.01, "c": 0.04, "d": 0.9})
    assert found == pytest.approx({"a": 0.09, "b": 0.04, "c": 0.09, "d": 0.9})
    assert list(found) == ["a", "b", "c", "d"]
    assert "nan" in refusal(holm, {"a": float("nan")})


def test_a_verdict_names_what_fails_the_clearest_first() -> None:
    adjusted = {"a": 0.5, "b": 1e-3, "c": 1e-9, "d": 1e-4, "e": 5e-3}
    assert verdict(adjusted, 0.01, 100) == (
        "Not calibrated: c (p = 1e-09), d (p = 0.0001), b (p = 0.001) and 1 more failed, "
        "of 5 tests of 100 runs at level 0.01, their number accounted for, which see an error of "
        "25 points of coverage or more in 90 % of cases."
    )
    assert verdict({"a": 0.01}, 0.01, 100).startswith("No miscalibration seen in one test")
    assert "nothing was tested" in refusal(verdict, {}, 0.01, 100)


def test_a_verdict_says_how_large_an_error_the_runs_would_have_seen() -> None:
    few, many = (verdict({"a": 0.5}, 0.01, runs) for runs in (34, 1000))
    said = " of 38 points of coverage or more would have been seen in 90 % of cases."
    assert few.endswith(f". Too few runs to tell: only one{said}")
    assert many.endswith(f". One{said.replace('38', '7')}")


def test_errors_are_seen_as_often_as_the_verdict_says() -> None:
    runs, level, tests, checks = 100, 0.01, 5, 1000
    error = detectable(level, tests, runs)
    # Off by this error where half of the truths lie below, and by less anywhere else.
    values = torch.rand(runs, checks, generator=seeded(), dtype=torch.float64)
    moved = (values >= 0.5 - error) & (values < 0.5)
    seen = ks_p_values(torch.where(moved, 0.5 - error, values)) < level / tests
    assert 0.88 < float(seen.double().mean()) < 0.95


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
    both = [(test.quantity, test.tendency) for test in found.tests]
    assert both == [("b", "too high"), ("b", "too low")]
    summary = found.summary()
    assert (summary["passed"], summary["neighbors"]) == (False, NEAR)
    assert [one["passed"] for one in summary["observations"]] == [False, False]


def test_widths_are_told_by_intervals_and_by_log_densities() -> None:
    ranks = uniform(RUNS, 3)
    for half, change in zip(HALVES, (wide, narrow), strict=True):
        ranks[half, 0] = change(ranks[half, 0])
    tests = calibrate_near(of_ranks(ranks), HALVES).tests
    both = [(test.quantity, test.tendency) for test in tests]
    assert both == [("a", "too wide"), ("a", "too narrow")]
    assert tendency(uniform(50) / 2, False) == "too narrow or misplaced"
    assert tendency(0.5 + uniform(50) / 2, False) == "too wide"
