"""Calibrated intervals of posteriors that are much too narrow."""

import numpy as np
import pytest
import torch

from training import calibrate
from training.flow.held_out import HeldOut
from training.inference.guarantee import HeldOutTruths, intervals

CASES, DRAWS, REPETITIONS = 200, 100, 25


class TooNarrow:
    """The posterior N(y / 2, 1 / 2) of a normal number, a third as wide as it should be."""

    def sample(self, observed, draws, seed):
        normal = np.random.default_rng(seed).normal(size=(len(observed), draws, 1))
        return observed[:, None] / 2 + normal * 0.5**0.5 / 3


def test_intervals_extend_beyond_the_draws_until_they_cover():
    draw, covered, lengths = np.random.default_rng(0), [], []
    for seed in range(REPETITIONS):
        truth = draw.normal(size=(3 * CASES, 1))
        observed = truth + draw.normal(size=truth.shape)
        calibrated = calibrate(TooNarrow(), truth[:CASES], observed[:CASES], draws=DRAWS, seed=seed)
        found = calibrated.intervals(observed[CASES:], 0.9, draws=DRAWS, seed=1000 + seed)[:, 0]
        inside = (found[:, 0] <= truth[CASES:, 0]) & (truth[CASES:, 0] <= found[:, 1])
        covered.append(inside.mean())
        lengths.append(np.diff(found).mean())
    # At least 0.9 on average; exact intervals are 2.33 long.
    error = np.std(covered) / REPETITIONS**0.5
    assert np.mean(covered) == pytest.approx(0.9025, abs=3 * error)
    assert np.mean(lengths) == pytest.approx(2.33, rel=0.1)


def test_without_distances_levels_beyond_the_draws_are_infinite():
    held_out = HeldOut(CASES, ["a", "b"], 0, 0, [], DRAWS, "", "{}")
    held_out.ranks.copy_(torch.linspace(0, 1, CASES)[:, None] * torch.tensor([1.0, 0.9]))
    held_out.ranks[: CASES // 4, 0] = 0.5 / DRAWS  # beyond all draws
    levels = HeldOutTruths(held_out).levels([0.9]).intervals
    ends = intervals(torch.linspace(-1, 1, DRAWS).double()[:, None].expand(-1, 2), levels)[0]
    assert ends[0].tolist() == [-np.inf, np.inf]
    assert ends[1].isfinite().all()


def test_intervals_of_constant_draws_are_points_or_infinite():
    levels = torch.tensor([[0.9], [1.5], [torch.inf]]).double()
    ends = intervals(torch.full((1, 1), 2.0), levels)[:, 0].tolist()
    assert ends == [[2, 2], [2, 2], [-np.inf, np.inf]]
