"""Log densities of rows of which some columns are discrete: of the cells that they stand for.

A value of a discrete column stands for the interval of one step around it, and a row for a box of
as many dimensions as there are such columns: its *cell*. Its density is the mean over this cell C,

    log p(C) = log mean_{x in C} p(x),

so that ``p(C)`` times the steps of the discrete columns is the probability of their values.

Of a narrow cell that is the density at its center, to second order in its edges d_j, which stand in
units of the noise of the first time here: with the mean z and the covariance V of this noise in x,

    log p(C) - log p(x) = sum_j (<d_j, z>^2 + d_j' (V - 1) d_j) / 24 + ...,

V being between 0 and 1, so that ``sum_j (<d_j, z>^2 + |d_j|^2) / 24`` bounds it: the error told.

The mean over any other cell is over the first points of several Sobol sequences, scrambled
independently (Owen 1997), which are the same for all rows: a density depends on its row alone. How
far the means of single sequences scatter tells the error. Points are doubled until this is small.
An error near 1 says no more than that a few points have nearly all of the density.
"""

from collections.abc import Callable
from math import log
from typing import NamedTuple

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from training.flow.likelihood import Density, Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver
from training.names import CELL_ERROR, CELL_POINTS

SEQUENCES = FEWEST_POINTS = 8
RowDensity = Callable[[Tensor, Tensor], Tensor]
"""Log densities ``[N]`` of points ``[N, D]`` given conditions ``[N, C]``."""
BLOCK_POINTS = 512
"""Points that are integrated together: they fill calls, and memory does not grow with rows."""


class CellDensity(NamedTuple):
    """Densities of cells.

    Attributes:
        density: Of each, mean over the cell, and its standard error.
        points: Points that were looked at, on average over the cells.
    """

    density: Density
    points: float


def has_cells(flow: ProbabilityFlow) -> bool:
    """Whether points of a flow have discrete columns."""
    return flow.coordinates is not None and bool(flow.coordinates.steps.any())


def cell_log_prob(
    flow: ProbabilityFlow,
    rows: Tensor,
    times: Tensor,
    solver: Solver | str,
    trace: Trace | None = None,
    on_rows: Callable[[int], object] | None = None,
    labels: Tensor | None = None,
    sharpened: RowDensity | None = None,
) -> CellDensity:
    """Return the log densities of the cells of rows.

    Args:
        flow: With discrete columns.
        rows: ``[N, D]``; discrete columns may be anywhere in their steps.
        times: Increasing ``[steps + 1]``.
        solver: The solver, or its name.
        trace: The way to take traces of Jacobians; None for exact ones. Errors of estimated ones
            are averaged as if they were part of the density, which they raise.
        on_rows: Called with the number of rows that were done since the last call.
        labels: Conditions of each row ``[N, C]``, or of all ``[1, C]``, of a flow of such.
        sharpened: The log densities ``[n]`` to integrate, of points ``[n, D]`` given labels
            ``[n, C]``, where they are those of sharpened points; None for those of the flow.

    Raises:
        DataError: As ``ProbabilityFlow.log_prob``.
    """
    assert flow.coordinates is not None
    steps, trace = flow.coordinates.steps, trace or Trace("exact")
    shifts = offsets(steps > 0) * steps
    centers = flow.coordinates.rounded(rows.to(steps))
    means, errors = centers.new_empty(2, len(centers))
    looked_at = 0

    def of(places: Tensor, points: int = 1) -> ProbabilityFlow:
        """The flow of so many points of each of the cells at places ``[n]``."""
        if labels is None:
            return flow
        given = labels.to(centers).expand(len(centers), -1)[places]
        return flow.given(labels=given.repeat_interleave(points, dim=0))

    def at(points: Tensor, places: Tensor, each: int = 1) -> Density:
        """The log densities of points ``[n, D]``, so many of each of the cells at places."""
        if sharpened is None:
            return of(places, each).log_prob_with_error(points, times, solver, trace=trace)
        assert labels is not None
        given = labels.to(centers).expand(len(centers), -1)[places]
        density = sharpened(points, given.repeat_interleave(each, dim=0))
        return Density(density, torch.zeros_like(density))

    def densities(places: Tensor, shifts: Tensor) -> Tensor:
        """Log densities ``[n, SEQUENCES, m]`` at shifts ``[SEQUENCES, m, D]`` from centers."""
        points = centers[places, None, None] + shifts
        density = at(points.flatten(0, 2), places, shifts[..., 0].numel())
        return density.log_prob.view(points.shape[:-1])

    for block in torch.split(torch.arange(len(centers), device=centers.device), BLOCK_POINTS):
        bound = _bound_at_centers(of(block), centers[block], times[0])
        if sharpened is not None:  # the last step leaves half of the noise, or more
            bound = 4 * bound
        is_narrow = bound <= CELL_ERROR
        narrow, wide = block[is_narrow], block[~is_narrow]
        if len(narrow):
            density = at(centers[narrow], narrow)
            means[narrow] = density.log_prob
            errors[narrow] = bound[is_narrow].hypot(density.error)
            looked_at += len(narrow)
        for unsure in torch.split(wide, BLOCK_POINTS // FEWEST_POINTS) if len(wide) else ():
            looked_at += _look_until_sure(densities, shifts, unsure, means, errors)
        if on_rows:
            on_rows(len(block))
    return CellDensity(Density(means, errors), looked_at / max(len(rows), 1))


def _look_until_sure(
    densities: Callable[[Tensor, Tensor], Tensor],
    shifts: Tensor,
    unsure: Tensor,
    means: Tensor,
    errors: Tensor,
) -> int:
    """Looks at more and more points of cells at places ``[n]``, until their means ``[N]`` are known
    well enough, and writes these and their errors ``[N]``; returns how many points it looked at."""
    log_densities = densities(unsure, shifts[:, : FEWEST_POINTS // SEQUENCES])
    looked_at = log_densities.numel()
    means[unsure], errors[unsure] = mean_and_error(log_densities)
    while (size := log_densities.shape[2]) * SEQUENCES < CELL_POINTS:
        still = errors[unsure] > CELL_ERROR
        unsure, log_densities = unsure[still], log_densities[still]
        if not len(unsure):
            break
        more = densities(unsure, shifts[:, size : 2 * size])
        log_densities = torch.cat([log_densities, more], dim=2)
        looked_at += more.numel()
        means[unsure], errors[unsure] = mean_and_error(log_densities)
    return looked_at


def _bound_at_centers(flow: ProbabilityFlow, centers: Tensor, first: Tensor) -> Tensor:
    """What log densities at centers ``[n, D]`` are at most off by ``[n]``, to second order."""
    assert flow.coordinates is not None
    noise = flow.schedule.noise_variance(first).double().sqrt()
    states = flow.to_eigen(centers)
    with torch.no_grad():
        mean_noise = (states - flow.denoiser(states, first).double()) / noise
    bound = torch.zeros_like(states[:, 0])
    steps = flow.coordinates.steps
    for shift in (steps / 4).diag()[steps > 0]:
        # Half of an edge, since its ends may be where the data cannot be.
        edge = 2 * (flow.to_eigen(centers + shift) - flow.to_eigen(centers - shift)) / noise
        bound += ((edge * mean_noise).sum(dim=1).square() + edge.square().sum(dim=1)) / 24
    return bound


def offsets(discrete: Tensor) -> Tensor:
    """Points of the sequences ``[SEQUENCES, CELL_POINTS / SEQUENCES, D]``, from -1/2 to 1/2 in
    discrete columns ``[D]`` and 0 in others."""
    points_of = torch.zeros(SEQUENCES, CELL_POINTS // SEQUENCES, len(discrete), dtype=torch.float64)
    if not discrete.any():  # engines have at least one dimension
        return points_of.to(discrete.device)
    for seed, points in enumerate(points_of):
        engine = SobolEngine(int(discrete.sum()), scramble=True, seed=seed)  # type: ignore[no-untyped-call]
        points[:, discrete.cpu()] = engine.draw(len(points), dtype=torch.float64) - 0.5
    return points_of.to(discrete.device)


def mean_and_error(log_densities: Tensor) -> tuple[Tensor, Tensor]:
    """Logs ``[n]`` of the means of densities with logs ``[n, SEQUENCES, m]``, and their errors."""
    of_sequences = log_densities.logsumexp(dim=2) - log(log_densities.shape[2])
    mean = of_sequences.logsumexp(dim=1) - log(SEQUENCES)
    spread = (of_sequences - mean[:, None]).exp().std(dim=1)
    return mean, spread / SEQUENCES**0.5
