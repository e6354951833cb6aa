"""The energy distance: against SciPy, and what it can tell apart."""

import pytest
import torch
from scipy import stats

from tests.support.draws import normal
from training.measure.two_sample import CHUNK, energy_distance, mean_distance


def test_in_one_dimension_it_is_the_square_of_scipys() -> None:
    first, second = normal(300, 1), 0.5 + 2 * normal(200, 1, seed=1)
    expected = stats.energy_distance(first[:, 0].numpy(), second[:, 0].numpy()) ** 2
    assert energy_distance(first, second) == pytest.approx(expected, rel=1e-9)


def test_samples_of_one_law_are_as_close_as_their_sizes_allow() -> None:
    first, second = normal(1000, 2), normal(500, 2, seed=1)
    expected = mean_distance(first, first) * (1 / 1000 + 1 / 500)
    assert expected / 4 < energy_distance(first, second) < 4 * expected
    assert energy_distance(first, second + 0.3) > 10 * expected


def test_mean_distances_do_not_know_of_chunks_and_close_points_keep_their_digits() -> None:
    first, second = normal(CHUNK + 5, 2), normal(7, 2, seed=1)
    whole = (first[:, None] - second).norm(dim=-1).mean()
    assert mean_distance(first, second) == pytest.approx(float(whole), rel=1e-12)
    assert mean_distance(second, first) == pytest.approx(float(whole), rel=1e-12)
    first = torch.full((2, 2), 1e6, dtype=torch.float64)
    # Differences are exact; the sum 1e6 + 1e-6 itself is rounded to 1e-10.
    assert mean_distance(first, first + 1e-6) == pytest.approx(1e-6 * 2**0.5, rel=1e-3)
