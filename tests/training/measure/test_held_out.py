"""Held-out truths: ranks where a flow is right and wrong, and levels that hold for few of them."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from tests.support.draws import seeded
from training.measure.conformal import Holding, asked, fewest, oddness, recalibrated
from training.measure.held_out_ranks import density_ranks, latent_coverage

VARIANCE = torch.tensor([4.0, 1.0, 0.01], dtype=torch.float64)


def latents(scale: float = 1.0) -> torch.Tensor:
    draws = torch.randn(5000, 3, generator=seeded(), dtype=torch.float64)
    return scale * draws * VARIANCE.sqrt()


def test_coverage_is_that_of_chi_squared_if_latents_are_gaussian() -> None:
    right, wide = (latent_coverage(latents(scale) / VARIANCE.sqrt()) for scale in (1.0, 1.1))
    np.testing.assert_allclose(right["coverage"], right["expected"], atol=0.03)
    # Of a Gaussian in 3 dimensions, within 1 and 2 standard deviations.
    assert right["expected"][1] == pytest.approx(0.1987, abs=1e-4)
    assert right["expected"][3] == pytest.approx(0.7385, abs=1e-4)
    assert right["ks_p_value"] > 0.01 > 1e-6 > wide["ks_p_value"]


def test_ranks_are_even_among_draws_of_the_same_law() -> None:
    draws = latents().sum(dim=1)
    same, less = (density_ranks(draws[:2000] - shift, draws[2000:]) for shift in (0, 0.5))
    assert same["ks_p_value"] > 0.01 > 1e-6 > less["ks_p_value"]
    assert same["mean_rank"] == pytest.approx(0.5, abs=0.03)
    assert less["mean_rank"] < 0.45


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
    families = [[(each[:-1, k], each[-1:, k]) for k in ([0, 1], [2])] for each in rows]
    p = torch.cat([oddness(*each)[0] for each in families])
    for level in (0.05, 0.1, 0.3):
        assert (p <= level).double().mean() < level + 3 * (level / REPETITIONS) ** 0.5
    others = torch.from_numpy(draw.normal(size=(200, 20)))
    alone = torch.arange(200.0)[:, None].double()
    new = torch.full((1, 20), 0.0).double()
    far, oddest = oddness((others, new), (alone, torch.tensor([[199.5]])))
    assert far < 0.02  # 20 others do not drown it
    assert oddest == 20
    assert oddness((torch.cat([others, alone], 1), torch.tensor([[*[0.0] * 20, 199.5]])))[0] > far
