"""How long correlations last: known curves, whatever the grid and the number of samples."""

import math
from itertools import product

import pytest
import torch

from tests.support.draws import normal
from training.measure.correlation_times import CorrelationTime, correlation_time, scatter_of
from training.measure.correlations import Autocorrelations, correlate


def test_of_a_line_it_is_half_of_where_it_ends_or_comes_down_to_the_scatter() -> None:
    lags = torch.linspace(0, 5, 11, dtype=torch.float64)
    found = correlation_time(lags, 1 - lags / 3.2)
    assert (found.gone, found.integral) == pytest.approx((3.2, 1.6))
    assert found.bound is None
    assert (found.e_folding, str(found)) == (pytest.approx(3.2 * (1 - 1 / math.e)), "1.6")
    found = correlation_time(lags, 1 - lags / 4, scatter=0.25)
    assert (found.gone, found.integral) == pytest.approx((3, 3 * 0.625))


def test_all_counts_up_to_the_first_zero_if_there_is_one() -> None:
    lags = torch.arange(6.0)
    rises_again = torch.tensor([1.0, 0.5, -0.5, 0.9, 0.9, 0.9])
    found = correlation_time(lags, rises_again)
    assert (found.gone, found.integral) == pytest.approx((1.5, 0.75 + 0.125))
    lags = torch.tensor([0.0, 1, 3])
    found = correlation_time(lags, torch.tensor([1.0, 0.8, 0.6]))
    assert (found.integral, found.bound) == (pytest.approx(0.9 + 1.4), "lower")
    assert math.isnan(found.gone)
    assert math.isnan(found.e_folding)
    assert str(found) == "at least 2.3"


def test_of_dimensions_that_do_not_vary_or_few_samples_nothing_lasts() -> None:
    lags = torch.tensor([0.0, 1, 3])
    _, facts = Autocorrelations(["r"], 3, 2).summary(lags, 100)
    assert facts["r"]["most_constant_dims"] == 2
    found = correlation_time(lags, torch.zeros(3))
    assert (found.integral, found.bound) == (0, None)
    for count in (2, 4, 5, 6):
        mean = torch.tensor([1.0, 0.8, 0.7])
        found = correlation_time(torch.arange(3.0), mean, scatter_of(count))
        assert (found.integral, found.bound) == (1, "upper")


def fresh(spacing: float, count: int, seed: int, dim: int = 2) -> CorrelationTime:
    """Of samples that know nothing of any other time, from 0 to 7."""
    lags = torch.arange(0, 7, spacing, dtype=torch.float64)
    first = normal(count, dim, seed=1000 * seed)
    mean = torch.ones(len(lags), dtype=torch.float64)
    for index in range(1, len(lags)):
        pair = first, normal(count, dim, seed=1000 * seed + index)
        mean[index] = correlate([pair], "r").diagonal.mean()
    return correlation_time(lags, mean, scatter_of(count))


@pytest.mark.parametrize(("count", "spacing"), [(100, 0.05), (1000, 0.2)])
def test_what_is_gone_at_once_lasts_less_than_the_spacing(count: int, spacing: float) -> None:
    for seed in range(5):
        found = fresh(spacing, count, seed)
        assert (found.integral, found.bound) == (pytest.approx(spacing), "upper")
        assert (found.e_folding, str(found)) == (pytest.approx(spacing), f"< {spacing}")


def test_a_small_rest_over_a_few_lags_is_no_time_either() -> None:
    """Above the scatter at the next lag by chance, and gone thereafter."""
    lags = torch.arange(0, 1, 0.05)
    rest = torch.tensor([1.0, 0.03, 0.025, 0.022, *[0.001] * 16])
    found = correlation_time(lags, rest, scatter=0.02)
    assert (found.integral, found.bound) == (pytest.approx(0.05), "upper")
    assert 0.15 < found.gone < 0.2


def test_an_exponential_lasts_as_long_on_any_grid_and_two_times_bound_it() -> None:
    for spacing, count in product((0.01, 0.1, 0.5), (1000, 100_000)):
        lags = torch.arange(0, 20, spacing, dtype=torch.float64)
        found = correlation_time(lags, (-lags).exp(), scatter_of(count))
        # What is cut off at the end, and the trapezoids.
        assert found.integral == pytest.approx(1, abs=scatter_of(count) + spacing**2 / 10)
        assert found.bound is None
    for last, bound in ((0.5, "lower"), (0.3, "upper")):
        found = correlation_time(torch.tensor([0.0, 2]), torch.tensor([1.0, last]), 0.01)
        assert found.bound == bound
        rate = -math.log(last) / 2
        assert (1 / rate < found.integral) == (bound == "upper")


def test_chance_scatters_as_it_is_said_to() -> None:
    count, repeats = 50, 4000
    first, later = normal(count, repeats, seed=1), normal(count, repeats, seed=2)
    for shape in (torch.clone, torch.exp, lambda x: x**3):  # normal, skewed, and with heavy tails
        found = correlate([(shape(first), shape(later))], "r").diagonal
        assert float(found.std()) == pytest.approx(scatter_of(count) / 2, rel=0.05)
