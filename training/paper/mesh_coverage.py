"""Coverage of a flow: fractions of points inside spheres that are carried to the data and back.

The data are a toy, with fresh samples, or the held-out rows of a table.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.flow.latent import GaussianLatents, LatentDistribution, LearnedLatents
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver
from training.models.simulations import Simulator
from training.paper import coverage as measure
from training.paper.containment import Boundary

BLOCK_ROWS = 2048
"""Number of points per denoiser evaluation.

It is fixed, so that results do not depend on the number of points and ranks.
"""


@dataclass(frozen=True)
class CoverageExperiment:
    """Test points and spheres, and the flow that transports them.

    Attributes:
        flow: Flow, on this rank's device.
        times: Increasing times ``[steps + 1]``, on that device.
        solver: Solver.
        distribution: Base distribution of the latents. If it is learned, spheres are in whitened
            latents.
        spheres: Spheres at the start.
        alpha: Radius of alpha shapes; None for boundaries that the flow transports.
        count: Number of test points.
        seed: Random seed.
        fresh: Function that draws points ``[M, D]`` of the data with a generator on the CPU.
    """

    flow: ProbabilityFlow
    times: Tensor
    solver: Solver
    distribution: LatentDistribution
    spheres: measure.Spheres
    alpha: float | None
    count: int
    seed: int
    fresh: Callable[[torch.Generator], Tensor]

    def run(self, exact: ProbabilityFlow | None = None) -> measure.CoverageResult:
        """Transport and count the points; compare with an exact flow if one is given."""
        distribution, calls = self._gaussian, []
        simulator = self._simulator(self.flow)
        # Test points, and vertices of the spheres, at the last time.
        start = measure.Points(
            distribution.sample(self.count, seeded_generator("cpu", self.seed, Stream.TEST_POINTS)),
            self.spheres.vertices.to(distribution.variance) * distribution.std,
        )

        def generate(latents: Tensor) -> Tensor:
            trajectory = simulator.generate(self._to_latents(latents), "gen").trajectory
            calls.append(trajectory.calls)
            return self.flow.to_data(trajectory.end, self.times[0])

        def melt(data: Tensor) -> Tensor:
            trajectory = simulator.melt(data).trajectory
            calls.append(trajectory.calls)
            end = trajectory.end
            return (
                self.distribution.whiten(end)
                if isinstance(self.distribution, LearnedLatents)
                else end
            )

        carried, fresh = measure.carry(start, generate, melt), self._fresh_data()
        data_std, latent_std = self.flow.noisy_std(self.times[0]), self._gaussian.std
        # Functions from the coordinates of a stage to standard deviations in eigenspace.
        units: dict[str, Callable[[Tensor], Tensor]] = {
            "latent": lambda x: x / latent_std,
            "data": lambda data: self.flow.to_eigen(data) / data_std,
            "end": lambda x: x / latent_std,
        }
        scaled = {name: points.mapped(units[name]) for name, points in carried.items()}
        boundaries = {name: self._fit(points.boundary) for name, points in scaled.items()}
        counted = units["data"](fresh)
        coverage = measure.measure_coverage(scaled, boundaries, counted)
        made = measure.CoverageResult(
            self.spheres, coverage, carried, boundaries, fresh, sum(calls)
        )
        if exact is None:
            return made
        latents = self._to_latents(start.boundary.flatten(0, 1))
        ends = self._simulator(exact).generate(latents, "exact gen").trajectory.end
        vertices = exact.to_data(ends, self.times[0]).view_as(start.boundary)
        theirs = self._fit(units["data"](vertices))
        paired = measure.pair(counted, boundaries["data"], theirs)
        return replace(made, paired=paired, exact=(vertices, theirs))

    def _simulator(self, flow: ProbabilityFlow) -> Simulator:
        steps = len(self.times) - 1
        return Simulator(flow.in_blocks(BLOCK_ROWS), self.times, self.solver, save_every=steps)

    def _fit(self, vertices: Tensor) -> list[Boundary]:
        """Return boundaries with vertices ``[R, K, D]``."""
        if self.alpha is None:
            return measure.transported(vertices, self.spheres.unit)
        return measure.refitted(vertices, self.alpha)

    @property
    def _gaussian(self) -> GaussianLatents:
        """Gaussian whose spheres are carried: base distribution, or that of whitened latents."""
        if isinstance(self.distribution, GaussianLatents):
            return self.distribution
        return GaussianLatents(torch.ones_like(self.distribution.variance))

    def _to_latents(self, x: Tensor) -> Tensor:
        """Return the latents ``[M, D]`` of points of this Gaussian."""
        return self.distribution.unwhiten(x) if isinstance(self.distribution, LearnedLatents) else x

    def _fresh_data(self) -> Tensor:
        """Return fresh points ``[M, D]`` in data space with the noise of the first time."""
        flow, first = self.flow, self.times[0]
        generator = seeded_generator("cpu", self.seed, Stream.FRESH_POINTS)
        clean = flow.to_eigen(self.fresh(generator).to(flow.device))
        noisy = clean + flow.schedule.sample_noise(len(clean), first, generator)
        return flow.to_data(flow.schedule.scale(first) * noisy, first)
