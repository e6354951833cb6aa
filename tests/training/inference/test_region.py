"""Where a posterior may be: against the ellipse of a Gaussian."""

from dataclasses import replace
from math import log, pi

import pytest
import torch
from torch import Tensor

from tests.support.draws import double, seeded
from tests.support.posteriors import conditional_prior
from training.inference.amortized import Amortized
from training.inference.region import Bounds, Region, restricted

STD = double([0.6, 1.0])
HALF = 6.0


def radius(points: Tensor, y: float) -> Tensor:
    """Squared, in standard deviations."""
    return ((points - double([0.64 * y, 0.0])) / STD).square().sum(dim=1)


def test_a_region_is_where_density_is_and_its_share_is_told() -> None:
    generator = seeded()

    def prior(count: int) -> Tensor:
        return HALF * (2 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 1)

    of = {
        y: Amortized(conditional_prior(), double([[y]]), rows=1024, chains=1, draws=2000, seed=0)
        for y in (0.5, 2.0)
    }
    parts = [(Bounds.of(posterior), posterior) for posterior in of.values()]
    squares = [-2 * (bounds.least + log(2 * pi * 0.6)) for bounds, _ in parts]
    assert 12 < min(squares) <= max(squares) < 25  # 1e-4 is at 18.4, here of 2,000 draws
    one = restricted(prior, Region(parts[:1]), 200)
    assert one.points.shape == (200, 2)
    ellipse = pi * squares[0] * 0.6 / (2 * HALF) ** 2
    assert one.share == pytest.approx(ellipse, abs=4 * one.error + 0.02 * ellipse)
    low, high = Region(parts[:1]).within(double([-HALF, -HALF]), double([HALF, 1.0]))
    assert (low > -HALF).all()
    assert high[1] == 1.0
    assert ((one.points > low)[:, 0] & (one.points < high)[:, 0]).all()
    points = prior(4000)
    inside = [radius(points, y) <= square for y, square in zip(of, squares, strict=True)]
    found, ellipses = Region(parts)(points), inside[0] & inside[1]
    assert (ellipses | ~found).all()
    assert (ellipses & ~found).sum() <= 0.06 * ellipses.sum()  # the box has no room for tips
    more = restricted(prior, Region(parts[:1]), 200, lambda share: 250 if share > 0.1 else 0)
    assert len(more.points) == 250
    drawn = replace(of[0.5], region=Region(parts[1:])).sample(torch.zeros(1, dtype=torch.int64))
    assert (radius(drawn.points.flatten(0, 2), 2.0) <= squares[1] + 1e-9).all()


def test_what_no_prior_reaches_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.inference.region.MOST_DRAWS", 1000)
    posterior = Amortized(conditional_prior(), double([[0.5]]), 1024, 1, 200, 0)
    region = Region([(Bounds.of(posterior), posterior)])
    assert restricted(lambda count: torch.full((count, 2), 9.0).double(), region, 5) is None
