"""Columns of levels, whose probabilities given conditions are learned."""

import pytest
import torch
from torch import Tensor, nn

from tests.support.draws import normal
from training.flow.coordinates import levels as levels_module
from training.flow.coordinates.coordinates import LEVELS, Coordinates
from training.flow.coordinates.levels import LevelPrediction
from training.learning import gaussian_start
from training.learning.level_start import fit_levels


@pytest.fixture
def levels() -> Coordinates:
    """Three levels from 4 in steps of 2, and two from 0, given one condition."""
    torch.manual_seed(0)
    made = Coordinates(2, [LEVELS], conditions=1, levels=[3, 2])
    [map_] = made.maps
    assert isinstance(map_, LevelPrediction)
    map_.hold(first=torch.tensor([4.0, 0.0]), step=torch.tensor([2.0, 1.0]))
    for parameter in map_.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made


def some(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    levels = torch.randint(3, (count, 2), generator=generator) % torch.tensor([3, 2])
    within = torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5
    return torch.tensor([4.0, 0.0]) + torch.tensor([2.0, 1.0]) * (levels + within)


def test_scores_are_invertible_and_their_slopes_are_those_of_differences(
    levels: Coordinates,
) -> None:
    points, given = some(200), levels.given(normal(200, 1, seed=2))
    scores, log_det = given(points)
    torch.testing.assert_close(given.to_data(scores), points, rtol=1e-9, atol=1e-9)
    small = 1e-6 * torch.eye(2)
    slopes = [(given.to_flow(points + h) - given.to_flow(points - h)) / 2e-6 for h in small]
    # Each column depends on its own place and on levels before it, which small steps leave.
    inner = ((points % 1 - 0.5).abs() > 1e-3).all(dim=1)
    expected = slopes[0][:, 0].log() + slopes[1][:, 1].log()
    torch.testing.assert_close(log_det[inner], expected[inner], rtol=1e-4, atol=1e-4)


def test_the_density_of_a_level_is_its_probability_however_small(levels: Coordinates) -> None:
    [map_] = levels.maps
    assert isinstance(map_, LevelPrediction)
    with torch.no_grad():  # one level in e^30, at either end
        for number, rare in ((0, 2), (1, 0)):
            for network in map_.networks[number]:  # type: ignore[union-attr]
                network.last.bias[rare] -= 30  # type: ignore[union-attr, operator, index]
    rows = torch.tensor([[8.4, 0.4], [7.6, -0.4], [4.0, 1.0]]).double()
    given = levels.given(torch.zeros(1, 1))
    scores, log_det = given(rows)
    normal_density = torch.distributions.Normal(0, 1).log_prob(scores).sum(dim=1)
    numbers = map_.numbers(rows)
    labels = given.labels
    assert labels is not None
    expected = torch.zeros(3).double()
    for number in range(2):
        logs = map_.log_probabilities(number, map_.seen(number, labels, numbers))
        expected += logs.gather(1, numbers[:, number, None].long())[:, 0]
    torch.testing.assert_close(log_det + normal_density, expected - torch.tensor(2.0).log())
    torch.testing.assert_close(given.to_data(scores), rows)


@pytest.mark.parametrize("lapse", [0.0, 0.3])
def test_probabilities_of_levels_are_learned_where_products_and_where_bends_matter(
    lapse: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaussian_start, "STEPS", 400)
    monkeypatch.setattr(levels_module, "MEMBERS", 1)
    c = normal(20_000, 2, seed=3)
    p = lapse / 2 + (1 - lapse) * torch.sigmoid(3 * c[:, 0] * c[:, 1])
    draw = torch.rand(len(p), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    map_ = LevelPrediction(1, 2, [2])
    map_.hold(first=torch.zeros(1), step=torch.ones(1))
    fit_levels(map_, c, (draw < p).double()[:, None])
    learned = map_.log_probabilities(0, c.float())[:, 1].exp()
    off = float((learned - p).square().mean().sqrt())
    assert off < 0.02 + 0.04 * lapse, off
    assert map_.get_submodule("networks.0.0.bend").weight.any() or not lapse
