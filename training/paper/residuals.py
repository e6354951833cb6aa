"""Residuals of a denoiser, ``D(x_tilde, t) - e``, for the same clean points ``e`` at every time.

Residuals are computed in eigenspace, at the times of a grid, for noisy points of one of two kinds:

- *independent*: ``x_tilde = e + sqrt(gamma(t)) n`` with fresh standard normal ``n`` at each time
  (Inflationary Flows, appendix C.1);
- *path*: ``x_tilde`` on the probability-flow ODE that starts at ``e``. With ``r`` the rate of
  ``log gamma``, ``y = x_tilde - e`` obeys ``dy/dt = (r/2) (y - residual)``, so the trajectory
  integrates these residuals.

A residual has two parts: the irreducible error of any denoiser, and the error of this one. Where
the exact denoiser is known, the second is computed alone, as ``D - D_exact``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils import distributed
from torch_utils.seeds import normal_numbers
from training.flow.denoisers import Denoiser
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver
from training.flow.trajectory import State

NOISE_BLOCK = 512
"""Number of noise rows drawn together; a row's noise depends only on its number."""

Quantities = dict[str, Tensor]
"""Quantities by name, ``[n, D]``: ``net_outputs``, ``net_residuals`` and, where the exact denoiser
is known, ``exact_residuals``.
"""
Take = Callable[[int, Quantities], None]
"""Callback with the index of a time and the quantities at that time."""
Put = Callable[[int, int, Mapping[str, np.ndarray]], None]
"""Callback ``put(index of the time, first row, rows [n, D] by name)``."""
Source = Callable[[range], tuple[Tensor, dict[str, Tensor]]]
"""Function from sample numbers to points ``[n, D]`` of data space and the network's conditions."""


@dataclass(frozen=True)
class ResidualProbe:
    """Computation of a denoiser's residuals on a grid of times.

    Attributes:
        flow: Flow with the denoiser.
        times: Times ``[T]``, increasing.
        exact: Exact denoiser; None if unknown.
    """

    flow: ProbabilityFlow
    times: Tensor
    exact: Denoiser | None = None

    @torch.no_grad()
    def independent(self, clean: Tensor, rows: range, seed: int, stream: int, take: Take) -> None:
        """Compute the residuals of points with independent noise at each time.

        Args:
            clean: Clean points ``[n, D]`` in eigenspace.
            rows: Indices of the n points among all samples.
            seed: Random seed of the noise, which is a function of (seed, stream, index of the time,
                row).
            stream: Random stream of the noise.
            take: Callback that receives the results at each time.
        """
        for index, t in enumerate(self.times.to(clean)):
            noise = noise_rows(rows, clean.shape[1], seed, stream, index).to(clean)
            self._look(
                clean + self.flow.schedule.noise_variance(t).sqrt() * noise, clean, index, take
            )

    def path(self, clean: Tensor, solver: Solver, take: Take) -> int:
        """Compute the residuals along the trajectories of inflated points.

        Solver steps are between the times of the grid. Memory holds one state.

        Args:
            clean: Clean points ``[n, D]`` in eigenspace.
            solver: Solver of the probability-flow ODE.
            take: Callback that receives the results at each time.

        Returns:
            The number of network evaluations of the solver.
        """
        scale = self.flow.schedule.scale
        indices = iter(range(len(self.times)))

        def on_state(state: State) -> None:
            self._look(state.x / scale(state.time), clean, next(indices), take)

        start = scale(self.times[0].to(clean)) * clean
        return self.flow.simulate(start, self.times, solver, save_every=1, on_state=on_state).calls

    def _look(self, noisy: Tensor, clean: Tensor, index: int, take: Take) -> None:
        t = self.times[index].to(clean)
        output = self.flow.denoiser(noisy, t)
        quantities = {"net_outputs": output, "net_residuals": output - clean}
        if self.exact is not None:
            quantities["exact_residuals"] = output - self.exact(noisy, t)
        for name, values in quantities.items():
            if not values.isfinite().all():
                raise DataError(
                    f"{name} are NaN or infinite at t = {float(t):g}: check the weights, or use "
                    "more time points"
                )
        take(index, quantities)


def noise_rows(rows: range, dim: int, *keys: int) -> Tensor:
    """Return standard normal noise ``[n, dim]`` for samples, float64.

    Each row depends only on the keys and on its index.

    Args:
        rows: Indices of the n samples.
        dim: Number of values per row.
        keys: Random seed and further keys.
    """
    first = rows.start // NOISE_BLOCK
    blocks = range(first, max(first + 1, -(-rows.stop // NOISE_BLOCK)))
    drawn = torch.cat([normal_numbers((NOISE_BLOCK, dim), *keys, block) for block in blocks])
    offset = rows.start - first * NOISE_BLOCK
    return drawn[offset : offset + len(rows)]


@dataclass(frozen=True)
class Extractor:
    """Computation of residuals for all samples, in batches that the ranks share.

    Memory holds one batch.

    Attributes:
        probe: The probe, on this rank's device.
        source: Function from the indices of samples to the samples.
        count: Number of samples, N.
        batch: Number of samples at a time, over all ranks.
        seed: Random seed of independent noise.
        stream: Random stream of independent noise.
        solver: Solver of the paths; None for independent noise.
    """

    probe: ResidualProbe
    source: Source
    count: int
    batch: int
    seed: int
    stream: int
    solver: Solver | None

    def run(self, put: Put | None) -> int:
        """Compute all residuals, and pass them to a callback on the main rank, as float32.

        Args:
            put: Callback, called batch by batch and, within a batch, in the order of time; None on
                other ranks.

        Returns:
            The largest number of network evaluations per sample.
        """
        calls = 0
        starts = range(0, self.count, self.batch)
        total = len(starts) * len(self.probe.times)
        with distributed.progress_bar(total=total, desc="residuals", unit="time") as bar:
            for start in starts:
                batch = range(start, min(start + self.batch, self.count))

                def take(index: int, quantities: Quantities, batch: range = batch) -> None:
                    shares = torch.stack(list(quantities.values())).float()
                    whole = distributed.gather_rows(shares, len(batch), dim=1).cpu().numpy()
                    if put:
                        put(index, batch.start, dict(zip(quantities, whole, strict=True)))
                    bar.update()

                mine = batch[distributed.shard(len(batch))]
                calls = max(calls, len(self.probe.times) + self._look(mine, take))
        return calls

    def _look(self, rows: range, take: Take) -> int:
        """Compute residuals of these rows; return the solver's evaluations."""
        flow = self.probe.flow
        points, conditions = self.source(rows)
        clean = flow.to_eigen(points.to(flow.device).double())
        probe = self.probe
        if conditions:
            here = {name: values.to(flow.device) for name, values in conditions.items()}
            probe = replace(probe, flow=flow.given(**here))
        if self.solver is None:
            probe.independent(clean, rows, self.seed, self.stream, take)
            return 0
        return probe.path(clean, self.solver, take)
