"""Split conformal prediction: what it states holds for finitely many truths."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from training.measure.conformal import Holding, asked, fewest, local_contents, oddness, recalibrated

REPETITIONS = 500


def contents(draw: np.random.Generator, *shape: int) -> torch.Tensor:
    """Contents of central intervals with truths, by a posterior that is half as wide as it is."""
    return torch.from_numpy(2 * norm.cdf(np.abs(draw.normal(size=shape)) * 2) - 1)


@pytest.mark.parametrize("count", [50, 200, 1000])
def test_a_wrong_posterior_holds_what_is_stated_whatever_the_number_of_truths(count: int) -> None:
    """Given the truths, what a level holds is known: no new truths are needed to measure it."""
    draw = np.random.default_rng(count)
    level = asked(contents(draw, count, REPETITIONS), 0.9).numpy()
    held = 2 * norm.cdf(norm.ppf((1 + level) / 2) / 2) - 1
    expected = Holding.by(count, 0.9)
    error = held.std() / REPETITIONS**0.5
    assert 0.9 <= expected.mean <= 0.9 + 1 / (count + 1)
    assert held.mean() == pytest.approx(expected.mean, abs=4 * error)
    assert 0.9 - 4 * error < held.mean() < 0.9 + 1 / (count + 1) + 4 * error
    within = ((held > expected.low) & (held < expected.high)).mean()
    assert within == pytest.approx(0.9, abs=4 * (0.09 / REPETITIONS) ** 0.5)


def test_too_few_truths_ask_for_everything() -> None:
    scores = torch.linspace(0.1, 0.4, 8).double()
    assert fewest(0.9) == 9
    assert asked(scores, 0.9) == 1
    assert asked(torch.cat([scores, scores[:1]]), 0.9) == scores[-1]
    assert Holding.by(8, 0.9).mean == 1


def test_levels_of_neighbors_hold_on_average_and_where_they_are() -> None:
    """A posterior is too narrow by a factor that grows with the one condition."""
    draw = np.random.default_rng(3)

    def scores(y: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(2 * norm.cdf(np.abs(draw.normal(size=len(y))) * (1 + 2 * y)) - 1)

    y, fresh = draw.beta(1, 2, size=1000), draw.beta(1, 2, size=4000)
    known, new = scores(y), scores(fresh)
    apart = np.abs(y[:, None] - y) + 9 * np.eye(len(y))
    own = local_contents(known, torch.from_numpy(np.argsort(apart)[:, :100]))
    nearest = np.argsort(np.abs(fresh[:, None] - y), axis=1)[:, :100]
    near = torch.stack([asked(known[k], asked(own, 0.9)) for k in nearest])
    held = (new <= near).numpy()
    assert held.mean() == pytest.approx(0.9, abs=0.02)
    wide = fresh > 0.6
    assert held[wide].mean() == pytest.approx(0.9, abs=0.05)
    assert (new <= asked(known, 0.9)).numpy()[wide].mean() < 0.83


def test_recalibrated_levels_rise_and_make_ranks_even() -> None:
    draw = np.random.default_rng(1)
    ranks = torch.from_numpy(norm.cdf(1.5 * draw.normal(size=2000) + 0.3))
    levels = torch.linspace(0, 1, 101).double()
    moved = recalibrated(ranks, levels)
    assert (moved[[0, -1]] == torch.tensor([0, 1])).all()
    assert (moved.diff() > 0).all()
    fresh = norm.cdf(1.5 * draw.normal(size=2000) + 0.3)
    back = np.interp(fresh, moved.numpy(), levels.numpy())
    assert kstest(back, "uniform").pvalue > 0.01
    assert kstest(fresh, "uniform").pvalue < 1e-9


def test_p_values_of_rows_like_the_others_are_no_smaller_than_they_should_be() -> None:
    draw = np.random.default_rng(2)
    rows = torch.from_numpy(draw.normal(size=(REPETITIONS, 40, 3))) ** 2
    p = torch.cat([oddness(known[:-1], known[-1:])[0] for known in rows])
    for level in (0.05, 0.1, 0.3):
        assert (p <= level).double().mean() < level + 3 * (level / REPETITIONS) ** 0.5
    far, oddest = oddness(rows[0], torch.tensor([[0.1, 50.0, 0.2]]).double())
    assert far <= 3 / 41  # the other columns have a row that is the largest, too
    assert oddest == 1
