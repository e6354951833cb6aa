"""Ranks of truths: uniform where they should be, and bands that hold what they say."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double, normal, seeded
from training.measure.posterior.ranks import (
    fractional_ranks,
    kept_by_thinning,
    simultaneous_band,
    uniformity,
)


def test_a_rank_counts_the_draws_below_the_truth() -> None:
    draws = double([[1, 2, 3], [1, 2, 3]])[..., None]
    ranks = fractional_ranks(draws, double([[2.5], [0]]), seeded())
    assert (4 * ranks).floor().tolist() == [[2], [0]]


def test_equal_draws_give_a_truth_any_place_among_them() -> None:
    draws = torch.zeros(20_000, 4, 1, dtype=torch.float64)
    draws[:, 3] = 1
    ranks = fractional_ranks(draws, torch.zeros(20_000, 1).double(), seeded())
    places = (5 * ranks).floor().long().flatten().bincount(minlength=5)
    assert places[4] == 0
    assert chisquare(places[:4]).pvalue > 0.01


def test_ranks_among_draws_of_any_number_are_uniform() -> None:
    """Exactly so, if truths are one more draw: 7 draws, or as many as are kept."""
    everything = normal(4000, 8, 2)
    kept = kept_by_thinning(double([3, 5]).repeat(2000), 7)
    for mask in (None, kept):
        found = uniformity(fractional_ranks(everything[:, 1:], everything[:, 0], seeded(), mask))
        assert (found.ks_p > 0.01).all()
        assert (found.chi_squared_p > 0.01).all()


def test_thinning_keeps_evenly_spaced_draws() -> None:
    kept = kept_by_thinning(double([3.9, 0.2, 100, 9]), 9)
    assert kept.sum(dim=1).tolist() == [3, 1, 9, 9]
    assert kept[0].nonzero().flatten().tolist() == [2, 5, 8]
    each = kept_by_thinning(double([[1, 9], [3, 2]]), 9)
    assert each.sum(dim=1).tolist() == [[1, 9], [3, 2]]


def test_ranks_among_correlated_draws_are_uniform_only_after_thinning() -> None:
    innovations = normal(1000, 201)
    states = [innovations[:, 0]]
    for index in range(1, 200):
        states.append(0.98 * states[-1] + 0.0396**0.5 * innovations[:, index])
    draws, truth = torch.stack(states, dim=1)[..., None], innovations[:, 200:]
    kept = kept_by_thinning(torch.full((1000,), 200 * 0.02 / 1.98), 200)
    p = [
        float(uniformity(fractional_ranks(draws, truth, seeded(), mask)).chi_squared_p)
        for mask in (None, kept)
    ]
    assert p[0] < 1e-3 < 0.01 < p[1]


def test_p_values_are_those_of_scipy() -> None:
    values = torch.rand(500, 3, generator=seeded(), dtype=torch.float64).pow(double([1, 1.1, 1.3]))
    found = uniformity(values)
    for column, ks, chi in zip(values.T.numpy(), found.ks_p, found.chi_squared_p, strict=True):
        assert float(ks) == pytest.approx(kstest(column, "uniform", method="exact").pvalue)
        counts = np.histogram(column, bins=found.bins, range=(0, 1))[0]
        assert float(chi) == pytest.approx(chisquare(counts).pvalue)


def test_a_band_holds_its_share_of_uniform_samples() -> None:
    samples = torch.rand(300, 4000, generator=seeded(), dtype=torch.float64)
    held = simultaneous_band(300, points=50, level=0.9).holds(samples)
    # Not exactly: counts are whole numbers, and the band is simulated.
    assert float(held.double().mean()) == pytest.approx(0.9, abs=0.02)
    assert not simultaneous_band(300).holds(samples[:, :5] ** 1.5).any()


def test_bad_numbers_are_refused() -> None:
    draws, truth = normal(30, 5, 2), normal(30, 2)
    with pytest.raises(DataError, match=r"\[30, 5, 2\] and truths \[30, 3\]"):
        fractional_ranks(draws, normal(30, 3), seeded())
    with pytest.raises(DataError, match="NaN"):
        fractional_ranks(draws, truth * torch.nan, seeded())
    with pytest.raises(DataError, match="NaN"):
        kept_by_thinning(double([torch.nan]), 5)
    with pytest.raises(DataError, match="19 runs are too few"):
        uniformity(torch.rand(19, 2))
    for values in (-torch.rand(30, 1), 1.1 + torch.rand(30, 1)):
        with pytest.raises(DataError, match=r"outside of \[0, 1\]"):
            uniformity(values)
    with pytest.raises(UsageError, match="level 1"):
        simultaneous_band(100, level=1)
