"""Log densities of rows with discrete columns, as averages over quantization bins.

A value of a discrete column represents a bin, the interval of one step around it. A row represents
a box of bins with one dimension per discrete column, here called its *cell* C. The density of a row
is the mean over its cell,

    log p(C) = log mean_{x in C} p(x),

so that ``p(C)`` times the steps of the discrete columns is the probability mass of their values.

For a narrow cell the density at the center is accurate to second order in its edges d_j, measured
in units of the noise of the first time. With the mean z and the covariance V of this noise given x,

    log p(C) - log p(x) = sum_j (<d_j, z>^2 + d_j' (V - 1) d_j) / 24 + ...,

and V is between 0 and 1, so that ``sum_j (<d_j, z>^2 + |d_j|^2) / 24`` is a bound. It is the
reported error.

For other cells the mean is estimated from the first points of several independently scrambled Sobol
sequences (Owen 1997). The sequences are the same for all rows, so a density depends on its row
alone. The scatter between the sequence means estimates the error, and the number of points doubles
until the error is small. An error near 1 only means that a few points carry nearly all of the
density.

A row of one discrete column needs no average: the flow is then a monotone function w of the column
to standard normal latents, and the bin from a to b has the mass ``|Phi(w(b)) - Phi(w(a))|``.
"""

from collections.abc import Callable
from math import log

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from training.flow.likelihood import Density, Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver
from training.names import CELL_ERROR, CELL_POINTS

SEQUENCES = FEWEST_POINTS = 8
RowDensity = Callable[[Tensor, Tensor], Tensor]
"""Type of a function from points ``[N, D]`` and conditions ``[N, C]`` to log densities ``[N]``."""
TINY = 1e-12
"""Least difference of log probabilities at the ends of an interval."""
BLOCK_POINTS = 512
"""Points integrated together: enough to fill network calls, with memory independent of the rows."""


def has_cells(flow: ProbabilityFlow) -> bool:
    """Return whether a flow has discrete columns, whose values stand for quantization bins."""
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
) -> tuple[Density, float]:
    """Return log densities of rows, averaged over the quantization bins of discrete columns.

    The densities are logs of the mean density over the cell of each row, with the standard error of
    the log. The second result is the average number of points evaluated per cell.

    Args:
        flow: A flow with discrete columns.
        rows: Rows ``[N, D]`` of data space; discrete values are rounded to the centers of their
            bins.
        times: Increasing times ``[steps + 1]`` of the integration.
        solver: The solver, or its name.
        trace: Method for the traces of Jacobians; None for exact traces. The random errors of
            estimated traces bias the averaged density upward.
        on_rows: Called with the number of rows completed since the last call.
        labels: Conditions of each row ``[N, C]``, or of all rows ``[1, C]``, for a conditional
            flow.
        sharpened: Function from points ``[n, D]`` and conditions ``[n, C]`` to the log densities
            ``[n]`` after sharpening, which removes the noise of the first time; None for the
            density of the flow.

    Raises:
        DataError: Rows have another dimension or are not finite, or a density is not finite.
    """
    assert flow.coordinates is not None
    steps, trace = flow.coordinates.steps, trace or Trace("exact")
    shifts = offsets(steps > 0) * steps
    centers = flow.coordinates.rounded(rows.to(steps))
    means, errors = centers.new_empty(2, len(centers))
    every = None if labels is None else labels.to(centers).expand(len(centers), -1)
    looked_at = 0

    def of(places: Tensor, points: int = 1) -> ProbabilityFlow:
        """Return the flow conditional on the conditions of the rows with indices ``places [n]``.

        The conditions of each row are repeated for a number of points.
        """
        if every is None:
            return flow
        return flow.given(labels=every[places].repeat_interleave(points, dim=0))

    def at(points: Tensor, places: Tensor, each: int = 1) -> Density:
        """Return the log densities of points, with ``each`` consecutive points per row.

        The points have the conditions of the rows with indices ``places [n]``.
        """
        if sharpened is None:
            return of(places, each).log_prob_with_error(points, times, solver, trace=trace)
        assert every is not None
        density = sharpened(points, every[places].repeat_interleave(each, dim=0))
        return Density(density, torch.zeros_like(density))

    def densities(places: Tensor, shifts: Tensor) -> Tensor:
        """Return log densities ``[n, SEQUENCES, m]`` at the shifted centers of n cells.

        Args:
            places: Indices ``[n]`` of the rows.
            shifts: Shifts ``[SEQUENCES, m, D]`` from the center of each cell.
        """
        points = centers[places, None, None] + shifts
        density = at(points.flatten(0, 2), places, shifts[..., 0].numel())
        return density.log_prob.view(points.shape[:-1])

    for block in torch.split(torch.arange(len(centers), device=centers.device), BLOCK_POINTS):
        bound = _bound_at_centers(of(block), centers[block], times[0])
        if sharpened is not None:  # The last step leaves half of the noise, or more.
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
    return Density(means, errors), looked_at / max(len(rows), 1)


def log_normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """Return the log probabilities ``[...]`` of intervals under the standard normal distribution.

    Args:
        low: One end of each interval ``[...]``.
        high: Other end of each interval ``[...]``.
    """
    # In the upper tail, probabilities differ from 1 by less than rounding errors: turn it over.
    low, high = torch.where(low + high > 0, -low, low), torch.where(low + high > 0, -high, high)
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    upper = torch.special.log_ndtr(high)
    ratio = (torch.special.log_ndtr(low) - upper).clamp(max=-TINY)
    return upper + torch.log(-torch.expm1(ratio))


def _look_until_sure(
    densities: Callable[[Tensor, Tensor], Tensor],
    shifts: Tensor,
    unsure: Tensor,
    means: Tensor,
    errors: Tensor,
) -> int:
    """Evaluate more and more points of cells at places ``[n]`` until their means are accurate.

    Args:
        densities: Function from places and shifts to log densities.
        shifts: Points of the sequences, relative to centers.
        unsure: Places ``[n]`` of the cells.
        means: ``[N]``, overwritten at these places.
        errors: ``[N]``, overwritten at these places.

    Returns:
        The number of points evaluated.
    """
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
    """Return second-order error bounds ``[n]`` for log densities at centers ``[n, D]``."""
    assert flow.coordinates is not None
    noise = flow.schedule.noise_variance(first).double().sqrt()
    states = flow.to_eigen(centers)
    with torch.no_grad():
        mean_noise = (states - flow.denoiser(states, first).double()) / noise
    bound = torch.zeros_like(states[:, 0])
    steps = flow.coordinates.steps
    for shift in (steps / 4).diag()[steps > 0]:
        # Measure half of an edge: its ends may lie outside of the support of the data.
        edge = 2 * (flow.to_eigen(centers + shift) - flow.to_eigen(centers - shift)) / noise
        bound += ((edge * mean_noise).sum(dim=1).square() + edge.square().sum(dim=1)) / 24
    return bound


def offsets(discrete: Tensor) -> Tensor:
    """Return scrambled Sobol points ``[SEQUENCES, CELL_POINTS / SEQUENCES, D]`` in a unit box.

    Args:
        discrete: Mask ``[D]`` of discrete columns. Coordinates range from -1/2 to 1/2 in discrete
            columns, and are 0 in continuous columns.
    """
    points_of = torch.zeros(SEQUENCES, CELL_POINTS // SEQUENCES, len(discrete), dtype=torch.float64)
    if not discrete.any():  # engines have at least one dimension
        return points_of.to(discrete.device)
    for seed, points in enumerate(points_of):
        engine = SobolEngine(int(discrete.sum()), scramble=True, seed=seed)  # type: ignore[no-untyped-call]
        points[:, discrete.cpu()] = engine.draw(len(points), dtype=torch.float64) - 0.5
    return points_of.to(discrete.device)


def mean_and_error(log_densities: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log of the mean density in each of n boxes, and its standard error, both ``[n]``.

    Args:
        log_densities: Log densities ``[n, SEQUENCES, m]`` at m points of each sequence.
    """
    of_sequences = log_densities.logsumexp(dim=2) - log(log_densities.shape[2])
    mean = of_sequences.logsumexp(dim=1) - log(SEQUENCES)
    spread = (of_sequences - mean[:, None]).exp().std(dim=1)
    return mean, spread / SEQUENCES**0.5
