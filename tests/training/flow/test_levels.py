"""Columns of levels and of steps: their probabilities, and the densities of their cells."""

from math import log

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.draws import double, normal, seeded
from tests.support.flows import exact_flow
from training.flow.cells import FEWEST_POINTS, cell_log_prob
from training.flow.coordinates import levels as levels_module
from training.flow.coordinates.coordinates import LEVELS, Coordinates
from training.flow.coordinates.levels import LevelPrediction
from training.flow.pfode import ProbabilityFlow
from training.learning import gaussian_start
from training.learning.level_start import fit_levels
from training.names import CELL_ERROR, CELL_POINTS


@pytest.fixture
def levels() -> Coordinates:
    """Three levels from 4 in steps of 2, and two from 0, given one condition."""
    torch.manual_seed(0)
    made = Coordinates(2, [LEVELS], conditions=1, levels=[3, 2])
    [map_] = made.maps
    map_.hold(first=torch.tensor([4.0, 0.0]), step=torch.tensor([2.0, 1.0]))
    for parameter in map_.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made


def some(count: int) -> Tensor:
    generator = seeded(1)
    levels = torch.randint(3, (count, 2), generator=generator) % torch.tensor([3, 2])
    within = torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5
    return torch.tensor([4.0, 0.0]) + torch.tensor([2.0, 1.0]) * (levels + within)


def test_scores_are_invertible_and_their_slopes_those_of_differences(levels: Coordinates) -> None:
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
    with torch.no_grad():  # one level in e^30, at either end
        for number, rare in ((0, 2), (1, 0)):
            for network in map_.networks[number]:
                network.last.bias[rare] -= 30
    rows = torch.tensor([[8.4, 0.4], [7.6, -0.4], [4.0, 1.0]]).double()
    given = levels.given(torch.zeros(1, 1))
    scores, log_det = given(rows)
    normal_density = torch.distributions.Normal(0, 1).log_prob(scores).sum(dim=1)
    numbers = map_.numbers(rows)
    labels = given.labels
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
    draw = torch.rand(len(p), generator=seeded(4), dtype=torch.float64)
    map_ = LevelPrediction(1, 2, [2])
    map_.hold(first=torch.zeros(1), step=torch.ones(1))
    fit_levels(map_, c, (draw < p).double()[:, None])
    learned = map_.log_probabilities(0, c.float())[:, 1].exp()
    off = float((learned - p).square().mean().sqrt())
    assert off < 0.02 + 0.04 * lapse, off
    assert map_.get_submodule("networks.0.0.bend").weight.any() or not lapse


STEPS = double([0.5, 0, 0.5])


def discrete_flow(steps: Tensor = STEPS) -> tuple[ProbabilityFlow, Tensor]:
    """A flow of three columns, the first and the last of which have steps, and rows ``[4, 3]``."""
    toy, flow = exact_flow("bumps3")
    flow.coordinates = Coordinates(3, [])
    flow.coordinates.steps.copy_(steps)
    return flow, flow.coordinates.rounded(toy.sample(4, seeded(3)))


def by_quadrature(flow: ProbabilityFlow, rows: Tensor) -> Tensor:
    """Gauss and Legendre's rule over the cells, 16 nodes a side."""
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(16))
    first, last = torch.cartesian_prod(nodes, nodes).unbind(1)
    shifts = torch.stack([first, first, last], dim=1) * flow.coordinates.steps / 2
    found = flow.log_prob((rows[:, None] + shifts).flatten(0, 1)).view(len(rows), -1)
    return (found + torch.cartesian_prod(weights, weights).prod(dim=1).log()).logsumexp(1) - log(4)


def test_a_density_is_the_mean_over_the_cell_to_the_error_that_it_tells() -> None:
    flow, rows = discrete_flow()
    (found, error), points = cell_log_prob(flow, rows, flow.times(), "exp_rk5")
    off = (found - by_quadrature(flow, rows)).abs()
    assert (off < 4 * error).all()
    assert (error <= CELL_ERROR).all()
    assert FEWEST_POINTS < points < CELL_POINTS
    flow, rows = discrete_flow(STEPS / 64)
    (found, error), points = cell_log_prob(flow, rows, flow.times(), "exp_rk5")
    off = (found - by_quadrature(flow, rows)).abs()
    assert points == 1
    assert (off <= error).all()
    assert 0.0001 < off.max() < error.max() <= CELL_ERROR


def test_it_depends_on_the_cell_alone_and_not_on_where_in_it_or_with_what_a_row_comes() -> None:
    flow, rows = discrete_flow()
    done: list[int] = []
    (whole, _), _ = cell_log_prob(flow, rows, flow.times(), "exp_rk5", on_rows=done.append)
    assert sum(done) == len(rows)
    for seed in range(2):
        moved = flow.coordinates.dithered(rows[2:], seeded(seed))
        (found, _), _ = cell_log_prob(flow, moved, flow.times(), "exp_rk5")
        torch.testing.assert_close(found, whole[2:], rtol=0, atol=1e-9)
        assert ((flow.log_prob(moved) - found).abs() > 0.1).any()
