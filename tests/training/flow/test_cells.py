"""Densities of discrete rows: against quadrature over their cells, and what they depend on."""

from math import log

import numpy as np
import torch
from torch import Tensor

from tests.support.draws import double, seeded
from tests.support.flows import exact_flow
from training.flow.cells import FEWEST_POINTS, cell_log_prob
from training.flow.coordinates.coordinates import Coordinates
from training.flow.pfode import ProbabilityFlow
from training.names import CELL_ERROR, CELL_POINTS

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
    assert flow.coordinates is not None
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
    assert flow.coordinates is not None
    done: list[int] = []
    (whole, _), _ = cell_log_prob(flow, rows, flow.times(), "exp_rk5", on_rows=done.append)
    assert sum(done) == len(rows)
    for seed in range(2):
        moved = flow.coordinates.dithered(rows[2:], seeded(seed))
        (found, _), _ = cell_log_prob(flow, moved, flow.times(), "exp_rk5")
        torch.testing.assert_close(found, whole[2:], rtol=0, atol=1e-9)
        assert ((flow.log_prob(moved) - found).abs() > 0.1).any()
